//! The pipeline: samples and side-band records in, windows of rows out.
//!
//! One thread does all of it, in rounds of [`ROUND`]: read the ring buffer, then the
//! side-band records (so that everything which happened before a sample is known when
//! the sample is looked at), and go through both in the order of time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_node_agent_ebpf::record::{
    COUNT_LOST_MATCHED, COUNT_LOST_UNDECIDED, COUNT_UNMATCHED, CountKey, EXITS, Exit,
};
use hearth_node_agent_ebpf::thin::keeps;
use hearth_policy::period_micros;
use hearth_profile::frame::STACK_TRACE_LOST;
use hearth_proto::collector::v1::StackEnd;
use tracing::{debug, info, warn};

use crate::export::batch::{ProcessEntry, Window};
use crate::kernel::Monotonic;
use crate::kernel::programs::{KernelError, Programs};
use crate::kernel::sample::{RawSample, comm_name};
use crate::kernel::sideband::{Event, Sideband};
use crate::metrics::Metrics;
use crate::naming::Namer;
use crate::policies::{Match, PolicySet};
use crate::process::{Processes, Standing, Tell};
use crate::symbols::Symbolizer;
use crate::window::{Budget, OpenWindow, Thread};

/// Time between two looks at what the kernel has: short enough that files of a
/// process which lives for 20 ms are mostly still there, and ten looks a second
/// cost less than a thousandth of a core.
pub const ROUND: Duration = Duration::from_millis(100);
/// Between two log lines.
const REPORT: Duration = Duration::from_secs(10);

/// What the running agent can be told.
pub enum Command {
    /// Work by these policies from now on.
    Policies(PolicySet),
    /// Close the window and end.
    Stop,
}

/// How the agent works, apart from its policies.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a window in seconds; divides an hour.
    pub window_seconds: u32,
    /// Highest rate that any policy will be allowed, in samples per second and CPU.
    pub max_frequency: u32,
}

/// The running agent.
pub struct Agent {
    options: Options,
    programs: Programs,
    sideband: Sideband,
    processes: Processes,
    policies: PolicySet,
    namer: Namer,
    window: OpenWindow,
    /// Unix seconds at which the window closes.
    window_end: i64,
    /// Ticks per second and CPU of what was counted since the last close: what the programs were
    /// attached with last, even if they are detached now.
    tick_rate: u32,
    /// The counts at the last close.
    counts: HashMap<CountKey, u64>,
    /// The exit counters at the last close.
    exits: [u64; EXITS as usize],
    metrics: Arc<Metrics>,
    sink: Box<dyn FnMut(Window) + Send>,
    report: Report,
    tell: Vec<Tell>,
}

impl Agent {
    /// Loads and attaches everything. Closed windows go to `sink`.
    ///
    /// # Errors
    /// The kernel refuses the programs or the side-band events.
    pub fn start(
        options: Options,
        policies: PolicySet,
        symbolizer: Symbolizer,
        metrics: Arc<Metrics>,
        sink: Box<dyn FnMut(Window) + Send>,
    ) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let programs = Programs::load(options.max_frequency)?;
        if let Some(error) = programs.exec_unattached() {
            let error = anyhow::anyhow!("{error}");
            warn!(
                "no hook on exec ({error:#}): a process that replaces its program is decided anew within {ROUND:?}"
            );
        }
        let online = online_cpus()?;
        // Records first, then /proc: a process that begins in between is told twice, not never.
        let sideband = Sideband::open(&online)?;
        if !sideband.build_ids() {
            info!(
                "this kernel's mapping records carry no build ids: files are told apart by device and inode"
            );
        }
        let processes = Processes::scan().context("cannot read /proc")?;
        let mut agent = Self {
            window: OpenWindow::new(0, Budget::default()),
            window_end: 0,
            tick_rate: 0,
            options,
            programs,
            sideband,
            processes,
            policies,
            namer: Namer::new(symbolizer),
            counts: HashMap::new(),
            exits: [0; EXITS as usize],
            metrics,
            sink,
            report: Report::new(),
            tell: Vec::new(),
        };
        agent.open_window(unix_seconds());
        agent.processes.decide_all(&agent.policies, &mut agent.tell);
        agent.tell_kernel()?;
        agent.attach(agent.policies.node_rate())?;
        agent.metrics.node_rate.set(agent.policies.node_rate().into());
        agent.metrics.ready.store(1, Ordering::Relaxed);
        let (matched, running) = agent.processes.matched_and_running();
        info!(
            "sampling {} CPUs at {} Hz by {} policies; {matched} of {running} processes match",
            agent.programs.cpus(),
            agent.policies.node_rate(),
            agent.policies.len()
        );
        Ok(agent)
    }

    /// Works until told to stop (or until nobody can tell it any more).
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<(), KernelError> {
        let mut round = Instant::now();
        let mut last_cpus = Instant::now();
        loop {
            round += ROUND;
            let wait = round.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                // A late round is not made up for.
                round = Instant::now();
            }
            match commands.recv_timeout(wait) {
                Ok(Command::Policies(policies)) => self.change_policies(policies)?,
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Err(RecvTimeoutError::Timeout) => self.round()?,
            }
            if last_cpus.elapsed() >= Duration::from_secs(1) {
                last_cpus = Instant::now();
                self.follow_cpus()?;
            }
        }
    }

    fn round(&mut self) -> Result<(), KernelError> {
        let mut samples = Vec::new();
        let metrics = &self.metrics;
        self.programs.read_samples(|record| match record {
            Ok(sample) => samples.push(sample),
            Err(error) => {
                metrics.bad_records.inc();
                debug!("{error}");
            }
        });
        let mut events = Vec::new();
        let bad = self.sideband.drain(&mut events);
        self.metrics.bad_records.inc_by(bad);
        // The ring buffer's order is that of arrival; CPUs may differ by little.
        samples.sort_by_key(|sample| sample.header.time);

        let now = unix_seconds();
        let boundary = (now >= self.window_end).then(|| monotonic_at(self.window_end));
        let mut events = events.into_iter().peekable();
        let mut closed = false;
        for sample in samples {
            let time = Monotonic(sample.header.time);
            while let Some((at, event)) = events.next_if(|(at, _)| *at <= time) {
                self.event(at, &event)?;
            }
            if !closed && boundary.is_some_and(|boundary| time >= boundary) {
                self.close_window(now)?;
                closed = true;
            }
            self.sample(sample);
        }
        for (at, event) in events {
            self.event(at, &event)?;
        }
        if boundary.is_some() && !closed {
            self.close_window(now)?;
        }
        match self.processes.end_round(&self.policies, &mut self.tell) {
            Ok(false) => {}
            Ok(true) => warn!("the kernel dropped side-band records: read /proc again"),
            Err(error) => warn!("the kernel dropped side-band records, and /proc cannot be read: {error}"),
        }
        self.tell_kernel()?;
        if self.report.is_due() {
            self.report()?;
        }
        Ok(())
    }

    fn event(&mut self, time: Monotonic, event: &Event) -> Result<(), KernelError> {
        if let Event::Lost(records) = event {
            self.metrics.sideband_lost.inc_by(*records);
        }
        if let Some(process) = self.processes.apply(time, event, &self.policies, &mut self.tell)
            && let (Standing::Matched(_), Some(image)) = (&process.standing, &mut process.image)
        {
            self.namer.symbolizer().prepare(image);
        }
        Ok(())
    }

    fn sample(&mut self, sample: RawSample) {
        let header = sample.header;
        let process = self.processes.decide(header.tgid, &self.policies, &mut self.tell);
        if header.rate == 0 {
            // The kernel does not know of the decision: it is new, or its table was full.
            process.tell(&mut self.tell);
        }
        let name = comm_name(&header.comm);
        let main = header.tid == header.tgid;
        let Standing::Matched(matched) = process.standing.clone() else {
            // Either it was undecided, at the node rate, or it matched until a moment ago.
            let rate = if header.rate == 0 { header.node_rate } else { header.rate };
            let entry = process.entry(None, rate);
            self.window.add(&Thread { process: &entry, name: &name, main }, None, None, 1);
            return;
        };
        let rate = match header.rate {
            0 if !keeps(header.tick, matched.rate, header.node_rate) => return,
            0 => matched.rate.min(header.node_rate),
            rate => rate,
        };
        let stack = self.namer.name(process, sample, matched.defer, &mut self.window);
        let cpu = matched.keep_cpu.then_some(u16::try_from(header.cpu).unwrap_or(u16::MAX - 1));
        let entry = process.entry(Some(&matched), rate);
        let thread = Thread { process: &entry, name: &name, main };
        let Some(stack) = stack else { return self.window.add_over_budget(&thread, cpu, 1) };
        if stack.1 == StackEnd::Lost {
            self.metrics.stacks_lost.inc();
        }
        self.window.add(&thread, Some(stack), cpu, 1);
    }

    /// Adds what was counted without a stack since the last close.
    fn add_counts(&mut self) -> Result<(), KernelError> {
        let mut now = HashMap::with_capacity(self.counts.len());
        self.programs.read_counts(&mut now)?;
        let node_rate = self.tick_rate.max(1);
        for (key, ticks) in &now {
            let before = self.counts.get(key).copied().unwrap_or(0);
            let ticks = u32::try_from(ticks.saturating_sub(before)).unwrap_or(u32::MAX);
            if ticks > 0 {
                self.add_count(key, ticks, node_rate);
            }
        }
        // A thread of a process that ended is read once more, then its place is given back.
        let ended: Vec<CountKey> = now
            .iter()
            .filter(|(key, ticks)| self.counts.get(key) == Some(ticks) && self.processes.has_ended(key.tgid))
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            self.programs.remove_count(&key)?;
            now.remove(&key);
        }
        self.counts = now;

        let exits = self.programs.read_exits()?;
        let uncounted = exits[Exit::CountsFull as usize] - self.exits[Exit::CountsFull as usize];
        if uncounted > 0 {
            self.metrics.uncounted.inc_by(uncounted);
            let ticks = u32::try_from(uncounted).unwrap_or(u32::MAX);
            self.window.add_uncounted(ticks, period_micros(node_rate));
        }
        self.exits = exits;
        self.metrics.set_exits(&exits);
        Ok(())
    }

    fn add_count(&mut self, key: &CountKey, ticks: u32, node_rate: u32) {
        let process = self.processes.decide(key.tgid, &self.policies, &mut self.tell);
        let matched: Option<Arc<Match>> = match &process.standing {
            Standing::Matched(matched) => Some(matched.clone()),
            _ => None,
        };
        let name = comm_name(&key.comm);
        let main = key.main_thread != 0;
        match (key.kind, matched) {
            (COUNT_LOST_MATCHED | COUNT_LOST_UNDECIDED, Some(matched)) => {
                let samples = if key.kind == COUNT_LOST_MATCHED {
                    ticks
                } else {
                    thinned(ticks, matched.rate, node_rate)
                };
                self.metrics.stacks_lost.inc_by(samples.into());
                let entry = process.entry(Some(&matched), matched.rate);
                let stack = (self.window.stack(&[STACK_TRACE_LOST.into()]), StackEnd::Lost);
                self.window.add(&Thread { process: &entry, name: &name, main }, Some(stack), None, samples);
            }
            (COUNT_UNMATCHED | COUNT_LOST_MATCHED | COUNT_LOST_UNDECIDED, _) => {
                let mut entry = process.entry(None, node_rate);
                if main && *entry.name != *name {
                    // Counted before the process took the name it has now: by an exec, most of the time.
                    entry = Arc::new(ProcessEntry { name: name.as_str().into(), ..(*entry).clone() });
                }
                self.window.add(&Thread { process: &entry, name: &name, main }, None, None, ticks);
            }
            (unknown, _) => debug!("a count of unknown kind {unknown}"),
        }
    }

    /// Ends the window and begins the next at `now` (Unix seconds).
    fn close_window(&mut self, now: i64) -> Result<(), KernelError> {
        self.add_counts()?;
        self.open_window(now);
        self.processes.prune(Monotonic::now());
        Ok(())
    }

    /// Hands over the open window, if it has anything, and opens one for `now`.
    fn open_window(&mut self, now: i64) {
        let length = i64::from(self.options.window_seconds);
        // A window that is closed early is shorter, and so is the one that takes its rest.
        let ended = now.min(self.window_end);
        let start = if now < self.window_end { now } else { now - now.rem_euclid(length) };
        self.window_end = now - now.rem_euclid(length) + length;
        let closed = std::mem::replace(&mut self.window, OpenWindow::new(start, Budget::default()));
        self.namer.begin_window();
        if closed.is_empty() {
            return;
        }
        self.metrics.rows.inc_by(closed.len() as u64);
        self.metrics.samples.inc_by(closed.samples());
        self.metrics.over_budget.inc_by(closed.over_budget());
        (self.sink)(closed.close(ended));
    }

    fn change_policies(&mut self, policies: PolicySet) -> Result<(), KernelError> {
        let rate = policies.node_rate();
        if rate == self.programs.node_rate() {
            self.round()?;
        } else {
            // Ticks of two rates do not belong into one window.
            self.detach()?;
            self.attach(rate)?;
        }
        self.policies = policies;
        self.processes.decide_all(&self.policies, &mut self.tell);
        self.tell_kernel()?;
        self.metrics.node_rate.set(rate.into());
        let (matched, running) = self.processes.matched_and_running();
        info!(
            "{} policies in force at {rate} Hz; {matched} of {running} processes match",
            self.policies.len()
        );
        Ok(())
    }

    fn follow_cpus(&mut self) -> Result<(), KernelError> {
        let before = self.programs.cpus();
        self.programs.follow_cpus()?;
        let online = online_cpus()?;
        if let Err(error) = self.sideband.follow_cpus(&online) {
            warn!("{:#}", anyhow::Error::from(error));
        }
        if self.programs.cpus() != before {
            info!("{} CPUs are online now, {before} were", self.programs.cpus());
        }
        Ok(())
    }

    fn tell_kernel(&mut self) -> Result<(), KernelError> {
        for tell in self.tell.drain(..) {
            match tell {
                Tell::Decide(tgid, decision) => self.programs.decide(tgid, decision)?,
                Tell::Forget(tgid) => self.programs.forget(tgid)?,
            }
        }
        Ok(())
    }

    /// Samples at this rate from now on; 0 samples nothing.
    fn attach(&mut self, rate: u32) -> Result<(), KernelError> {
        self.tick_rate = rate;
        self.programs.set_rate(rate)
    }

    /// Ends sampling, and with it the window: what was sampled until now is in it, at its own rate.
    fn detach(&mut self) -> Result<(), KernelError> {
        self.programs.set_rate(0)?;
        self.round()?;
        self.close_window(unix_seconds())
    }

    fn stop(mut self) -> Result<(), KernelError> {
        self.detach()?;
        self.metrics.ready.store(0, Ordering::Relaxed);
        info!("stopped sampling");
        Ok(())
    }

    fn report(&mut self) -> Result<(), KernelError> {
        let exits = self.programs.read_exits()?;
        self.metrics.set_exits(&exits);
        self.metrics.set_naming(&self.namer.symbolizer().stats());
        self.metrics.set_processes(&self.processes.stats());
        let (matched, running) = self.processes.matched_and_running();
        self.metrics.matched.set(matched as i64);
        let line = self.report.line(&exits, &self.metrics);
        info!("{line}; {matched} of {running} processes match");
        Ok(())
    }
}

/// Samples that `ticks` at the node rate become at `rate`, to the nearest.
fn thinned(ticks: u32, rate: u32, node_rate: u32) -> u32 {
    let kept =
        (u64::from(ticks) * u64::from(rate.min(node_rate)) + u64::from(node_rate) / 2) / u64::from(node_rate);
    u32::try_from(kept).unwrap_or(u32::MAX)
}

/// Makes the log line: what changed since the one before.
struct Report {
    at: Instant,
    cpu: Duration,
    exits: [u64; EXITS as usize],
    lost: u64,
}

impl Report {
    fn new() -> Self {
        Self { at: Instant::now(), cpu: cpu_time(), exits: [0; EXITS as usize], lost: 0 }
    }

    fn is_due(&self) -> bool {
        self.at.elapsed() >= REPORT
    }

    fn line(&mut self, exits: &[u64; EXITS as usize], metrics: &Metrics) -> String {
        let elapsed = self.at.elapsed();
        let cpu = cpu_time();
        let used = cpu.saturating_sub(self.cpu).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let since = |exit: Exit| exits[exit as usize].saturating_sub(self.exits[exit as usize]);
        let lost = metrics.stacks_lost.get() + metrics.over_budget.get() + metrics.uncounted.get();
        let line = format!(
            "{:.0} s: {} samples, {} ticks counted, {} stacks lost, own CPU {used:.2} % of a core",
            elapsed.as_secs_f64(),
            since(Exit::Sampled) + since(Exit::SampledUndecided),
            since(Exit::Counted),
            lost - self.lost,
        );
        *self = Self { at: Instant::now(), cpu, exits: *exits, lost };
        line
    }
}

/// CPU time of this process so far, user and system.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The monotonic time of a moment in Unix seconds, by the clocks as they stand now.
fn monotonic_at(unix: i64) -> Monotonic {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = i128::try_from(now.as_nanos()).unwrap_or(0) - i128::from(unix) * 1_000_000_000;
    Monotonic(u64::try_from(i128::from(Monotonic::now().0) - ago).unwrap_or(0))
}

fn online_cpus() -> Result<Vec<u32>, KernelError> {
    aya::util::online_cpus().map_err(|(path, source)| KernelError::Cpus { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_undecided_samples_are_thinned_to_the_nearest() {
        assert_eq!([thinned(499, 99, 499), thinned(1, 99, 499), thinned(3, 99, 499)], [99, 0, 1]);
        assert_eq!(thinned(10, 500, 99), 10, "never more than there were");
    }

    #[test]
    fn a_moment_keeps_its_distance_from_now() {
        let now = Monotonic::now();
        let in_ten = monotonic_at(unix_seconds() + 10);
        let distance = in_ten.since(now);
        assert!((9..=10).contains(&distance.as_secs()), "{distance:?}");
    }
}
