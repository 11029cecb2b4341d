//! In which namespaces whoever asks may see profiles.
//!
//! Kubernetes has no such question, so it is asked for each namespace that has profiles at all. A yes is known for a
//! minute by [`Reviewer`], which asks the API server; so is a no here, as most are.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use hearth_identity::{Caller, Reviewer, Unavailable};
use lru::LruCache;
use tokio::time::Instant;

use super::ask;
use super::paths::Profiles;
use crate::query::{QueryError, Scope, Store};

/// Namespaces that are asked for.
pub const MAX_NAMESPACES: usize = 1000;
/// How long what is known holds.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Reviews of one request at once.
const REVIEWS: usize = 16;
/// Of so many who ask it is known what they may not see.
const CALLERS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Why it is not known.
#[derive(Debug)]
pub enum Unknown {
    /// The API server does not answer.
    Unavailable,
    /// The store does not.
    Store(QueryError),
}

/// What somebody may see.
#[derive(Debug, PartialEq, Eq)]
pub struct Open {
    /// The namespaces, by name.
    pub namespaces: Vec<String>,
    /// Whether there are more than [`MAX_NAMESPACES`], so that others were not asked for.
    pub left_out: bool,
}

/// Finds out. Cheap to clone.
#[derive(Clone)]
pub struct Namespaces(Arc<Inner>);

struct Inner {
    store: Store,
    /// The cluster.
    scope: Scope,
    reviewer: Reviewer,
    /// Held while the store is asked: it is asked once.
    stored: tokio::sync::Mutex<Option<Stored>>,
    closed: Mutex<LruCache<[u8; 32], Closed>>,
}

/// The namespaces that have profiles, by name.
#[derive(Clone)]
struct Stored {
    namespaces: Arc<[Arc<str>]>,
    left_out: bool,
    until: Instant,
}

/// The namespaces that somebody may not see.
struct Closed {
    namespaces: HashSet<Arc<str>>,
    until: Instant,
}

impl From<Unavailable> for Unknown {
    fn from(_: Unavailable) -> Self {
        // The reviewer has logged it.
        Self::Unavailable
    }
}

impl Namespaces {
    /// Of this cluster, as `store` knows them.
    pub fn new(store: Store, cluster: Arc<str>, reviewer: Reviewer) -> Self {
        let scope = Scope::Cluster(cluster);
        let closed = Mutex::new(LruCache::new(CALLERS));
        Self(Arc::new(Inner { store, scope, reviewer, stored: tokio::sync::Mutex::default(), closed }))
    }

    /// Those in which `caller` may see profiles by this name.
    ///
    /// # Errors
    /// It is not known.
    pub async fn of(&self, caller: &Caller, name: &'static str) -> Result<Open, Unknown> {
        let Stored { namespaces, left_out, until: _ } = self.stored().await?;
        let key = key(caller, name);
        let asked = self.not_closed(&key, &namespaces);
        let reviews = asked.into_iter().map(|namespace| async move {
            let profiles = Profiles { namespace: Some(namespace.to_string()), name };
            let open = self.0.reviewer.may(caller, &ask(&profiles)).await?;
            Ok::<_, Unknown>((namespace, open))
        });
        // In the order of names: a statement is made of them.
        let reviewed: Vec<(Arc<str>, bool)> =
            futures::stream::iter(reviews).buffered(REVIEWS).try_collect().await?;
        let (open, closed): (Vec<_>, Vec<_>) = reviewed.into_iter().partition(|(_, open)| *open);
        self.close(key, closed.into_iter().map(|(namespace, _)| namespace));
        let namespaces = open.into_iter().map(|(namespace, _)| namespace.to_string()).collect();
        Ok(Open { namespaces, left_out })
    }

    async fn stored(&self) -> Result<Stored, Unknown> {
        let mut stored = self.0.stored.lock().await;
        if let Some(stored) = &*stored
            && Instant::now() < stored.until
        {
            return Ok(stored.clone());
        }
        let namespaces = self.0.store.namespaces(&self.0.scope, MAX_NAMESPACES + 1).await;
        let mut namespaces = namespaces.map_err(Unknown::Store)?;
        let left_out = namespaces.len() > MAX_NAMESPACES;
        namespaces.truncate(MAX_NAMESPACES);
        namespaces.sort_unstable();
        let namespaces = namespaces.into_iter().map(Arc::from).collect();
        let found = Stored { namespaces, left_out, until: Instant::now() + KNOWN_FOR };
        *stored = Some(found.clone());
        Ok(found)
    }

    fn not_closed(&self, key: &[u8; 32], stored: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = closed.get(key).filter(|closed| Instant::now() < closed.until);
        let open =
            |namespace: &&Arc<str>| closed.is_none_or(|closed| !closed.namespaces.contains(*namespace));
        stored.iter().filter(open).cloned().collect()
    }

    fn close(&self, key: [u8; 32], namespaces: impl Iterator<Item = Arc<str>>) {
        let mut all = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match all.get_mut(&key).filter(|closed| now < closed.until) {
            // From when the first of them was found out.
            Some(closed) => closed.namespaces.extend(namespaces),
            None => {
                all.put(key, Closed { namespaces: namespaces.collect(), until: now + KNOWN_FOR });
            }
        }
    }
}

fn key(caller: &Caller, name: &str) -> [u8; 32] {
    let Caller { user, groups, uid, extra } = caller;
    let text = serde_json::json!([user, groups, uid, extra, name]).to_string();
    blake3::hash(text.as_bytes()).into()
}
