//! Against an API server that follows a script.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri};
use clap::Parser as _;
use serde_json::{Value, json};

use super::*;

/// Far longer than any step takes: a test that gets there fails.
const SOON: Duration = Duration::from_secs(20);

/// What it answers to one request.
enum Answer {
    /// A list, with this version.
    Pods(&'static str, Vec<Value>),
    /// Events of a watch, after which it ends.
    Events(Vec<Value>),
    /// A failure.
    Status(u16),
    /// A watch in which nothing happens.
    Silence,
}

/// What became of it: requests, changes, and what is wanted.
struct Story {
    requests: Arc<Mutex<Vec<String>>>,
    changes: Vec<String>,
    wants: Wants,
    metrics: String,
}

/// Runs the script up to its last answer, which is to be [`Answer::Silence`].
async fn run(script: Vec<Answer>, changes: usize) -> Story {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: axum::http::Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let requests = Arc::new(Mutex::new(Vec::new()));
    let of_server = requests.clone();
    let answer = move |uri: Uri| async move {
        of_server.lock().unwrap().push(described(&uri));
        let next = script.lock().unwrap().pop_front();
        match next.unwrap_or(Answer::Silence) {
            Answer::Pods(version, items) => {
                let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items});
                (StatusCode::OK, Body::from(list.to_string()))
            }
            Answer::Events(events) => {
                let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
                (StatusCode::OK, Body::from(lines))
            }
            Answer::Status(code) => {
                let status = json!({"kind": "Status", "status": "Failure", "code": code, "message": "by the script", "reason": "x"});
                (StatusCode::from_u16(code).unwrap(), Body::from(status.to_string()))
            }
            Answer::Silence => (
                StatusCode::OK,
                Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()),
            ),
        }
    };
    tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());

    let client = Client::try_from(kube::Config::new(url)).unwrap();
    let (tell, receiver) = channel();
    let (wants, wanted) = watch::channel(Wants::default());
    let metrics = Arc::new(Metrics::default());
    let of_follower = metrics.clone();
    let tell = move |change| tell.send(change).is_ok();
    let follower = tokio::spawn(async move { follow(client, "n1", tell, wants, of_follower).await });
    let told = tokio::task::spawn_blocking(move || {
        let told: Vec<String> = (0..changes).map(|_| change(&receiver.recv_timeout(SOON).unwrap())).collect();
        (told, receiver)
    });
    let (changes, receiver) = told.await.unwrap();
    follower.abort();
    drop(receiver);
    let wants = wanted.borrow().clone();
    Story { requests, changes, wants, metrics: metrics.encode() }
}

/// `list` or `watch`, and from which version.
fn described(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default();
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    assert_eq!((uri.path(), value("fieldSelector")), ("/api/v1/pods", Some("spec.nodeName%3Dn1")));
    let version = value("resourceVersion").unwrap_or("none");
    format!("{} from {version}", if value("watch").is_some() { "watch" } else { "list" })
}

fn change(change: &Change) -> String {
    match change {
        Change::All(pods) => {
            format!("all {}", pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(" "))
        }
        Change::Changed(pod) => format!("changed {} {}", pod.name, pod.ip),
        Change::Deleted(uid) => format!("deleted {uid}"),
    }
}

fn pod(name: &str, version: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "resourceVersion": version,
            "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{name}-rs"), "controller": true}]},
        "status": {"podIP": ip},
    })
}

fn event(what: &str, object: Value) -> Value {
    json!({"type": what, "object": object})
}

fn malformed(name: &str, version: &str) -> Value {
    let mut pod = pod(name, version, "");
    pod["status"]["containerStatuses"] = json!("none");
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_listed_from_the_cache_and_then_followed() {
    let script = vec![
        Answer::Pods("10", vec![pod("a", "5", ""), pod("b", "6", "")]),
        Answer::Events(vec![
            event("MODIFIED", pod("a", "11", "10.0.0.1")),
            event("ADDED", pod("c", "12", "")),
            event("DELETED", pod("b", "13", "")),
            event(
                "BOOKMARK",
                json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "20"}}),
            ),
        ]),
        Answer::Events(vec![event("DELETED", pod("c", "21", ""))]),
        Answer::Silence,
    ];
    let story = run(script, 5).await;
    assert_eq!(story.changes, ["all a b", "changed a 10.0.0.1", "changed c ", "deleted u-b", "deleted u-c"]);
    assert_eq!(story.requests.lock().unwrap()[..3], ["list from 0", "watch from 10", "watch from 20"]);
    let owners: Vec<&str> = story.wants.owners.iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!((owners, story.wants.namespaces.len()), (vec!["a-rs"], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_lists_all_pods_again() {
    let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
    let script = vec![
        Answer::Pods("10", vec![pod("a", "5", ""), pod("b", "6", "")]),
        Answer::Events(vec![event("ERROR", gone)]),
        Answer::Pods("30", vec![pod("b", "6", "")]),
        // The same said in the other way.
        Answer::Status(410),
        Answer::Pods("40", vec![]),
        Answer::Silence,
    ];
    let story = run(script, 3).await;
    assert_eq!(story.changes, ["all a b", "all b", "all "]);
    assert_eq!(
        story.requests.lock().unwrap()[..5],
        ["list from 0", "watch from 10", "list from 0", "watch from 30", "list from 0"]
    );
    assert!(
        story.metrics.contains("hearth_agent_pod_events_total{event=\"expired\"} 2\n"),
        "{}",
        story.metrics
    );
    assert_eq!(story.wants, Wants::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_read_is_counted_and_does_not_stop_the_others() {
    let script = vec![
        Answer::Pods("10", vec![malformed("a", "5"), pod("b", "6", "")]),
        Answer::Events(vec![
            event("ADDED", malformed("c", "11")),
            event("MODIFIED", pod("b", "12", "10.0.0.2")),
            event("DELETED", malformed("c", "13")),
        ]),
        Answer::Silence,
    ];
    let story = run(script, 3).await;
    assert_eq!(story.changes, ["all b", "changed b 10.0.0.2", "deleted u-c"]);
    assert!(
        story.metrics.contains("hearth_agent_pod_events_total{event=\"malformed\"} 2\n"),
        "{}",
        story.metrics
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_asked_again() {
    let script = vec![Answer::Status(403), Answer::Pods("10", vec![pod("a", "5", "")]), Answer::Silence];
    let story = run(script, 1).await;
    assert_eq!(story.changes, ["all a"]);
    assert!(
        story.metrics.contains("hearth_agent_pod_events_total{event=\"failed\"} 1\n"),
        "{}",
        story.metrics
    );
}

/// Of the program.
#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    pods: PodArgs,
}

#[test]
fn the_labels_are_checked_on_the_command_line() {
    let labels = |arguments: &[&str]| Cli::try_parse_from(arguments).map(|cli| cli.pods.pod_labels);
    assert_eq!(labels(&["agent"]).unwrap(), LabelFilter::default());
    assert_eq!(labels(&["agent", "--pod-labels", ""]).unwrap(), LabelFilter::parse("").unwrap());
    let refused = labels(&["agent", "--pod-labels", "a*b"]).unwrap_err().to_string();
    assert!(refused.contains("write keys of labels with commas between them"), "{refused}");
    let about = <Cli as clap::CommandFactory>::command().get_about().map(ToString::to_string);
    assert_eq!(about.as_deref(), Some("Of the program"));
}
