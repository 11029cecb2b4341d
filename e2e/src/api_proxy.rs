//! A proxy in front of the API server: it writes down what a client asks, and does not pass all of it on where
//! a test wants that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, Uri};
use futures::{StreamExt as _, stream};
use kube::Client;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cluster::Cluster;

/// No client of ours sends more.
const MAX_BODY_BYTES: usize = 4 << 20;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is passed on, and so is the answer.
    Passed,
    /// It is passed on, and the client never hears of the answer.
    Held,
    /// It is not passed on: the answer has this status.
    Refused(u16),
    /// A watch begins, and its first event says that it cannot go on from there: 410.
    Expired,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it came.
    pub at: Instant,
    /// Verb and object, as in `PATCH clusterprofilingpolicies/a/status`; `WATCH` and `LIST` are verbs.
    pub what: String,
}

/// Decides of each request, in the order in which they come.
pub type Rule = Box<dyn FnMut(&str) -> Fate + Send>;

/// A running proxy; ends when dropped.
pub struct ApiProxy {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
    _runtime: Runtime,
}

struct Shared {
    client: Client,
    seen: Mutex<Seen>,
    /// Grows when all watches are cut.
    cut: watch::Sender<u64>,
}

struct Seen {
    asked: Vec<Asked>,
    rule: Rule,
    held: usize,
}

impl ApiProxy {
    /// In front of a cluster's API server; whoever comes is its administrator.
    pub fn start(cluster: &Cluster) -> Self {
        let kubeconfig = cluster.state().join("proxy.kubeconfig");
        let runtime = Runtime::new().expect("the proxy's threads can be started");
        let (address, shared) = runtime.block_on(serve(&cluster.kubeconfig()));
        write_kubeconfig(&kubeconfig, address);
        Self { shared, kubeconfig, _runtime: runtime }
    }

    /// Leads here.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on. The first rule passes everything.
    pub fn set_rule(&self, rule: impl FnMut(&str) -> Fate + Send + 'static) {
        self.shared.seen().rule = Box::new(rule);
    }

    /// Passes everything from now on.
    pub fn pass_all(&self) {
        self.set_rule(|_| Fate::Passed);
    }

    /// What was asked since it was last taken, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.seen().asked.clone()
    }

    /// The same, and forgets it.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.seen().asked)
    }

    /// How many were ever [`Fate::Held`] and done by the API server.
    pub fn held(&self) -> usize {
        self.shared.seen().held
    }

    /// Ends all watches that are open, in the middle.
    pub fn cut_watches(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, what: String) -> Fate {
        let mut seen = self.seen();
        let fate = (seen.rule)(&what);
        seen.asked.push(Asked { at: Instant::now(), what });
        fate
    }
}

/// Whether it changes something.
pub fn is_write(what: &str) -> bool {
    !["GET ", "LIST ", "WATCH "].iter().any(|verb| what.starts_with(verb))
}

/// How often each thing was asked.
pub fn tally(asked: &[Asked]) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    for Asked { what, .. } in asked {
        *tally.entry(what.as_str()).or_default() += 1;
    }
    tally
}

async fn serve(kubeconfig: &Path) -> (SocketAddr, Arc<Shared>) {
    let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("the cluster's kubeconfig is good");
    let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .expect("the cluster's kubeconfig is good");
    // It answers as the API server does, not better.
    config.default_retry = false;
    let seen = Seen { asked: Vec::new(), rule: Box::new(|_| Fate::Passed), held: 0 };
    let shared = Arc::new(Shared {
        client: Client::try_from(config).expect("a client of the API server can be made"),
        seen: Mutex::new(seen),
        cut: watch::channel(0).0,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
    tokio::spawn(axum::serve(listener, router).into_future());
    (address, shared)
}

fn write_kubeconfig(path: &Path, address: SocketAddr) {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        "current-context": "proxy",
    });
    std::fs::write(path, text.to_string()).expect("the cluster's folder can be written");
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response<Body>, Infallible> {
    let what = what(request.method(), request.uri());
    let is_watch = what.starts_with("WATCH ");
    let fate = shared.decide(what);
    match fate {
        Fate::Refused(code) => return Ok(refusal(code)),
        Fate::Expired => return Ok(expired()),
        Fate::Passed | Fate::Held => {}
    }
    let (mut parts, body) = request.into_parts();
    // The client of the API server has a connection of its own.
    parts.headers.remove("host");
    parts.headers.remove("connection");
    let body = match to_bytes(body, MAX_BODY_BYTES).await {
        Ok(body) => body,
        Err(_) => return Ok(refusal(413)),
    };
    let mut cut = shared.cut.subscribe();
    let answer = shared.client.send(Request::from_parts(parts, body.into())).await;
    if fate == Fate::Held {
        shared.seen().held += 1;
        return pending().await;
    }
    let Ok(answer) = answer else { return Ok(refusal(502)) };
    let (parts, body) = answer.into_parts();
    let mut body = Body::new(body);
    if is_watch {
        let was_cut = async move {
            // The proxy ends: so do all watches.
            let _ = cut.changed().await;
        };
        let broken = stream::iter([Err(axum::Error::new("the watch is cut"))]);
        body = Body::from_stream(body.into_data_stream().take_until(was_cut).chain(broken));
    }
    Ok(Response::from_parts(parts, body))
}

fn status(code: u16) -> serde_json::Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "the test wants it so", "reason": reason, "code": code,
    })
}

fn respond(code: u16, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).expect("a test asks for real statuses");
    let headers = response.headers_mut();
    headers.insert("content-type", "application/json".parse().expect("it is a header"));
    if code == 429 {
        headers.insert("retry-after", "1".parse().expect("it is a header"));
    }
    response
}

fn refusal(code: u16) -> Response<Body> {
    respond(code, &status(code))
}

fn expired() -> Response<Body> {
    respond(200, &json!({"type": "ERROR", "object": status(410)}))
}

/// Verb and object of a request.
fn what(method: &Method, uri: &Uri) -> String {
    // /api/VERSION/… or /apis/GROUP/VERSION/…, then namespaces/NAMESPACE/ where there is one.
    let prefix = if uri.path().starts_with("/apis/") { 3 } else { 2 };
    let mut object: Vec<&str> = uri.path().trim_matches('/').split('/').skip(prefix).collect();
    if object.len() > 2 && object[0] == "namespaces" {
        object.drain(..2);
    }
    let is_watch = uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")));
    let verb = match *method {
        Method::GET if is_watch => "WATCH",
        Method::GET if object.len() == 1 => "LIST",
        _ => method.as_str(),
    };
    format!("{verb} {}", object.join("/"))
}
