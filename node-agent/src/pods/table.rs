//! The pods of this node as the sampling thread knows them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_policy::{Home, PodFacts};

use super::cgroup::InPod;
use super::directory::Directory;
use super::pod::{LabelFilter, Pod, Tags};
use crate::kernel::Monotonic;

/// How long the processes of a pod wait for what is to be known of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the names of a deleted pod are kept: its last samples and counts are read within a window.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Pods that are waited for at once. Names of pods come from paths, which a container with a cgroup
/// of its own makes up; beyond this nobody waits.
const MAX_AWAITED: usize = 1024;
/// A pod that was waited for in vain is remembered so long, not to be waited for again.
const NEVER_CAME: Duration = Duration::from_secs(3600);

/// What happened to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These are all there are.
    All(Vec<Pod>),
    /// This one is new or another.
    Changed(Pod),
    /// The one with this uid was deleted.
    Deleted(Arc<str>),
}

/// The pod and container of a process, for its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inside {
    /// The pod.
    pub pod: Arc<Tags>,
    /// Name of the container; empty while its id is in no status, and for what is in none.
    pub container: Arc<str>,
}

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For policies.
    pub home: Home,
    /// For rows.
    pub inside: Option<Inside>,
    /// What is not known yet may come within a moment.
    pub may_wait: bool,
}

/// How pods are told.
#[derive(Clone, Debug, Default)]
pub struct PodOptions {
    /// The labels that rows carry.
    pub labels: LabelFilter,
    /// Uid of the agent's own pod, if the agent has a cgroup namespace of its own.
    pub own: Option<Arc<str>>,
}

/// The pods of this node.
///
/// A pod that it does not know is another node's, or has not been told yet: either way its processes
/// are not the host's.
pub struct Pods {
    options: PodOptions,
    known: HashMap<Arc<str>, Known>,
    directory: Directory,
    /// Pods of which something is missing, by uid.
    awaited: HashMap<Arc<str>, Awaited>,
    /// The earliest first. One that is not known with this end came back.
    deleted: VecDeque<(Monotonic, Arc<str>)>,
}

struct Known {
    pod: Pod,
    tags: Arc<Tags>,
    deleted: Option<Monotonic>,
}

struct Awaited {
    since: Monotonic,
    in_vain: bool,
}

impl Pods {
    /// Of which nothing is known yet.
    pub fn new(options: PodOptions) -> Self {
        Self {
            options,
            known: HashMap::new(),
            directory: Directory::default(),
            awaited: HashMap::new(),
            deleted: VecDeque::new(),
        }
    }

    /// Uid of the agent's own pod, as the options say.
    pub fn own(&self) -> Option<&str> {
        self.options.own.as_deref()
    }

    /// Pods that are known and not deleted, and pods that processes wait for.
    pub fn counts(&self) -> (usize, usize) {
        let known = self.known.values().filter(|known| known.deleted.is_none()).count();
        (known, self.awaited.values().filter(|awaited| !awaited.in_vain).count())
    }

    /// Takes in what happened; the uids of pods of which another thing is to be said now.
    pub fn change(&mut self, change: Change, now: Monotonic) -> HashSet<Arc<str>> {
        let mut changed = HashSet::new();
        match change {
            Change::All(pods) => {
                let are: HashSet<Arc<str>> = pods.iter().map(|pod| pod.uid.clone()).collect();
                let gone: Vec<_> = self.known.keys().filter(|uid| !are.contains(*uid)).cloned().collect();
                gone.iter().for_each(|uid| self.delete(uid, now));
                pods.into_iter().for_each(|pod| self.set(pod, &mut changed));
            }
            Change::Changed(pod) => self.set(pod, &mut changed),
            Change::Deleted(uid) => self.delete(&uid, now),
        }
        changed
    }

    fn set(&mut self, pod: Pod, changed: &mut HashSet<Arc<str>>) {
        if let Some(known) = self.known.get_mut(&pod.uid)
            && known.pod == pod
        {
            known.deleted = None;
            return;
        }
        changed.insert(pod.uid.clone());
        let tags = Arc::new(pod.tags(&self.directory, &self.options.labels));
        let uid = pod.uid.clone();
        if self.known.insert(uid.clone(), Known { pod, tags, deleted: None }).is_none() {
            // It was waited for; from now on only its namespace may be.
            self.awaited.remove(&uid);
        }
    }

    fn delete(&mut self, uid: &Arc<str>, now: Monotonic) {
        if let Some(known) = self.known.get_mut(uid)
            && known.deleted.is_none()
        {
            known.deleted = Some(now);
            self.deleted.push_back((now, uid.clone()));
        }
    }

    /// Takes in what the operator told; the uids of pods of which another thing is to be said now.
    pub fn set_directory(&mut self, directory: Directory) -> HashSet<Arc<str>> {
        let before = std::mem::replace(&mut self.directory, directory);
        let mut changed = HashSet::new();
        for (uid, known) in &mut self.known {
            let tags = known.pod.tags(&self.directory, &self.options.labels);
            let labels = |of: &Directory| of.namespaces.get(&known.pod.namespace).map(|ns| ns.labels.clone());
            if tags != *known.tags || labels(&before) != labels(&self.directory) {
                known.tags = Arc::new(tags);
                self.awaited.remove(uid);
                changed.insert(uid.clone());
            }
        }
        changed
    }

    /// Where a process with these cgroups is: in the outermost pod that is this node's.
    ///
    /// With `by_namespace` somebody looks at the labels of namespaces: an unknown one is not one
    /// without labels.
    pub fn find(&mut self, cgroups: &[InPod], by_namespace: bool, now: Monotonic) -> Found {
        let Some(outermost) = cgroups.first() else {
            return Found { home: Home::Host, inside: None, may_wait: false };
        };
        let ours = cgroups.iter().find(|pod| self.known.contains_key(&pod.uid));
        let Some(InPod { uid, container }) = ours else {
            let may_wait = self.may_wait(&outermost.uid, now);
            return Found { home: Home::PodPending, inside: None, may_wait };
        };
        let Known { pod, tags, .. } = &self.known[uid];
        let container = container.as_ref().and_then(|id| pod.container(id)).cloned();
        let inside = Inside { pod: tags.clone(), container: container.unwrap_or_default() };
        let namespace = self.directory.namespaces.get(&pod.namespace);
        let mut namespace_labels = namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default();
        // Every namespace has this one.
        namespace_labels.insert("kubernetes.io/metadata.name".into(), pod.namespace.clone());
        let facts = PodFacts {
            namespace: pod.namespace.clone(),
            namespace_labels,
            name: pod.name.clone(),
            labels: pod.labels.clone(),
            container: inside.container.to_string(),
            workload: tags.workload.to_string(),
        };
        let is_unknown = namespace.is_none();
        if by_namespace && is_unknown {
            let may_wait = self.may_wait(uid, now);
            return Found { home: Home::PodPending, inside: Some(inside), may_wait };
        }
        Found { home: Home::Pod(facts), inside: Some(inside), may_wait: false }
    }

    /// Whether something that is missing of this pod may still come.
    fn may_wait(&mut self, uid: &Arc<str>, now: Monotonic) -> bool {
        if let Some(awaited) = self.awaited.get(uid) {
            return !awaited.in_vain;
        }
        let has_room = self.awaited.len() < MAX_AWAITED;
        if has_room {
            self.awaited.insert(uid.clone(), Awaited { since: now, in_vain: false });
        }
        has_room
    }

    /// Gives up what did not come in time, and forgets what is long over. The uids of pods whose
    /// processes need not wait any longer.
    pub fn end_round(&mut self, now: Monotonic) -> HashSet<Arc<str>> {
        while let Some((deleted, uid)) = self.deleted.front()
            && now.since(*deleted) >= REMEMBERED
        {
            if self.known.get(uid).is_some_and(|known| known.deleted == Some(*deleted)) {
                self.known.remove(uid);
            }
            self.deleted.pop_front();
        }
        self.awaited.retain(|_, awaited| !awaited.in_vain || now.since(awaited.since) < NEVER_CAME);
        let mut over = HashSet::new();
        for (uid, awaited) in &mut self.awaited {
            if !awaited.in_vain && now.since(awaited.since) >= PATIENCE {
                awaited.in_vain = true;
                over.insert(uid.clone());
            }
        }
        over
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
