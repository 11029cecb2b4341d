//! What is remembered of an agent's instance: what it has sent, and how wrong
//! its clock is. Pure: no clock of its own.

use super::limits::{CLOCK_JITTER_SECONDS, MAX_CLOCK_OFFSET_SECONDS};

/// One start of one agent.
#[derive(Debug, Default)]
pub(super) struct Instance {
    /// The highest sequence that it has sent.
    highest: u64,
    /// Seconds to be added to its clock; 0 if it is right enough.
    offset: i64,
    /// From this sequence on the offset holds; before, the one before.
    since: u64,
    before: i64,
}

/// What is to be known about a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// It was received before.
    pub(super) known: bool,
    /// Seconds by which its window is to be moved.
    pub(super) offset: i64,
}

impl Instance {
    /// Takes note of batch `sequence`, sent `age` seconds ago by the agent's clock.
    ///
    /// The age is the clock's error and the time on the way. A batch that lay in
    /// buffers while its stream was not read (the store was away) was long on the
    /// way; so an age that grew counts only if the batch is `fresh`: it cannot
    /// have waited. One that shrank always counts, since no batch arrives early.
    ///
    /// A batch that is sent again is moved as it was the first time, or it would
    /// not be found where it is stored.
    pub(super) fn note(&mut self, sequence: u64, age: i64, fresh: bool) -> Noted {
        let known = sequence <= self.highest;
        let changed = age.saturating_sub(self.offset).saturating_abs() > CLOCK_JITTER_SECONDS;
        let offset = if age.saturating_abs() <= MAX_CLOCK_OFFSET_SECONDS { 0 } else { age };
        if changed && offset != self.offset && (fresh || age < self.offset) {
            let since = sequence.max(self.highest.saturating_add(1));
            *self = Self { highest: self.highest, offset, since, before: self.offset };
        }
        self.highest = self.highest.max(sequence);
        Noted { known, offset: if sequence < self.since { self.before } else { self.offset } }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Batches as `sequence:age`, with `~` if they may have waited; the offset of each, with `=` if it was known.
    fn check(batches: &str, expected: &str) {
        let mut instance = Instance::default();
        let noted: Vec<String> = batches
            .split(' ')
            .map(|batch| {
                let (sequence, age) = batch.trim_end_matches('~').split_once(':').unwrap();
                let fresh = !batch.ends_with('~');
                let Noted { known, offset } =
                    instance.note(sequence.parse().unwrap(), age.parse().unwrap(), fresh);
                format!("{offset}{}", if known { "=" } else { "" })
            })
            .collect();
        assert_eq!(noted.join(" "), expected, "{batches}");
    }

    #[test]
    fn a_clock_that_is_about_right_is_left_alone() {
        check("1:0 2:3 3:-29 4:30", "0 0 0 0");
    }

    #[test]
    fn a_wrong_clock_is_corrected_and_its_jitter_is_not_followed() {
        check("1:3600 2:3601 3:3597 4:3605", "3600 3600 3600 3600");
        check("1:-3600 2:-3601", "-3600 -3600");
        // Nor across the bound.
        check("1:31 2:29 3:31", "31 31 31");
    }

    #[test]
    fn waiting_is_no_wrong_clock() {
        check("1:0 2:95~ 3:94~ 4:1", "0 0 0 0");
        check("1:-3600 2:-3500~ 3:-3600", "-3600 -3600 -3600");
        // Not even that of the first batch, once a later one was faster.
        check("1:40 2:1~", "40 0");
    }

    #[test]
    fn a_clock_that_was_set_during_a_stream_is_followed() {
        check("1:3600 2:0 3:1~", "3600 0 0");
        check("1:-3600 2:0~ 3:0", "-3600 -3600 0");
    }

    #[test]
    fn a_batch_that_comes_again_is_moved_as_before() {
        check("1:3600 2:3600 3:3600 2:0 3:0 4:0", "3600 3600 3600 3600= 3600= 0");
        check("1:0 2:0 2:90~", "0 0 0=");
    }

    #[test]
    fn whatever_is_sent_nothing_overflows() {
        check(&format!("{}:{} 1:{}", u64::MAX, i64::MAX, i64::MIN), &format!("{0} {0}=", i64::MAX));
    }
}
