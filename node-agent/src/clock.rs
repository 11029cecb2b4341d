//! The time of day, and where windows begin and end by it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::kernel::Monotonic;

/// Tells the time of day: the system's, or what a test says.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that shows what `now` says.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Seconds since 1970.
    pub fn unix_seconds(&self) -> i64 {
        let since = (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// The monotonic time of a moment in Unix seconds, by the clocks as they stand now.
    pub fn monotonic_at(&self, unix: i64) -> Monotonic {
        let now = (self.0)().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ago = i128::try_from(now.as_nanos()).unwrap_or(0) - i128::from(unix) * 1_000_000_000;
        Monotonic(u64::try_from(i128::from(Monotonic::now().0) - ago).unwrap_or(0))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&(self.0)()).finish()
    }
}

/// Seconds since 1970, by the system's clock.
pub(crate) fn unix_seconds() -> i64 {
    Clock::default().unix_seconds()
}

/// The time that a window covers, in Unix seconds: a part of an aligned piece of
/// `length`, which divides an hour, so that no window crosses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    length: i64,
    start: i64,
    end: i64,
}

impl Span {
    /// The first one, opened at `now`.
    pub fn first(length: u32, now: i64) -> Self {
        let length = i64::from(length);
        let start = now - now.rem_euclid(length);
        Self { length, start, end: start + length }
    }

    /// When it is to be closed at the latest.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Whether it is over at `now`: its end has come, or the clock was set back to before it began.
    pub fn is_over(&self, now: i64) -> bool {
        !(self.start..self.end).contains(&now)
    }

    /// Begins the next at `now`, and says what this one covered. One that is closed early is shorter,
    /// and so is the one that takes its rest.
    #[must_use]
    pub fn close(&mut self, now: i64) -> Range<i64> {
        let aligned = now - now.rem_euclid(self.length);
        let (covered, start) = if now >= self.end {
            (self.start..self.end, aligned)
        } else if now < self.start {
            // The clock was set back: by what it shows now, this one has not begun. What was sampled
            // is put where it shows that it was, or the collector would take it for a mistake.
            (aligned..now, now)
        } else {
            (self.start..now, now)
        };
        *self = Self { start, end: aligned + self.length, ..*self };
        covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a span of 10 s at the first moment and closes it at the others; what each covered.
    fn check(opened: i64, closed: &[i64], expected: &[(i64, i64)]) {
        let mut span = Span::first(10, opened);
        let covered = closed.iter().map(|now| span.close(*now));
        let spans: Vec<_> = covered.map(|covered| (covered.start, covered.end)).collect();
        assert_eq!(spans, expected, "opened at {opened}, closed at {closed:?}");
        assert!(spans.iter().all(|(start, end)| start.div_euclid(10) == (end - 1).div_euclid(10)));
    }

    #[test]
    fn a_window_is_aligned_to_the_clock() {
        check(13, &[20, 30, 41], &[(10, 20), (20, 30), (30, 40)]);
    }

    #[test]
    fn one_that_is_closed_early_leaves_its_rest_to_the_next() {
        check(13, &[15, 18, 20, 30], &[(10, 15), (15, 18), (18, 20), (20, 30)]);
    }

    #[test]
    fn none_crosses_an_hour() {
        check(3594, &[3597, 3600, 3610], &[(3590, 3597), (3597, 3600), (3600, 3610)]);
        check(3594, &[3601, 3611], &[(3590, 3600), (3600, 3610)]);
    }

    #[test]
    fn a_step_forward_closes_the_window_at_its_end() {
        check(13, &[5017, 5020], &[(10, 20), (5010, 5020)]);
    }

    #[test]
    fn a_step_back_closes_the_window_and_puts_it_where_the_clock_is_now() {
        assert!(Span::first(10, 5003).is_over(13), "an hour and more before its start");
        assert!(!Span::first(10, 13).is_over(12), "within what it covers");
        check(5003, &[13, 20], &[(10, 13), (13, 20)]);
        // Closed early at 15: its rest began there.
        check(13, &[15, 12, 20], &[(10, 15), (10, 12), (12, 20)]);
    }

    #[test]
    fn a_moment_keeps_its_distance_from_now() {
        let clock = Clock::default();
        let now = Monotonic::now();
        let in_ten = clock.monotonic_at(clock.unix_seconds() + 10);
        let distance = in_ten.since(now);
        assert!((9..=10).contains(&distance.as_secs()), "{distance:?}");
    }
}
