//! The processes of this machine, as the side-band records and `/proc` tell them.
//!
//! Pure but for `/proc`: events go in, what the kernel has to be told comes out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_node_agent_ebpf::record::{DECISION_UNMATCHED, Decision};
use hearth_policy::{Home, ProcessFacts};

use crate::export::batch::ProcessEntry;
use crate::kernel::Monotonic;
use crate::kernel::sample::comm_name;
use crate::kernel::sideband::{Event, Mapped};
use crate::policies::{Match, PolicySet};
use crate::proc_fs::{self, BootClock};
use crate::symbols::{AddressSpace, Backing, Mapping, ProcessImage};

/// How long a process that ended is remembered: its last samples and counts are
/// read within one window, its children may still be told as forked from it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Processes remembered at most, ended ones included; `pid_max` is 4,194,304 at most
/// and 32,768 on small machines.
const MAX_PROCESSES: usize = 131_072;

/// What the policies say of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not asked yet.
    Undecided,
    /// No policy wants it: its time is counted, for `Total`.
    Unmatched,
    /// One has it.
    Matched(Arc<Match>),
}

/// What the kernel's table of decisions has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// This is decided.
    Decide(u32, Decision),
    /// This is undecided again.
    Forget(u32),
}

/// One process.
pub struct Process {
    /// Id in the initial pid namespace.
    pub tgid: u32,
    /// When it began, Unix milliseconds.
    pub start_time_millis: i64,
    /// Name of the thread group's leader.
    pub comm: Arc<str>,
    /// What the policies say.
    pub standing: Standing,
    /// Its mapped code; read when first needed, kept while it matches.
    pub image: Option<ProcessImage>,
    /// Grows when its addresses may mean something else: new program, new mapping.
    pub epoch: u32,
    /// When it began, in clock ticks since boot, as `/proc/PID/stat` counts.
    start_ticks: u64,
    ended: Option<Monotonic>,
    /// The last row header made, as most rows of a process share it.
    entry: Option<Arc<ProcessEntry>>,
}

impl Process {
    fn new(tgid: u32, start_ticks: u64, start_time_millis: i64, comm: Arc<str>) -> Self {
        Self {
            tgid,
            start_time_millis,
            comm,
            standing: Standing::Undecided,
            image: None,
            epoch: 0,
            start_ticks,
            ended: None,
            entry: None,
        }
    }

    /// The row header for samples kept at `rate`; `None` stands for time that is only counted.
    pub fn entry(&mut self, matched: Option<&Match>, rate: u32) -> Arc<ProcessEntry> {
        let entry = ProcessEntry {
            pid: self.tgid,
            start_time_millis: self.start_time_millis,
            name: self.comm.clone(),
            app_service: matched.map_or_else(|| "".into(), |matched| matched.app_service.clone()),
            policy: matched.map_or_else(|| "".into(), |matched| matched.policy.clone()),
            period_micros: hearth_policy::period_micros(rate),
        };
        match &self.entry {
            Some(last) if **last == entry => last.clone(),
            _ => self.entry.insert(Arc::new(entry)).clone(),
        }
    }

    /// Its code, read from `/proc` if no record told of it; empty where the process
    /// ended before anybody could look, so that its addresses stay addresses.
    pub fn image(&mut self) -> &mut ProcessImage {
        self.image.get_or_insert_with(|| {
            let space = AddressSpace::read_from_proc(self.tgid).unwrap_or_default();
            ProcessImage::new(self.tgid, self.start_ticks, space)
        })
    }

    /// Tells the kernel of the decision. Not of a process that ended: its entry would
    /// stay, and hold for the next one with its pid.
    pub fn tell(&self, tell: &mut Vec<Tell>) {
        let decision = match &self.standing {
            Standing::Matched(matched) => matched.rate,
            Standing::Unmatched => DECISION_UNMATCHED,
            Standing::Undecided => return,
        };
        if self.ended.is_none() {
            tell.push(Tell::Decide(self.tgid, decision));
        }
    }

    fn rename(&mut self, comm: &[u8]) {
        self.comm = comm_name(comm).into();
        self.standing = Standing::Undecided;
        // It lived then, even if it is gone by now: its end is told later.
        self.ended = None;
    }

    fn replace_program(&mut self, comm: &[u8]) {
        self.rename(comm);
        // The new program's mappings follow as records of their own.
        self.image = Some(ProcessImage::new(self.tgid, self.start_ticks, AddressSpace::default()));
        self.epoch += 1;
    }
}

/// All processes that are known.
pub struct Processes {
    all: HashMap<u32, Process>,
    clock: BootClock,
    /// Processes that were not remembered because there were too many.
    forgotten: u64,
}

impl Processes {
    /// Reads what runs now from `/proc`.
    pub fn scan() -> std::io::Result<Self> {
        let mut processes = Self::none()?;
        processes.rescan(&mut Vec::new())?;
        Ok(processes)
    }

    fn none() -> std::io::Result<Self> {
        Ok(Self { all: HashMap::new(), clock: BootClock::read()?, forgotten: 0 })
    }

    /// Reads `/proc` again: after records were lost. Processes that are gone end,
    /// and what is known of mappings is dropped, to be read anew.
    pub fn rescan(&mut self, tell: &mut Vec<Tell>) -> std::io::Result<()> {
        let now = Monotonic::now();
        let running = proc_fs::running()?;
        for process in self.all.values_mut() {
            let same = running.get(&process.tgid).is_some_and(|stat| stat.comm[..] == process.comm[..]);
            if !same && process.ended.is_none() {
                process.ended = Some(now);
                tell.push(Tell::Forget(process.tgid));
            }
            process.image = None;
            process.epoch += 1;
        }
        for (tgid, stat) in running {
            let known = self.all.get(&tgid).is_some_and(|process| process.ended.is_none());
            if !known {
                let start = self.clock.ticks_to_unix_millis(stat.start_ticks);
                self.insert(Process::new(tgid, stat.start_ticks, start, stat.comm.into()));
            }
        }
        Ok(())
    }

    /// Number of processes that match, and of those that are known and run.
    pub fn matched_and_running(&self) -> (usize, usize) {
        let running = self.all.values().filter(|process| process.ended.is_none());
        running.fold((0, 0), |(matched, all), process| {
            (matched + usize::from(matches!(process.standing, Standing::Matched(_))), all + 1)
        })
    }

    /// The process, known or read from `/proc` now; a name of its own where it is gone already.
    pub fn get(&mut self, tgid: u32) -> &mut Process {
        if !self.all.contains_key(&tgid) {
            let (start_ticks, comm, ended) = match proc_fs::stat(tgid) {
                Ok(stat) => (stat.start_ticks, Arc::from(stat.comm), None),
                Err(_) => (self.clock.ticks_now(), "[ended]".into(), Some(Monotonic::now())),
            };
            let start = self.clock.ticks_to_unix_millis(start_ticks);
            let process = Process::new(tgid, start_ticks, start, comm);
            self.insert(Process { ended, ..process });
        }
        self.all.get_mut(&tgid).expect("inserted above if it was missing")
    }

    /// Asks the policies about a process, if that was not done yet. What the kernel
    /// has to be told goes to `tell`.
    pub fn decide(&mut self, tgid: u32, policies: &PolicySet, tell: &mut Vec<Tell>) -> &mut Process {
        let process = self.get(tgid);
        if process.standing == Standing::Undecided {
            let facts = facts(process, policies);
            process.standing = match policies.decide(&facts) {
                Some(matched) => Standing::Matched(Arc::new(matched)),
                None => {
                    process.image = None;
                    Standing::Unmatched
                }
            };
            process.tell(tell);
        }
        process
    }

    /// Asks about every running process anew: the policies changed.
    pub fn decide_all(&mut self, policies: &PolicySet, tell: &mut Vec<Tell>) {
        let running: Vec<u32> =
            self.all.values().filter(|process| process.ended.is_none()).map(|process| process.tgid).collect();
        for tgid in running {
            self.get(tgid).standing = Standing::Undecided;
            self.decide(tgid, policies, tell);
        }
    }

    /// Takes in what happened. A new program of a process is decided at once, so that
    /// its files can be opened while it lives; returns the process in that case, and
    /// when code was mapped into one that matches.
    pub fn apply(
        &mut self,
        time: Monotonic,
        event: &Event,
        policies: &PolicySet,
        tell: &mut Vec<Tell>,
    ) -> Option<&mut Process> {
        match event {
            Event::Fork { tgid, parent } => {
                self.fork(*tgid, *parent, time);
                None
            }
            Event::Exec { tgid, comm } => {
                self.get(*tgid).replace_program(comm);
                // The kernel's own hook cleared the decision; where that is not attached, this does.
                tell.push(Tell::Forget(*tgid));
                Some(self.decide(*tgid, policies, tell))
            }
            Event::Rename { tgid, comm } => {
                self.get(*tgid).rename(comm);
                Some(self.decide(*tgid, policies, tell))
            }
            Event::Exit { tgid } => {
                if let Some(process) = self.all.get_mut(tgid) {
                    process.ended = Some(time);
                }
                tell.push(Tell::Forget(*tgid));
                None
            }
            Event::Map { tgid, mapped } => {
                let process = self.all.get_mut(tgid)?;
                let image = process.image.as_mut()?;
                image.space.insert(mapping(mapped));
                process.epoch += 1;
                matches!(process.standing, Standing::Matched(_)).then_some(process)
            }
            Event::Lost(_) => None,
        }
    }

    /// Lets go of processes that ended a while ago.
    pub fn prune(&mut self, now: Monotonic) {
        self.all.retain(|_, process| process.ended.is_none_or(|ended| now.since(ended) < REMEMBERED));
    }

    /// Whether the process is known to have ended.
    pub fn has_ended(&self, tgid: u32) -> bool {
        self.all.get(&tgid).is_none_or(|process| process.ended.is_some())
    }

    /// Processes that could not be remembered.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A copy of its parent until it replaces its program: same name, same code, same standing.
    fn fork(&mut self, tgid: u32, parent: u32, time: Monotonic) {
        let start_ticks = self.clock.ticks_at(time);
        let start = self.clock.ticks_to_unix_millis(start_ticks);
        let mut child = Process::new(tgid, start_ticks, start, "".into());
        if let Some(parent) = self.all.get(&parent) {
            child.comm = parent.comm.clone();
            // The kernel learns of it with the first sample: most forks replace their program first.
            child.image = parent.image.as_ref().map(|image| image.forked(tgid, start_ticks));
        } else if let Ok(stat) = proc_fs::stat(tgid) {
            child.comm = stat.comm.into();
        }
        self.insert(child);
    }

    fn insert(&mut self, process: Process) {
        if self.all.len() >= MAX_PROCESSES {
            self.prune(Monotonic::now());
        }
        if self.all.len() >= MAX_PROCESSES {
            // An ended one has to make room, or any: each is read again from `/proc` when it is sampled.
            self.forgotten += 1;
            let victim =
                self.all.values().find(|process| process.ended.is_some()).or(self.all.values().next());
            if let Some(victim) = victim.map(|process| process.tgid) {
                self.all.remove(&victim);
            }
        }
        self.all.insert(process.tgid, process);
    }
}

fn facts(process: &Process, policies: &PolicySet) -> ProcessFacts {
    let comm = process.comm.to_string();
    if !policies.looks_beyond_comm() {
        return ProcessFacts { comm, cmdline: String::new(), exe: String::new(), home: Home::Host };
    }
    // A process that is gone has neither: it is decided by what is known of it.
    let cmdline = proc_fs::cmdline(process.tgid).unwrap_or_default();
    let exe = proc_fs::exe(process.tgid).unwrap_or_default();
    ProcessFacts { comm, cmdline, exe, home: Home::Host }
}

fn mapping(mapped: &Mapped) -> Mapping {
    Mapping {
        start: mapped.start,
        end: mapped.end,
        file_offset: mapped.file_offset,
        backing: Backing::from_kernel(&mapped.path, mapped.file, mapped.build_id.as_deref()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fmt::Write as _;

    use hearth_policy::{EffectivePolicy, Environment, parse_policy_file};

    use super::*;

    /// No process has a pid this high: `pid_max` ends at 2^22.
    const PID: u32 = 1 << 23;

    fn policies() -> PolicySet {
        let text = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
            metadata: {name: web}\nspec: {regex: ^web, hostProcesses: true, frequency: 49}\n";
        let (policies, _) = parse_policy_file(text).unwrap();
        PolicySet::new(EffectivePolicy::from_file(policies), Environment::Standalone, 1000).unwrap()
    }

    /// Lines `fork CHILD PARENT`, `exec PID NAME`, `rename PID NAME`, `exit PID`,
    /// `sample PID` go in; what the kernel is told and who was sampled comes out.
    /// Pids count from [`PID`].
    fn check(events: &str, expected: &str) {
        let policies = policies();
        let mut processes = Processes::none().unwrap();
        let mut out = String::new();
        for (time, line) in (1..).zip(events.lines()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let pid = |word: usize| PID + words[word].parse::<u32>().unwrap();
            let mut tell = Vec::new();
            let event = match words[0] {
                "fork" => Event::Fork { tgid: pid(1), parent: pid(2) },
                "exec" => Event::Exec { tgid: pid(1), comm: words[2].as_bytes().to_vec() },
                "rename" => Event::Rename { tgid: pid(1), comm: words[2].as_bytes().to_vec() },
                "exit" => Event::Exit { tgid: pid(1) },
                _ => {
                    let process = processes.decide(pid(1), &policies, &mut tell);
                    writeln!(out, "sampled {}", process.comm).unwrap();
                    say(&tell, &mut out);
                    continue;
                }
            };
            processes.apply(Monotonic(time), &event, &policies, &mut tell);
            say(&tell, &mut out);
        }
        assert_eq!(out.trim(), expected);
    }

    fn say(tell: &[Tell], out: &mut String) {
        for tell in tell {
            match tell {
                Tell::Decide(tgid, rate) => writeln!(out, "decide {} {rate}", tgid - PID).unwrap(),
                Tell::Forget(tgid) => writeln!(out, "forget {}", tgid - PID).unwrap(),
            }
        }
    }

    #[test]
    fn a_new_program_is_decided_at_once() {
        check("exec 1 web-server", "forget 1\ndecide 1 49");
        check("exec 1 other", "forget 1\ndecide 1 0");
    }

    #[test]
    fn a_fork_has_its_parents_name_and_is_decided_when_it_is_sampled() {
        check("exec 1 web\nfork 2 1\nsample 2", "forget 1\ndecide 1 49\nsampled web\ndecide 2 49");
    }

    #[test]
    fn a_fork_that_replaces_its_program_is_no_longer_its_parent() {
        check("exec 1 web\nfork 2 1\nexec 2 sh", "forget 1\ndecide 1 49\nforget 2\ndecide 2 0");
    }

    #[test]
    fn a_new_name_is_a_new_decision() {
        check("exec 1 sh\nrename 1 web", "forget 1\ndecide 1 0\ndecide 1 49");
    }

    #[test]
    fn an_ended_process_is_known_and_not_told() {
        check("exec 1 web\nexit 1\nsample 1", "forget 1\ndecide 1 49\nforget 1\nsampled web");
        check("sample 7", "sampled [ended]");
    }

    #[test]
    fn a_pid_that_comes_round_is_another_process() {
        check(
            "exec 1 web\nexit 1\nexec 2 sh\nfork 1 2\nsample 1",
            "forget 1\ndecide 1 49\nforget 1\nforget 2\ndecide 2 0\nsampled sh\ndecide 1 0",
        );
    }

    #[test]
    fn an_ended_process_is_forgotten_after_a_minute() {
        let mut processes = Processes::none().unwrap();
        let policies = policies();
        processes.decide(PID, &policies, &mut Vec::new());
        let now = Monotonic::now();
        processes.prune(now);
        assert_eq!(processes.all.len(), 1);
        processes.prune(Monotonic(now.0 + 61_000_000_000));
        assert_eq!(processes.all.len(), 0);
    }
}
