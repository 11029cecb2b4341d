//! What changes while the agent works: its policies, its rate, the CPUs.

use tracing::{info, warn};

use super::{Agent, sizes};
use crate::kernel::programs::{KernelError, Programs, online};
use crate::policies::PolicySet;
use crate::report::Moment;

impl Agent {
    pub(super) fn change_policies(&mut self, mut policies: PolicySet) -> Result<(), KernelError> {
        policies.slow_down(self.governor.divisor());
        let (before, rate) = (self.programs.node_rate(), policies.node_rate());
        if rate == before {
            self.round()?;
            self.policies = policies;
            self.decide_all()?;
        } else {
            let larger = self.larger_programs(rate);
            // Ticks of two rates do not belong into one window.
            self.detach()?;
            if let Some(larger) = larger {
                self.programs = larger.take_over(&self.programs)?;
            }
            if before == 0 {
                // While nothing ticked, nobody saw whether a CPU went away and came back.
                let online = online()?;
                self.reopen_sideband(&online, &online);
            }
            // Before the first tick at the new rate: no old decision may be above it.
            self.policies = policies;
            self.decide_all()?;
            self.attach(rate)?;
        }
        self.metrics.node_rate.set(rate.into());
        if rate == 0 {
            self.say_idle();
            return Ok(());
        }
        let (matched, running) = self.processes.matched_and_running();
        info!(
            "{} policies in force at {rate} Hz; {matched} of {running} processes match",
            self.policies.len()
        );
        Ok(())
    }

    /// Programs with the ring buffer that `rate` needs, if it is larger than there is: one
    /// cannot grow. They are loaded while those at work go on.
    fn larger_programs(&self, rate: u32) -> Option<Programs> {
        let larger = online().and_then(|online| {
            let sizes = sizes(&self.options, &online, rate);
            let is_larger = sizes.ring_bytes > self.programs.sizes().ring_bytes;
            is_larger.then(|| Programs::load(sizes)).transpose()
        });
        larger.unwrap_or_else(|error| {
            let error = anyhow::Error::new(error);
            warn!("no larger ring buffer for {rate} Hz ({error:#}): more stacks may be lost");
            None
        })
    }

    pub(super) fn decide_all(&mut self) -> Result<(), KernelError> {
        self.processes.decide_all(&self.policies, &mut self.tell);
        self.tell_kernel()
    }

    pub(super) fn say_idle(&self) {
        let policies = self.policies.len();
        warn!("sampling nothing: no enabled policy among {policies}, Total stays empty");
    }

    pub(super) fn follow_cpus(&mut self) -> Result<(), KernelError> {
        let online = online()?;
        let before = self.programs.cpus();
        let anew = self.programs.follow_cpus(&online)?;
        if anew.is_empty() && self.sideband.covers(&online) {
            return Ok(());
        }
        // What waits in the buffers of a CPU that went away is read before they go.
        self.round()?;
        self.reopen_sideband(&online, &anew);
        let (cpus, rate) = (self.programs.cpus(), self.programs.node_rate());
        if !anew.is_empty() {
            info!("{cpus} CPUs are online now, {before} were; events begun or ended on {anew:?}");
        }
        if let Some(larger) = self.larger_programs(rate) {
            self.detach()?;
            self.programs = larger.take_over(&self.programs)?;
            self.decide_all()?;
            self.attach(rate)?;
        }
        self.tell_kernel()
    }

    /// Reads side-band records of `online` CPUs, by new readers on those of `anew`. What
    /// happened there meanwhile no record tells.
    fn reopen_sideband(&mut self, online: &[u32], anew: &[u32]) {
        let (changed, failed) = self.sideband.follow_cpus(online, anew);
        let failed = failed.map(|error| format!("{:#}", anyhow::Error::from(error)));
        if let Some(error) = failed.as_ref().filter(|_| failed != self.sideband_failed) {
            warn!("{error}");
        }
        self.sideband_failed = failed;
        if changed && let Err(error) = self.processes.catch_up(&self.policies, &mut self.tell) {
            warn!("what happened on a CPU meanwhile is not known, /proc cannot be read: {error}");
        }
    }

    /// Halves or doubles the rate where what the agent itself takes asks for it.
    pub(super) fn keep_within_share(&mut self) -> Result<(), KernelError> {
        if self.programs.node_rate() == 0 || !self.governor.look(Moment::now(), self.programs.cpus()) {
            return Ok(());
        }
        let (before, divisor) = (self.policies.node_rate(), self.governor.divisor());
        self.metrics.slowdown.set(divisor.into());
        self.change_policies(self.policies.clone())?;
        let (percent, of) = (self.governor.share() * 100.0, self.governor.limit().share * 100.0);
        warn!(
            "own CPU {percent:.2} % of a core per CPU, --max-cpu-share allows {of} %: {} Hz instead of {before} Hz",
            self.policies.node_rate()
        );
        Ok(())
    }

    /// Samples at this rate from now on; 0 samples nothing.
    pub(super) fn attach(&mut self, rate: u32) -> Result<(), KernelError> {
        self.must_count = true;
        self.tick_rate = rate;
        self.programs.set_rate(rate)
    }

    /// Ends sampling, and with it the window: what was sampled until now is in it, at its own rate.
    pub(super) fn detach(&mut self) -> Result<(), KernelError> {
        self.programs.set_rate(0)?;
        self.round()?;
        self.close_window(self.options.clock.unix_seconds())
    }
}
