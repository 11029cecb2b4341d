//! The requests and answers of DeepFlow's documentation, field by field.

use serde_json::{Value, json};

use crate::common::{Collector, client, insert};

/// The documented request, with the quote and the commas that it lacks there.
fn request(app_service: &str, tag_filter: &str, time_start: u32, time_end: u32) -> String {
    format!(
        r#"{{
    "app_service": "{app_service}",
    "profile_language_type": "eBPF",
    "profile_event_type": "on-cpu",
    "tag_filter": "{tag_filter}",
    "time_start": {time_start},
    "time_end": {time_end}
  }}"#
    )
}

/// `name id parent self total`, one row a line, after a look at every field and its type.
fn rows(answer: &Value) -> Vec<String> {
    let mut envelope: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    envelope.sort_unstable();
    assert_eq!(envelope, ["DESCRIPTION", "OPT_STATUS", "debug", "result"]);
    assert_eq!(
        (&answer["OPT_STATUS"], &answer["DESCRIPTION"], &answer["debug"]),
        (&json!("SUCCESS"), &json!(""), &Value::Null)
    );
    let row = |row: &Value| {
        let mut fields: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        let documented = ["node_id", "parent_node_id", "profile_location_str", "self_value", "total_value"];
        assert_eq!(fields, documented);
        let text = |field: &str| row[field].as_str().unwrap().to_owned();
        let number = |field: &str| row[field].as_u64().unwrap();
        let (name, id, parent) = (text("profile_location_str"), text("node_id"), text("parent_node_id"));
        format!("{name} {id:?} {parent:?} {} {}", number("self_value"), number("total_value"))
    };
    answer["result"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn the_example_of_a_process() {
    insert(
        "1708760010 | deepflow-agent | 7 | deepflow-agent | rx | other | complete | 2 | a | [unknown start_thread?];deepflow_agent::flow_generator::flow_map::FlowMap::inject_meta_packet;[l] __lll_lock_wake_private
         1708760020 | deepflow-agent | 7 | deepflow-agent | rx | other | complete | 1 | a | [unknown start_thread?];[k] __netif_receive_skb_one_core",
    )
    .await;
    let body = request("deepflow-agent", "", 1_708_760_010, 1_708_760_020);
    let reply = Collector::start().await.post(body).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    assert_eq!(
        rows(&reply.json()),
        [
            "deepflow-agent \"\" \"-1\" 0 30303",
            "[t] rx \"396c0ff9-2fdc-59e4-83c4-eb25b3d91bf4\" \"\" 0 30303",
            "[unknown start_thread?] \"62b3fe78-0eae-55f2-9ad2-0aff6d7e9c5b\" \"396c0ff9-2fdc-59e4-83c4-eb25b3d91bf4\" 0 30303",
            "deepflow_agent::flow_generator::flow_map::FlowMap::inject_meta_packet \"a9a10340-98f4-5f72-8306-69b0b99cffda\" \"62b3fe78-0eae-55f2-9ad2-0aff6d7e9c5b\" 0 20202",
            "[l] __lll_lock_wake_private \"c223e291-a56d-5cae-b272-7f16ce13f25a\" \"a9a10340-98f4-5f72-8306-69b0b99cffda\" 20202 20202",
            "[k] __netif_receive_skb_one_core \"ec15ed84-7938-55ee-a6d1-1f4faeae5657\" \"62b3fe78-0eae-55f2-9ad2-0aff6d7e9c5b\" 10101 10101",
        ]
    );
}

#[tokio::test]
async fn the_example_of_total() {
    insert(
        "1708763610 | process-exporte | 7 | process-exporte | process-exporte | main  | complete | 5 | a | main
         1708763610 | deepflow-agent  | 8 | deepflow-agent  | stats-collector | other | complete | 1 | a | main",
    )
    .await;
    let reply = Collector::start().await.post(request("Total", "", 1_708_763_610, 1_708_763_619)).await;
    // The ids of these paths in DeepFlow's own answer.
    assert_eq!(
        rows(&reply.json()),
        [
            "Total \"\" \"-1\" 0 60606",
            "[p] process-exporte \"9d3c5fd3-4cd2-5d04-be22-e0f27144f638\" \"\" 50505 50505",
            "[p] deepflow-agent \"1762633e-a955-5c80-a5be-22529903b0bf\" \"\" 0 10101",
            "[t] stats-collector \"99e8ce53-e3bf-5b33-a63d-aa47e00e2ff4\" \
             \"1762633e-a955-5c80-a5be-22529903b0bf\" 10101 10101",
        ]
    );
}

#[tokio::test]
async fn the_example_of_a_filter() {
    let row = |cluster: &str, namespace: &str, value: u32| {
        let sql = format!(
            "INSERT INTO profile.in_process_local (time, app_service, process_name, thread_name, main_thread, \
             profile_value, profile_event_type, profile_language_type, pod_cluster, pod_ns) \
             VALUES (1708767210, 'df-filter', 'x', 'x', 1, {value}, 'on-cpu', 'eBPF', '{cluster}', '{namespace}')"
        );
        async move { client().query_raw(&sql).execute().await.unwrap() }
    };
    row("prod-cluster", "app", 1).await;
    row("prod-cluster", "other", 20).await;
    row("test-cluster", "app", 300).await;
    let filter = "pod_cluster='prod-cluster' AND pod_ns='app'";
    let body = request("df-filter", filter, 1_708_767_210, 1_708_767_219);
    let total = Collector::start().await.post(body).await.json()["result"][0]["total_value"].clone();
    assert_eq!(total, json!(1));
}

/// What stands in the documentation as it is: a quote and two commas are missing.
#[tokio::test]
async fn the_documented_request_itself_is_told_where_it_breaks() {
    let body = r#"{
    "app_service": "deepflow-agent",
    "profile_language_type": "eBPF",
    "profile_event_type": "on-cpu",
    "tag_filter: "",
    "time_start": 1708479421
    "time_end": 1708480321,
  }"#;
    let reply = Collector::start().await.post(body).await;
    assert_eq!((reply.status, &reply.json()["OPT_STATUS"]), (400, &json!("INVALID_POST_DATA")));
    let description = reply.json()["DESCRIPTION"].as_str().unwrap().to_owned();
    assert!(
        description.starts_with("body is not valid JSON: ") && description.contains("line 5"),
        "{description}"
    );
}
