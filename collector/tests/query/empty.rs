//! No data: always a success without a result, and always a reason.

use hearth_collector::query::Limits;
use serde_json::{Value, json};

use crate::common::{Collector, client, first_answer, insert};

fn check(answer: &Value, description: &str) {
    let expected =
        json!({ "OPT_STATUS": "SUCCESS", "DESCRIPTION": description, "result": null, "debug": null });
    assert_eq!(*answer, expected);
}

#[tokio::test]
async fn an_empty_store_says_so() {
    check(
        &first_answer(),
        "nothing is stored: no agent has sent on-cpu samples yet, or all of them are older than the retention",
    );
}

#[tokio::test]
async fn an_app_of_another_time_says_when() {
    insert(
        "1708600020 | earlier | 7 | x | x | main | complete | 1 | a | main
         1708600050 | earlier | 7 | x | x | main | complete | 1 | a | main",
    )
    .await;
    let reply = Collector::start().await.ask("earlier", 1_708_700_000, 1_708_700_900, &[]).await;
    assert_eq!(reply.status, 200);
    check(
        &reply.json(),
        "app_service \"earlier\" has no samples between 2024-02-23 14:53:20 UTC and 2024-02-23 15:08:20 UTC; \
         the first is of 2024-02-22 11:07:00 UTC, the last of 2024-02-22 11:07:30 UTC",
    );
}

#[tokio::test]
async fn an_app_that_is_not_stored_is_told_the_ones_like_it() {
    insert("1708600020 | memcached-srv | 7 | x | x | main | complete | 1 | a | main").await;
    let collector = Collector::start().await;
    let ask = async |app: &str| collector.ask(app, 1_708_600_020, 1_708_600_020, &[]).await.json();
    check(&ask("memcached").await, "no app_service \"memcached\" is stored; like it: memcached-srv");
    check(&ask("Memcashed-SRV").await, "no app_service \"Memcashed-SRV\" is stored; like it: memcached-srv");
    check(
        &ask("memcached-srv-of-mine").await,
        "no app_service \"memcached-srv-of-mine\" is stored; \
         a process name has at most 15 bytes: this one is \"memcached-srv-o\"; like it: memcached-srv",
    );
}

/// A reason may not cost more than an answer: what is too much is left open.
#[tokio::test]
async fn a_reason_that_is_too_much_to_find_is_left_open() {
    insert(
        "1708600020 | much | 7 | x | x | main | complete | 1 | a | main
         1708600030 | much | 7 | x | x | main | complete | 1 | a | main",
    )
    .await;
    let narrow = client().with_setting("max_rows_to_read", "1");
    let collector = Collector::start_with(narrow, Limits::default()).await;
    let (from, until) = (1_400_000_000, 1_400_000_009);
    let between = "between 2014-05-13 16:53:20 UTC and 2014-05-13 16:53:29 UTC";
    let text = "whether it has others was too much to look through";
    check(
        &collector.ask("much", from, until, &[]).await.json(),
        &format!("app_service \"much\" has no samples {between}; {text}"),
    );
    check(&collector.ask("Total", from, until, &[]).await.json(), &format!("no samples {between}"));
}

#[tokio::test]
async fn a_filter_that_matches_nothing_is_named() {
    insert("1708603620 | filtered | 7 | x | x | main | complete | 1 | a | main").await;
    let collector = Collector::start().await;
    let filter = [("tag_filter", json!("pod_ns = 'z'"))];
    let between = "between 2024-02-22 12:07:00 UTC and 2024-02-22 12:07:00 UTC";
    check(
        &collector.ask("filtered", 1_708_603_620, 1_708_603_620, &filter).await.json(),
        &format!("app_service \"filtered\" has samples {between}, but the filter matches none of them"),
    );
    check(
        &collector.ask("Total", 1_708_603_620, 1_708_603_620, &filter).await.json(),
        &format!("there are samples {between}, but the filter matches none of them"),
    );
}
