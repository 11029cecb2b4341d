//! The processes of this machine, as the side-band records and `/proc` tell them.
//!
//! Pure but for `/proc`: events go in, what the kernel has to be told comes out.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hearth_node_agent_ebpf::record::{DECISION_UNMATCHED, Decision};

use crate::export::batch::ProcessEntry;
use crate::kernel::Monotonic;
use crate::kernel::sample::comm_name;
use crate::kernel::sideband::{Event, Mapped};
use crate::pods::{Inside, Pods};
use crate::policies::{Match, PolicySet};
use crate::proc_fs::{self, BootClock, Clocks, Stat};
use crate::symbols::{AddressSpace, Backing, Budget, MAX_MAPPINGS, Mapping, ProcessImage};

#[path = "process_home.rs"]
mod home;
use home::Place;

/// How long a process that ended is remembered: its last samples and counts are
/// read within one window, its children may still be told as forked from it.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Processes remembered at most, ended ones included; `pid_max` is 4,194,304 at most
/// and 32,768 on small machines.
const MAX_PROCESSES: usize = 131_072;
/// Executable mappings of all processes, some 150 bytes each: four times what one may have.
const MAX_ALL_MAPPINGS: usize = 4 * MAX_MAPPINGS;
/// Processes without their leader that are looked at in one round.
const LEADERLESS_PER_ROUND: usize = 64;

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
    /// Its mapped code; read when first needed, kept while it matches and lives.
    pub image: Option<ProcessImage>,
    /// Another one when its addresses may mean something else: new program, new mapping.
    /// No two processes have the same, not even of one pid.
    pub epoch: u32,
    /// When it began, in clock ticks since boot, as `/proc/PID/stat` counts.
    start_ticks: u64,
    /// The thread under which `/proc` shows its memory, and its start: the leader, until
    /// that ends before the others.
    seen_as: (u32, u64),
    /// Its program's path, where a record told it.
    exe: Option<Arc<str>>,
    place: Place,
    /// Its pod and container, for its rows.
    inside: Option<Inside>,
    /// Undecided because its pod is not known: nothing asks again until something is.
    waits: bool,
    ended: Option<Monotonic>,
    /// The last row header made, as most rows of a process share it.
    entry: Option<Arc<ProcessEntry>>,
    shared: Arc<Shared>,
}

/// What all processes count together.
struct Shared {
    mappings: Budget,
    cmdlines_unread: AtomicU64,
    exes_unread: AtomicU64,
    maps_unread: AtomicU64,
    cgroups_unread: AtomicU64,
    epoch: AtomicU32,
}

impl Shared {
    fn next_epoch(&self) -> u32 {
        self.epoch.fetch_add(1, Ordering::Relaxed)
    }
}

/// What could not be learnt or kept of processes, for metrics. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessStats {
    /// Processes that were not remembered because there were too many.
    pub forgotten: u64,
    /// Executable mappings that were left out because there were too many.
    pub mappings_dropped: u64,
    /// Decisions without the command line that a policy may look at.
    pub cmdlines_unread: u64,
    /// Decisions without the program's path that a policy may look at.
    pub exes_unread: u64,
    /// Processes whose mappings could not be read.
    pub maps_unread: u64,
    /// Processes whose cgroups could not be read: nothing says whether they are in a pod.
    pub cgroups_unread: u64,
}

impl Process {
    /// The row header for samples kept at `rate`; `None` stands for time that is only counted.
    pub fn entry(&mut self, matched: Option<&Match>, rate: u32) -> Arc<ProcessEntry> {
        let entry = ProcessEntry {
            pid: self.tgid,
            start_time_millis: self.start_time_millis,
            name: self.comm.clone(),
            app_service: matched.map_or_else(|| "".into(), |matched| matched.app_service.clone()),
            policy: matched.map_or_else(|| "".into(), |matched| matched.policy.clone()),
            period_micros: hearth_policy::period_micros(rate),
            inside: self.inside.clone(),
        };
        match &self.entry {
            Some(last) if **last == entry => last.clone(),
            _ => self.entry.insert(Arc::new(entry)).clone(),
        }
    }

    /// Its code, read from `/proc` if no record told of it; empty where the process
    /// ended before anybody could look, so that its addresses stay addresses.
    pub fn image(&mut self) -> &mut ProcessImage {
        let Self { seen_as: (id, start), ended, shared, .. } = self;
        self.image.get_or_insert_with(|| {
            let mut space = AddressSpace::within(&shared.mappings);
            // The pid of one that ended may be another's.
            let is_read = ended.is_none() && space.add_from_proc(*id).is_ok() && !space.is_empty();
            shared.maps_unread.fetch_add(u64::from(!is_read), Ordering::Relaxed);
            ProcessImage::new(*id, *start, space)
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
        self.waits = false;
        // It lived then, even if it is gone by now: its end is told later.
        self.ended = None;
    }

    fn replace_program(&mut self, comm: &[u8]) {
        self.rename(comm);
        // The thread that did it is the leader now.
        self.seen_as = (self.tgid, self.start_ticks);
        self.exe = None;
        // A runtime begins a container so: it goes where that is to run and becomes its program.
        self.place.is_old = true;
        // The new program's mappings follow as records of their own.
        let space = AddressSpace::within(&self.shared.mappings);
        self.image = Some(ProcessImage::new(self.tgid, self.start_ticks, space));
        self.epoch = self.shared.next_epoch();
    }

    /// Its leader ended: whether other threads go on, under which it is seen from now on.
    fn outlives_leader(&mut self) -> bool {
        let is_same = proc_fs::stat(self.tgid).is_ok_and(|leader| leader.began_at(self.start_ticks));
        let Some((thread, stat)) = is_same.then(|| proc_fs::other_thread(self.tgid)).flatten() else {
            return false;
        };
        if self.seen_as.0 == self.tgid && self.image.as_ref().is_some_and(|image| image.space.is_empty()) {
            // It was read after the leader's end and before the record of that.
            self.image = None;
            self.epoch = self.shared.next_epoch();
        }
        self.seen_as = (thread, stat.start_ticks);
        if let Some(image) = &mut self.image {
            (image.pid, image.start_time) = self.seen_as;
        }
        true
    }

    fn map(&mut self, mapped: &Mapped) -> bool {
        let Some(image) = &mut self.image else { return false };
        let mapping = mapping(mapped);
        // The first file that a new program maps is the program.
        if image.space.is_empty()
            && self.exe.is_none()
            && let Backing::File(file) = &mapping.backing
        {
            self.exe = Some(file.path.clone());
        }
        image.space.insert(mapping);
        self.epoch = self.shared.next_epoch();
        true
    }
}

/// All processes that are known.
pub struct Processes {
    all: HashMap<u32, Process>,
    clock: BootClock,
    shared: Arc<Shared>,
    /// Those that ended, roughly the earliest first. One that is not in `all` with this
    /// end was replaced, or lived after all.
    ended: VecDeque<(Monotonic, u32)>,
    /// Those that ended in this round, and in the one before.
    leaving: [Vec<u32>; 2],
    /// Those whose leader ended before other threads.
    leaderless: BTreeSet<u32>,
    /// The first of them that is looked at next.
    next_leaderless: u32,
    /// Records were lost in this round.
    must_rescan: bool,
    forgotten: u64,
    /// None without Kubernetes: then nobody looks where a process is.
    pods: Option<Pods>,
}

impl Processes {
    /// Reads what runs now from `/proc`.
    pub fn scan() -> std::io::Result<Self> {
        let mut processes = Self::none();
        processes.rescan(proc_fs::running()?, &mut Vec::new());
        Ok(processes)
    }

    fn none() -> Self {
        let shared = Shared {
            mappings: Budget::new(MAX_ALL_MAPPINGS),
            cmdlines_unread: AtomicU64::new(0),
            exes_unread: AtomicU64::new(0),
            maps_unread: AtomicU64::new(0),
            cgroups_unread: AtomicU64::new(0),
            epoch: AtomicU32::new(0),
        };
        Self {
            all: HashMap::new(),
            clock: BootClock::new(Clocks::now),
            shared: Arc::new(shared),
            ended: VecDeque::new(),
            leaving: [Vec::new(), Vec::new()],
            leaderless: BTreeSet::new(),
            next_leaderless: 0,
            must_rescan: false,
            forgotten: 0,
            pods: None,
        }
    }

    /// After records were lost. Processes that do not run any more end, and what is
    /// known of the others' mappings is dropped, to be read anew.
    fn rescan(&mut self, running: HashMap<u32, Stat>, tell: &mut Vec<Tell>) {
        let mut gone = Vec::new();
        for process in self.all.values_mut().filter(|process| process.ended.is_none()) {
            let Some(stat) = running.get(&process.tgid).filter(|stat| stat.began_at(process.start_ticks))
            else {
                gone.push(process.tgid);
                continue;
            };
            if stat.is_zombie {
                self.leaderless.insert(process.tgid);
            }
            process.comm = stat.comm.as_str().into();
            process.exe = None;
            process.place.is_old = true;
            process.image = None;
            process.epoch = self.shared.next_epoch();
        }
        for tgid in gone {
            self.end(tgid, Monotonic::now(), tell);
        }
        for (tgid, stat) in running {
            let is_known = self.all.get(&tgid).is_some_and(|process| {
                process.ended.is_none() || (stat.is_zombie && stat.began_at(process.start_ticks))
            });
            if !is_known {
                self.insert_running(tgid, stat);
            }
        }
        self.look_for_threads(tell);
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
            match proc_fs::stat(tgid) {
                Ok(stat) => self.insert_running(tgid, stat),
                Err(_) => {
                    let now = Monotonic::now();
                    let process = self.process(tgid, self.clock.ticks_at(now), "[ended]".into());
                    self.insert(process);
                    self.set_ended(tgid, now);
                }
            }
        }
        self.all.get_mut(&tgid).expect("inserted above if it was missing")
    }

    /// Asks the policies about a process, if that was not done yet. What the kernel
    /// has to be told goes to `tell`.
    pub fn decide(&mut self, tgid: u32, policies: &PolicySet, tell: &mut Vec<Tell>) -> &mut Process {
        let process = self.get(tgid);
        let is_asked = process.standing != Standing::Undecided || process.waits;
        let Self { all, pods, .. } = self;
        let process = all.get_mut(&tgid).expect("it was there a moment ago");
        if !is_asked {
            process.decide(policies, pods.as_mut());
            process.tell(tell);
        }
        process
    }

    /// Asks about every running process anew: the policies changed.
    pub fn decide_all(&mut self, policies: &PolicySet, tell: &mut Vec<Tell>) {
        self.decide_again(|_| true, policies, tell);
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
                self.leaderless.remove(tgid);
                // The kernel's own hook cleared the decision; where that is not attached, this does.
                tell.push(Tell::Forget(*tgid));
                if policies.looks_beyond_comm() && proc_fs::exe(*tgid).is_err() {
                    // Gone already: which program it was, its first mapping tells.
                    return None;
                }
                Some(self.decide(*tgid, policies, tell))
            }
            Event::Rename { tgid, comm } => {
                self.get(*tgid).rename(comm);
                Some(self.decide(*tgid, policies, tell))
            }
            Event::Exit { tgid } => {
                if self.all.get_mut(tgid).is_some_and(Process::outlives_leader) {
                    self.leaderless.insert(*tgid);
                } else {
                    self.end(*tgid, time, tell);
                }
                None
            }
            Event::Map { tgid, mapped } => {
                let process = self.all.get_mut(tgid)?;
                let is_new = process.map(mapped);
                (is_new && matches!(process.standing, Standing::Matched(_))).then_some(process)
            }
            Event::Lost(_) => {
                self.must_rescan = true;
                None
            }
        }
    }

    /// Does what is due once the samples and events of a round were looked at. Whether
    /// `/proc` was read again because events were lost.
    ///
    /// # Errors
    /// `/proc` had to be read and could not.
    pub fn end_round(&mut self, policies: &PolicySet, tell: &mut Vec<Tell>) -> std::io::Result<bool> {
        // A sample that was taken before its process's end is read one round after it at the latest.
        let [ended_now, ended_before] = &mut self.leaving;
        for tgid in ended_before.drain(..) {
            if let Some(process) = self.all.get_mut(&tgid).filter(|process| process.ended.is_some()) {
                process.image = None;
            }
        }
        mem::swap(ended_now, ended_before);
        self.look_for_threads(tell);
        self.end_waits(policies, tell);
        if !self.must_rescan {
            return Ok(false);
        }
        self.catch_up(policies, tell)?;
        Ok(true)
    }

    /// Reads from `/proc` what no record tells, and decides by it.
    ///
    /// # Errors
    /// `/proc` cannot be read; the end of the next round tries again.
    pub fn catch_up(&mut self, policies: &PolicySet, tell: &mut Vec<Tell>) -> std::io::Result<()> {
        self.must_rescan = true;
        self.rescan(proc_fs::running()?, tell);
        self.must_rescan = false;
        self.decide_all(policies, tell);
        Ok(())
    }

    /// The end of the last thread is not told as a process's end when the leader's was before it.
    fn look_for_threads(&mut self, tell: &mut Vec<Tell>) {
        let due = self.leaderless.range(self.next_leaderless..).take(LEADERLESS_PER_ROUND);
        let due: Vec<u32> = due.copied().collect();
        let is_last = due.len() < LEADERLESS_PER_ROUND;
        self.next_leaderless = due.last().filter(|_| !is_last).map_or(0, |last| last + 1);
        for tgid in due {
            if !self.all.get_mut(&tgid).is_some_and(Process::outlives_leader) {
                self.end(tgid, Monotonic::now(), tell);
            }
        }
    }

    /// Lets go of processes that ended a while ago.
    pub fn prune(&mut self, now: Monotonic) {
        while self.ended.front().is_some_and(|(ended, _)| now.since(*ended) >= REMEMBERED) {
            self.forget_earliest();
        }
    }

    /// Whether the process is known to have ended, or not known at all.
    pub fn has_ended(&self, tgid: u32) -> bool {
        self.all.get(&tgid).is_none_or(|process| process.ended.is_some())
    }

    /// What could not be learnt or kept.
    pub fn stats(&self) -> ProcessStats {
        let Shared { mappings, cmdlines_unread, exes_unread, maps_unread, cgroups_unread, epoch: _ } =
            &*self.shared;
        ProcessStats {
            forgotten: self.forgotten,
            mappings_dropped: mappings.refused(),
            cmdlines_unread: cmdlines_unread.load(Ordering::Relaxed),
            exes_unread: exes_unread.load(Ordering::Relaxed),
            maps_unread: maps_unread.load(Ordering::Relaxed),
            cgroups_unread: cgroups_unread.load(Ordering::Relaxed),
        }
    }

    /// A copy of its parent until it replaces its program: same name, same code, same standing.
    fn fork(&mut self, tgid: u32, parent: u32, time: Monotonic) {
        let start_ticks = self.clock.ticks_at(time);
        let mut child = self.process(tgid, start_ticks, "".into());
        if let Some(parent) = self.all.get(&parent) {
            child.comm = parent.comm.clone();
            child.exe = parent.exe.clone();
            child.place = parent.place.clone();
            child.inside = parent.inside.clone();
            child.waits = parent.waits;
            // The kernel learns of it with the first sample: most forks replace their program first.
            child.standing = parent.standing.clone();
            child.image = parent.image.as_ref().map(|image| image.forked(tgid, start_ticks));
        } else if let Ok(stat) = proc_fs::stat(tgid) {
            child.comm = stat.comm.into();
        }
        self.insert(child);
    }

    fn process(&self, tgid: u32, start_ticks: u64, comm: Arc<str>) -> Process {
        Process {
            tgid,
            start_time_millis: self.clock.ticks_to_unix_millis(start_ticks),
            comm,
            standing: Standing::Undecided,
            image: None,
            epoch: self.shared.next_epoch(),
            start_ticks,
            seen_as: (tgid, start_ticks),
            exe: None,
            place: Place::default(),
            inside: None,
            waits: false,
            ended: None,
            entry: None,
            shared: self.shared.clone(),
        }
    }

    fn insert_running(&mut self, tgid: u32, stat: Stat) {
        let mut process = self.process(tgid, stat.start_ticks, stat.comm.into());
        let has_ended = stat.is_zombie && !process.outlives_leader();
        self.insert(process);
        if has_ended {
            self.set_ended(tgid, Monotonic::now());
        } else if stat.is_zombie {
            self.leaderless.insert(tgid);
        }
    }

    fn insert(&mut self, process: Process) {
        self.leaderless.remove(&process.tgid);
        if self.all.len() >= MAX_PROCESSES && !self.all.contains_key(&process.tgid) {
            // An ended one has to make room, or any: each is read again from `/proc` when it is sampled.
            self.forgotten += 1;
            while self.all.len() >= MAX_PROCESSES && self.forget_earliest() {}
            if self.all.len() >= MAX_PROCESSES
                && let Some(victim) = self.all.keys().next().copied()
            {
                self.all.remove(&victim);
            }
        }
        self.all.insert(process.tgid, process);
    }

    fn end(&mut self, tgid: u32, time: Monotonic, tell: &mut Vec<Tell>) {
        self.set_ended(tgid, time);
        tell.push(Tell::Forget(tgid));
    }

    fn set_ended(&mut self, tgid: u32, time: Monotonic) {
        self.leaderless.remove(&tgid);
        if let Some(process) = self.all.get_mut(&tgid) {
            process.ended = Some(time);
            self.leaving[0].push(tgid);
            self.ended.push_back((time, tgid));
            if self.ended.len() > MAX_PROCESSES {
                self.forget_earliest();
            }
        }
    }

    /// Lets go of the process that ended first, if it is still that one; whether there was any.
    fn forget_earliest(&mut self) -> bool {
        let Some((ended, tgid)) = self.ended.pop_front() else { return false };
        if self.all.get(&tgid).is_some_and(|process| process.ended == Some(ended)) {
            self.all.remove(&tgid);
        }
        true
    }
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
#[path = "process_tests.rs"]
mod tests;
