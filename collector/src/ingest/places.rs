//! Who may have a stream open: so many in all, and so many of one node where agents prove which one they are on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_identity::{Agent, Refused};
use hearth_tls::{Hold, Peer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep_until;

use super::limits::{MAX_NODE_STREAMS, MAX_STREAMS};

/// Bounded. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Places {
    most: usize,
    free: Arc<Semaphore>,
    nodes: Nodes,
}

/// A stream may be open while it has this.
#[derive(Debug)]
pub(super) struct Place {
    /// Proven, where agents are.
    agent: Option<(Agent, OfNode)>,
    /// Its connection; `None` if that needs nobody to hold it.
    _hold: Option<Hold>,
    _permit: OwnedSemaphorePermit,
}

/// There is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} streams are open, as many as may be: come again later")]
    All(usize),
    #[error("{MAX_NODE_STREAMS} streams of node {0} are open, as many as may be: come again later")]
    Node(Arc<str>),
}

impl Default for Places {
    fn default() -> Self {
        Self::new(MAX_STREAMS)
    }
}

impl Places {
    /// So many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, free: Arc::new(Semaphore::new(most)), nodes: Nodes::default() }
    }

    /// One of them.
    pub(super) fn take(&self, agent: Option<Agent>, peer: Option<&Peer>) -> Result<Place, Full> {
        let agent = match agent {
            Some(agent) => {
                let node = Arc::clone(&agent.node);
                let of_node = self.nodes.take(Arc::clone(&node)).ok_or(Full::Node(node))?;
                Some((agent, of_node))
            }
            None => None,
        };
        let permit = Arc::clone(&self.free).try_acquire_owned().map_err(|_| Full::All(self.most))?;
        Ok(Place { agent, _permit: permit, _hold: peer.map(Peer::hold) })
    }
}

impl Place {
    /// Whether the stream may bring what was sampled on this node.
    pub(super) fn check(&self, node: &str) -> Result<(), Refused> {
        self.agent.as_ref().map_or(Ok(()), |(agent, _)| agent.is_on(node))
    }

    /// Waits until the agent's token ends.
    pub(super) async fn expired(&self) {
        match &self.agent {
            Some((agent, _)) => sleep_until(agent.expires).await,
            None => std::future::pending().await,
        }
    }
}

/// How many streams each proven node has.
#[derive(Debug, Clone, Default)]
struct Nodes(Arc<Mutex<HashMap<Arc<str>, usize>>>);

/// One of a node's.
#[derive(Debug)]
struct OfNode {
    nodes: Nodes,
    node: Arc<str>,
}

impl Nodes {
    fn take(&self, node: Arc<str>) -> Option<OfNode> {
        let mut open = self.lock();
        let streams = open.entry(Arc::clone(&node)).or_default();
        if *streams == MAX_NODE_STREAMS {
            return None;
        }
        *streams += 1;
        drop(open);
        Some(OfNode { nodes: self.clone(), node })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        // No step that may panic leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfNode {
    fn drop(&mut self) {
        let mut open = self.nodes.lock();
        if let Some(streams) = open.get_mut(&self.node) {
            *streams -= 1;
            if *streams == 0 {
                open.remove(&self.node);
            }
        }
    }
}
