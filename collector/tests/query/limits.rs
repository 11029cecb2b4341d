//! Bounds, and a store that is not there.

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
    let message = "the answer is too large: ask for a shorter time range, or narrow it with a filter";
    let rows = Collector::start_with(client(), Limits { max_rows: 1, ..Limits::default() }).await;
    check(&rows, 422, "RESOURCE_NUM_EXCEEDED", message).await;
    let bytes = Collector::start_with(client(), Limits { max_bytes: 3, ..Limits::default() }).await;
    check(&bytes, 422, "RESOURCE_NUM_EXCEEDED", message).await;
    let memory = Collector::start_with(client(), Limits { max_memory: 1000, ..Limits::default() }).await;
    check(&memory, 422, "RESOURCE_NUM_EXCEEDED", message).await;
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

#[tokio::test]
async fn one_question_too_many_is_told_to_come_back() {
    let none = Collector::start_with(client(), Limits { concurrent: 0, ..Limits::default() }).await;
    check(&none, 429, "FAIL", "too many queries at once: try again in a second").await;
    assert_eq!(none.get(FLAME).await.header("retry-after"), "1");
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
