//! Where a process is, outside pods or in one, and what the policies say of it there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_policy::{Home, PodFacts, ProcessFacts};

use super::{Process, Processes, Standing, Tell};
use crate::kernel::Monotonic;
use crate::pods::cgroup::{self, InPod};
use crate::pods::{Change, Directory, Found, Pods};
use crate::policies::{PolicySet, Verdict};
use crate::proc_fs;

/// The cgroups of a process, read once per program: containers do not move.
#[derive(Clone, Default)]
pub(super) struct Place {
    /// The pods that it is in; none known where it was never read.
    pods: Option<Arc<[InPod]>>,
    /// Another program runs since, or nobody looked yet.
    pub(super) is_old: bool,
}

impl Place {
    fn is_in(&self, uids: &HashSet<Arc<str>>) -> bool {
        self.pods.iter().flat_map(|pods| pods.iter()).any(|pod| uids.contains(&pod.uid))
    }
}

impl Process {
    /// Asks the policies.
    pub(super) fn decide(&mut self, policies: &PolicySet, pods: Option<&mut Pods>) {
        let (home, may_wait) = match pods {
            None => (Home::Host, false),
            Some(pods) => self.find(pods, policies),
        };
        let facts = self.facts(policies, home);
        self.standing = match policies.decide(&facts) {
            Verdict::Matched(matched) => Standing::Matched(Arc::new(matched)),
            Verdict::Undecided if may_wait => Standing::Undecided,
            Verdict::Undecided | Verdict::Unmatched => {
                self.image = None;
                Standing::Unmatched
            }
        };
        self.waits = self.standing == Standing::Undecided;
    }

    /// Whether its samples are to be kept, because it may be decided in a moment.
    pub fn waits(&self) -> bool {
        self.waits && self.ended.is_none()
    }

    /// UID of the pod that it counts for: as in its rows, the outermost that is known.
    pub fn pod(&self, known: &BTreeMap<String, PodFacts>) -> Option<&str> {
        let mut uids = self.place.pods.iter().flat_map(|pods| pods.iter()).map(|pod| &*pod.uid);
        uids.find(|uid| known.contains_key(*uid))
    }

    /// Its home, and whether more may be known of it in a moment.
    fn find(&mut self, pods: &mut Pods, policies: &PolicySet) -> (Home, bool) {
        self.look_where(pods.own());
        let Some(place) = &self.place.pods else {
            // It may have been in a pod.
            return (Home::PodPending, false);
        };
        let Found { home, inside, may_wait } =
            pods.find(place, policies.looks_at_namespaces(), Monotonic::now());
        self.inside = inside;
        (home, may_wait)
    }

    /// Reads its cgroups if that was not done since it runs this program.
    fn look_where(&mut self, own: Option<&str>) {
        if self.place.pods.is_some() && !self.place.is_old {
            return;
        }
        let (id, start) = self.seen_as;
        let read = || {
            let text = proc_fs::cgroup(id).ok()?;
            let pods = cgroup::pods(&text, own);
            // In v1 whoever is ending is shown at the root, wherever it was.
            let is_gone = || proc_fs::stat(id).map_or(true, |stat| stat.is_zombie || !stat.began_at(start));
            (!pods.is_empty() || !is_gone()).then_some(pods)
        };
        // The pid of one that ended may be another's.
        let pods = if self.ended.is_none() { read() } else { None };
        match pods {
            Some(pods) if self.place.pods.as_deref() == Some(&pods[..]) => {}
            Some(pods) => self.place.pods = Some(pods.into()),
            None => {
                self.shared.cgroups_unread.fetch_add(1, Ordering::Relaxed);
                // Whoever was in a pod stays there. Outside it may have been a runtime, on its way into one.
                self.place.pods.take_if(|pods| pods.is_empty());
            }
        }
        self.place.is_old = false;
    }

    /// What the policies look at.
    fn facts(&self, policies: &PolicySet, home: Home) -> ProcessFacts {
        let comm = self.comm.to_string();
        if !policies.looks_beyond_comm() {
            return ProcessFacts { comm, cmdline: String::new(), exe: String::new(), home };
        }
        // One that is gone is decided by what is known of it. Kernel threads have neither.
        let (id, _) = self.seen_as;
        let cmdline = proc_fs::cmdline(id);
        let is_gone = cmdline.is_err() || self.ended.is_some();
        let cmdline = cmdline.unwrap_or_default();
        let is_gone = is_gone || (cmdline.is_empty() && proc_fs::stat(id).is_ok_and(|stat| stat.is_zombie));
        let exe = match (proc_fs::exe(id), &self.exe) {
            (Ok(exe), _) => exe,
            (Err(_), Some(told)) => told.to_string(),
            (Err(error), None) => {
                let is_missing = is_gone || error.kind() != std::io::ErrorKind::NotFound;
                self.shared.exes_unread.fetch_add(u64::from(is_missing), Ordering::Relaxed);
                String::new()
            }
        };
        let is_missing = is_gone && cmdline.is_empty();
        self.shared.cmdlines_unread.fetch_add(u64::from(is_missing), Ordering::Relaxed);
        ProcessFacts { comm, cmdline, exe, home }
    }
}

impl Processes {
    /// Tells processes apart by these pods, if there are any to be.
    pub fn with_pods(self, pods: Option<Pods>) -> Self {
        Self { pods, ..self }
    }

    /// Takes in what happened to pods. Without Kubernetes there are none.
    pub fn change_pods(&mut self, change: Change, policies: &PolicySet, tell: &mut Vec<Tell>) {
        let Some(pods) = &mut self.pods else { return };
        let changed = pods.change(change, Monotonic::now());
        self.decide_in(&changed, policies, tell);
    }

    /// Takes in what the operator told of namespaces and owners.
    pub fn set_directory(&mut self, directory: Directory, policies: &PolicySet, tell: &mut Vec<Tell>) {
        let Some(pods) = &mut self.pods else { return };
        let changed = pods.set_directory(directory);
        self.decide_in(&changed, policies, tell);
    }

    /// Whether the process waits for its decision.
    pub fn waits(&self, tgid: u32) -> bool {
        self.all.get(&tgid).is_some_and(Process::waits)
    }

    /// What policies look at of each pod that is known, by its UID.
    pub fn pod_facts(&self) -> BTreeMap<String, PodFacts> {
        let pods = self.pods.iter().flat_map(Pods::iter);
        pods.map(|(uid, facts)| (uid.to_string(), facts)).collect()
    }

    /// Pods that are known, and pods that processes wait for.
    pub fn pod_counts(&self) -> (usize, usize) {
        self.pods.as_ref().map_or((0, 0), Pods::counts)
    }

    /// Ends what waited long enough.
    pub(super) fn end_waits(&mut self, policies: &PolicySet, tell: &mut Vec<Tell>) {
        let Some(pods) = &mut self.pods else { return };
        let over = pods.end_round(Monotonic::now());
        self.decide_in(&over, policies, tell);
    }

    fn decide_in(&mut self, uids: &HashSet<Arc<str>>, policies: &PolicySet, tell: &mut Vec<Tell>) {
        if !uids.is_empty() {
            self.decide_again(|process| process.place.is_in(uids), policies, tell);
        }
    }

    /// Asks anew about those running processes.
    pub(super) fn decide_again(
        &mut self,
        of: impl Fn(&Process) -> bool,
        policies: &PolicySet,
        tell: &mut Vec<Tell>,
    ) {
        let running = self.all.values().filter(|process| process.ended.is_none() && of(process));
        let running: Vec<u32> = running.map(|process| process.tgid).collect();
        for tgid in running {
            let process = self.get(tgid);
            process.standing = Standing::Undecided;
            process.waits = false;
            if self.decide(tgid, policies, tell).waits {
                // The kernel may have an earlier decision.
                tell.push(Tell::Forget(tgid));
            }
        }
    }
}

#[cfg(test)]
#[path = "process_home_tests.rs"]
mod tests;
