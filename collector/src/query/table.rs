//! The tables that hold rows, and what is asked of them otherwise than of raw rows.

use super::plan::{Value, time_condition};
use super::request::TimeRange;

pub(super) const RAW: Table = Table {
    name: "profile.in_process_local",
    expressions: &[
        // No row without samples is expected.
        (PERIOD, "toInt64(intDivOrZero(profile_value, sample_count))"),
        (ROLLED_UP, "toInt64(0)"),
    ],
};
pub(super) const MINUTES: Table = Table { name: "profile.in_process_1m", ..ROLLUP };
pub(super) const HOURS: Table = Table { name: "profile.in_process_1h", ..ROLLUP };
const ROLLUP: Table = Table {
    name: "",
    expressions: &[
        (PERIOD, "toInt64(period)"),
        (ROLLED_UP, "profile_value"),
        ("process_id", "toUInt32(0)"),
        ("pod", "''"),
    ],
};

/// Microseconds that a sample of a row stands for.
pub(super) const PERIOD: &str = "{period of a sample}";
/// Microseconds of a row that come from a rollup.
pub(super) const ROLLED_UP: &str = "{value from rollups}";

/// A table that holds rows, or their sums.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// What stands for expressions that are others in this table. By WITH they would be so in the tables behind it too.
    expressions: &'static [(&'static str, &'static str)],
}

/// A table and the times that are asked of it.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) table: Table,
    pub(super) ranges: Vec<TimeRange>,
    /// Whole days, which the table has summed up.
    pub(super) by_day: bool,
}

impl Branch {
    pub(super) fn table(&self) -> &'static str {
        self.table.name
    }

    /// What stands for `expression` in this table. A column that it lacks must be the
    /// whole expression: within another it would be asked of the table.
    pub(super) fn expression<'a>(&self, expression: &'a str) -> &'a str {
        let mut expressions = self.table.expressions.iter();
        debug_assert!(
            expressions
                .clone()
                .all(|(of, _)| *of == expression || !words(expression).any(|word| word == *of)),
            "{expression} is about a column that {} lacks",
            self.table.name
        );
        let own = expressions.find(|(of, _)| *of == expression);
        own.map_or(expression, |(_, own)| own)
    }

    /// The condition on the time.
    pub(super) fn time(&self, values: &mut Vec<Value>) -> String {
        match self.by_day {
            // As the projection has it.
            true => times("toStartOfDay(time)", &self.ranges, values),
            false => times("time", &self.ranges, values),
        }
    }
}

fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// That `time`, an expression, is in one of the ranges.
pub(super) fn times(time: &str, ranges: &[TimeRange], values: &mut Vec<Value>) -> String {
    let times: Vec<String> = ranges.iter().map(|range| time_condition(time, *range, values)).collect();
    match times.as_slice() {
        [one] => one.clone(),
        _ => format!("({})", times.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" OR ")),
    }
}
