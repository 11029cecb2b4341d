//! The index and the nodes behind one lock, and who waits for a change of them.
//!
//! The lock is held for computing only, never across an await. A change wakes the streams that it touches and
//! no others: each of 5,000 would compute its configuration.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::config::v1;
use tokio::sync::Notify;

use crate::index::{Change, Index, NodeConfig};
use crate::nodes::{Counts, Details, Node, Nodes, PolicyCount, StreamId, Wants};

/// Seconds since 1970.
pub type Clock = fn() -> i64;

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// This process.
    Leading,
    /// Another one, at this address if it is known.
    Standby(Option<String>),
}

/// Wakes one stream.
#[derive(Debug, Default)]
pub struct Waker {
    woken: Notify,
    directory: AtomicBool,
}

/// What all tasks share.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    clock: Clock,
    statuses: Notify,
}

/// What the lock guards.
#[derive(Debug)]
pub struct State {
    /// What was watched.
    pub index: Index,
    /// What nodes reported.
    pub nodes: Nodes,
    leadership: Leadership,
    /// How often we began to lead.
    terms: u64,
    wakers: HashMap<Arc<str>, Arc<Waker>>,
}

/// Why a stream is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// This process does not lead; perhaps that one does.
    NotLeading(Option<String>),
    /// The node has opened another stream.
    Replaced,
}

impl Waker {
    /// Waits until its stream has something to look at. None is lost while nobody waits.
    pub async fn woken(&self) {
        self.woken.notified().await;
    }

    /// The directory has to be looked at too.
    pub fn take_directory(&self) -> bool {
        self.directory.swap(false, Ordering::AcqRel)
    }

    /// For the stream's own use: it has asked for another directory.
    pub fn wake_directory(&self) {
        self.wake(true);
    }

    fn wake(&self, directory: bool) {
        self.directory.fetch_or(directory, Ordering::AcqRel);
        self.woken.notify_one();
    }
}

impl Hub {
    /// A standby that knows nothing.
    pub fn new(clock: Clock) -> Self {
        let state = State {
            index: Index::default(),
            nodes: Nodes::default(),
            leadership: Leadership::Standby(None),
            terms: 0,
            wakers: HashMap::new(),
        };
        Self { state: Mutex::new(state), clock, statuses: Notify::new() }
    }

    /// Now, as it was told at the start.
    pub fn now(&self) -> i64 {
        (self.clock)()
    }

    /// For looking; what changes goes through the methods.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // No step that may panic leaves a table half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index and wakes whom that touches.
    pub fn change(&self, change: impl FnOnce(&mut Index) -> Change) {
        let mut state = self.lock();
        let change = change(&mut state.index);
        let wants = |waits: &dyn Fn(&Wants) -> bool| {
            for (name, _) in state.nodes.iter().filter(|(_, node)| waits(node.wants())) {
                state.wakers.get(name).inspect(|waker| waker.wake(true));
            }
        };
        match change {
            Change::Nothing => return,
            Change::Statuses => {}
            Change::EveryNode => state.wakers.values().for_each(|waker| waker.wake(true)),
            Change::Node(name) => {
                state.wakers.get(&name).inspect(|waker| waker.wake(false));
            }
            Change::Namespace(name) => wants(&|wants| wants.namespaces.contains(&name)),
            Change::Owner(key) => wants(&|wants| wants.owners.contains(&key)),
        }
        self.statuses.notify_one();
    }

    /// Time has passed: a policy's duration may be over.
    pub fn time_passed(&self) {
        self.lock().wakers.values().for_each(|waker| waker.wake(false));
        self.statuses.notify_one();
    }

    /// Waits until statuses may have changed.
    pub async fn statuses_touched(&self) {
        self.statuses.notified().await;
    }

    /// This process has begun or ceased to lead.
    pub fn set_leadership(&self, leadership: Leadership) {
        let mut state = self.lock();
        state.terms += u64::from(leadership == Leadership::Leading);
        state.leadership = leadership;
        state.wakers.values().for_each(|waker| waker.wake(false));
        self.statuses.notify_one();
    }

    /// While this process leads, a number that is another one each time it began to.
    pub fn term(&self) -> Option<u64> {
        let state = self.lock();
        (state.leadership == Leadership::Leading).then_some(state.terms)
    }

    /// Who leads.
    pub fn leadership(&self) -> Leadership {
        self.lock().leadership.clone()
    }

    /// A node has come. Its other stream, if there is one, is over.
    pub fn connect(&self, name: &str, hash: String) -> (Arc<str>, StreamId, Arc<Waker>) {
        let mut state = self.lock();
        let name = state.index.node_name(name).unwrap_or_else(|| Arc::from(name));
        let stream = state.nodes.connect(Arc::clone(&name), hash);
        let waker = Arc::new(Waker::default());
        if let Some(other) = state.wakers.insert(Arc::clone(&name), Arc::clone(&waker)) {
            other.wake(false);
        }
        self.statuses.notify_one();
        (name, stream, waker)
    }

    /// A stream has ended.
    pub fn disconnect(&self, name: &str, stream: StreamId) {
        let mut state = self.lock();
        if state.nodes.disconnect(name, stream) {
            state.wakers.remove(name);
            self.statuses.notify_one();
        }
    }

    /// Whether a stream has to go on.
    pub fn check(&self, name: &str, stream: StreamId) -> Result<(), Ended> {
        self.lock().of_stream(name, stream).map(|_| ())
    }

    /// The configuration of a node and its nonce, if it is not what the node was sent last.
    pub fn next_config(&self, name: &str, stream: StreamId) -> Result<Option<(u64, NodeConfig)>, Ended> {
        let now = self.now();
        let mut state = self.lock();
        let (index, node) = state.of_stream(name, stream)?;
        let config = index.config_for(name, now).filter(|config| !node.has(config.hash));
        if config.is_some() {
            self.statuses.notify_one();
        }
        Ok(config.map(|config| (node.sent(&config), config)))
    }

    /// What a node asked to know.
    pub fn directory(&self, name: &str, stream: StreamId) -> Option<v1::Directory> {
        let mut state = self.lock();
        let State { index, nodes, .. } = &mut *state;
        let wants = nodes.by_stream(name, stream)?.wants();
        index.directory_for(wants.namespaces.iter().map(|name| &**name), &wants.owners)
    }

    /// A node has decided on a configuration.
    pub fn verdict(
        &self,
        name: &str,
        stream: StreamId,
        nonce: u64,
        refused: String,
    ) -> Result<(), crate::nodes::UnknownNonce> {
        let mut state = self.lock();
        // A stream that was replaced is about to be told so.
        let Some(node) = state.nodes.by_stream(name, stream) else { return Ok(()) };
        self.statuses.notify_one();
        node.verdict(nonce, refused)
    }

    /// How it goes on a node. Policies that are no more are left out.
    pub fn counts(&self, name: &str, stream: StreamId, counts: v1::Counts) {
        let mut state = self.lock();
        let State { index, nodes, .. } = &mut *state;
        let Some(node) = nodes.by_stream(name, stream) else { return };
        let count = |count: v1::PolicyCount| {
            let v1::PolicyCount { policy, pods, processes, overridden, overridden_by, seen, selected_pods } =
                count;
            // What is not counted is none.
            if [pods, processes, overridden, selected_pods] == [0; 4] {
                return None;
            }
            // No node has as many.
            let [pods, processes, overridden, selected_pods] = [pods, processes, overridden, selected_pods]
                .map(|count| u32::try_from(count).unwrap_or(u32::MAX));
            let details = Details {
                overridden_by: overridden_by.iter().filter_map(|id| index.policy_id(id)).collect(),
                seen: seen.into_iter().map(String::into_boxed_str).collect(),
            };
            Some(PolicyCount {
                policy: index.policy_id(&policy)?,
                pods,
                processes,
                overridden,
                selected_pods,
                details: (details != Details::default()).then(|| Box::new(details)),
            })
        };
        let mut policies: Vec<PolicyCount> = counts.policies.into_iter().filter_map(count).collect();
        policies.sort_by(|a, b| a.policy.cmp(&b.policy));
        policies.dedup_by(|a, b| a.policy == b.policy);
        let detached = counts.detached.map(|detached| (detached.reason(), detached.message));
        if node.set_counts(Counts { policies: policies.into(), detached }) {
            self.statuses.notify_one();
        }
    }

    /// What a node asks to know.
    pub fn wants(&self, name: &str, stream: StreamId, wants: Wants) {
        if let Some(node) = self.lock().nodes.by_stream(name, stream) {
            node.set_wants(wants);
        }
    }
}

impl State {
    fn of_stream(&mut self, name: &str, stream: StreamId) -> Result<(&mut Index, &mut Node), Ended> {
        if let Leadership::Standby(leader) = &self.leadership {
            return Err(Ended::NotLeading(leader.clone()));
        }
        let node = self.nodes.by_stream(name, stream).ok_or(Ended::Replaced)?;
        Ok((&mut self.index, node))
    }
}
