//! The pipeline: samples and side-band records in, windows of rows out.
//!
//! One thread does all of it, in rounds of [`ROUND`]: read the ring buffer, then the
//! side-band records (so that everything which happened before a sample is known when
//! the sample is looked at), and go through both in the order of time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use hearth_node_agent_ebpf::limits::MAX_COUNTS;
use hearth_node_agent_ebpf::record::{
    COUNT_LOST_MATCHED, COUNT_LOST_UNDECIDED, COUNT_UNMATCHED, EXITS, Exit, SampleHeader,
};
use hearth_node_agent_ebpf::thin::keeps;
use hearth_policy::period_micros;
use hearth_profile::frame::STACK_TRACE_LOST;
use hearth_proto::collector::v1::StackEnd;
use hearth_proto::config::v1::Counts;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use crate::clock::{Clock, Span};
use crate::counts::{Running, count};
use crate::export::batch::{ProcessEntry, Window};
use crate::governor::{CpuLimit, Governor};
use crate::held::Held;
use crate::kernel::Monotonic;
use crate::kernel::counts::Count;
use crate::kernel::programs::{KernelError, Programs, Sizes, online};
use crate::kernel::sample::{RawSample, comm_name};
use crate::kernel::sideband::{Event, Sideband};
use crate::metrics::Metrics;
use crate::naming::Namer;
use crate::pods::{Change, Directory, PodOptions, Pods};
use crate::policies::{Match, PolicySet};
use crate::process::{Processes, Standing, Tell};
use crate::report::{Moment, Report};
use crate::symbols::Symbolizer;
use crate::window::{Budget, OpenWindow, Thread};

mod adapt;

/// Time between two looks at what the kernel has: short enough that files of a
/// process which lives for 20 ms are mostly still there, and ten looks a second
/// cost less than a thousandth of a core.
pub const ROUND: Duration = Duration::from_millis(100);

/// What the running agent can be told.
pub enum Command {
    /// Work by these policies from now on.
    Policies(PolicySet),
    /// Pods of this node changed.
    Pods(Change),
    /// Namespaces and owners of its pods are known now.
    Directory(Directory),
    /// Says that everything before it was done.
    Reached(oneshot::Sender<()>),
    /// Close the window and end.
    Stop,
}

/// How the agent works, apart from its policies.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a window in seconds; divides an hour.
    pub window_seconds: u32,
    /// Threads that are counted without a stack, in one window.
    pub max_counts: u32,
    /// Tells when windows begin and end.
    pub clock: Clock,
    /// What the agent may take of the CPUs.
    pub cpu: CpuLimit,
    /// Told what the policies do here, at most once a second, when it changed.
    pub counts: watch::Sender<Counts>,
    /// In Kubernetes: how pods are told.
    pub pods: Option<PodOptions>,
}

impl Options {
    /// With the documented limits, by the system's clock.
    pub fn new(window_seconds: u32) -> Self {
        Self {
            window_seconds,
            max_counts: MAX_COUNTS,
            clock: Clock::default(),
            cpu: CpuLimit::default(),
            counts: watch::Sender::default(),
            pods: None,
        }
    }
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
    /// Samples of this window whose process waits for its pod.
    held: Held,
    /// What the window covers.
    span: Span,
    /// Ticks per second and CPU of what was counted since the last close: what the programs were
    /// attached with last, even if they are detached now.
    tick_rate: u32,
    /// The exit counters at the last close.
    exits: [u64; EXITS as usize],
    metrics: Arc<Metrics>,
    sink: Box<dyn FnMut(Window) + Send>,
    report: Report,
    /// What the kernel is to be told at the end of the round.
    tell: Vec<Tell>,
    /// Of whom it is told again, because it sampled them without a decision.
    retold: HashSet<u32>,
    /// What was said of side-band events that could not be opened; they are tried again each second.
    sideband_failed: Option<String>,
    governor: Governor,
    /// Something happened after which the policies' counts may be others.
    must_count: bool,
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
        let online = online()?;
        let programs = Programs::load(sizes(&options, &online, policies.node_rate()))?;
        if let Some(error) = programs.exec_unattached() {
            let error = anyhow::anyhow!("{error}");
            warn!(
                "no hook on exec ({error:#}): a process that replaces its program is decided anew within {ROUND:?}"
            );
        }
        // Records first, then /proc: a process that begins in between is told twice, not never.
        let sideband = Sideband::open(&online)?;
        if !sideband.build_ids() {
            info!(
                "this kernel's mapping records carry no build ids: files are told apart by device and inode"
            );
        }
        let pods = options.pods.clone().map(Pods::new);
        let processes = Processes::scan().context("cannot read /proc")?.with_pods(pods);
        let governor = Governor::new(options.cpu, Moment::now());
        let span = Span::first(options.window_seconds, options.clock.unix_seconds());
        let mut agent = Self {
            window: OpenWindow::new(Budget::default()),
            held: Held::default(),
            span,
            tick_rate: 0,
            options,
            programs,
            sideband,
            processes,
            policies,
            governor,
            namer: Namer::new(symbolizer),
            exits: [0; EXITS as usize],
            metrics,
            sink,
            report: Report::new(Moment::now()),
            tell: Vec::new(),
            retold: HashSet::new(),
            sideband_failed: None,
            must_count: true,
        };
        agent.metrics.begin_sampler();
        agent.processes.decide_all(&agent.policies, &mut agent.tell);
        agent.tell_kernel()?;
        agent.attach(agent.policies.node_rate())?;
        agent.metrics.node_rate.set(agent.policies.node_rate().into());
        agent.metrics.ready.store(1, Ordering::Relaxed);
        let (matched, running) = agent.processes.matched_and_running();
        match agent.policies.node_rate() {
            0 => agent.say_idle(),
            rate => info!(
                "sampling {} CPUs at {rate} Hz by {} policies; {matched} of {running} processes match",
                agent.programs.cpus(),
                agent.policies.len()
            ),
        }
        Ok(agent)
    }

    /// Works until told to stop (or until nobody can tell it any more).
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<(), KernelError> {
        let mut round = Instant::now();
        let mut last_second = Instant::now();
        loop {
            round += ROUND;
            let wait = round.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                // A late round is not made up for.
                round = Instant::now();
            }
            match commands.recv_timeout(wait) {
                Ok(Command::Policies(policies)) => self.change_policies(policies)?,
                Ok(Command::Pods(change)) => {
                    self.processes.change_pods(change, &self.policies, &mut self.tell);
                    self.must_count = true;
                    // However many come, samples are read.
                    self.round()?;
                }
                Ok(Command::Directory(directory)) => {
                    self.processes.set_directory(directory, &self.policies, &mut self.tell);
                    self.must_count = true;
                    self.round()?;
                }
                Ok(Command::Reached(tell)) => {
                    // Whoever asked may have stopped waiting.
                    let _: Result<(), ()> = tell.send(());
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Err(RecvTimeoutError::Timeout) => self.round()?,
            }
            if last_second.elapsed() >= Duration::from_secs(1) {
                last_second = Instant::now();
                self.follow_cpus()?;
                self.keep_within_share()?;
                self.publish_counts();
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

        let clock = &self.options.clock;
        let now = clock.unix_seconds();
        let boundary = self.span.is_over(now).then(|| clock.monotonic_at(self.span.end()));
        let mut events = events.into_iter().peekable();
        let mut closed = false;
        for sample in samples {
            let time = Monotonic(sample.header.time);
            while let Some((at, event)) = events.next_if(|(at, _)| *at <= time) {
                self.event(at, &event);
            }
            if !closed && boundary.is_some_and(|boundary| time >= boundary) {
                self.close_window(now)?;
                closed = true;
            }
            self.sample(sample);
        }
        for (at, event) in events {
            self.event(at, &event);
        }
        if boundary.is_some() && !closed {
            self.close_window(now)?;
        }
        match self.processes.end_round(&self.policies, &mut self.tell) {
            Ok(false) => {}
            Ok(true) => warn!("the kernel dropped side-band records: read /proc again"),
            Err(error) => warn!("the kernel dropped side-band records, and /proc cannot be read: {error}"),
        }
        for sample in self.held.take(|tgid| !self.processes.waits(tgid)) {
            self.sample(sample);
        }
        self.tell_kernel()?;
        if self.report.is_due() {
            self.report()?;
        }
        Ok(())
    }

    fn event(&mut self, time: Monotonic, event: &Event) {
        if let Event::Lost(records) = event {
            self.metrics.sideband_lost.inc_by(*records);
        }
        if let Event::Exec { tgid, .. } = event {
            // Their addresses are those of the program that ends here.
            self.count_held(|held| held == *tgid);
        }
        self.must_count |= !matches!(event, Event::Map { .. });
        if let Some(process) = self.processes.apply(time, event, &self.policies, &mut self.tell)
            && let (Standing::Matched(_), Some(image)) = (&process.standing, &mut process.image)
        {
            self.namer.symbolizer().prepare(image);
        }
    }

    fn sample(&mut self, sample: RawSample) {
        let header = sample.header;
        let process = self.processes.decide(header.tgid, &self.policies, &mut self.tell);
        if header.rate == 0 && self.retold.insert(header.tgid) {
            // The kernel does not know of the decision: it is new, or its table was full.
            process.tell(&mut self.tell);
        }
        let name = comm_name(&header.comm);
        let main = header.tid == header.tgid;
        let Standing::Matched(matched) = process.standing.clone() else {
            let sample = if process.waits() { self.held.push(sample) } else { Some(sample) };
            return sample.iter().for_each(|sample| self.count_sample(sample));
        };
        let Some(rate) = kept_at(&header, matched.rate) else { return };
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

    /// Adds a sample without its stack: either its process was undecided, at the node rate, or it matched
    /// until a moment ago.
    fn count_sample(&mut self, RawSample { header, .. }: &RawSample) {
        let rate = if header.rate == 0 { header.node_rate } else { header.rate };
        let entry = self.processes.get(header.tgid).entry(None, rate.min(header.node_rate));
        let (name, main) = (comm_name(&header.comm), header.tid == header.tgid);
        self.window.add(&Thread { process: &entry, name: &name, main }, None, None, 1);
    }

    /// Gives up waiting for the decision of these processes' samples.
    fn count_held(&mut self, of: impl Fn(u32) -> bool) {
        self.held.take(of).iter().for_each(|sample| self.count_sample(sample));
    }

    /// Adds what was counted without a stack since the last close.
    fn add_counts(&mut self) -> Result<(), KernelError> {
        let node_rate = self.tick_rate.max(1);
        let (counts, slipped) = self.programs.take_counts()?;
        for count in counts {
            self.add_count(&count, node_rate);
        }
        let exits = self.programs.read_exits()?;
        let uncounted = exits[Exit::CountsFull as usize] - self.exits[Exit::CountsFull as usize] + slipped;
        if uncounted > 0 {
            self.metrics.uncounted.inc_by(uncounted);
            let ticks = u32::try_from(uncounted).unwrap_or(u32::MAX);
            self.window.add_uncounted(ticks, period_micros(node_rate));
        }
        self.exits = exits;
        self.metrics.set_exits(&exits);
        Ok(())
    }

    fn add_count(&mut self, count: &Count, node_rate: u32) {
        let Count { key, ticks } = count;
        let process = self.processes.decide(key.tgid, &self.policies, &mut self.tell);
        let matched: Option<Arc<Match>> = match &process.standing {
            Standing::Matched(matched) => Some(matched.clone()),
            _ => None,
        };
        let name = comm_name(&key.comm);
        let main = key.main_thread != 0;
        match (key.kind, matched) {
            (COUNT_LOST_MATCHED | COUNT_LOST_UNDECIDED, Some(matched)) => {
                let rate = matched.rate.min(node_rate);
                let entry = process.entry(Some(&matched), rate);
                let thread = Thread { process: &entry, name: &name, main };
                let stack = (self.window.stack(&[STACK_TRACE_LOST.into()]), StackEnd::Lost);
                let mut sum = 0_u32;
                for (cpu, ticks) in by_cpu(ticks, matched.keep_cpu) {
                    let before = sum;
                    sum = sum.saturating_add(ticks);
                    let samples = match key.kind {
                        COUNT_LOST_MATCHED => ticks,
                        // Rounded once for all CPUs.
                        _ => thinned(sum, rate, node_rate) - thinned(before, rate, node_rate),
                    };
                    if samples > 0 {
                        self.metrics.stacks_lost.inc_by(samples.into());
                        self.window.add(&thread, Some(stack), cpu, samples);
                    }
                }
            }
            (COUNT_UNMATCHED | COUNT_LOST_MATCHED | COUNT_LOST_UNDECIDED, _) => {
                let mut entry = process.entry(None, node_rate);
                if main && *entry.name != *name {
                    // Counted before the process took the name it has now: by an exec, most of the time.
                    entry = Arc::new(ProcessEntry { name: name.as_str().into(), ..(*entry).clone() });
                }
                let thread = Thread { process: &entry, name: &name, main };
                for (_, ticks) in by_cpu(ticks, false) {
                    self.window.add(&thread, None, None, ticks);
                }
            }
            (unknown, _) => debug!("a count of unknown kind {unknown}"),
        }
    }

    /// Ends the window and begins the next at `now` (Unix seconds).
    fn close_window(&mut self, now: i64) -> Result<(), KernelError> {
        self.count_held(|_| true);
        self.add_counts()?;
        self.open_window(now);
        self.processes.prune(Monotonic::now());
        Ok(())
    }

    /// Hands over the open window, if it has anything, and opens one for `now`.
    fn open_window(&mut self, now: i64) {
        let covered = self.span.close(now);
        let closed = std::mem::replace(&mut self.window, OpenWindow::new(Budget::default()));
        self.namer.begin_window();
        if closed.is_empty() {
            return;
        }
        self.metrics.rows.inc_by(closed.len() as u64);
        self.metrics.samples.inc_by(closed.samples());
        self.metrics.over_budget.inc_by(closed.over_budget());
        (self.sink)(closed.close(covered));
    }

    /// Says what the policies do here, if that may be something else by now.
    fn publish_counts(&mut self) {
        // Without an operator nobody looks at them.
        if self.options.counts.receiver_count() == 0 || !std::mem::take(&mut self.must_count) {
            return;
        }
        let pods = self.processes.pod_facts();
        let running = self.processes.running().map(|process| Running {
            comm: &process.comm,
            standing: &process.standing,
            pod: process.pod(&pods),
        });
        let policies = count(&self.policies, running, &pods);
        let counts = Counts { policies, frequency: self.programs.node_rate(), detached: None };
        self.options.counts.send_if_modified(|told| {
            let is_new = *told != counts;
            *told = counts;
            is_new
        });
    }

    fn tell_kernel(&mut self) -> Result<(), KernelError> {
        self.must_count |= !self.tell.is_empty();
        self.retold.clear();
        for tell in self.tell.drain(..) {
            match tell {
                Tell::Decide(tgid, decision) if !self.programs.decide(tgid, decision)? => {
                    if self.metrics.decisions_full.inc() == 0 {
                        warn!(
                            "the kernel's table of decisions is full: processes beyond it cost a stack each tick"
                        );
                    }
                }
                Tell::Decide(..) => {}
                Tell::Forget(tgid) => self.programs.forget(tgid)?,
            }
        }
        Ok(())
    }

    fn stop(mut self) -> Result<(), KernelError> {
        self.detach()?;
        self.metrics.ready.store(0, Ordering::Relaxed);
        self.metrics.node_rate.set(0);
        self.metrics.matched.set(0);
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
        let (pods, awaited) = self.processes.pod_counts();
        self.metrics.pods.set(pods as i64);
        self.metrics.pods_awaited.set(awaited as i64);
        let line = self.report.line(Moment::now(), &exits, &self.metrics);
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

/// The rate that a sample of a process counts at which is to be sampled at `wanted`, if it is kept.
fn kept_at(header: &SampleHeader, wanted: u32) -> Option<u32> {
    let rate = match header.rate {
        0 if !keeps(header.tick, wanted, header.node_rate) => return None,
        0 => wanted,
        decided => decided,
    };
    // Above the node's rate every tick is kept, and no more.
    Some(rate.min(header.node_rate))
}

/// What the programs need for these CPUs and this rate.
fn sizes(options: &Options, online: &[u32], rate: u32) -> Sizes {
    Sizes { counts: options.max_counts, ..Sizes::for_rate(online.len(), rate) }
}

/// Ticks by CPU where that is kept, else their sum.
fn by_cpu(ticks: &[u64], keep_cpu: bool) -> Vec<(Option<u16>, u32)> {
    let narrow = |ticks: u64| u32::try_from(ticks).unwrap_or(u32::MAX);
    if !keep_cpu {
        return vec![(None, narrow(ticks.iter().sum()))];
    }
    (0..)
        .zip(ticks)
        .filter(|(_, ticks)| **ticks > 0)
        .map(|(cpu, ticks)| (Some(cpu), narrow(*ticks)))
        .collect()
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
