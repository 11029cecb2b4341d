//! Who may have a stream open, and until when.
//!
//! A place is the stream's own task's, not that of the answer's body: of a client that does not read, nobody looks at
//! the body, and its place is freed all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_identity::{Agent, Refused};
use hearth_tls::{Hold, Peer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::hub::Ended;

/// How long a stream may take to notice that it was replaced.
const REPLACE_PATIENCE: Duration = Duration::from_secs(1);

/// Bounded. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    claims: Claims,
}

/// A stream may be open while it has this.
#[derive(Debug)]
pub(super) struct Place {
    /// Proven, where agents are.
    agent: Option<(Agent, Claim)>,
    /// Its connection; `None` if that needs nobody to hold it.
    _hold: Option<Hold>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many.
    pub(super) fn new(places: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), claims: Claims::default() }
    }

    /// One of them, unless all are taken. A proven node has one at most, also before its agent has said anything: its
    /// other stream ends.
    pub(super) async fn take(&self, agent: Option<Agent>, peer: Option<&Peer>) -> Option<Place> {
        let mut patience = Duration::ZERO;
        let agent = agent.map(|agent| {
            let (claim, replaces) = self.claims.take(Arc::clone(&agent.node));
            if replaces {
                patience = REPLACE_PATIENCE;
            }
            (agent, claim)
        });
        let permit = timeout(patience, Arc::clone(&self.free).acquire_owned()).await;
        Some(Place { agent, _permit: permit.ok()?.ok()?, _hold: peer.map(Peer::hold) })
    }
}

impl Place {
    /// Whether the stream may be this node's.
    pub(super) fn check(&self, node: &str) -> Result<(), Refused> {
        self.agent.as_ref().map_or(Ok(()), |(agent, _)| agent.is_on(node))
    }

    /// Waits until the place is no longer the stream's, and says why.
    pub(super) async fn lost(&self) -> Status {
        let Some((agent, claim)) = &self.agent else { return std::future::pending().await };
        tokio::select! {
            () = claim.over.cancelled() => Ended::Replaced.into(),
            () = sleep_until(agent.expires) => Refused::Expired.into(),
        }
    }
}

/// The open streams of proven nodes.
#[derive(Debug, Clone, Default)]
struct Claims(Arc<Mutex<HashMap<Arc<str>, CancellationToken>>>);

/// That a stream is its node's, until it is dropped or over.
#[derive(Debug)]
struct Claim {
    claims: Claims,
    node: Arc<str>,
    over: CancellationToken,
}

impl Claims {
    /// For a new stream of the node; whether it replaces another.
    fn take(&self, node: Arc<str>) -> (Claim, bool) {
        let over = CancellationToken::new();
        let mut claims = self.lock();
        let replaced = claims.insert(Arc::clone(&node), over.clone());
        // Under the lock: whoever drops its claim sees whether the entry is its own.
        replaced.iter().for_each(CancellationToken::cancel);
        (Claim { claims: self.clone(), node, over }, replaced.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, CancellationToken>> {
        // No step that may panic leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.lock();
        if !self.over.is_cancelled() {
            claims.remove(&self.node);
        }
    }
}
