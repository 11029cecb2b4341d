//! The SQL of each question: text with a `?` for every value, and the values.

use hearth_profile::frame::PERF_MAP_FRAME;

use super::filter::Expr;
use super::grouped::{Grouped, PERIOD, Part, ROLLED_UP, SAMPLES, VALUE};
use super::request::{Request, Subject, TOTAL, TimeRange};
use super::source::Sources;
use super::table::Branch;

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

const APP: (&str, &str) = ("app_service", "app_service");
const STACK: (&str, &str) = ("stack_id", "stack_id");
const THREAD: (&str, &str) = ("thread_name", "thread_name");
const END: (&str, &str) = ("toInt8(stack_end)", "end");

/// How long one of the statements may run that find out why an answer is empty.
const REASON_SECONDS: u64 = 5;

/// Value by stack, thread, end of stack and rate, for one app service. The smallest
/// and the largest process id tell whether several processes are in a row.
pub fn app(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let first = Part { fold: "min", of: "process_id", name: "first_process" };
    let last = Part { fold: "max", of: "process_id", name: "last_process" };
    let grouped = Grouped {
        keys: &[STACK, THREAD, END, PERIOD],
        key_values: &[],
        parts: &[first, last, SAMPLES, VALUE, ROLLED_UP],
        tail: "",
    };
    grouped.from(sources, |branch, values| condition(request, branch, Some(app_service), values))
}

/// As [`app`], and by process, for those stacks of one app service that look
/// different in each process.
pub fn app_by_process(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let last = Part { fold: "max", of: "process_id", name: "last_process" };
    let grouped = Grouped {
        keys: &[STACK, THREAD, END, PERIOD, ("process_id", "first_process")],
        key_values: &[],
        parts: &[last, SAMPLES, VALUE, ROLLED_UP],
        tail: "",
    };
    grouped.from(sources, |branch, values| {
        let condition = condition(request, branch, Some(app_service), values);
        values.extend([app_service, PERF_MAP_FRAME].map(|t| Value::Text(t.to_owned())));
        format!(
            "{condition} AND stack_id IN \
             (SELECT stack_id FROM profile.stacks WHERE app_service = ? AND position(frames, ?) != 0)"
        )
    })
}

/// Value by process name, thread name, whether it is the main thread, and rate.
pub fn total(request: &Request, sources: &Sources) -> Statement {
    let keys = [("process_name", "process_name"), THREAD, ("main_thread", "main_thread"), PERIOD];
    let grouped = Grouped { keys: &keys, key_values: &[], parts: &[SAMPLES, VALUE, ROLLED_UP], tail: "" };
    grouped.from(sources, |branch, values| condition(request, branch, None, values))
}

/// The frames of the stacks that [`app`] finds. Grouped, because a stack that
/// was sent again stands in several rows until its parts are merged.
pub fn stacks(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let grouped = Grouped { keys: &[STACK], key_values: &[], parts: &[], tail: "" };
    let Statement { sql: ids, mut values } =
        grouped.from(sources, |branch, values| condition(request, branch, Some(app_service), values));
    values.insert(0, Value::Text(app_service.to_owned()));
    let sql = format!(
        "SELECT stack_id, any(s.frames) AS frames\nFROM profile.stacks AS s\nWHERE app_service = ? AND stack_id IN \
         ({ids})\nGROUP BY stack_id"
    );
    Statement { sql, values }
}

/// What the agents of all nodes lost, or of those that meet a condition on nodes.
pub fn losses(range: TimeRange, of_nodes: Option<&Expr>) -> Statement {
    let mut values = Vec::new();
    let mut condition = time_condition("time", range, &mut values);
    if let Some(of_nodes) = of_nodes {
        condition = format!("{condition} AND {}", of_nodes.sql(&mut values));
    }
    let sql = format!(
        "SELECT pod_cluster, pod_node, reason, sum(samples) AS lost\n\
         FROM profile.losses\nWHERE {condition}\n\
         GROUP BY pod_cluster, pod_node, reason"
    );
    Statement { sql, values }
}

/// The nodes that have rows in an answer.
pub fn nodes(request: &Request, sources: &Sources) -> Statement {
    let app_service = match &request.subject {
        Subject::Total => None,
        Subject::App(app_service) => Some(app_service.as_str()),
    };
    let keys = [("pod_cluster", "pod_cluster"), ("pod_node", "pod_node")];
    let grouped = Grouped { keys: &keys, key_values: &[], parts: &[], tail: "" };
    grouped.from(sources, |branch, values| condition(request, branch, app_service, values))
}

/// The app services of a range that can be asked for by name, the hottest first.
/// At most `limit`.
pub fn apps(sources: &Sources, limit: u64) -> Statement {
    let tail = format!("\nORDER BY value DESC, app_service LIMIT {limit}");
    let grouped = Grouped { keys: &[APP], key_values: &[], parts: &[SAMPLES, VALUE, ROLLED_UP], tail: &tail };
    grouped.from(sources, |branch, values| {
        format!("{} AND app_service NOT IN ('', '{TOTAL}')", branch.time(values))
    })
}

/// The app services of a range (`''`: processes without a policy), when they
/// were first and last seen in it, and their rows. At most `limit`.
pub fn seen(request: &Request, sources: &Sources, limit: u64) -> Statement {
    let request = Request { filter: None, ..request.clone() };
    let first = Part { fold: "min", of: "toUnixTimestamp(time)", name: "first_seen" };
    let last = Part { fold: "max", of: "toUnixTimestamp(time)", name: "last_seen" };
    let rows = Part { fold: "sum", of: "toUInt64(1)", name: "rows_in_range" };
    let tail = seen_tail(&format!("rows_in_range DESC, app_service LIMIT {limit}"));
    let grouped = Grouped { keys: &[APP], key_values: &[], parts: &[first, last, rows], tail: &tail };
    grouped.from(sources, |branch, values| condition(&request, branch, None, values))
}

/// Which rows of a table a question means, and what is bound in that.
pub(super) fn condition(
    request: &Request,
    branch: &Branch,
    app_service: Option<&str>,
    values: &mut Vec<Value>,
) -> String {
    let mut parts = Vec::new();
    if let Some(app_service) = app_service {
        parts.push("app_service = ?".to_owned());
        values.push(Value::Text(app_service.to_owned()));
    }
    parts.push(type_condition(request, values));
    parts.push(branch.time(values));
    if let Some(filter) = &request.filter {
        parts.push(match app_service {
            Some(_) => filter.sql(values),
            None => filter.sql_of_total(values),
        });
    }
    parts.join(" AND ")
}

fn type_condition(request: &Request, values: &mut Vec<Value>) -> String {
    values.extend([request.event, request.language].map(|t| Value::Text(t.to_owned())));
    "profile_event_type = ? AND profile_language_type = ?".to_owned()
}

/// That `time`, an expression, is in the range.
pub(super) fn time_condition(time: &str, range: TimeRange, values: &mut Vec<Value>) -> String {
    values.extend([range.from, range.until].map(|t| Value::Int(i64::from(t))));
    format!("{time} >= toDateTime(?, 'UTC') AND {time} <= toDateTime(?, 'UTC')")
}

/// When an app service was first and last seen, and its rows in the range: by
/// the primary key, whatever else is stored.
pub fn seen_app(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let (mut values, mut bound) = (Vec::new(), vec![Value::Text(app_service.to_owned())]);
    let condition = format!("app_service = ? AND {}", type_condition(request, &mut bound));
    let from = sources.sql_of_all_times(&condition, &bound, &mut values);
    seen_statement("countIf(in_range)", &from, "app_service", values)
}

/// The app services that were seen last, at any time. At most `limit`.
pub fn seen_ever(request: &Request, sources: &Sources, limit: u64) -> Statement {
    let (mut values, mut bound) = (Vec::new(), Vec::new());
    let condition = type_condition(request, &mut bound);
    let from = sources.sql_of_all_times(&condition, &bound, &mut values);
    seen_statement("toUInt64(0)", &from, &format!("last_seen DESC, app_service LIMIT {limit}"), values)
}

fn seen_statement(rows: &str, from: &str, order: &str, values: Vec<Value>) -> Statement {
    let sql = format!(
        "SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, \
         toUnixTimestamp(max(time)) AS last_seen, {rows} AS rows_in_range\n\
         FROM {from}\n\
         GROUP BY app_service{}",
        seen_tail(order)
    );
    Statement { sql, values }
}

/// Nobody waits for a reason as long as for an answer.
fn seen_tail(order: &str) -> String {
    format!("\nORDER BY {order}\nSETTINGS max_execution_time = {REASON_SECONDS}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::filter;
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
        assert_snapshot!(text(&app(&request("pod_ns = 'a' OR cpu = 1"), &Sources::raw(RANGE), "it's")), @r#"
        SELECT stack_id, thread_name, toInt8(stack_end) AS end, toInt64(intDivOrZero(profile_value, sample_count)) AS period, min(process_id) AS first_process, max(process_id) AS last_process, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND (`pod_ns` = ? OR `cpu` = ?)
        GROUP BY stack_id, thread_name, end, period
        [Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a"), Int(1)]
        "#);
    }

    #[test]
    fn stacks_that_differ_by_process_are_aggregated_by_it() {
        assert_snapshot!(text(&app_by_process(&request(""), &Sources::raw(RANGE), "java")), @r#"
        SELECT stack_id, thread_name, toInt8(stack_end) AS end, toInt64(intDivOrZero(profile_value, sample_count)) AS period, process_id AS first_process, max(process_id) AS last_process, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND stack_id IN (SELECT stack_id FROM profile.stacks WHERE app_service = ? AND position(frames, ?) != 0)
        GROUP BY stack_id, thread_name, end, period, first_process
        [Text("java"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("java"), Text("[/tmp/perf-PID.map]")]
        "#);
    }

    #[test]
    fn total_is_aggregated_by_process_and_thread() {
        assert_snapshot!(text(&total(&request("pod_node = 'n'"), &Sources::raw(RANGE))), @r#"
        SELECT process_name, thread_name, main_thread, toInt64(intDivOrZero(profile_value, sample_count)) AS period, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_node` = ?
        GROUP BY process_name, thread_name, main_thread, period
        [Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("n")]
        "#);
    }

    #[test]
    fn stacks_are_those_of_the_apps_rows() {
        assert_snapshot!(text(&stacks(&request("pod_ns = 'a'"), &Sources::raw(RANGE), "java")), @r#"
        SELECT stack_id, any(s.frames) AS frames
        FROM profile.stacks AS s
        WHERE app_service = ? AND stack_id IN (SELECT stack_id
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_ns` = ?
        GROUP BY stack_id)
        GROUP BY stack_id
        [Text("java"), Text("java"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a")]
        "#);
    }

    #[test]
    fn what_was_lost_is_asked_for_all_nodes_and_the_nodes_of_an_answer_apart() {
        let of_nodes = request("pod_node IN ('n', 'm') AND pod = 'x'").filter.unwrap().of_nodes();
        assert_snapshot!(text(&losses(RANGE, of_nodes.as_ref())), @r#"
        SELECT pod_cluster, pod_node, reason, sum(samples) AS lost
        FROM profile.losses
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_node` IN (?, ?)
        GROUP BY pod_cluster, pod_node, reason
        [Int(100), Int(200), Text("n"), Text("m")]
        "#);
        assert_snapshot!(text(&losses(RANGE, None)), @r#"
        SELECT pod_cluster, pod_node, reason, sum(samples) AS lost
        FROM profile.losses
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY pod_cluster, pod_node, reason
        [Int(100), Int(200)]
        "#);
        assert_snapshot!(text(&nodes(&request("pod_ns = 'a'"), &Sources::raw(RANGE))), @r#"
        SELECT pod_cluster, pod_node
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_ns` = ?
        GROUP BY pod_cluster, pod_node
        [Text("redis-server"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a")]
        "#);
    }

    #[test]
    fn apps_are_ordered_by_value() {
        assert_snapshot!(text(&apps(&Sources::raw(RANGE), 10)), @r"
        SELECT app_service, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND app_service NOT IN ('', 'Total')
        GROUP BY app_service
        ORDER BY value DESC, app_service LIMIT 10
        [Int(100), Int(200)]
        ");
    }

    #[test]
    fn what_was_seen_is_asked_by_key_and_by_range_first() {
        assert_snapshot!(text(&seen_app(&request(""), &Sources::raw(RANGE), "it's")), @r#"
        SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, countIf(in_range) AS rows_in_range
        FROM (
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1h WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1m WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) AS in_range
        FROM profile.in_process_local WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        )
        GROUP BY app_service
        ORDER BY app_service
        SETTINGS max_execution_time = 5
        [Text("it's"), Text("on-cpu"), Text("eBPF"), Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("it's"), Text("on-cpu"), Text("eBPF")]
        "#);
        assert_snapshot!(text(&seen(&request("pod = 'x'"), &Sources::raw(RANGE), 10)), @r#"
        SELECT app_service, min(toUnixTimestamp(time)) AS first_seen, max(toUnixTimestamp(time)) AS last_seen, sum(toUInt64(1)) AS rows_in_range
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY app_service
        ORDER BY rows_in_range DESC, app_service LIMIT 10
        SETTINGS max_execution_time = 5
        [Text("on-cpu"), Text("eBPF"), Int(100), Int(200)]
        "#);
        assert_snapshot!(text(&seen_ever(&request("pod = 'x'"), &Sources::raw(RANGE), 10)), @r#"
        SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, toUInt64(0) AS rows_in_range
        FROM (
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1h WHERE profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1m WHERE profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) AS in_range
        FROM profile.in_process_local WHERE profile_event_type = ? AND profile_language_type = ?
        )
        GROUP BY app_service
        ORDER BY last_seen DESC, app_service LIMIT 10
        SETTINGS max_execution_time = 5
        [Text("on-cpu"), Text("eBPF"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("on-cpu"), Text("eBPF")]
        "#);
    }
}
