//! Batches that may be stored already: what they wait for, and what is found of
//! them.
//!
//! A look-up finds what was inserted before it. An INSERT that began before the
//! batch was sent again and still runs, of a collector that was killed or one of
//! ours that timed out here, could bring the batch after the look-up. So the
//! INSERTs that run when the batch is met are waited for first.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use clickhouse::error::Error;
use clickhouse::{Client, Row};
use serde::Deserialize;
use uuid::Uuid;

use super::{Batch, Queued};
use crate::metrics::Lost;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds around a batch's window in which it is looked for: a corrected
/// clock may put a resent batch into a neighbouring window.
const SLACK_SECONDS: u32 = 120;
/// Begins the `log_comment` of our INSERTs. The embedded engine takes no query id
/// from outside, but it does take settings, and both show them.
const MARK: &str = "hearth-insert-";

/// Names one INSERT, in `system.processes` as `Settings['log_comment']`.
pub(super) fn mark() -> String {
    format!("{MARK}{}", Uuid::new_v4())
}

/// Batches that were met together.
#[derive(Debug)]
pub(super) struct Resent {
    /// They are stored as one.
    pub(super) batches: Vec<Queued>,
    /// Marks of the INSERTs that ran when they were met, less those that are over;
    /// `None` until somebody looked.
    behind: Option<HashSet<String>>,
    met: Instant,
}

impl Resent {
    pub(super) fn new(batches: Vec<Queued>) -> Self {
        Self { batches, behind: None, met: Instant::now() }
    }

    /// Takes note of the INSERTs that run now.
    pub(super) fn see(&mut self, running: &HashSet<String>) {
        match &mut self.behind {
            None => self.behind = Some(running.clone()),
            Some(behind) => behind.retain(|mark| running.contains(mark)),
        }
    }

    /// An INSERT failed here: whether it runs on is to be seen anew.
    pub(super) fn look_again(&mut self) {
        self.behind = None;
    }

    /// Whether every INSERT that ran when they were met is over.
    pub(super) fn can_be_looked_up(&self) -> bool {
        self.behind.as_ref().is_some_and(HashSet::is_empty)
    }

    /// What they wait for, and for how long already.
    pub(super) fn waits(&self) -> Option<(&str, Duration)> {
        Some((self.behind.as_ref()?.iter().next()?, self.met.elapsed()))
    }
}

/// The marks of all INSERTs that run, also those of other collectors.
pub(super) async fn running_inserts(client: &Client) -> Result<HashSet<String>, Error> {
    let question = "SELECT DISTINCT toString(Settings['log_comment']) AS mark FROM system.processes \
        WHERE startsWith(mark, ?)";
    let marks = bounded(client).query(question).bind(MARK).fetch_all::<String>();
    Ok(in_time(marks).await?.into_iter().collect())
}

/// Batches of one hour: what is looked up at once.
#[derive(Debug, PartialEq, Eq)]
struct Hour {
    /// When they may be stored, Unix seconds.
    first: u32,
    last: u32,
    keys: Vec<u64>,
}

/// By the hours of their windows, given as key, start and length in seconds. One question over
/// all of them would read everything between the oldest and the newest, for windows of a node
/// that was cut off for days.
fn by_hour(windows: impl Iterator<Item = (u64, u32, u32)>) -> Vec<Hour> {
    let mut hours = BTreeMap::new();
    for (key, time, length) in windows {
        let slack = SLACK_SECONDS + length;
        let (first, last) = (time.saturating_sub(slack), time.saturating_add(slack));
        let hour = hours.entry(time / 3600).or_insert_with(|| Hour { first, last, keys: Vec::new() });
        hour.first = hour.first.min(first);
        hour.last = hour.last.max(last);
        hour.keys.push(key);
    }
    hours.into_values().collect()
}

/// What the store has of some batches. Each batch is in one INSERT of each table,
/// and so wholly there or not at all.
#[derive(Debug, Default)]
pub(super) struct Found {
    rows: HashSet<u64>,
    losses: HashSet<(u64, Lost)>,
}

#[derive(Debug, Row, Deserialize)]
struct FoundLoss {
    batch: u64,
    reason: String,
}

impl Found {
    /// Looks `batches` up.
    pub(super) async fn look_up(client: &Client, batches: &[Queued]) -> Result<Self, Error> {
        let client = bounded(client);
        let windows =
            batches.iter().map(|Queued { batch, .. }| (batch.key, batch.time, batch.window_seconds));
        let mut found = Self::default();
        for Hour { first, last, keys } in by_hour(windows) {
            let ask = |columns, table| {
                let question = format!(
                    "SELECT DISTINCT {columns} FROM {table} \
                     WHERE time >= toDateTime(?) AND time <= toDateTime(?) AND batch IN ?"
                );
                client.query(&question).bind(first).bind(last).bind(&keys)
            };
            found.rows.extend(in_time(ask("batch", "in_process_local").fetch_all::<u64>()).await?);
            let losses = in_time(ask("batch, reason", "losses").fetch_all::<FoundLoss>()).await?;
            // A reason of a newer collector's is none that we could insert again.
            found.losses.extend(losses.into_iter().filter_map(|FoundLoss { batch, reason }| {
                Some((batch, Lost::ALL.into_iter().find(|lost| lost.text() == reason)?))
            }));
        }
        Ok(found)
    }

    /// Whether the batch's rows are accounted for, be it as lost.
    pub(super) fn has_rows(&self, batch: u64) -> bool {
        self.rows.contains(&batch) || self.losses.contains(&(batch, Lost::TooOld))
    }

    /// Whether this loss is accounted for; that of rows, also as rows.
    pub(super) fn has_loss(&self, batch: u64, lost: Lost) -> bool {
        self.has_exactly(batch, lost) || (lost == Lost::TooOld && self.rows.contains(&batch))
    }

    /// Whether this loss is there as one.
    pub(super) fn has_exactly(&self, batch: u64, lost: Lost) -> bool {
        self.losses.contains(&(batch, lost))
    }

    /// Whether all of the batch is accounted for; not if there was never anything
    /// to be found of it.
    pub(super) fn has_all(&self, batch: &Batch) -> bool {
        let has_some = self.rows.contains(&batch.key)
            || Lost::ALL.into_iter().any(|lost| self.losses.contains(&(batch.key, lost)));
        has_some
            && (batch.rows.is_empty() || self.has_rows(batch.key))
            && batch.losses.iter().all(|(lost, _)| self.has_loss(batch.key, *lost))
    }
}

/// A client whose questions ClickHouse ends itself.
fn bounded(client: &Client) -> Client {
    client.clone().with_setting("max_execution_time", TIMEOUT.as_secs().to_string())
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(TIMEOUT, answer).await.unwrap_or(Err(Error::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What runs each time somebody looks (`a b, b` is twice), and whether the
    /// batch can be looked up after each.
    fn check(running: &str, expected: &[bool]) {
        let mut resent = Resent::new(Vec::new());
        assert!(!resent.can_be_looked_up(), "nobody has looked");
        let seen = running.split(',').map(|running| {
            resent.see(&running.split_whitespace().map(str::to_owned).collect());
            resent.can_be_looked_up()
        });
        assert_eq!(seen.collect::<Vec<_>>(), expected, "{running}");
    }

    #[test]
    fn a_resent_batch_waits_for_the_inserts_that_ran_when_it_was_met() {
        check("", &[true]);
        check("a,", &[false, true]);
        check("a b,b,a,", &[false, false, true, true]);
        // Not for those that began later: there is always one.
        check("a,a b,b c", &[false, false, true]);
    }

    #[test]
    fn after_a_failure_it_waits_for_what_runs_then() {
        let mut resent = Resent::new(Vec::new());
        resent.see(&HashSet::new());
        resent.look_again();
        assert!(!resent.can_be_looked_up());
        resent.see(&HashSet::from(["ours".to_owned()]));
        assert!(!resent.can_be_looked_up());
        assert_eq!(resent.waits().map(|(mark, _)| mark), Some("ours"));
    }

    /// Windows of 10 s as `key:start`; what is looked up together, as `first-last key key`.
    #[test]
    fn batches_are_looked_up_hour_by_hour() {
        let check = |windows: &str, expected: &str| {
            let windows = windows.split_whitespace().map(|window| {
                let (key, time) = window.split_once(':').expect("key:start");
                (key.parse().expect("a key"), time.parse().expect("a time"), 10)
            });
            let hours: Vec<String> = by_hour(windows)
                .into_iter()
                .map(|Hour { first, last, keys }| {
                    let keys: Vec<String> = keys.iter().map(u64::to_string).collect();
                    format!("{first}-{last} {}", keys.join(" "))
                })
                .collect();
            assert_eq!(hours.join(", "), expected);
        };
        check("", "");
        check("1:7200 2:7300 3:7250", "7070-7430 1 2 3");
        // What lies days apart is not one range, and neither do two hours become one.
        check("1:864000 2:7200 3:864010", "7070-7330 2, 863870-864140 1 3");
        check("1:3590 2:3600", "3460-3720 1, 3470-3730 2");
        check("1:0 2:4294967290", "0-130 1, 4294967160-4294967295 2");
    }

    #[test]
    fn rows_are_accounted_for_once_as_rows_or_as_lost() {
        let found = Found {
            rows: HashSet::from([1]),
            losses: HashSet::from([(2, Lost::TooOld), (3, Lost::RingFull)]),
        };
        assert_eq!([1, 2, 3, 4].map(|batch| found.has_rows(batch)), [true, true, false, false]);
        assert_eq!([1, 2, 3, 4].map(|batch| found.has_loss(batch, Lost::TooOld)), [true, true, false, false]);
        assert_eq!(
            [1, 2, 3, 4].map(|batch| found.has_loss(batch, Lost::RingFull)),
            [false, false, true, false]
        );
    }
}
