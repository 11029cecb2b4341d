//! The one shape of all statements about rows: grouped by some expressions and
//! summed up, from whichever tables answer.
//!
//! Each table is grouped by itself and the groups are put together: only so does
//! ClickHouse answer whole days from the projection of the hour table.

use super::source::Sources;
use super::statement::table::{self, Branch};
use super::statement::{Condition, Sql, Statement, Value};

/// What is asked of the rows. Expressions are over the columns of raw rows.
pub(super) struct Grouped<'a> {
    /// What to group by, and what each is called.
    pub keys: &'a [(&'a str, &'a str)],
    /// What the placeholders in the keys are bound to.
    pub key_values: &'a [Value],
    /// What is made of each group.
    pub parts: &'a [Part<'a>],
    /// What follows the groups: ORDER BY, LIMIT, SETTINGS; nothing is bound in it.
    pub tail: &'a str,
}

/// What is made of a group: an expression over its rows, folded, and its name.
pub(super) struct Part<'a> {
    /// `sum`, `min` or `max`: folds rows, and then the groups of several tables.
    pub fold: &'static str,
    /// The expression.
    pub of: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// The key that tells rows of different rates apart: what one of their samples stands for.
pub(super) const PERIOD: (&str, &str) = (table::PERIOD, "period");
/// Samples.
pub(super) const SAMPLES: Part<'static> = Part { fold: "sum", of: "toUInt64(sample_count)", name: "samples" };
/// Microseconds.
pub(super) const VALUE: Part<'static> = Part { fold: "sum", of: "profile_value", name: "value" };
/// Those microseconds that come from rollups.
pub(super) const ROLLED_UP: Part<'static> = Part { fold: "sum", of: table::ROLLED_UP, name: "rolled_up" };

impl Grouped<'_> {
    /// The statement. `condition` says which rows are meant, the times of the table included.
    pub(super) fn from(&self, sources: &Sources, condition: impl Fn(&Branch<'_>) -> Condition) -> Statement {
        let of_table = |branch: &Branch<'_>| self.of_table(branch, condition(branch));
        let mut selects: Vec<Statement> = sources.branches().iter().map(of_table).collect();
        if selects.len() == 1 {
            return selects.remove(0).then(self.tail);
        }
        let parts = self.parts.iter().map(|Part { fold, of: _, name }| format!("{fold}({name}) AS {name}"));
        let columns: Vec<String> = std::iter::once(self.names()).chain(parts).collect();
        let tail = format!("\nGROUP BY {}{}", self.names(), self.tail);
        Statement::of_all(&columns.join(", "), selects, &tail)
    }

    fn of_table(&self, branch: &Branch<'_>, condition: Condition) -> Statement {
        let keys = self.keys.iter().map(|(of, name)| match branch.expression(of) {
            of if of == *name => of.to_owned(),
            of => format!("{of} AS {name}"),
        });
        let parts = self
            .parts
            .iter()
            .map(|Part { fold, of, name }| format!("{fold}({}) AS {name}", branch.expression(of)));
        let columns: Vec<String> = keys.chain(parts).collect();
        let columns = Sql::of(|values| {
            values.extend_from_slice(self.key_values);
            columns.join(", ")
        });
        Statement::of_rows(columns, branch, condition, &format!("\nGROUP BY {}", self.names()))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.keys.iter().map(|(_, name)| *name).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::source::tests::chosen;
    use insta::assert_snapshot;

    #[test]
    fn each_table_is_grouped_and_then_their_groups() {
        let sources = chosen("raw 23=5, min 23=5, hour 0=5, hour 1=5", "", "23..51");
        let grouped = Grouped {
            keys: &[("intDiv(main_thread, ?)", "slot"), PERIOD],
            key_values: &[Value::Int(7)],
            parts: &[Part { fold: "min", of: "process_id", name: "first" }, VALUE, ROLLED_UP],
            tail: "\nORDER BY value",
        };
        let statement = grouped.from(&sources, |branch| Condition { own: branch.time(), more: Vec::new() });
        assert_snapshot!(format!("{}\n{:?}", statement.sql(), statement.values()), @r"
        SELECT slot, period, min(first) AS first, sum(value) AS value, sum(rolled_up) AS rolled_up
        FROM (
        SELECT intDiv(main_thread, ?) AS slot, toInt64(period) AS period, min(toUInt32(0)) AS first, sum(profile_value) AS value, sum(profile_value) AS rolled_up
        FROM profile.in_process_1h
        WHERE toStartOfDay(time) >= toDateTime(?, 'UTC') AND toStartOfDay(time) <= toDateTime(?, 'UTC')
        GROUP BY slot, period
        UNION ALL
        SELECT intDiv(main_thread, ?) AS slot, toInt64(period) AS period, min(toUInt32(0)) AS first, sum(profile_value) AS value, sum(profile_value) AS rolled_up
        FROM profile.in_process_1h
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY slot, period
        UNION ALL
        SELECT intDiv(main_thread, ?) AS slot, toInt64(intDivOrZero(profile_value, sample_count)) AS period, min(process_id) AS first, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY slot, period
        )
        GROUP BY slot, period
        ORDER BY value
        [Int(7), Int(86400), Int(172799), Int(7), Int(82800), Int(86399), Int(7), Int(172800), Int(183599)]
        ");
    }
}
