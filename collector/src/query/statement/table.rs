//! The tables that hold rows, and what is asked of them otherwise than of raw rows.

use super::{Sql, Value};
use crate::query::request::TimeRange;
use crate::query::scope::Scope;

pub(in crate::query) const RAW: Table = Table {
    name: "profile.in_process_local",
    expressions: &[
        // No row without samples is expected.
        (PERIOD, "toInt64(intDivOrZero(profile_value, sample_count))"),
        (ROLLED_UP, "toInt64(0)"),
    ],
};
pub(in crate::query) const MINUTES: Table = Table { name: "profile.in_process_1m", ..ROLLUP };
pub(in crate::query) const HOURS: Table = Table { name: "profile.in_process_1h", ..ROLLUP };
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
pub(in crate::query) const PERIOD: &str = "{period of a sample}";
/// Microseconds of a row that come from a rollup.
pub(in crate::query) const ROLLED_UP: &str = "{value from rollups}";

/// A table that holds rows, or their sums.
#[derive(Debug)]
pub(in crate::query) struct Table {
    /// For [`super::Statement`] alone.
    name: &'static str,
    /// What stands for expressions that are others in this table. By WITH they would be so in the tables behind it too.
    expressions: &'static [(&'static str, &'static str)],
}

/// A table, the times that are asked of it, and for whom.
#[derive(Debug)]
pub(in crate::query) struct Branch<'a> {
    pub(in crate::query) scope: &'a Scope,
    pub(in crate::query) table: Table,
    pub(in crate::query) ranges: Vec<TimeRange>,
    /// Whole days, which the table has summed up.
    pub(in crate::query) by_day: bool,
}

impl Branch<'_> {
    /// For [`super::Statement`] alone.
    pub(in crate::query) fn name(&self) -> &'static str {
        self.table.name
    }

    /// What stands for `expression` in this table. A column that it lacks must be the
    /// whole expression: within another it would be asked of the table.
    pub(in crate::query) fn expression<'a>(&self, expression: &'a str) -> &'a str {
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
    pub(in crate::query) fn time(&self) -> Sql {
        // As the projection has it.
        times(if self.by_day { "toStartOfDay(time)" } else { "time" }, &self.ranges)
    }
}

fn words(expression: &str) -> impl Iterator<Item = &str> {
    expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// That `time`, an expression, is in one of the ranges.
pub(in crate::query) fn times(time: &str, ranges: &[TimeRange]) -> Sql {
    Sql::of(|values| {
        let times: Vec<String> = ranges.iter().map(|range| between(time, *range, values)).collect();
        match times.as_slice() {
            [one] => one.clone(),
            _ => format!("({})", times.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" OR ")),
        }
    })
}

fn between(time: &str, range: TimeRange, values: &mut Vec<Value>) -> String {
    values.extend([range.from, range.until].map(|t| Value::Int(i64::from(t))));
    format!("{time} >= toDateTime(?, 'UTC') AND {time} <= toDateTime(?, 'UTC')")
}
