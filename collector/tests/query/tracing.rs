//! `ProfileTracing`: what is found.

use serde_json::json;

use crate::common::{Collector, insert};

#[tokio::test]
async fn an_app_is_answered_as_deepflow_answers() {
    insert(
        "1708479420 | df-app | 7 | df-app | redis-server | main | complete | 3 | a | main;aeMain;[l] read
         1708479430 | df-app | 7 | df-app | redis-server | main | complete | 1 | a | main;aeMain;[l] read
         1708479430 | df-app | 7 | df-app | redis-server | main | complete | 2 | a | main;aeMain
         1708479430 | df-app | 8 | df-app | io_thd_1 | other | complete | 1 | a | [unknown start_thread?]
         1708479450 | df-app | 8 | df-app | io_thd_1 | other | complete | 9 | a | [unknown start_thread?]",
    )
    .await;
    let reply = Collector::start().await.ask("df-app", 1_708_479_420, 1_708_479_440, &[]).await;

    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json(),
        json!({
            "OPT_STATUS": "SUCCESS",
            "DESCRIPTION": "",
            "result": [
                {
                    "profile_location_str": "df-app",
                    "node_id": "",
                    "parent_node_id": "-1",
                    "self_value": 0,
                    "total_value": 70707
                },
                {
                    "profile_location_str": "[t] redis-server",
                    "node_id": "6d7dc984-5cb0-5c85-a0f5-093a77f3aee3",
                    "parent_node_id": "",
                    "self_value": 0,
                    "total_value": 60606
                },
                {
                    "profile_location_str": "main",
                    "node_id": "88bdae60-962d-5cc4-b18b-da9bd1cee39e",
                    "parent_node_id": "6d7dc984-5cb0-5c85-a0f5-093a77f3aee3",
                    "self_value": 0,
                    "total_value": 60606
                },
                {
                    "profile_location_str": "aeMain",
                    "node_id": "710020a6-4c0f-53b2-886b-a922554dcac6",
                    "parent_node_id": "88bdae60-962d-5cc4-b18b-da9bd1cee39e",
                    "self_value": 20202,
                    "total_value": 60606
                },
                {
                    "profile_location_str": "[l] read",
                    "node_id": "74993072-ab53-5412-b7ad-e911aeb2f668",
                    "parent_node_id": "710020a6-4c0f-53b2-886b-a922554dcac6",
                    "self_value": 40404,
                    "total_value": 40404
                },
                {
                    "profile_location_str": "[t] io_thd_1",
                    "node_id": "33b22837-ad11-5aa0-b264-515e7be2eb10",
                    "parent_node_id": "",
                    "self_value": 0,
                    "total_value": 10101
                },
                {
                    "profile_location_str": "[unknown start_thread?]",
                    "node_id": "37340ab0-a4af-5059-8d6d-abc059d63631",
                    "parent_node_id": "33b22837-ad11-5aa0-b264-515e7be2eb10",
                    "self_value": 10101,
                    "total_value": 10101
                }
            ],
            "debug": null
        })
    );
    // The envelope's order, for readers of text.
    assert!(reply.text.starts_with(r#"{"OPT_STATUS":"SUCCESS","DESCRIPTION":"","result":[{"#));
    assert!(reply.text.ends_with(r#"}],"debug":null}"#));
}

#[tokio::test]
async fn columns_are_answered_as_newer_deepflows_do() {
    insert("1708483020 | cols | 7 | cols | cols | main | complete | 2 | a | main;[k] entry").await;
    let format = [("format", json!("columns"))];
    let reply = Collector::start().await.ask("cols", 1_708_483_020, 1_708_483_020, &format).await;
    assert_eq!(
        reply.json()["result"],
        json!({
            "functions": ["cols", "[t] cols", "main", "[k] entry"],
            "function_types": ["P", "T", "A", "K"],
            "function_values": {
                "columns": ["self_value", "total_value"],
                "values": [[0, 20202], [0, 20202], [0, 20202], [20202, 20202]]
            },
            "node_values": {
                "columns": ["function_id", "parent_node_id", "self_value", "total_value"],
                "values": [[0, -1, 0, 20202], [1, 0, 0, 20202], [2, 1, 0, 20202], [3, 2, 20202, 20202]]
            }
        })
    );
}

/// Every letter that on-cpu profiles have; `O` is for memory alone.
#[tokio::test]
async fn columns_say_of_what_kind_a_function_is() {
    insert(
        "1708545420 | kinds | 7 | kinds | w | other | complete | 1 | a | main;[l] f;[c] g;[/lib/x.so]
         1708545420 | kinds | 7 | kinds | w | other | complete | 2 | a | main;[unknown] 0x0000000000000007;[k] h",
    )
    .await;
    let collector = Collector::start().await;
    let ask = async |app: &str| {
        let format = [("format", json!("columns"))];
        collector.ask(app, 1_708_545_420, 1_708_545_420, &format).await.json()["result"].clone()
    };
    let mut app = ask("kinds").await;
    let names = app["functions"].as_array().unwrap().clone();
    let kind = |name: &str| {
        let at = names.iter().position(|n| n == name).unwrap();
        app["function_types"][at].as_str().unwrap().to_owned()
    };
    for (name, letter) in [
        ("kinds", "P"),
        ("[t] w", "T"),
        ("main", "A"),
        ("[l] f", "L"),
        ("[c] g", "C"),
        ("[/lib/x.so]", "?"),
        ("[unknown] 0x0000000000000007", "?"),
        ("[k] h", "K"),
    ] {
        assert_eq!(kind(name), letter, "{name}");
    }
    // As many of each, node 0 the root, and every node after its parent.
    let length = |column: &serde_json::Value| column.as_array().unwrap().len();
    assert_eq!(length(&app["function_types"]), names.len());
    assert_eq!(length(&app["function_values"]["values"]), names.len());
    let nodes = app["node_values"]["values"].take();
    assert_eq!(nodes[0], json!([0, -1, 0, 30303]));
    let mut selves = 0;
    for (at, node) in nodes.as_array().unwrap().iter().enumerate() {
        let [function, parent, self_value, total] = [0, 1, 2, 3].map(|column| node[column].as_i64().unwrap());
        assert!((0..names.len() as i64).contains(&function) && parent < at as i64, "{node}");
        assert!(self_value <= total, "{node}");
        selves += self_value;
    }
    assert_eq!(selves, 30303);
    let total = ask("Total").await;
    assert_eq!(total["functions"], json!(["Total", "[p] kinds", "[t] w"]));
    assert_eq!(total["function_types"], json!(["H", "P", "T"]));
}

/// `Total` is asked for by name, so a process of that name cannot be: it has its
/// place in `Total`, and is listed nowhere.
#[tokio::test]
async fn a_process_called_total_is_one_among_all() {
    insert(
        "1708549020 | Total | 7 | Total | Total | main | complete | 2 | a | main
         1708549020 | sh    | 8 | sh    | sh    | main | complete | 1 | a | main",
    )
    .await;
    let collector = Collector::start().await;
    let reply = collector.ask("Total", 1_708_549_020, 1_708_549_020, &[]).await;
    assert_eq!(reply.outline(), "Total 0/30303\n  [p] Total 20202/20202\n  [p] sh 10101/10101\n");
    let apps = collector.get("/api/v1/apps?from=1708549020&until=1708549020").await.json();
    assert_eq!(apps["apps"], json!([{ "name": "sh", "samples": 1, "value": 10101 }]));
    let reply = collector.ask("no such name", 1_708_549_020, 1_708_549_020, &[]).await.json();
    let reason = "no app_service \"no such name\" is stored; stored between 2024-02-21 20:57:00 UTC \
                  and 2024-02-21 20:57:00 UTC are, for example: sh";
    assert_eq!(reply["DESCRIPTION"], reason);
}

#[tokio::test]
async fn total_holds_every_process_by_thread() {
    insert(
        "1708486620 | tot-a | 7 | tot-a | tot-a | main | complete | 3 | a | main
         1708486620 | tot-a | 7 | tot-a | worker | other | complete | 5 | a | start
         1708486620 |       | 9 | sh    | sh     | main | counted | 2 | b |
         1708486630 |       | 9 | sh    | sh     | main | counted | 2 | b |",
    )
    .await;
    let collector = Collector::start().await;
    let reply = collector.ask("Total", 1_708_486_620, 1_708_486_630, &[]).await;
    assert_eq!(
        reply.outline(),
        "Total 0/121212\n\
         \x20 [p] tot-a 30303/80808\n\
         \x20   [t] worker 50505/50505\n\
         \x20 [p] sh 40404/40404\n"
    );
    let only_b = [("tag_filter", json!("pod_ns = 'b'"))];
    let reply = collector.ask("Total", 1_708_486_620, 1_708_486_630, &only_b).await;
    assert_eq!(reply.outline(), "Total 0/40404\n  [p] sh 40404/40404\n");
}

#[tokio::test]
async fn a_jvms_unnamed_frame_shows_the_process() {
    insert(
        "1708490220 | jvm | 41 | java | C2 | other | complete | 3 | a | run;[/tmp/perf-PID.map]
         1708490220 | jvm | 42 | java | C2 | other | complete | 1 | a | run;[/tmp/perf-PID.map]
         1708490230 | jvm | 41 | java | C2 | other | complete | 1 | a | run;[/tmp/perf-PID.map]
         1708490230 | jvm | 42 | java | C2 | other | complete | 1 | a | run",
    )
    .await;
    let collector = Collector::start().await;
    assert_eq!(
        collector.ask("jvm", 1_708_490_220, 1_708_490_230, &[]).await.outline(),
        "jvm 0/60606\n\
         \x20 [t] C2 0/60606\n\
         \x20   run 10101/60606\n\
         \x20     [/tmp/perf-41.map] 40404/40404\n\
         \x20     [/tmp/perf-42.map] 10101/10101\n"
    );
    // One process only: no second look is needed.
    assert_eq!(
        collector
            .ask("jvm", 1_708_490_220, 1_708_490_230, &[("tag_filter", json!("process_id = 42"))])
            .await
            .outline(),
        "jvm 0/20202\n\
         \x20 [t] C2 0/20202\n\
         \x20   run 10101/20202\n\
         \x20     [/tmp/perf-42.map] 10101/10101\n"
    );
}

#[tokio::test]
async fn both_ends_count_and_the_first_window_counts_whole() {
    insert(
        "1708493810 | ends | 7 | ends | ends | main | complete | 1 | a | before
         1708493820 | ends | 7 | ends | ends | main | complete | 1 | a | first
         1708493830 | ends | 7 | ends | ends | main | complete | 1 | a | last
         1708493840 | ends | 7 | ends | ends | main | complete | 1 | a | after",
    )
    .await;
    let collector = Collector::start().await;
    let expected = "ends 0/20202\n  [t] ends 0/20202\n    first 10101/10101\n    last 10101/10101\n";
    let exact = collector.ask("ends", 1_708_493_820, 1_708_493_830, &[]).await;
    assert_eq!(exact.outline(), expected);
    let inside = collector.ask("ends", 1_708_493_829, 1_708_493_839, &[]).await;
    assert_eq!(inside.outline(), expected);
    assert_eq!(
        inside.json()["DESCRIPTION"],
        "the start, 1708493829, was moved to 1708493820 (2024-02-21 05:37:00 UTC): \
         samples are stored by windows of 10 s"
    );
}

#[tokio::test]
async fn incomplete_stacks_are_said() {
    insert(
        "1708497420 | inc | 7 | inc | inc | main | complete  | 7 | a | main
         1708497420 | inc | 7 | inc | inc | main | truncated | 2 | a | [truncated];deep
         1708497420 | inc | 7 | inc | inc | main | lost      | 1 | a | [stack trace lost]",
    )
    .await;
    let reply = Collector::start().await.ask("inc", 1_708_497_420, 1_708_497_420, &[]).await;
    assert_eq!(
        reply.json()["DESCRIPTION"],
        "30.0 % of the time is in incomplete stacks (20.0 % deeper than what is walked, 10.0 % lost altogether)"
    );
}

#[tokio::test]
async fn kernel_frames_can_be_cut() {
    insert(
        "1708501020 | kern | 7 | kern | kern | main | complete | 1 | a | main;[k] entry;[k] read;[k] copy",
    )
    .await;
    let collector = Collector::start().await;
    for (depth, leaf) in [
        (-1, "[k] copy"),
        (5_000_000_000_i64, "[k] copy"),
        (4, "[k] copy"),
        (3, "[k] copy"),
        (2, "[k] read"),
        (1, "[k] entry"),
        (0, "main"),
    ] {
        let more = [("max_kernel_stack_depth", json!(depth))];
        let reply = collector.ask("kern", 1_708_501_020, 1_708_501_020, &more).await;
        assert_eq!(reply.json()["result"][0]["total_value"], 10101, "{depth}");
        let last = reply.json()["result"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(
            (&last["profile_location_str"], &last["self_value"]),
            (&json!(leaf), &json!(10101)),
            "{depth}"
        );
    }
}

#[tokio::test]
async fn values_are_bound_and_never_sql() {
    insert(
        "1708504620 | it's\\ ? | 7 | x | x | main | complete | 1 | it's | main
         1708504620 | other    | 7 | x | x | main | complete | 1 | b    | main",
    )
    .await;
    let collector = Collector::start().await;
    let ask = async |app: &str, filter: &str| {
        collector.ask(app, 1_708_504_620, 1_708_504_620, &[("tag_filter", json!(filter))]).await
    };
    assert_eq!(ask("it's\\ ?", "").await.json()["result"][0]["total_value"], 10101);
    assert_eq!(ask("it's\\ ?", "pod_ns = 'it''s'").await.json()["result"][0]["total_value"], 10101);
    assert_eq!(ask("it's\\ ?", "pod_ns IN ('x', \"it's\")").await.json()["result"][0]["total_value"], 10101);
    assert_eq!(ask("it's\\ ?", "NOT pod_ns = 'it''s'").await.json()["result"], json!(null));
    for evil in ["x' OR 1=1 --", "x\\' OR 1=1 --", "x\\", "'; DROP TABLE profile.stacks; --", "\u{0}"] {
        assert_eq!(ask(evil, "").await.json()["result"], json!(null), "{evil}");
        assert_eq!(
            ask("other", &format!("pod_ns = \"{evil}\"")).await.json()["result"],
            json!(null),
            "{evil}"
        );
    }
    assert_eq!(ask("other", "pod_ns = 'b'").await.json()["result"][0]["total_value"], 10101);
}

#[tokio::test]
async fn sql_on_the_documented_table_agrees() {
    insert(
        "1708511820 | view | 41 | java | C2   | other | complete | 3 | a | run;[/tmp/perf-PID.map]
         1708511820 | view | 42 | java | C2   | other | complete | 1 | a | run;[/tmp/perf-PID.map]
         1708511830 | view | 42 | java | java | main  | complete | 4 | a | main
         1708511830 | view | 42 | java | java | main  | counted  | 2 | a |
         1708511820 |      | 9  | sh   | sh   | main  | counted  | 5 | b |
         1708511820 | Total | 8 | Total | Total | main | complete | 6 | b | main",
    )
    .await;
    // A row whose stack is not there.
    let lost = "INSERT INTO profile.in_process_local (time, app_service, process_name, thread_name, stack_id, \
                profile_value, profile_event_type, profile_language_type) \
                VALUES (1708511820, 'view', 'java', 'C2', 'not stored', 10101, 'on-cpu', 'eBPF')";
    crate::common::client().query_raw(lost).execute().await.unwrap();
    let collector = Collector::start().await;
    for app in ["view", "Total"] {
        let sql = format!(
            "SELECT concat('{app};', profile_location_str, ' ', toString(sum(profile_value))) AS line \
             FROM profile.in_process WHERE app_service = '{app}' AND time BETWEEN 1708511820 AND 1708511830 \
             GROUP BY profile_location_str ORDER BY line"
        );
        let by_sql: Vec<String> = crate::common::client().query_raw(&sql).fetch_all().await.unwrap();
        let path =
            format!("/api/v1/flamegraph?app_service={app}&from=1708511820&until=1708511830&format=folded");
        let folded = collector.get(&path).await.text;
        let mut by_api: Vec<&str> = folded.lines().collect();
        by_api.sort_unstable();
        assert_eq!(by_sql, by_api);
    }
}

#[tokio::test]
async fn thousands_of_stacks() {
    let id = "toFixedString(sipHash128(number), 16)";
    let client = crate::common::client();
    let stacks = format!(
        "INSERT INTO profile.stacks (app_service, stack_id, frames, last_seen) \
         SELECT 'many', {id}, concat('f', toString(number)), toDateTime(1708508220, 'UTC') FROM numbers(9000)"
    );
    client.query_raw(&stacks).execute().await.unwrap();
    let rows = format!(
        "INSERT INTO profile.in_process_local \
         (time, app_service, process_name, thread_name, stack_id, profile_value, profile_event_type, profile_language_type) \
         SELECT toDateTime(1708508220, 'UTC'), 'many', 'many', 'many', {id}, number + 1, 'on-cpu', 'eBPF' \
         FROM numbers(9000)"
    );
    client.query_raw(&rows).execute().await.unwrap();

    let reply = Collector::start().await.ask("many", 1_708_508_220, 1_708_508_220, &[]).await.json();
    let rows = reply["result"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["total_value"]), (9002, &json!(9000 * 9001 / 2)));
    assert_eq!(rows[2]["profile_location_str"], "f8999");
    assert_eq!(rows[9001]["profile_location_str"], "f0");
    assert_eq!(reply["DESCRIPTION"], "");
}
