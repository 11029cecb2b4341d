//! How far an answer can be trusted, said with the answer.

use serde_json::{Value, json};

use crate::common::{Collector, client, insert};

/// `time | node | reason | samples`, one a line.
async fn insert_losses(rows: &str) {
    let values: Vec<String> = rows
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [time, node, reason, samples] = fields.try_into().unwrap();
            format!("(toDateTime({time}, 'UTC'), 'c', '{node}', '{reason}', {samples})")
        })
        .collect();
    let sql = format!(
        "INSERT INTO profile.losses (time, pod_cluster, pod_node, reason, samples) VALUES {}",
        values.join(", ")
    );
    client().query_raw(&sql).execute().await.unwrap();
}

/// `time | app | node | samples | microseconds`, one a line, without a stack.
async fn insert_on_nodes(rows: &str) {
    let values: Vec<String> = rows
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split('|').map(str::trim).collect();
            let [time, app, node, samples, value] = fields.try_into().unwrap();
            format!(
                "(toDateTime({time}, 'UTC'), '{app}', 'p', 't', {samples}, {value}, 'on-cpu', 'eBPF', 'c', '{node}')"
            )
        })
        .collect();
    let sql = format!(
        "INSERT INTO profile.in_process_local (time, app_service, process_name, thread_name, sample_count, \
         profile_value, profile_event_type, profile_language_type, pod_cluster, pod_node) VALUES {}",
        values.join(", ")
    );
    client().query_raw(&sql).execute().await.unwrap();
}

async fn flame(app: &str, from: u32, until: u32, filter: &str) -> Value {
    let filter = filter.replace(' ', "%20").replace('\'', "%27").replace('=', "%3D");
    let path = format!("/api/v1/flamegraph?app_service={app}&from={from}&until={until}&filter={filter}");
    let reply = Collector::start().await.get(&path).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

#[tokio::test]
async fn parts_that_are_not_as_they_should_be_are_counted_apart() {
    insert(
        "1709000020 | parts | 7 | x | x | main | complete       | 1  | a | main
         1709000020 | parts | 7 | x | x | main | truncated      | 2  | a | [truncated];deep
         1709000020 | parts | 7 | x | x | main | no-unwind-info | 4  | a | leaf
         1709000020 | parts | 7 | x | x | main | jit            | 8  | a | leaf
         1709000020 | parts | 7 | x | x | main | lost           | 16 | a | [stack trace lost]
         1709000020 | parts | 7 | x | x | main | counted        | 32 | a |
         1709000020 | parts | 7 | x | x | main | complete       | 64 | a | main;[/lib/x.so];[k] read",
    )
    .await;
    let answer = flame("parts", 1_709_000_020, 1_709_000_020, "").await;
    assert_eq!(
        answer["quality"],
        json!({
            "value": 127 * 10101,
            "samples": 127,
            "incomplete": {
                "truncated": 20202, "no-unwind-info": 40404, "jit": 80808, "lost": 161_616, "counted": 323_232
            },
            "unresolved": 646_464,
            "missing_stacks": 0,
            "thinned": 0,
            "rolled_up": 0,
            "lost": {}
        })
    );
    assert_eq!(answer["quality"]["value"], answer["nodes"][0]["total"]);
    // Total shows no stacks.
    let total = flame("Total", 1_709_000_020, 1_709_000_020, "").await;
    assert_eq!(
        total["quality"],
        json!({
            "value": 127 * 10101,
            "samples": 127,
            "incomplete": { "truncated": 0, "no-unwind-info": 0, "jit": 0, "lost": 0, "counted": 0 },
            "unresolved": 0,
            "missing_stacks": 0,
            "thinned": 0,
            "rolled_up": 0,
            "lost": {}
        })
    );
    assert_eq!(total["notes"], json!([]));
}

#[tokio::test]
async fn what_agents_lost_is_said_for_the_nodes_of_the_answer() {
    insert_on_nodes(
        "1709003620 | lossy | a | 3 | 30303
         1709003620 | lossy | b | 1 | 10101
         1709003620 | other | d | 5 | 50505",
    )
    .await;
    insert_losses(
        "1709003610 | a | ring-full  | 1000
         1709003620 | a | ring-full  | 1
         1709003630 | a | ring-full  | 2
         1709003630 | b | queue-full | 4
         1709003630 | d | too-old    | 8
         1709003630 | e | counts-full | 16
         1709003640 | a | ring-full  | 1000",
    )
    .await;
    let (from, until) = (1_709_003_620, 1_709_003_635);
    let lost =
        async |app: &str, filter: &str| flame(app, from, until, filter).await["quality"]["lost"].clone();
    assert_eq!(lost("lossy", "").await, json!({ "ring-full": 3, "queue-full": 4 }));
    assert_eq!(lost("other", "").await, json!({ "too-old": 8 }));
    // A filter on whatever tag says which rows; what was lost is of their nodes.
    assert_eq!(lost("lossy", "pod_node = 'b'").await, json!({ "queue-full": 4 }));
    assert_eq!(
        lost("lossy", "profile_event_type = 'on-cpu'").await,
        json!({ "ring-full": 3, "queue-full": 4 })
    );
    // A node that lost all it had has no row, and is of Total all the same.
    let all = json!({ "ring-full": 3, "queue-full": 4, "too-old": 8, "counts-full": 16 });
    assert_eq!(lost("Total", "").await, all);
    assert_eq!(lost("Total", "pod_node = 'd'").await, json!({ "too-old": 8 }));
    assert_eq!(
        flame("lossy", from, until, "").await["notes"],
        json!([
            "the agents of these nodes lost 7 samples in that time, of whatever process (queue-full 4, ring-full 3)"
        ])
    );
}

#[tokio::test]
async fn where_everything_was_lost_total_says_so() {
    insert_losses("1709007220 | a | ring-full | 9").await;
    let answer = flame("Total", 1_709_007_220, 1_709_007_229, "").await;
    assert_eq!((&answer["nodes"], &answer["quality"]), (&json!([]), &json!(null)));
    let note = answer["notes"][0].as_str().unwrap();
    assert!(
        note.ends_with(
            "; the agents of these nodes lost 9 samples in that time, of whatever process (ring-full 9)"
        ),
        "{note}"
    );
}

#[tokio::test]
async fn a_lower_rate_is_said_and_merged() {
    insert_on_nodes(
        "1709010820 | rates | a | 10 | 10030
         1709010820 | rates | a | 3  | 30303",
    )
    .await;
    for app in ["rates", "Total"] {
        let answer = flame(app, 1_709_010_820, 1_709_010_820, "").await;
        let Value::Object(quality) = &answer["quality"] else { panic!("{answer}") };
        assert_eq!((&quality["value"], &quality["samples"]), (&json!(40333), &json!(13)), "{app}");
        assert_eq!(quality["thinned"], 30303, "{app}");
        let note = json!("75.1 % of the time was sampled at a lower rate than the rest");
        assert!(answer["notes"].as_array().unwrap().contains(&note), "{answer}");
        // Two rates, one thread, one node of the tree.
        assert_eq!(answer["nodes"].as_array().unwrap().len(), if app == "Total" { 3 } else { 2 });
    }
}

#[tokio::test]
async fn quality_comes_in_a_header_where_the_body_has_no_place() {
    insert("1709014420 | head | 7 | x | x | main | lost | 1 | a | [stack trace lost]").await;
    let collector = Collector::start().await;
    let get = async |format: &str| {
        let range = "from=1709014420&until=1709014420";
        collector.get(&format!("/api/v1/flamegraph?app_service=head&{range}&format={format}")).await
    };
    let json = get("json").await;
    assert_eq!(json.header("hearth-quality"), "");
    for format in ["folded", "svg", "html", "pprof", "speedscope", "nested-set"] {
        let reply = get(format).await;
        let quality: Value = serde_json::from_str(reply.header("hearth-quality")).unwrap();
        assert_eq!(quality, json.json()["quality"], "{format}");
    }
}

#[tokio::test]
async fn profile_tracing_gives_quality_only_when_asked() {
    insert("1709018020 | asked | 7 | x | x | main | complete | 2 | a | main").await;
    let collector = Collector::start().await;
    let ask = async |more: &[(&str, Value)]| collector.ask("asked", 1_709_018_020, 1_709_018_020, more).await;
    let usual = ask(&[]).await;
    assert!(usual.text.ends_with(r#"],"debug":null}"#), "{}", usual.text);
    assert_eq!(ask(&[("quality", json!(false))]).await.text, usual.text);
    for format in ["rows", "columns"] {
        let reply = ask(&[("quality", json!(true)), ("format", json!(format))]).await;
        let quality = &reply.json()["quality"];
        assert_eq!((&quality["value"], &quality["samples"]), (&json!(20202), &json!(2)), "{format}");
        assert!(reply.text.contains(r#","debug":null,"quality":{"#), "{}", reply.text);
    }
}

#[tokio::test]
async fn where_everything_was_lost_every_question_says_so() {
    insert_losses(
        "1709100020 | a | ring-full  | 9
         1709100020 | b | queue-full | 4",
    )
    .await;
    let (from, until) = (1_709_100_020, 1_709_100_029);
    let [a, b, both] = [
        "lost 9 samples in that time, of whatever process (ring-full 9)",
        "lost 4 samples in that time, of whatever process (queue-full 4)",
        "lost 13 samples in that time, of whatever process (queue-full 4, ring-full 9)",
    ];
    for (app, filter, expected) in [
        ("nosuch-app", "", both),
        ("Total", "", both),
        // What is said of nodes holds for what they lost; all else may be of any of them.
        ("Total", "pod_node = 'a'", a),
        ("nosuch-app", "pod_node = 'b' AND pod = 'x'", b),
        ("Total", "pod = 'x'", both),
        ("Total", "pod_node = 'a' OR pod = 'x'", both),
        ("Total", "NOT (pod_node = 'a' AND pod = 'x')", both),
        ("Total", "NOT pod_node = 'a' AND NOT pod = 'x'", b),
    ] {
        let note = flame(app, from, until, filter).await["notes"][0].as_str().unwrap().to_owned();
        assert!(note.ends_with(&format!("; the agents of these nodes {expected}")), "{app} {filter}: {note}");
    }
    let elsewhere = flame("Total", from, until, "pod_node = 'c'").await["notes"][0].to_string();
    assert!(!elsewhere.contains("lost"), "{elsewhere}");

    let collector = Collector::start().await;
    for path in [
        "flamegraph?app_service=Total&format=pprof&",
        "flamegraph?app_service=nosuch-app&format=pprof&",
        "timeline?app_service=nosuch-app&",
        "tags/pod_ns/values?",
        "apps?",
    ] {
        let reply = collector.get(&format!("/api/v1/{path}from={from}&until={until}")).await;
        assert!(reply.text.contains(both), "{path}: {}", reply.text);
    }
}

#[tokio::test]
async fn what_was_lost_is_said_with_every_answer() {
    insert_on_nodes("1709103620 | losing | a | 3 | 30303").await;
    insert_losses(
        "1709103620 | a | ring-full | 5
         1709103620 | b | ring-full | 2",
    )
    .await;
    let collector = Collector::start().await;
    let notes = async |path: &str| {
        let range = "from=1709103620&until=1709103629";
        collector.get(&format!("/api/v1/{path}{range}")).await.json()["notes"].clone()
    };
    let lost = |samples: u32| {
        json!([format!(
            "the agents of these nodes lost {samples} samples in that time, of whatever process (ring-full {samples})"
        )])
    };
    assert_eq!(notes("timeline?app_service=losing&").await, lost(5));
    assert_eq!(notes("timeline?app_service=Total&").await, lost(7));
    assert_eq!(notes("tags/thread_name/values?").await, lost(7));
    assert_eq!(notes("tags/thread_name/values?filter=process_name='p'&").await, lost(5));
    assert_eq!(notes("apps?").await, lost(7));
    // A node that lost all it had has no row, and a filter on nodes means it all the same.
    let total = flame("Total", 1_709_103_620, 1_709_103_629, "pod_cluster = 'c'").await;
    assert_eq!(total["quality"]["lost"], json!({ "ring-full": 7 }));
}
