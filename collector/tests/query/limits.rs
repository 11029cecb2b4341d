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
    let enough = Collector::start_with(client(), Limits { max_rows: 2, ..Limits::default() }).await;
    assert_eq!(enough.get(FLAME).await.status, 200);
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
