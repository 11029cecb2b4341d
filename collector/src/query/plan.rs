//! The SQL of each question: text with a `?` for every value, and the values.

use super::request::{Request, TimeRange};

/// A statement and what is bound to its placeholders, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// SQL.
    pub sql: String,
    /// As many as the SQL has `?`.
    pub values: Vec<Value>,
}

/// A bound value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Int(i64),
}

/// Stack ids in one statement. 41 bytes each, they stay below ClickHouse's
/// default bound on the text of a query (256 KiB).
pub const IDS_PER_STATEMENT: usize = 4000;

/// Value by stack, thread and end of stack, for one app service. The smallest
/// and the largest process id tell whether several processes are in a row.
pub fn app(request: &Request, range: TimeRange, app_service: &str) -> Statement {
    let (condition, values) = condition(request, range, Some(app_service), &[]);
    let sql = format!(
        "SELECT stack_id, thread_name, toInt8(stack_end) AS end, \
         min(process_id) AS first_process, max(process_id) AS last_process, sum(profile_value) AS value\n\
         FROM profile.in_process_local\nWHERE {condition}\n\
         GROUP BY stack_id, thread_name, end"
    );
    Statement { sql, values }
}

/// Value by stack, thread and process, for those stacks of one app service
/// that look different in each process. At most [`IDS_PER_STATEMENT`] ids.
pub fn app_by_process(request: &Request, range: TimeRange, app_service: &str, ids: &[u128]) -> Statement {
    let (condition, values) = condition(request, range, Some(app_service), ids);
    let sql = format!(
        "SELECT stack_id, thread_name, process_id, sum(profile_value) AS value\n\
         FROM profile.in_process_local\nWHERE {condition}\n\
         GROUP BY stack_id, thread_name, process_id"
    );
    Statement { sql, values }
}

/// Value by process name, thread name and whether it is the main thread.
pub fn total(request: &Request, range: TimeRange) -> Statement {
    let (condition, values) = condition(request, range, None, &[]);
    let sql = format!(
        "SELECT process_name, thread_name, main_thread, \
         sum(profile_value) AS value\n\
         FROM profile.in_process_local\nWHERE {condition}\n\
         GROUP BY process_name, thread_name, main_thread"
    );
    Statement { sql, values }
}

/// The frames of stacks. At most [`IDS_PER_STATEMENT`] ids. Grouped, because a
/// stack that was sent again stands in several rows until its parts are merged.
pub fn stacks(ids: &[u128]) -> Statement {
    let mut values = Vec::new();
    let sql = format!(
        "SELECT stack_id, any(s.frames) AS frames\nFROM profile.stacks AS s\nWHERE {}\nGROUP BY stack_id",
        id_condition(ids, &mut values)
    );
    Statement { sql, values }
}

/// The app services of a range, the hottest first. At most `limit`.
pub fn apps(range: TimeRange, limit: u64) -> Statement {
    let mut values = Vec::new();
    let time = time_condition(range, &mut values);
    let sql = format!(
        "SELECT app_service, sum(toUInt64(sample_count)) AS samples, \
         sum(profile_value) AS value\n\
         FROM profile.in_process_local\nWHERE {time} AND app_service != ''\n\
         GROUP BY app_service\nORDER BY value DESC, app_service LIMIT {limit}"
    );
    Statement { sql, values }
}

/// Every app service that is stored (`''`: processes without a policy), when
/// it was first and last seen, and its rows in the range. At most `limit`.
pub fn seen(request: &Request, range: TimeRange, limit: u64) -> Statement {
    let mut values = Vec::new();
    let time = time_condition(range, &mut values);
    let types = type_condition(request, &mut values);
    let sql = format!(
        "SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, \
         toUnixTimestamp(max(time)) AS last_seen, countIf({time}) AS rows_in_range\n\
         FROM profile.in_process_local\nWHERE {types}\n\
         GROUP BY app_service\nORDER BY rows_in_range DESC, app_service LIMIT {limit}"
    );
    Statement { sql, values }
}

fn condition(
    request: &Request,
    range: TimeRange,
    app_service: Option<&str>,
    ids: &[u128],
) -> (String, Vec<Value>) {
    let mut values = Vec::new();
    let mut parts = Vec::new();
    if let Some(app_service) = app_service {
        parts.push("app_service = ?".to_owned());
        values.push(Value::Text(app_service.to_owned()));
    }
    parts.push(type_condition(request, &mut values));
    parts.push(time_condition(range, &mut values));
    if let Some(filter) = &request.filter {
        parts.push(filter.sql(&mut values));
    }
    if !ids.is_empty() {
        parts.push(id_condition(ids, &mut values));
    }
    (parts.join(" AND "), values)
}

fn type_condition(request: &Request, values: &mut Vec<Value>) -> String {
    values.extend([request.event, request.language].map(|t| Value::Text(t.to_owned())));
    "profile_event_type = ? AND profile_language_type = ?".to_owned()
}

fn time_condition(range: TimeRange, values: &mut Vec<Value>) -> String {
    values.extend([range.from, range.until].map(|t| Value::Int(i64::from(t))));
    "time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')".to_owned()
}

fn id_condition(ids: &[u128], values: &mut Vec<Value>) -> String {
    // As text: a literal beyond 64 bits is read as a floating point number,
    // while text is converted to the column's type exactly.
    values.extend(ids.iter().map(|id| Value::Text(id.to_string())));
    format!("stack_id IN ({})", vec!["?"; ids.len()].join(", "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::filter;
    use crate::query::request::Subject;
    use insta::assert_snapshot;

    const RANGE: TimeRange = TimeRange { from: 100, until: 200 };

    fn request(tag_filter: &str) -> Request {
        Request {
            subject: Subject::App("redis-server".into()),
            range: RANGE,
            event: "on-cpu",
            language: "eBPF",
            filter: filter::parse(tag_filter).unwrap(),
            max_kernel_frames: None,
        }
    }

    fn text(statement: &Statement) -> String {
        assert_eq!(statement.sql.matches('?').count(), statement.values.len(), "{statement:?}");
        format!("{}\n{:?}", statement.sql, statement.values)
    }

    #[test]
    fn an_app_is_aggregated_by_stack_and_thread() {
        assert_snapshot!(text(&app(&request("pod_ns = 'a' OR cpu = 1"), RANGE, "it's")), @r#"
        SELECT stack_id, thread_name, toInt8(stack_end) AS end, min(process_id) AS first_process, max(process_id) AS last_process, sum(profile_value) AS value
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND (`pod_ns` = ? OR `cpu` = ?)
        GROUP BY stack_id, thread_name, end
        [Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a"), Int(1)]
        "#);
    }

    #[test]
    fn stacks_that_differ_by_process_are_aggregated_by_it() {
        assert_snapshot!(text(&app_by_process(&request(""), RANGE, "java", &[1, u128::MAX])), @r#"
        SELECT stack_id, thread_name, process_id, sum(profile_value) AS value
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND stack_id IN (?, ?)
        GROUP BY stack_id, thread_name, process_id
        [Text("java"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("1"), Text("340282366920938463463374607431768211455")]
        "#);
    }

    #[test]
    fn total_is_aggregated_by_process_and_thread() {
        assert_snapshot!(text(&total(&request("pod_node = 'n'"), RANGE)), @r#"
        SELECT process_name, thread_name, main_thread, sum(profile_value) AS value
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_node` = ?
        GROUP BY process_name, thread_name, main_thread
        [Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("n")]
        "#);
    }

    #[test]
    fn stacks_are_fetched_by_id() {
        assert_snapshot!(text(&stacks(&[7])), @r#"
        SELECT stack_id, any(s.frames) AS frames
        FROM profile.stacks AS s
        WHERE stack_id IN (?)
        GROUP BY stack_id
        [Text("7")]
        "#);
    }

    #[test]
    fn apps_are_ordered_by_value() {
        assert_snapshot!(text(&apps(RANGE, 10)), @r#"
        SELECT app_service, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value
        FROM profile.in_process_local
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND app_service != ''
        GROUP BY app_service
        ORDER BY value DESC, app_service LIMIT 10
        [Int(100), Int(200)]
        "#);
    }

    #[test]
    fn what_was_seen_is_one_statement() {
        assert_snapshot!(text(&seen(&request(""), RANGE, 10)), @r#"
        SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, countIf(time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) AS rows_in_range
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ?
        GROUP BY app_service
        ORDER BY rows_in_range DESC, app_service LIMIT 10
        [Int(100), Int(200), Text("on-cpu"), Text("eBPF")]
        "#);
    }

    #[test]
    fn a_full_statement_stays_below_the_bound_on_query_text() {
        let ids = vec![u128::MAX; IDS_PER_STATEMENT];
        let bound: usize = stacks(&ids)
            .values
            .iter()
            .map(|v| match v {
                Value::Text(text) => text.len() + "'', ".len(),
                Value::Int(_) => 0,
            })
            .sum();
        // What is left is for the rest of the condition.
        assert!(bound + 80_000 < 256 * 1024, "{bound}");
    }
}
