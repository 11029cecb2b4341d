//! Whose question is answered when: some at once, and not all of them one caller's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::query::{Limits, QueryError};

/// The rights to ask.
pub(super) struct Permits {
    all: Semaphore,
    /// Of callers that have one, or wait for one.
    callers: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    of_each: usize,
    queue: Duration,
}

/// The right to ask one question.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    _of_caller: Option<OwnedSemaphorePermit>,
    _of_all: SemaphorePermit<'a>,
}

impl Permits {
    /// Half of what `limits` allow at once for each caller.
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { concurrent, queue, .. } = *limits;
        let (all, of_each) = (Semaphore::new(concurrent), concurrent.div_ceil(2));
        Self { all, callers: Mutex::default(), of_each, queue }
    }

    /// For this caller, or for one who shares with nobody: at once, or after a short wait.
    ///
    /// # Errors
    /// [`QueryError::Busy`]: too many are asked.
    pub(super) async fn of(&self, caller: Option<&Arc<str>>) -> Result<Permit<'_>, QueryError> {
        let permit = async {
            let of_caller = match caller {
                Some(caller) => Some(self.of_caller(caller).acquire_owned().await?),
                None => None,
            };
            Ok::<_, tokio::sync::AcquireError>(Permit {
                _of_caller: of_caller,
                _of_all: self.all.acquire().await?,
            })
        };
        match tokio::time::timeout(self.queue, permit).await {
            Ok(permit) => permit.map_err(|_| QueryError::Busy),
            Err(_) => Err(QueryError::Busy),
        }
    }

    fn of_caller(&self, caller: &Arc<str>) -> Arc<Semaphore> {
        // No step that may panic leaves it half-changed.
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = callers.get(caller).and_then(Weak::upgrade) {
            return permits;
        }
        callers.retain(|_, permits| permits.strong_count() > 0);
        let permits = Arc::new(Semaphore::new(self.of_each));
        callers.insert(Arc::clone(caller), Arc::downgrade(&permits));
        permits
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn permits(concurrent: usize) -> Permits {
        Permits::new(&Limits { concurrent, ..Limits::default() })
    }

    /// How many questions each of these callers may ask in turn, if none of them ends.
    async fn taken(concurrent: usize, callers: &[Option<&str>]) -> Vec<usize> {
        let permits = permits(concurrent);
        let (mut held, mut taken) = (Vec::new(), Vec::new());
        for caller in callers {
            let caller: Option<Arc<str>> = caller.map(Arc::from);
            let before = held.len();
            while let Ok(permit) = permits.of(caller.as_ref()).await {
                held.push(permit);
            }
            taken.push(held.len() - before);
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn no_caller_has_more_than_half_of_the_turns() {
        assert_eq!(taken(4, &[Some("a"), Some("b"), Some("c")]).await, [2, 2, 0]);
        assert_eq!(taken(5, &[Some("a"), Some("b")]).await, [3, 2]);
        assert_eq!(taken(1, &[Some("a"), Some("b")]).await, [1, 0]);
        assert_eq!(taken(4, &[Some("a"), None]).await, [2, 2]);
        assert_eq!(taken(4, &[None, Some("a")]).await, [4, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_gets_the_turn_that_it_gives_back_and_is_forgotten_without_any() {
        let (permits, a, b) = (permits(2), Arc::from("a"), Arc::from("b"));
        let first = permits.of(Some(&a)).await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(matches!(permits.of(Some(&a)).await, Err(QueryError::Busy)));
        assert_eq!(began.elapsed(), Limits::default().queue);
        drop(first);
        let first = permits.of(Some(&a)).await.unwrap();
        drop(first);
        drop(permits.of(Some(&b)).await.unwrap());
        assert_eq!(permits.callers.lock().unwrap().keys().collect::<Vec<_>>(), [&b]);
    }
}
