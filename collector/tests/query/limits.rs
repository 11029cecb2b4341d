//! Bounds, and a store that is not there.

use std::time::Duration;

use clickhouse::Client;
use hearth_collector::query::Limits;
use serde_json::json;

use crate::common::{Collector, client, insert};

const FLAME: &str = "/api/v1/flamegraph?app_service=bounded&from=1708520000&until=1708530000";

/// Status, OPT_STATUS and DESCRIPTION of `ProfileTracing`; status and body of our own API.
async fn check(collector: &Collector, status: u16, opt_status: &str, message: &str) {
    let reply = collector.ask("bounded", 1_708_520_000, 1_708_530_000, &[]).await;
    let expected = json!({ "OPT_STATUS": opt_status, "DESCRIPTION": message, "result": null, "debug": null });
    assert_eq!((reply.status, reply.json()), (status, expected));
    let reply = collector.get(FLAME).await;
    assert_eq!((reply.status, reply.json()), (status, json!({ "error": message })));
}

#[tokio::test]
async fn an_answer_beyond_the_bound_on_rows_is_refused_and_not_cut() {
    insert(
        "1708527420 | bounded | 7 | x | a | main | complete | 1 | a | main
         1708527420 | bounded | 7 | x | b | main | complete | 1 | a | main",
    )
    .await;
    let remedy = "ask for a shorter time range, or narrow it with a filter";
    let refused = async |limits: Limits, reason: &str| {
        let collector = Collector::start_with(client(), limits).await;
        check(&collector, 422, "RESOURCE_NUM_EXCEEDED", &format!("{reason}: {remedy}")).await;
    };
    refused(
        Limits { max_rows: 1, ..Limits::default() },
        "the answer is too large, more than 1 rows (--query-max-rows)",
    )
    .await;
    refused(
        Limits { max_bytes: 3, ..Limits::default() },
        "the answer is too large, more than 3 bytes (--query-max-bytes)",
    )
    .await;
    refused(
        Limits { max_memory: 1000, ..Limits::default() },
        "the query needs too much memory in the store, more than 1000 bytes (--query-max-memory)",
    )
    .await;
    let enough = Collector::start_with(client(), Limits { max_rows: 2, ..Limits::default() }).await;
    assert_eq!(enough.get(FLAME).await.status, 200);
}

/// The longest chains and the deepest nesting that are taken are no failure of the store's.
#[tokio::test]
async fn filters_at_their_bounds_are_answered() {
    insert("1708531020 | longest | 7 | x | x | main | complete | 1 | a | main").await;
    let collector = Collector::start().await;
    let ask = async |filter: String| {
        let filter = [("tag_filter", json!(filter))];
        let reply = collector.ask("longest", 1_708_531_020, 1_708_531_020, &filter).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["result"][0]["total_value"].clone()
    };
    let chain = |operator: &str, part: &str| vec![part; 1000].join(operator);
    assert_eq!(ask(chain(" OR ", "pod_ns = 'a'")).await, json!(10101));
    assert_eq!(ask(chain(" OR ", "pod_ns = 'z'")).await, json!(null));
    assert_eq!(ask(chain(" AND ", "pod_ns = 'a'")).await, json!(10101));
    assert_eq!(ask(format!("{}pod_ns = 'a'", "NOT ".repeat(50))).await, json!(10101));
    let nested = format!("{}pod_ns = 'a'{}", "(NOT ".repeat(25), " AND pod = 'b')".repeat(25));
    assert_eq!(ask(nested).await, json!(null));
    // The conditions that are longest in SQL.
    assert_eq!(ask(chain(" OR ", "ip = '10.0.0.0/8'")).await, json!(null));
    assert_eq!(ask(format!("ip NOT IN ({})", chain(", ", "'10.0.0.0/8'"))).await, json!(10101));
    assert_eq!(ask(chain(" AND ", "_id >= 0")).await, json!(10101));
    assert_eq!(ask(chain(" AND ", "k8s.label.app IS NULL")).await, json!(10101));
    let patterns = vec![format!("pod_group_type LIKE '{}'", "*0".repeat(512)); 3];
    assert_eq!(ask(patterns.join(" OR ")).await, json!(null));
    let patterns: Vec<String> = (0..400).map(|n| format!("pod_ns REGEXP '[a-z]{n}'")).collect();
    assert_eq!(ask(patterns.join(" OR ")).await, json!(null));
    // As many bytes as a body may have: more than ClickHouse's own bound on the text of a query.
    let long = "x".repeat(1000);
    assert_eq!(ask(chain(" OR ", &format!("pod_ns != '{long}'"))).await, json!(10101));
}

/// What is grouped counts, whatever is left of it in the answer.
#[tokio::test]
async fn groups_are_bounded_like_rows() {
    insert(
        "1708538220 | group-a | 7 | x | a | main | complete | 1 | a | main
         1708538220 | group-b | 7 | x | a | main | complete | 1 | a | main",
    )
    .await;
    // One row at most is answered, of two groups.
    let one_row = client().with_setting("limit", "1");
    let narrow = Collector::start_with(one_row, Limits { max_rows: 1, ..Limits::default() }).await;
    let reply = narrow.get("/api/v1/apps?from=1708538220&until=1708538220").await;
    assert_eq!(reply.status, 422);
    assert!(reply.text.contains("more than 1 rows (--query-max-rows)"), "{}", reply.text);
}

/// The start of this window, in Unix seconds.
pub(crate) fn now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u32::try_from(since.as_secs() / 10 * 10).unwrap()
}

/// Each row of the table takes more than half a second.
fn slow() -> Client {
    let filter = "{'profile.in_process_local': 'sleepEachRow(0.6) = 0'}";
    client().with_setting("additional_table_filters", filter)
}

#[tokio::test]
async fn a_question_that_takes_too_long_is_ended_by_the_store() {
    // So late that raw rows answer, without a look at what is rolled up.
    let now = now();
    let row = "slow | 7 | x | a | main | complete | 1 | a | main";
    insert(&format!("{} | {row}\n{now} | {row}", now - 10)).await;
    let limits = Limits { max_execution_seconds: 1, grace: Duration::from_secs(60), ..Limits::default() };
    let collector = Collector::start_with(slow(), limits).await;
    let reply = collector.ask("slow", now - 10, now, &[]).await;
    assert_eq!(
        (reply.status, reply.json()["DESCRIPTION"].as_str().unwrap()),
        (
            422,
            "the query took too long, more than 1 seconds (--query-timeout): \
             ask for a shorter time range, or narrow it with a filter"
        )
    );
}

#[tokio::test]
async fn one_question_too_many_is_told_to_come_back() {
    let limits = Limits { concurrent: 0, queue: Duration::from_millis(1), ..Limits::default() };
    let none = Collector::start_with(client(), limits).await;
    check(&none, 429, "FAIL", "too many queries at once: try again in a second").await;
    for path in [FLAME, "/"] {
        let reply = none.get(path).await;
        assert_eq!((reply.status, reply.header("retry-after")), (429, "1"), "{path}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_is_named_and_health_says_so() {
    // Bound and closed again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let alone = Collector::start_with(Client::default().with_url(url), Limits::default()).await;
    let message =
        "the store (ClickHouse) cannot be reached at the moment: try again; see the collector's log";
    check(&alone, 503, "FAIL", message).await;
    assert_eq!(alone.get("/healthz").await.status, 200);
    let ready = alone.get("/readyz").await;
    assert_eq!((ready.status, ready.text.trim()), (503, message));
    let page = alone.get("/").await;
    assert_eq!(page.status, 503);
    assert!(page.text.contains("the store (ClickHouse) cannot be reached at the moment"));
}

#[tokio::test]
async fn a_failure_inside_is_not_told_outside() {
    let wrong = Collector::start_with(client().with_setting("nosuch", "1"), Limits::default()).await;
    check(&wrong, 500, "FAIL", "the query failed in the store (ClickHouse): see the collector's log").await;
}
