//! What each of the three tables holds of each hour, known without reading a row.

use std::collections::BTreeMap;

use clickhouse::error::Error;
use clickhouse::{Client, Row};
use serde::Deserialize;

/// Seconds of an hour.
pub const HOUR: u32 = 3600;
/// Seconds of a day.
pub const DAY: u32 = 86_400;

/// ClickHouse answers each part of it from the metadata of the table's parts:
/// all columns are of the partition keys.
const STATEMENT: &str = "\
SELECT toUInt8(0) AS level, toUnixTimestamp(toStartOfHour(time)) AS start, count() AS rows, \
toUInt64(0) AS oldest, toUInt64(0) AS newest
FROM profile.in_process_local GROUP BY start
UNION ALL
SELECT toUInt8(1), toUnixTimestamp(toStartOfHour(time)) AS start, max(built_from), min(build), max(build)
FROM profile.in_process_1m GROUP BY start
UNION ALL
SELECT toUInt8(2), toUnixTimestamp(toStartOfDay(time)) AS start, max(built_from), min(build), max(build)
FROM profile.in_process_1h GROUP BY start";

/// Rows by hour and by day, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Raw rows, by the start of their hour.
    pub raw: BTreeMap<u32, u64>,
    /// What was built of an hour, by its start.
    pub minutes: BTreeMap<u32, Built>,
    /// What was built of a day, by its start.
    pub hours: BTreeMap<u32, Built>,
}

/// A partition of a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Raw rows that there were when its build began.
    pub from: u64,
    /// Which build made it. `None`: several, whose rows count twice. So it is where
    /// ClickHouse died while it swapped and what was replaced came back.
    pub build: Option<u64>,
}

#[derive(Row, Deserialize)]
struct CoverageRow {
    level: u8,
    start: u32,
    rows: u64,
    oldest: u64,
    newest: u64,
}

impl Coverage {
    /// Asks for it.
    ///
    /// # Errors
    /// What the client says.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let mut coverage = Self::default();
        for row in client.query(STATEMENT).fetch_all::<CoverageRow>().await? {
            let CoverageRow { level, start, rows, oldest, newest } = row;
            // What a merge or the retention emptied is still a part for a while.
            if rows == 0 {
                continue;
            }
            let built = Built { from: rows, build: (oldest == newest).then_some(newest) };
            match level {
                0 => drop(coverage.raw.insert(start, rows)),
                1 => drop(coverage.minutes.insert(start, built)),
                _ => drop(coverage.hours.insert(start, built)),
            }
        }
        Ok(coverage)
    }

    /// Raw rows of an hour.
    pub fn raw_rows(&self, hour: u32) -> u64 {
        self.raw.get(&hour).copied().unwrap_or_default()
    }

    /// The raw rows that the minutes of a day were built from.
    pub fn minutes_of(&self, day: u32) -> u64 {
        self.minutes.range(hours_of(day)).fold(0, |sum, (_, built)| sum.saturating_add(built.from))
    }

    /// Whether the minutes of an hour are all that was ever stored of it. Raw rows only
    /// become more, until their retention takes them: fewer are no reason to build again.
    pub fn minutes_are_current(&self, hour: u32) -> bool {
        let built = self.minutes.get(&hour);
        built.is_some_and(|built| built.build.is_some() && built.from >= self.raw_rows(hour))
    }

    /// Whether the hours of a day are all that was ever stored of it.
    pub fn hours_are_current(&self, day: u32) -> bool {
        let built = self.hours.get(&day);
        built.is_some_and(|built| built.build.is_some() && built.from >= self.minutes_of(day))
            && self.raw.range(hours_of(day)).all(|(&hour, _)| self.minutes_are_current(hour))
            && self.minutes.range(hours_of(day)).all(|(_, built)| built.build.is_some())
    }
}

/// The starts of the hours of a day.
pub fn hours_of(day: u32) -> std::ops::RangeInclusive<u32> {
    day..=day.saturating_add(DAY - HOUR)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;

    /// Entries such as `raw 2=10`, `min 2=10`, `min 2=10 mixed`, `hour 0=50`, separated
    /// by commas: hours since 1970 (days for `hour`), and rows.
    pub(crate) fn coverage(text: &str) -> Coverage {
        let mut coverage = Coverage::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (table, rest) = entry.split_once(' ').unwrap();
            let (rest, build) = match rest.strip_suffix(" mixed") {
                Some(rest) => (rest, None),
                None => (rest, Some(1)),
            };
            let (start, rows) = rest.split_once('=').unwrap();
            let (start, rows): (u32, u64) = (start.parse().unwrap(), rows.parse().unwrap());
            let built = Built { from: rows, build };
            match table {
                "raw" => drop(coverage.raw.insert(start * HOUR, rows)),
                "min" => drop(coverage.minutes.insert(start * HOUR, built)),
                "hour" => drop(coverage.hours.insert(start * DAY, built)),
                _ => panic!("{entry}"),
            }
        }
        coverage
    }
}
