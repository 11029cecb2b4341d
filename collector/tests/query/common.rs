//! One engine with the shipped schema for all tests of this binary, and rows as text.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clickhouse::Client;
use hearth_clickhouse::engine::Engine;
use hearth_clickhouse::http as embedded;
use hearth_collector::http::{HttpMetrics, QueryState, Reader, router};
use hearth_collector::query::{Limits, Scope};
use hearth_collector::schema::{self, Retention};
use hearth_profile::stack::{StackId, stack_id};
use prometheus_client::registry::Registry;
use serde_json::Value;

/// A collector's HTTP side on a port of its own.
pub(crate) struct Collector {
    base: String,
    http: reqwest::Client,
}

/// Body and status of an answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
    pub(crate) bytes: Vec<u8>,
}

struct Store {
    url: String,
    /// What a question was answered before anything was stored.
    first_answer: Value,
}

/// The tests' rows are of 2024: they must not expire meanwhile.
const KEPT: Duration = Duration::from_secs(1_000_000_000);

impl Collector {
    /// On the shared engine, with the usual limits.
    pub(crate) async fn start() -> Self {
        Self::start_with(client(), Limits::default()).await
    }

    pub(crate) async fn start_with(client: Client, limits: Limits) -> Self {
        Self::start_for(Scope::All, client, limits).await
    }

    /// For readers of this scope.
    pub(crate) async fn start_for(scope: Scope, client: Client, limits: Limits) -> Self {
        let mut registry = Registry::default();
        let metrics = HttpMetrics::register(&mut registry);
        let state = QueryState::new(client, limits, metrics, Arc::new(registry));
        // Again and again: what the engine registered last would be the first to run.
        end_at_once();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(
            async move { axum::serve(listener, router(state, Reader::anybody(scope))).await.unwrap() },
        );
        Self { base, http: reqwest::Client::new() }
    }

    /// The address of a path, for other programs.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        reply(self.http.get(self.url(path))).await
    }

    /// `ProfileTracing` with this body.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Reply {
        reply(self.http.post(format!("{}/v1/profile/ProfileTracing", self.base)).body(body)).await
    }

    /// `ProfileTracing` for an app and a range, with further fields.
    pub(crate) async fn ask(&self, app: &str, from: u32, until: u32, more: &[(&str, Value)]) -> Reply {
        let mut body = serde_json::json!({
            "app_service": app,
            "profile_language_type": "eBPF",
            "profile_event_type": "on-cpu",
            "tag_filter": "",
            "time_start": from,
            "time_end": until,
        });
        for (field, value) in more {
            body[*field] = value.clone();
        }
        self.post(body.to_string()).await
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }

    /// The rows of a DeepFlow answer as an indented tree: name self/total.
    pub(crate) fn outline(&self) -> String {
        let rows = self.json()["result"].as_array().expect("rows").clone();
        let mut depths = std::collections::HashMap::from([("-1".to_owned(), 0)]);
        rows.iter()
            .map(|row| {
                let text = |field: &str| row[field].as_str().unwrap().to_owned();
                let depth = depths[&text("parent_node_id")];
                depths.insert(text("node_id"), depth + 1);
                let indent = "  ".repeat(depth);
                let name = text("profile_location_str");
                format!("{indent}{name} {}/{}\n", row["self_value"], row["total_value"])
            })
            .collect()
    }
}

/// A new client: one cannot outlive its test's runtime.
pub(crate) fn client() -> Client {
    Client::default().with_url(engine_url())
}

/// Where the engine is asked.
pub(crate) fn engine_url() -> &'static str {
    &store().url
}

/// For tests with hundreds of small questions: a thread more costs them more than it gives.
pub(crate) fn single_threaded() -> Client {
    client().with_setting("max_threads", "1")
}

/// What the engine itself answers, as text.
pub(crate) async fn sql(statement: &str) -> String {
    let reply = reply(reqwest::Client::new().post(&store().url).body(statement.to_owned())).await;
    assert_eq!(reply.status, 200, "{}: {statement}", reply.text);
    reply.text
}

/// What a question was answered before anything was stored.
pub(crate) fn first_answer() -> Value {
    store().first_answer.clone()
}

/// Inserts rows, one a line:
/// `time | app_service | pid | process | thread | main or other | stack_end | samples | namespace | frames`,
/// each sample 10,101 µs. A line that begins with `x` instead of a time belongs to no policy.
pub(crate) async fn insert(rows: &str) {
    let client = client();
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let (mut values, mut stacks) = (Vec::new(), Vec::new());
    for line in rows.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [time, app, pid, process, thread, main, end, samples, namespace, frames] =
            fields.try_into().unwrap_or_else(|f: Vec<&str>| panic!("{} fields: {line}", f.len()));
        let samples: i64 = samples.parse().unwrap();
        let id = if frames.is_empty() { StackId::NONE } else { stack_id(frames.split(';')) };
        if id != StackId::NONE {
            stacks.push(format!(
                "({}, unhex('{id}'), {}, toDateTime({time}, 'UTC'))",
                quoted(app),
                quoted(frames)
            ));
        }
        values.push(format!(
            "(toDateTime({time}, 'UTC'), {}, {pid}, {}, {}, {}, unhex('{id}'), '{end}', 4095, {samples}, {}, \
             'microseconds', 'on-cpu', 'eBPF', {})",
            quoted(app),
            quoted(process),
            quoted(thread),
            u8::from(main == "main"),
            samples * 10_101,
            quoted(namespace),
        ));
    }
    let columns = "time, app_service, process_id, process_name, thread_name, main_thread, stack_id, stack_end, cpu, \
                   sample_count, profile_value, profile_value_unit, profile_event_type, profile_language_type, pod_ns";
    if !stacks.is_empty() {
        let sql = format!(
            "INSERT INTO profile.stacks (app_service, stack_id, frames, last_seen) VALUES {}",
            stacks.join(", ")
        );
        client.query_raw(&sql).execute().await.unwrap();
    }
    let sql = format!("INSERT INTO profile.in_process_local ({columns}) VALUES {}", values.join(", "));
    client.query_raw(&sql).execute().await.unwrap();
}

fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let (started, store) = std::sync::mpsc::channel();
        // The engine outlives every test's runtime.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let engine = Engine::start(&fresh_data_dir(), None, 8, Duration::from_secs(30))
                    .unwrap_or_else(|e| panic!("{e}"));
                let limits = embedded::Limits {
                    max_body: 64 << 20,
                    max_result_bytes: 256 << 20,
                    client_timeout: Duration::from_secs(30),
                };
                let metrics = Default::default();
                let server = embedded::Server { engine, limits, credentials: None, metrics };
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let url = format!("http://{}", listener.local_addr().unwrap());
                let serve = embedded::serve(listener, Arc::new(server), std::future::pending());
                tokio::spawn(async move { serve.await.unwrap() });

                let client = Client::default().with_url(&url);
                schema::apply(&client, Retention { raw: KEPT, minute: KEPT, hour: KEPT })
                    .await
                    .unwrap_or_else(|e| panic!("{e}"));
                let collector = Collector::start_with(client, Limits::default()).await;
                let first_answer = collector.ask("redis-server", 100, 200, &[]).await.json();
                started.send(Store { url, first_answer }).unwrap();
                std::future::pending::<()>().await;
            });
        });
        store.recv().expect("the engine started")
    })
}

/// A directory of this process. The engine holds it until the process ends,
/// so what is removed is what earlier processes left.
fn fresh_data_dir() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("query-store");
    std::fs::create_dir_all(&parent).unwrap();
    for entry in std::fs::read_dir(&parent).unwrap() {
        let entry = entry.unwrap();
        if !Path::new("/proc").join(entry.file_name()).exists() {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    let dir = parent.join(std::process::id().to_string());
    // Of a process that had our id before us.
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap().to_vec();
    Reply { status, headers, text: String::from_utf8_lossy(&bytes).into_owned(), bytes }
}

unsafe extern "C" {
    fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Lets the process end without the destructors that its libraries have registered so far: the engine's
/// threads run until the very end, and what its destructors free is theirs.
fn end_at_once() {
    // SAFETY: a function of the C library, with a handler that lives as long as the process and takes no argument.
    let refused = unsafe { on_exit(end, std::ptr::null_mut()) };
    assert_eq!(refused, 0);
}

extern "C" fn end(status: c_int, _: *mut c_void) {
    // SAFETY: it ends the process, whatever its state. What tests printed was flushed before.
    unsafe { _exit(status) }
}
