//! Whether the store answers, found out once for all who ask at about the same time.

use std::sync::Arc;
use std::time::Duration;

use hearth_program::with_causes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::query::store::joined;
use crate::query::{QueryError, Store};

/// How long what is known holds. Anybody who reaches the HTTPS port may ask.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Knows it for a second. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Readiness(Arc<Mutex<Option<Known>>>);

struct Known {
    outcome: Result<(), Arc<QueryError>>,
    until: Instant,
}

impl Readiness {
    /// Whether `store` answers.
    ///
    /// # Errors
    /// It does not. That is logged when it begins.
    pub(super) async fn of(&self, store: &Store) -> Result<(), Arc<QueryError>> {
        let store = store.clone();
        self.known(async move { store.ready().await }).await
    }

    async fn known<F>(&self, ask: F) -> Result<(), Arc<QueryError>>
    where
        F: Future<Output = Result<(), QueryError>> + Send + 'static,
    {
        // Held while the store is asked: it is asked once.
        let mut known = Arc::clone(&self.0).lock_owned().await;
        if let Some(Known { outcome, until }) = &*known
            && Instant::now() < *until
        {
            return outcome.clone();
        }
        // To its end, even if whoever asked goes away: the next one must not ask anew.
        let asked = tokio::spawn(async move {
            let outcome = ask.await.map_err(Arc::new);
            log_change(known.as_ref().is_none_or(|known| known.outcome.is_ok()), &outcome);
            *known = Some(Known { outcome: outcome.clone(), until: Instant::now() + KNOWN_FOR });
            outcome
        });
        joined(asked).await
    }
}

fn log_change(was_ready: bool, outcome: &Result<(), Arc<QueryError>>) {
    match outcome {
        Err(error) if was_ready => tracing::warn!("not ready: {}", with_causes(&**error)),
        Ok(()) if !was_ready => tracing::info!("ready again"),
        Err(_) | Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    /// A store that is asked, and answers a while later.
    async fn ask(readiness: &Readiness, asked: &Arc<AtomicUsize>, ready: bool) -> bool {
        let asked = Arc::clone(asked);
        let ask = async move {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if ready { Ok(()) } else { Err(QueryError::Busy) }
        };
        readiness.known(ask).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_is_asked_once_a_second_however_many_ask() {
        let (readiness, asked) = (Readiness::default(), Arc::default());
        for (ready, expected) in [(true, 1), (false, 2), (true, 3)] {
            let all = (0..100).map(|_| ask(&readiness, &asked, ready));
            assert_eq!(futures::future::join_all(all).await, [ready; 100]);
            tokio::time::advance(Duration::from_millis(999)).await;
            // What was found out holds, whatever the store would say now.
            assert_eq!(ask(&readiness, &asked, !ready).await, ready);
            assert_eq!(asked.load(Ordering::Relaxed), expected);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_makes_nobody_ask_again() {
        let (readiness, asked) = (Readiness::default(), Arc::default());
        for _ in 0..100 {
            assert_eq!(ask(&readiness, &asked, true).now_or_never(), None);
            tokio::task::yield_now().await;
        }
        assert!(ask(&readiness, &asked, false).await);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
