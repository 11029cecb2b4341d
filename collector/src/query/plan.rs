//! The SQL of each question: text with a `?` for every value, and the values.

use hearth_profile::frame::PERF_MAP_FRAME;

use super::filter::Expr;
use super::grouped::{Grouped, PERIOD, Part, ROLLED_UP, SAMPLES, VALUE};
use super::request::{Request, Subject, TOTAL, TimeRange};
use super::scope::Scope;
use super::source::Sources;
use super::statement::table::{Branch, times};
use super::statement::{Condition, Sql, Statement, Value};

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
    grouped.from(sources, |branch| condition(request, branch, Some(app_service)))
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
    let ids = stack_ids(request, sources, app_service);
    let differ = Statement::of_stacks("stack_id", app_service, ids, Some(PERF_MAP_FRAME), "");
    grouped.from(sources, |branch| {
        let mut condition = condition(request, branch, Some(app_service));
        condition.more.push(differ.clone().has("stack_id"));
        condition
    })
}

/// Value by process name, thread name, whether it is the main thread, and rate.
pub fn total(request: &Request, sources: &Sources) -> Statement {
    let keys = [("process_name", "process_name"), THREAD, ("main_thread", "main_thread"), PERIOD];
    let grouped = Grouped { keys: &keys, key_values: &[], parts: &[SAMPLES, VALUE, ROLLED_UP], tail: "" };
    grouped.from(sources, |branch| condition(request, branch, None))
}

/// The frames of the stacks that [`app`] finds. Grouped, because a stack that
/// was sent again stands in several rows until its parts are merged.
pub fn stacks(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let ids = stack_ids(request, sources, app_service);
    let columns = "stack_id, any(s.frames) AS frames";
    Statement::of_stacks(columns, app_service, ids, None, "\nGROUP BY stack_id")
}

fn stack_ids(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let grouped = Grouped { keys: &[STACK], key_values: &[], parts: &[], tail: "" };
    grouped.from(sources, |branch| condition(request, branch, Some(app_service)))
}

/// What the agents of all nodes lost, or of those that meet a condition on nodes. Where whole nodes
/// are not to be seen: of the nodes that have rows in the answer.
pub fn losses(request: &Request, sources: &Sources, of_nodes: Option<&Expr>) -> Statement {
    let condition = Condition {
        own: times("time", &[sources.range()]),
        more: of_nodes.map(|of_nodes| Sql::of(|values| of_nodes.sql(values))).into_iter().collect(),
    };
    let columns = "pod_cluster, pod_node, reason, sum(samples) AS lost";
    let tail = "\nGROUP BY pod_cluster, pod_node, reason";
    Statement::of_losses(columns, sources.scope(), condition, || nodes(request, sources), tail)
}

/// The nodes that have rows in an answer.
pub fn nodes(request: &Request, sources: &Sources) -> Statement {
    let app_service = match &request.subject {
        Subject::Total => None,
        Subject::App(app_service) => Some(app_service.as_str()),
    };
    let keys = [("pod_cluster", "pod_cluster"), ("pod_node", "pod_node")];
    let grouped = Grouped { keys: &keys, key_values: &[], parts: &[], tail: "" };
    grouped.from(sources, |branch| condition(request, branch, app_service))
}

/// The app services of a range that can be asked for by name, the hottest first.
/// At most `limit`.
pub fn apps(sources: &Sources, limit: u64) -> Statement {
    let tail = format!("\nORDER BY value DESC, app_service LIMIT {limit}");
    let grouped = Grouped { keys: &[APP], key_values: &[], parts: &[SAMPLES, VALUE, ROLLED_UP], tail: &tail };
    let named = format!("app_service NOT IN ('', '{TOTAL}')");
    grouped.from(sources, |branch| Condition {
        own: branch.time().and(&Sql::from(named.as_str())),
        more: Vec::new(),
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
    grouped.from(sources, |branch| condition(&request, branch, None))
}

/// Which rows of a table a question means.
pub(super) fn condition(request: &Request, branch: &Branch<'_>, app_service: Option<&str>) -> Condition {
    let own = type_condition(request).and(&branch.time());
    let own = match app_service {
        Some(app_service) => is_app(app_service).and(&own),
        None => own,
    };
    let filter = request.filter.as_ref().map(|filter| {
        Sql::of(|values| match app_service {
            Some(_) => filter.sql(values),
            None => filter.sql_of_total(values),
        })
    });
    Condition { own, more: filter.into_iter().collect() }
}

fn is_app(app_service: &str) -> Sql {
    Sql::about("app_service = ?", app_service)
}

fn type_condition(request: &Request) -> Sql {
    Sql::of(|values| {
        values.extend([request.event, request.language].map(|t| Value::Text(t.to_owned())));
        "profile_event_type = ? AND profile_language_type = ?".to_owned()
    })
}

/// When an app service was first and last seen, and its rows in the range: by
/// the primary key, whatever else is stored.
pub fn seen_app(request: &Request, sources: &Sources, app_service: &str) -> Statement {
    let which = is_app(app_service).and(&type_condition(request));
    seen_statement("countIf(in_range)", sources, &which, "app_service")
}

/// The app services that were seen last, at any time. At most `limit`.
pub fn seen_ever(request: &Request, sources: &Sources, limit: u64) -> Statement {
    let order = format!("last_seen DESC, app_service LIMIT {limit}");
    seen_statement("toUInt64(0)", sources, &type_condition(request), &order)
}

fn seen_statement(rows: &str, sources: &Sources, which: &Sql, order: &str) -> Statement {
    let of_table = |branch: Branch<'_>| {
        let columns = Sql::of(|values| {
            let in_range = match branch.ranges.as_slice() {
                [] => "0".to_owned(),
                ranges => format!("({})", times("time", ranges).write(values)),
            };
            format!("app_service, time, {in_range} AS in_range")
        });
        Statement::of_rows(columns, &branch, Condition { own: which.clone(), more: Vec::new() }, "")
    };
    let columns = format!(
        "app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, \
         {rows} AS rows_in_range"
    );
    let tail = format!("\nGROUP BY app_service{}", seen_tail(order));
    Statement::of_all(&columns, sources.tables().map(of_table).collect(), &tail)
}

/// Nobody waits for a reason as long as for an answer.
fn seen_tail(order: &str) -> String {
    format!("\nORDER BY {order}\nSETTINGS max_execution_time = {REASON_SECONDS}")
}

/// When a scope has rows first and last in the hours of a range, whatever they are of, and how many.
pub fn first_and_last(scope: &Scope, hours: TimeRange) -> Statement {
    let sources = Sources::raw(scope.clone(), hours);
    let of_table = |branch: Branch<'_>| {
        let columns = Sql::from("min(time) AS least, max(time) AS greatest, count() AS n");
        let condition = Condition { own: times("time", &[hours]), more: Vec::new() };
        Statement::of_rows(columns, &branch, condition, "\nHAVING n > 0")
    };
    let columns =
        "toUnixTimestamp(min(least)) AS first, toUnixTimestamp(max(greatest)) AS last, sum(n) AS rows_there";
    Statement::of_all(columns, sources.tables().map(of_table).collect(), "")
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

    fn raw() -> Sources {
        Sources::raw(Scope::All, RANGE)
    }

    fn text(statement: &Statement) -> String {
        assert_eq!(statement.sql().matches('?').count(), statement.values().len(), "{statement:?}");
        format!("{}\n{:?}", statement.sql(), statement.values())
    }

    #[test]
    fn an_app_is_aggregated_by_stack_and_thread() {
        assert_snapshot!(text(&app(&request("pod_ns = 'a' OR cpu = 1"), &raw(), "it's")), @r#"
        SELECT stack_id, thread_name, toInt8(stack_end) AS end, toInt64(intDivOrZero(profile_value, sample_count)) AS period, min(process_id) AS first_process, max(process_id) AS last_process, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND (`pod_ns` = ? OR `cpu` = ?)
        GROUP BY stack_id, thread_name, end, period
        [Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a"), Int(1)]
        "#);
    }

    #[test]
    fn stacks_that_differ_by_process_are_aggregated_by_it() {
        assert_snapshot!(text(&app_by_process(&request(""), &raw(), "java")), @r#"
        SELECT stack_id, thread_name, toInt8(stack_end) AS end, toInt64(intDivOrZero(profile_value, sample_count)) AS period, process_id AS first_process, max(process_id) AS last_process, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND stack_id IN (SELECT stack_id
        FROM profile.stacks AS s
        WHERE app_service = ? AND stack_id IN (SELECT stack_id
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY stack_id) AND position(frames, ?) != 0)
        GROUP BY stack_id, thread_name, end, period, first_process
        [Text("java"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("java"), Text("java"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("[/tmp/perf-PID.map]")]
        "#);
    }

    #[test]
    fn total_is_aggregated_by_process_and_thread() {
        assert_snapshot!(text(&total(&request("pod_node = 'n'"), &raw())), @r#"
        SELECT process_name, thread_name, main_thread, toInt64(intDivOrZero(profile_value, sample_count)) AS period, sum(toUInt64(sample_count)) AS samples, sum(profile_value) AS value, sum(toInt64(0)) AS rolled_up
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_node` = ?
        GROUP BY process_name, thread_name, main_thread, period
        [Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("n")]
        "#);
    }

    #[test]
    fn stacks_are_those_of_the_apps_rows() {
        assert_snapshot!(text(&stacks(&request("pod_ns = 'a'"), &raw(), "java")), @r#"
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
        assert_snapshot!(text(&losses(&request(""), &raw(), of_nodes.as_ref())), @r#"
        SELECT pod_cluster, pod_node, reason, sum(samples) AS lost
        FROM profile.losses
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_node` IN (?, ?)
        GROUP BY pod_cluster, pod_node, reason
        [Int(100), Int(200), Text("n"), Text("m")]
        "#);
        assert_snapshot!(text(&losses(&request(""), &raw(), None)), @r#"
        SELECT pod_cluster, pod_node, reason, sum(samples) AS lost
        FROM profile.losses
        WHERE time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY pod_cluster, pod_node, reason
        [Int(100), Int(200)]
        "#);
        assert_snapshot!(text(&nodes(&request("pod_ns = 'a'"), &raw())), @r#"
        SELECT pod_cluster, pod_node
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC') AND `pod_ns` = ?
        GROUP BY pod_cluster, pod_node
        [Text("redis-server"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("a")]
        "#);
    }

    #[test]
    fn apps_are_ordered_by_value() {
        assert_snapshot!(text(&apps(&raw(), 10)), @r"
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
        assert_snapshot!(text(&seen_app(&request(""), &raw(), "it's")), @r#"
        SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, countIf(in_range) AS rows_in_range
        FROM (
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1h
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1m
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) AS in_range
        FROM profile.in_process_local
        WHERE app_service = ? AND profile_event_type = ? AND profile_language_type = ?
        )
        GROUP BY app_service
        ORDER BY app_service
        SETTINGS max_execution_time = 5
        [Text("it's"), Text("on-cpu"), Text("eBPF"), Text("it's"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("it's"), Text("on-cpu"), Text("eBPF")]
        "#);
        assert_snapshot!(text(&seen(&request("pod = 'x'"), &raw(), 10)), @r#"
        SELECT app_service, min(toUnixTimestamp(time)) AS first_seen, max(toUnixTimestamp(time)) AS last_seen, sum(toUInt64(1)) AS rows_in_range
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ? AND time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')
        GROUP BY app_service
        ORDER BY rows_in_range DESC, app_service LIMIT 10
        SETTINGS max_execution_time = 5
        [Text("on-cpu"), Text("eBPF"), Int(100), Int(200)]
        "#);
        assert_snapshot!(text(&seen_ever(&request("pod = 'x'"), &raw(), 10)), @r#"
        SELECT app_service, toUnixTimestamp(min(time)) AS first_seen, toUnixTimestamp(max(time)) AS last_seen, toUInt64(0) AS rows_in_range
        FROM (
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1h
        WHERE profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, 0 AS in_range
        FROM profile.in_process_1m
        WHERE profile_event_type = ? AND profile_language_type = ?
        UNION ALL
        SELECT app_service, time, (time >= toDateTime(?, 'UTC') AND time <= toDateTime(?, 'UTC')) AS in_range
        FROM profile.in_process_local
        WHERE profile_event_type = ? AND profile_language_type = ?
        )
        GROUP BY app_service
        ORDER BY last_seen DESC, app_service LIMIT 10
        SETTINGS max_execution_time = 5
        [Text("on-cpu"), Text("eBPF"), Text("on-cpu"), Text("eBPF"), Int(100), Int(200), Text("on-cpu"), Text("eBPF")]
        "#);
    }
}
