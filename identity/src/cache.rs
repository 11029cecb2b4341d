//! Answers that are kept for a while, and questions that are asked once however many wait for the answer.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use lru::LruCache;
use tokio::time::Instant;

/// A hash of the question.
pub(crate) type Key = [u8; 32];

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// It lets somebody in: kept until then.
    Good(Instant),
    /// It does not: kept until then, apart, so that a flood of such cannot evict the good ones.
    Bad(Instant),
    /// The next one asks again.
    Not,
}

/// Bounded by the number of answers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache<T: Clone>(Arc<Mutex<Kept<T>>>);

type Flight<T> = Shared<BoxFuture<'static, T>>;

enum Found<T> {
    Answer(T),
    Flight(Flight<T>),
}

struct Kept<T: Clone> {
    good: LruCache<Key, (T, Instant)>,
    bad: LruCache<Key, (T, Instant)>,
    /// Weak: a question for whose answer nobody waits any more is asked no further.
    flights: HashMap<Key, WeakShared<BoxFuture<'static, T>>>,
}

impl<T: Clone + Send + Sync + 'static> Cache<T> {
    /// For so many good answers, and as many bad ones.
    pub(crate) fn new(answers: NonZeroUsize) -> Self {
        let (good, bad) = (LruCache::new(answers), LruCache::new(answers));
        let kept = Kept { good, bad, flights: HashMap::new() };
        Self(Arc::new(Mutex::new(kept)))
    }

    /// The answer that is kept, or that is waited for already, or else what `ask` comes to.
    pub(crate) async fn get<F>(&self, key: Key, ask: impl FnOnce() -> F) -> T
    where
        F: Future<Output = (T, Keep)> + Send + 'static,
    {
        match self.look(key, ask) {
            Found::Answer(answer) => answer,
            Found::Flight(flight) => {
                // Dropped after the flight, which is part of the wait.
                let _leaving = Leaving { cache: self, key };
                flight.await
            }
        }
    }

    fn look<F>(&self, key: Key, ask: impl FnOnce() -> F) -> Found<T>
    where
        F: Future<Output = (T, Keep)> + Send + 'static,
    {
        let mut kept = self.lock();
        if let Some(answer) = kept.find(&key) {
            return Found::Answer(answer);
        }
        if let Some(flight) = kept.flights.get(&key).and_then(WeakShared::upgrade) {
            return Found::Flight(flight);
        }
        let flight = self.clone().fly(key, ask()).boxed().shared();
        kept.flights.extend(flight.downgrade().map(|weak| (key, weak)));
        Found::Flight(flight)
    }

    async fn fly(self, key: Key, ask: impl Future<Output = (T, Keep)>) -> T {
        let (answer, keep) = ask.await;
        let mut kept = self.lock();
        match keep {
            Keep::Good(until) => {
                kept.good.put(key, (answer.clone(), until));
            }
            Keep::Bad(until) => {
                kept.bad.put(key, (answer.clone(), until));
            }
            Keep::Not => {}
        }
        kept.flights.remove(&key);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Kept<T>> {
        // No step that may panic leaves it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Kept<T> {
    fn find(&mut self, key: &Key) -> Option<T> {
        let now = Instant::now();
        let fresh = |(answer, until): &(T, Instant)| (now < *until).then(|| answer.clone());
        self.good.get(key).and_then(fresh).or_else(|| self.bad.get(key).and_then(fresh))
    }
}

/// The last one that goes without an answer takes the question with it.
struct Leaving<'a, T: Clone + Send + Sync + 'static> {
    cache: &'a Cache<T>,
    key: Key,
}

impl<T: Clone + Send + Sync + 'static> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        let mut kept = self.cache.lock();
        if kept.flights.get(&self.key).is_some_and(|flight| flight.upgrade().is_none()) {
            kept.flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(answers: usize) -> Cache<u32> {
        Cache::new(NonZeroUsize::new(answers).unwrap())
    }

    fn key(n: u8) -> Key {
        [n; 32]
    }

    async fn good(cache: &Cache<u32>, n: u8, answer: u32) -> u32 {
        cache.get(key(n), async move || (answer, Keep::Good(Instant::now() + SECOND))).await
    }

    async fn bad(cache: &Cache<u32>, n: u8, answer: u32) -> u32 {
        cache.get(key(n), async move || (answer, Keep::Bad(Instant::now() + SECOND))).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_its_time_and_no_longer() {
        let cache = cache(8);
        assert_eq!((good(&cache, 1, 1).await, bad(&cache, 2, 1).await), (1, 1));
        tokio::time::advance(SECOND / 2).await;
        assert_eq!((good(&cache, 1, 2).await, bad(&cache, 2, 2).await), (1, 1));
        tokio::time::advance(SECOND / 2).await;
        assert_eq!((good(&cache, 1, 3).await, bad(&cache, 2, 3).await), (3, 3));
        cache.get(key(3), async || (1, Keep::Not)).await;
        assert_eq!(good(&cache, 3, 2).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn bad_answers_evict_bad_ones_alone() {
        let cache = cache(2);
        good(&cache, 0, 1).await;
        for n in 1..100 {
            bad(&cache, n, 1).await;
        }
        assert_eq!(good(&cache, 0, 2).await, 1);
        assert_eq!(bad(&cache, 1, 2).await, 2);
    }

    #[tokio::test]
    async fn a_question_is_asked_once_however_many_wait() {
        let (cache, asked) = (cache(8), Arc::new(AtomicUsize::new(0)));
        let waiting = (0..100).map(|_| {
            cache.get(key(1), || {
                let asked = Arc::clone(&asked);
                async move {
                    tokio::task::yield_now().await;
                    asked.fetch_add(1, Ordering::Relaxed);
                    (7, Keep::Not)
                }
            })
        });
        assert_eq!(futures::future::join_all(waiting).await, [7; 100]);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(cache.lock().flights.is_empty());
    }

    #[tokio::test]
    async fn a_question_outlives_who_asked_first_and_ends_with_the_last() {
        let cache = cache(8);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let mut first = Box::pin(cache.get(key(1), async || (answered.await.unwrap(), Keep::Not)));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(cache.get(key(1), async || (0, Keep::Not)));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(cache.lock().flights.len(), 1);
        answer.send(7).unwrap();
        assert_eq!(second.await, 7);
        let mut third = Box::pin(cache.get(key(1), std::future::pending));
        assert!(futures::poll!(&mut third).is_pending());
        drop(third);
        assert!(cache.lock().flights.is_empty());
    }
}
