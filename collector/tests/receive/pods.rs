//! What an agent says of the pod of a process: in rows, and in answers to who asks by it.

use std::sync::Arc;

use clickhouse::Client;
use hearth_collector::http::{HttpMetrics, QueryState, Reader, router};
use hearth_collector::query::{Limits, Scope};
use hearth_proto::collector::v1::{AckResult, Label, Pod, SampleBatch};
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::harness::{Collector, first_batch, last_window, next_batch};

/// A first batch whose matched process is in the container `app` of a pod, on a node in a zone.
fn batch_with_pod() -> SampleBatch {
    let mut batch = first_batch(1, 1);
    let agent = batch.agent.as_mut().unwrap();
    (agent.region, agent.zone) = ("eu-1".into(), "eu-1a".into());
    // The strings before these are 1 to 8.
    let strings = [
        "shop",
        "web-1",
        "10.1.2.3",
        "web",
        "Deployment",
        "shop-web",
        "app.kubernetes.io/name",
        "cart",
        "app",
    ];
    batch.strings.extend(strings.map(str::to_owned));
    batch.pods = vec![Pod {
        namespace: 9,
        name: 10,
        ip: 11,
        service: 12,
        workload_kind: 13,
        workload: 14,
        labels: vec![Label { key: 15, value: 16 }],
    }];
    (batch.processes[0].pod, batch.processes[0].container) = (1, 17);
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_say_in_which_pod() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    stream.send(batch_with_pod()).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
    // What comes later on the stream names the same pod by the same process.
    stream.send(next_batch(2)).await;
    assert_eq!(stream.ack().await.unwrap(), (2, AckResult::Stored));
    let pods = "SELECT process_name, pod_ns, pod, ip, is_ipv4, pod_service, pod_group_type, pod_group, container, \
                `k8s.label`, region, az, host_ip, count() \
                FROM in_process WHERE app_service = 'Total' GROUP BY ALL ORDER BY ALL";
    assert_eq!(
        collector.ask(pods).await,
        "kthreadd\t\t\t2001:db8::1\t0\t\t0\t\t\t{}\teu-1\teu-1a\t2001:db8::1\t1\n\
         redis-server\tshop\tweb-1\t10.1.2.3\t1\tweb\t130\tshop-web\tapp\t\
         {'app.kubernetes.io/name':'cart'}\teu-1\teu-1a\t2001:db8::1\t4\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_breaks_the_contract_ends_its_stream() {
    let collector = Collector::start().await;
    type Break = fn(&mut SampleBatch);
    let cases: [(&str, Break); 14] = [
        ("pod 2 was never sent (1 were)", |b| b.processes[0].pod = 2),
        ("pod 1 was never sent (0 were)", |b| b.pods.clear()),
        ("process 1 is in a container and in no pod", |b| b.processes[0].pod = 0),
        ("pod 1 has no namespace or no name", |b| b.pods[0].namespace = 0),
        ("pod 1 has no namespace or no name", |b| b.pods[0].name = 0),
        ("pod 1 has a workload without kind or name", |b| b.pods[0].workload = 0),
        ("pod 1 has 33 labels, over the limit of 32", |b| {
            b.pods[0].labels = vec![Label { key: 15, value: 16 }; 33]
        }),
        ("pod 1: its name is longer than 253 bytes", |b| b.strings[9] = "x".repeat(254)),
        ("pod 1: its label's key is longer than 317 bytes", |b| b.strings[14] = "x".repeat(318)),
        ("pod 1: its address is no IPv4 or IPv6 address", |b| b.strings[10] = "10.1.2".into()),
        ("pod 1 has the label \"app.kubernetes.io/name\" twice", |b| {
            b.pods[0].labels = vec![Label { key: 15, value: 16 }; 2];
        }),
        ("or it is empty", |b| b.pods[0].labels[0].key = 0),
        ("string 18 was never sent (17 were)", |b| b.pods[0].service = 18),
        ("zone is longer than", |b| b.agent.as_mut().unwrap().zone = "z".repeat(254)),
    ];
    for (reason, change) in cases {
        let mut stream = collector.open().await;
        let mut batch = batch_with_pod();
        change(&mut batch);
        stream.send(batch).await;
        let status = stream.ack().await.expect_err(reason);
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{reason:?} in {status}");
    }
}

/// Labels of a pod stand in each of its rows: short on the wire, they count as what they are.
#[tokio::test(flavor = "multi_thread")]
async fn the_texts_of_a_pod_count_with_each_row() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    let mut batch = batch_with_pod();
    batch.strings.extend((0..32).map(|n| format!("{n:0317}")));
    batch.strings.push("v".repeat(253));
    batch.pods[0].labels = (18..50).map(|key| Label { key, value: 50 }).collect();
    let rows = batch.rows.as_mut().unwrap();
    const ROWS: usize = 4000;
    (rows.thread, rows.stack, rows.samples) = (vec![1; ROWS], vec![1; ROWS], vec![1; ROWS]);
    (rows.end, rows.cpu) = (vec![0; ROWS], vec![]);
    stream.send(batch).await;
    let status = stream.ack().await.expect_err("73 MB of labels");
    assert!(status.message().contains("over the limit of 67108864"), "{status}");
}

/// The matched process is in a pod and the other is not: a condition on a tag of pods tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn filters_on_tags_of_pods_find_their_rows() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    stream.send(batch_with_pod()).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));

    let mut registry = Registry::default();
    let metrics = HttpMetrics::register(&mut registry);
    let client = Client::default().with_url(collector.embedded.url());
    let state = QueryState::new(client, Limits::default(), metrics, Arc::new(registry));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}/api/v1/tags/process_name/values", listener.local_addr().unwrap());
    tokio::spawn(
        async move { axum::serve(listener, router(state, Reader::anybody(Scope::All))).await.unwrap() },
    );

    let http = reqwest::Client::new();
    let (from, until) = (last_window() - 60, last_window() + 10);
    for (filter, expected) in [
        ("pod_ns = 'shop'", &["redis-server"][..]),
        ("pod LIKE 'web-*' AND container = 'app'", &["redis-server"]),
        ("pod_service = 'web' AND service = 'web'", &["redis-server"]),
        ("pod_group = 'shop-web' AND pod_group_type = 'Deployment'", &["redis-server"]),
        ("k8s.label.app.kubernetes.io/name = 'cart'", &["redis-server"]),
        ("ip = '10.1.0.0/16'", &["redis-server"]),
        ("pod IS NULL AND az = 'eu-1a' AND region = 'eu-1'", &["kthreadd"]),
        ("pod_ns = 'other'", &[]),
    ] {
        let query = [("from", from.to_string()), ("until", until.to_string()), ("filter", filter.to_owned())];
        let query = query.map(|(name, value)| format!("{name}={}", percent(&value))).join("&");
        let answer = http.get(format!("{api}?{query}")).send().await.unwrap().text().await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let values = answer["values"].as_array().unwrap_or_else(|| panic!("{filter}: {answer}"));
        let names: Vec<&str> = values.iter().map(|value| value["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{filter}");
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
