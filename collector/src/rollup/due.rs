//! Which rollups are to be built: a pure function of what is there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::coverage::{Coverage, DAY, HOUR, hours_of};
use crate::ingest::limits::RETENTION_MARGIN;
use crate::schema::Retention;

/// Nothing is built in so many seconds before its source begins to disappear, as it may
/// while it is read. The youngest rows of an hour are accepted until an hour before that
/// ([`RETENTION_MARGIN`]): what comes last is still built, and half an hour is left for it.
const MARGIN: u64 = 30 * 60;

/// With less of `--retention-raw` an hour may begin to disappear before it is closed.
pub const LEAST_RAW: Duration = Duration::from_secs(3 * HOUR as u64);
/// The same, of `--retention-minute` and a day.
pub const LEAST_MINUTE: Duration = Duration::from_secs((DAY + 2 * HOUR) as u64);

const _: () = assert!(RETENTION_MARGIN.as_secs() == HOUR as u64 + 2 * MARGIN);

/// A partition that is to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Job {
    /// The minutes of the hour that begins then, from raw rows.
    Hour(u32),
    /// The hours of the day that begins then, from its minutes.
    Day(u32),
}

/// What is to be built at `now`, the oldest first, as it is the first whose source
/// disappears; hours before days, which are built from them. A period is closed when it
/// ended `after` ago.
pub fn due(coverage: &Coverage, now: u32, after: Duration, retention: &Retention) -> Vec<Job> {
    let now = u64::from(now);
    let closed = |start: u32, length: u32| u64::from(start) + u64::from(length) + after.as_secs() <= now;
    let stays = |start: u32, kept: Duration| now + MARGIN < u64::from(start) + kept.as_secs();

    // What would expire at once is not built either, or it would be built again and again.
    let buildable = |hour: u32| stays(hour, retention.raw.min(retention.minute));
    let hours = coverage.raw.iter().filter(|&(&hour, &rows)| {
        // Where some of them are gone already, what was built is better.
        let whole = coverage.minutes.get(&hour).is_none_or(|built| rows >= built.from);
        whole && !coverage.minutes_are_current(hour) && closed(hour, HOUR) && buildable(hour)
    });

    let days: BTreeSet<u32> = coverage.minutes.keys().map(|hour| hour - hour % DAY).collect();
    let days = days.into_iter().filter(|&day| {
        let (minutes, built) = (coverage.minutes_of(day), coverage.hours.get(&day));
        let behind = built.is_none_or(|built| minutes > built.from);
        let mixed = built.is_some_and(|built| built.build.is_none() && minutes == built.from);
        let mut of_raw = coverage.raw.range(hours_of(day)).map(|(hour, _)| *hour);
        let hours_done = of_raw.all(|hour| coverage.minutes_are_current(hour) || !buildable(hour));
        let sound = coverage.minutes.range(hours_of(day)).all(|(_, built)| built.build.is_some());
        (behind || mixed)
            && hours_done
            && sound
            && closed(day, DAY)
            && stays(day, retention.minute.min(retention.hour))
    });

    hours.map(|(&hour, _)| Job::Hour(hour)).chain(days.map(Job::Day)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::coverage::tests::coverage;
    use super::*;

    /// Raw rows for 3 days, minutes for 14; closed after five minutes; `now` in hours since 1970.
    fn check(tables: &str, now: f64, expected: &str) {
        check_kept([3, 14, 90], tables, now, expected);
    }

    fn check_kept(days: [u64; 3], tables: &str, now: f64, expected: &str) {
        let [raw, minute, hour] = days.map(|days| Duration::from_secs(days * u64::from(DAY)));
        let retention = Retention { raw, minute, hour };
        let now = (now * f64::from(HOUR)) as u32;
        let jobs: Vec<String> = due(&coverage(tables), now, Duration::from_secs(300), &retention)
            .into_iter()
            .map(|job| match job {
                Job::Hour(hour) => format!("hour {}", hour / HOUR),
                Job::Day(day) => format!("day {}", day / DAY),
            })
            .collect();
        assert_eq!(jobs.join(", "), expected, "{tables} at {now}");
    }

    #[test]
    fn an_hour_is_built_once_it_has_been_closed_for_a_while() {
        check("raw 2=10", 2.9, "");
        check("raw 2=10", 3.0, "");
        check("raw 2=10", 3.08, "");
        check("raw 2=10", 3.09, "hour 2");
        check("raw 2=10, min 2=10", 3.5, "");
        check("", 3.5, "");
    }

    #[test]
    fn the_oldest_hours_come_first() {
        check("raw 2=1, raw 3=1, raw 4=1, min 3=1", 6.0, "hour 2, hour 4");
    }

    #[test]
    fn a_late_batch_marks_the_hour_and_then_the_day() {
        check("raw 2=11, min 2=10, raw 3=5, min 3=5, hour 0=15", 26.0, "hour 2");
        check("raw 2=11, min 2=11, raw 3=5, min 3=5, hour 0=15", 26.0, "day 0");
        check("raw 2=11, min 2=11, raw 3=5, min 3=5, hour 0=16", 26.0, "");
    }

    #[test]
    fn a_day_waits_for_its_hours() {
        check("raw 2=11, min 2=11, raw 23=5", 24.05, "");
        check("raw 2=11, min 2=11, raw 23=5", 24.1, "hour 23");
        check("raw 2=11, min 2=11, raw 23=5, min 23=5", 24.05, "");
        check("raw 2=11, min 2=11, raw 23=5, min 23=5", 24.1, "day 0");
        // The hour of another day is not waited for.
        check("raw 2=11, min 2=11, raw 24=5", 24.1, "day 0");
    }

    #[test]
    fn nothing_is_built_from_what_is_about_to_disappear() {
        check("raw 2=10", 73.4, "hour 2");
        check("raw 2=10", 73.5, "");
        // Nor does a day wait for it.
        check("raw 2=10, min 3=5", 73.5, "day 0");
        check("min 3=5", 335.4, "day 0");
        check("min 3=5", 335.5, "");
    }

    /// `--retention-raw` less the margin after the hour's last window.
    #[test]
    fn what_is_accepted_last_is_still_built() {
        let margin = RETENTION_MARGIN.as_secs() as f64 / f64::from(HOUR);
        let accepted_last = 3.0 + 72.0 - margin;
        check("raw 2=11, min 2=10", accepted_last, "hour 2");
        check("raw 2=11, min 2=10", accepted_last + 0.4, "hour 2");
    }

    /// With the least that is taken, and however long it is waited until all is there.
    #[test]
    fn with_the_shortest_retentions_hours_and_days_are_built() {
        let retention = Retention { raw: LEAST_RAW, minute: LEAST_MINUTE, hour: LEAST_MINUTE };
        for after in [1, 300, 3600] {
            let after = Duration::from_secs(after);
            // At the end of each, and with half an hour left for the build.
            let closed = |length: u32| length + after.as_secs() as u32;
            for now in [closed(HOUR), closed(HOUR) + 1799] {
                assert_eq!(due(&coverage("raw 0=1"), now, after, &retention), [Job::Hour(0)], "{after:?}");
            }
            for now in [closed(DAY), closed(DAY) + 1799] {
                assert_eq!(due(&coverage("min 0=1"), now, after, &retention), [Job::Day(0)], "{after:?}");
            }
        }
    }

    #[test]
    fn what_the_retention_took_does_not_undo_what_was_built() {
        check("raw 2=3, min 2=10, hour 0=10", 73.0, "");
        check("min 2=10, hour 0=10", 80.0, "");
        check("min 20=3, hour 0=10", 300.0, "");
        check("hour 0=10", 800.0, "");
    }

    #[test]
    fn what_would_expire_at_once_is_not_built() {
        check_kept([30, 14, 90], "raw 2=10", 333.0, "hour 2");
        check_kept([30, 14, 90], "raw 2=10", 337.6, "");
        check_kept([3, 14, 7], "min 2=10", 165.0, "day 0");
        check_kept([3, 14, 7], "min 2=10", 167.6, "");
    }

    #[test]
    fn what_two_builds_left_is_built_again() {
        check("raw 2=10, min 2=10 mixed", 5.0, "hour 2");
        // Unless there is nothing whole to build it from.
        check("raw 2=9, min 2=10 mixed", 5.0, "");
        check("raw 2=10, min 2=10 mixed, hour 0=10", 26.0, "hour 2");
        check("raw 2=10, min 2=10, hour 0=10 mixed", 26.0, "day 0");
        check("min 2=10, hour 0=12 mixed", 26.0, "");
    }
}
