//! The values of a tag, the hottest first.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::QueryError;
use super::filter::Tag;
use super::grouped::{Grouped, ROLLED_UP, SAMPLES, VALUE};
use super::plan;
use super::quality;
use super::request::Request;
use super::scope::Scope;
use super::source::{Need, Sources};
use super::statement::Statement;
use super::store::{Store, sum};

/// Most values of an answer.
pub const MAX_VALUES: u32 = 10_000;
/// Values of an answer when no number is asked for.
pub const USUAL_VALUES: u32 = 100;

/// One value of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TagValue {
    /// The value as text; empty if rows do not have one.
    pub name: String,
    /// Samples taken.
    pub samples: u64,
    /// Microseconds.
    pub value: i64,
}

#[derive(Debug, Row, Deserialize)]
struct ValueRow {
    name: String,
    samples: u64,
    value: i64,
    rolled_up: i64,
}

/// Values of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagValues {
    /// The hottest first.
    pub values: Vec<TagValue>,
    /// Sentences; usually none.
    pub notes: Vec<String>,
}

impl Store {
    /// The `limit` hottest values that `tag` has in those rows of `request` that are in the scope; its subject does
    /// not matter.
    ///
    /// # Errors
    /// As [`Store::flame`].
    pub async fn tag_values(
        &self,
        scope: &Scope,
        request: &Request,
        tag: &'static Tag,
        limit: u32,
    ) -> Result<TagValues, QueryError> {
        let (sources, mut notes) = self.sources(scope, request.range, Need::of(request).and_tag(tag)).await?;
        let statement = statement(request, &sources, tag, limit);
        let (mut rows, lost): (Vec<ValueRow>, _) =
            tokio::try_join!(self.rows(&statement), self.lost(request, &sources))?;
        if rows.is_empty() {
            let notes = vec![self.reason(request, &sources, &lost).await?];
            return Ok(TagValues { values: Vec::new(), notes });
        }
        if rows.len() > limit as usize {
            rows.truncate(limit as usize);
            notes.push(format!(
                "only the {limit} hottest values are listed: narrow with a filter, or raise limit (at most {MAX_VALUES})"
            ));
        }
        let [rolled_up, value] =
            [sum(rows.iter().map(|row| row.rolled_up)), sum(rows.iter().map(|row| row.value))];
        notes.extend(quality::notes_of_rows(rolled_up, value, &lost));
        let values = rows
            .into_iter()
            .map(|ValueRow { name, samples, value, rolled_up: _ }| TagValue { name, samples, value })
            .collect();
        Ok(TagValues { values, notes })
    }
}

/// One more than is listed: so it is known whether there are more.
pub(super) fn statement(request: &Request, sources: &Sources, tag: &'static Tag, limit: u32) -> Statement {
    let name = tag.as_value();
    let tail = format!("\nORDER BY value DESC, name LIMIT {}", limit + 1);
    let grouped = Grouped {
        keys: &[(&name, "name")],
        key_values: &[],
        parts: &[SAMPLES, VALUE, ROLLED_UP],
        tail: &tail,
    };
    grouped.from(sources, |branch| plan::condition(request, branch, None))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::filter;
    use crate::query::request::{Subject, TimeRange};
    use insta::assert_snapshot;

    #[test]
    fn values_are_ordered_by_time_and_bounded() {
        let request = Request {
            subject: Subject::Total,
            range: TimeRange { from: 100, until: 200 },
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse("pod_ns = 'a'").unwrap(),
            max_kernel_frames: None,
        };
        let tag = filter::TAGS.iter().find(|tag| tag.name == "process_id").unwrap();
        let sources = Sources::raw(Scope::All, request.range);
        assert_snapshot!(statement(&request, &sources, tag, 100).sql(), @r"
        SELECT toString(toString(`process_id`)) AS name, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_ns` = ?
        GROUP BY name
        ORDER BY value DESC, name LIMIT 101
        ");
    }
}
