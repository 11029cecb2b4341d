//! An API server with Hearth's API behind it: objects by path, answers as scripted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Where the aggregated API is.
const QUERY: &str = "/apis/query.hearth.dev/v1alpha1/";
const OWN: &str = "/api/v1/";

#[derive(Default)]
struct Script {
    objects: BTreeMap<String, Value>,
    answers: Vec<Scripted>,
    /// Paths that begin so are answered with this code and message.
    faults: Vec<(String, u16, String)>,
    log: Vec<String>,
    /// What becomes of a policy that is made.
    status: Value,
    /// Every request waits for ever.
    hangs: bool,
}

struct Scripted {
    /// `flamegraph`, or `values`.
    name: &'static str,
    /// What the decoded query must have.
    with: Vec<String>,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Json(u16, Value),
    Bytes(Vec<u8>),
}

/// Cheap to clone; all clones are one server.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Script>>);

impl Fake {
    /// A namespace `shop`, a node `n1` with an agent, the kinds of policies, and no profiles.
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        fake.put("/api/v1/namespaces/shop", json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}));
        fake.put("/api/v1/namespaces/hearth", json!({"metadata": {"name": "hearth"}}));
        fake.put("/api/v1/nodes/n1", json!({"metadata": {"name": "n1", "labels": {"disk": "ssd"}}}));
        fake.agent("n1", "True");
        let programmed = json!([
            condition("Accepted", "True", "Accepted", ""),
            condition("Programmed", "True", "Programmed", "")
        ]);
        fake.0.lock().unwrap().status = programmed;
        fake
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// An agent's pod on a node.
    pub(crate) fn agent(&self, node: &str, ready: &str) {
        let labels = json!({"app.kubernetes.io/part-of": "hearth"});
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "hearth-node-agent", "uid": "u"}]);
        let name = format!("hearth-node-agent-{node}");
        self.put(
            &format!("/api/v1/namespaces/hearth/pods/{name}"),
            json!({
                "metadata": {"name": name, "namespace": "hearth", "labels": labels, "ownerReferences": owner},
                "spec": {"nodeName": node, "containers": [{"name": "agent", "image": "r.example/hearth-node-agent:v0.3.0"}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            }),
        );
    }

    /// A pod of the namespace `shop`, with one container `main`.
    pub(crate) fn pod(&self, name: &str, node: &str, labels: Value) {
        self.pod_in("shop", name, node, labels);
    }

    pub(crate) fn pod_in(&self, namespace: &str, name: &str, node: &str, labels: Value) {
        self.put(
            &format!("/api/v1/namespaces/{namespace}/pods/{name}"),
            json!({
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
            }),
        );
    }

    /// A policy of the namespace `shop`.
    pub(crate) fn policy(&self, name: &str, spec: Value, conditions: Value) {
        self.put(
            &format!("/apis/profiling.hearth.dev/v1alpha1/namespaces/shop/profilingpolicies/{name}"),
            json!({
                "apiVersion": "profiling.hearth.dev/v1alpha1", "kind": "ProfilingPolicy",
                "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": spec, "status": {"conditions": conditions},
            }),
        );
    }

    /// A flame graph: `main` and below it `work`, 3 s and 1 s, of an app.
    pub(crate) fn flame(&self, app: &str, with: &[&str]) {
        let nodes = json!([
            {"name": app, "parent": null, "self": 0, "total": 4_000_000},
            {"name": format!("[t] {app}"), "parent": 0, "self": 0, "total": 4_000_000},
            {"name": format!("{app}_main"), "parent": 1, "self": 1_000_000, "total": 4_000_000},
            {"name": format!("{app}_work"), "parent": 2, "self": 3_000_000, "total": 3_000_000},
        ]);
        let app_service = format!("app_service={app}");
        let with: Vec<&str> = with.iter().copied().chain([app_service.as_str()]).collect();
        self.answer(
            "flamegraph",
            &with,
            json!({"unit": "microseconds", "nodes": nodes, "quality": {"samples": 4}, "notes": []}),
        );
    }

    /// The values of a tag: names and microseconds.
    pub(crate) fn values(&self, tag: &str, with: &[&str], values: &[(&str, i64)]) {
        let values: Vec<Value> =
            values.iter().map(|(name, value)| json!({"name": name, "samples": 1, "value": value})).collect();
        let tag = format!("tag={tag}");
        let with: Vec<&str> = with.iter().copied().chain([tag.as_str()]).collect();
        self.answer("values", &with, json!({"values": values, "notes": []}));
    }

    /// The first of the answers that fit is given.
    pub(crate) fn answer(&self, name: &'static str, with: &[&str], answer: Value) {
        self.script(name, with, Answer::Json(200, answer));
    }

    /// An answer without success, of Hearth's API.
    pub(crate) fn refuse(&self, name: &'static str, code: u16, error: &str) {
        self.script(name, &[], Answer::Json(code, json!({"error": error})));
    }

    pub(crate) fn bytes(&self, name: &'static str, with: &[&str], bytes: &[u8]) {
        self.script(name, with, Answer::Bytes(bytes.to_vec()));
    }

    fn script(&self, name: &'static str, with: &[&str], answer: Answer) {
        let with = with.iter().map(|part| (*part).to_owned()).collect();
        self.0.lock().unwrap().answers.push(Scripted { name, with, answer });
    }

    /// Requests whose path begins so fail, as the API server says it.
    pub(crate) fn fail(&self, begin: &str, code: u16, message: &str) {
        self.0.lock().unwrap().faults.push((begin.to_owned(), code, message.to_owned()));
    }

    /// Conditions of policies that are made from now on.
    pub(crate) fn make_policies(&self, conditions: Value) {
        self.0.lock().unwrap().status = conditions;
    }

    /// No request is answered from now on.
    pub(crate) fn hang(&self) {
        self.0.lock().unwrap().hangs = true;
    }

    /// All requests so far, decoded.
    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }

    /// Paths of what is there and has this in its path.
    pub(crate) fn paths(&self, part: &str) -> Vec<String> {
        self.0.lock().unwrap().objects.keys().filter(|path| path.contains(part)).cloned().collect()
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.0.lock().unwrap().objects[path].clone()
    }

    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(answered).with_state(self.clone())
    }

    /// Serves on a port of its own until the runtime ends.
    pub(crate) async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    /// As [`Fake::serve`], by TLS, with the certificate to trust as PEM.
    pub(crate) async fn serve_tls(&self) -> (SocketAddr, String) {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config =
            config.with_no_client_auth().with_single_cert(vec![pair.cert.der().clone()], key).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Tls { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, pair.cert.pem())
    }
}

/// TCP with TLS, for `axum::serve`.
struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust us goes away.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A condition as a status has it.
pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

async fn answered(State(fake): State<Fake>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let path = parts.uri.path().to_owned();
    let query: Vec<String> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let query = query.join("&");
    let header = |name: &str| {
        let values =
            parts.headers.get_all(name).iter().map(|value| format!(" {name}={}", value.to_str().unwrap()));
        values.collect::<String>()
    };
    let who = ["authorization", "impersonate-user", "impersonate-group"].map(header).concat();
    let hangs = {
        let mut script = fake.0.lock().unwrap();
        script.log.push(format!("{} {path}?{query}{who}", parts.method));
        script.hangs
    };
    if hangs {
        std::future::pending::<()>().await;
    }
    let mut script = fake.0.lock().unwrap();
    let fault = script.faults.iter().find(|(begin, ..)| path.starts_with(begin.as_str()));
    if let Some((_, code, message)) = fault {
        return status(*code, message);
    }
    let is_own = path.starts_with(OWN) && !path.starts_with("/api/v1/n") && !path.starts_with("/api/v1/pods");
    if path.starts_with(QUERY) || is_own {
        return profiles(&script, &path, &query);
    }
    object(&mut script, &parts.method, &path, &query, &body)
}

fn profiles(script: &Script, path: &str, query: &str) -> Response {
    let (name, query) = match path.strip_prefix("/api/v1/tags/").and_then(|tag| tag.strip_suffix("/values")) {
        Some(tag) => ("values", format!("{query}&tag={tag}")),
        None => (path.rsplit('/').next().unwrap(), query.to_owned()),
    };
    let fits =
        |scripted: &&Scripted| scripted.name == name && scripted.with.iter().all(|part| query.contains(part));
    match script.answers.iter().find(fits).map(|scripted| scripted.answer.clone()) {
        Some(Answer::Json(code, body)) => {
            (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
        }
        Some(Answer::Bytes(bytes)) => ([("hearth-note", "of one node")], bytes).into_response(),
        None => {
            let empty = json!({"nodes": [], "quality": null, "values": [], "apps": [], "notes": ["nothing is stored"]});
            axum::Json(empty).into_response()
        }
    }
}

fn object(script: &mut Script, method: &Method, path: &str, query: &str, body: &[u8]) -> Response {
    match *method {
        Method::POST => {
            let mut object: Value = serde_json::from_slice(body).unwrap();
            object["metadata"]["generation"] = json!(1);
            object["status"] = json!({"observedGeneration": 1, "conditions": script.status});
            let name = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
            script.objects.insert(name, object.clone());
            axum::Json(object).into_response()
        }
        Method::DELETE => match script.objects.remove(path) {
            Some(object) => axum::Json(object).into_response(),
            None => status(404, "not found"),
        },
        _ => match script.objects.get(path) {
            Some(object) => axum::Json(object.clone()).into_response(),
            // A list if it can be one, as every name that is there has something below it.
            None if is_list(path) => {
                let items: Vec<&Value> = script
                    .objects
                    .iter()
                    .filter(|(name, object)| is_in(name, path) && selected(object, query))
                    .map(|(_, object)| object)
                    .collect();
                axum::Json(json!({"metadata": {}, "items": items})).into_response()
            }
            None => status(404, "not found"),
        },
    }
}

fn is_list(path: &str) -> bool {
    let kinds = [
        "pods",
        "nodes",
        "namespaces",
        "configmaps",
        "replicasets",
        "profilingpolicies",
        "clusterprofilingpolicies",
    ];
    kinds.contains(&path.rsplit('/').next().unwrap())
}

/// Whether an object is in a list: of its namespace, of all, or of the cluster.
fn is_in(object: &str, list: &str) -> bool {
    let (of, _) = object.rsplit_once('/').unwrap();
    let (group, kind) = list.rsplit_once('/').unwrap();
    let everywhere = of.strip_prefix(group).and_then(|rest| rest.strip_prefix("/namespaces/"));
    of == list || everywhere.and_then(|rest| rest.split_once('/')).is_some_and(|(_, found)| found == kind)
}

fn selected(object: &Value, query: &str) -> bool {
    let meta = &object["metadata"];
    query.split('&').all(|pair| match pair.split_once('=') {
        Some(("labelSelector", labels)) => labels.split(',').filter(|label| !label.is_empty()).all(|label| {
            let (key, value) = label.split_once('=').unwrap();
            meta["labels"][key] == value
        }),
        Some(("fieldSelector", field)) => {
            field.strip_prefix("metadata.name=").is_some_and(|name| meta["name"] == name)
        }
        _ => true,
    })
}

fn status(code: u16, message: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "x"});
    (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}
