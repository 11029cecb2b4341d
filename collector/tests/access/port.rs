//! A port for a test, and what asks it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use clickhouse::Client;
use hearth_collector::access::front_proxy::{Settings, Trusted};
use hearth_collector::access::port::{self, BOUNDS};
use hearth_collector::access::{Access, AccessMetrics};
use hearth_collector::http::{HttpMetrics, QueryState};
use hearth_collector::query;
use hearth_identity::fake::FakeApi;
use hearth_identity::{Caller, Reviewer};
use hearth_tls::http::Limits;
use hearth_tls::testing::Ca;
use hearth_tls::{Bounds, Listener, Pair, Protocols, Refusals, ServerTls};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::{client, sql};

/// Far longer than any of this takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The range of all rows.
pub(crate) const RANGE: &str = "from=1708700010&until=1708700019";
/// Of the API server's front proxy.
pub(crate) const PROXY: &str = "front-proxy-client";

/// The HTTPS port of a collector.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) api: FakeApi,
    pub(crate) trusted: Trusted,
    pub(crate) metrics: AccessMetrics,
    pub(crate) refusals: Refusals,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    server_ca: Ca,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Port {
    /// Of a collector of this cluster.
    pub(crate) async fn start(cluster: &str) -> Self {
        Self::start_with(cluster, Limits::default(), BOUNDS, client()).await
    }

    pub(crate) async fn start_with(cluster: &str, limits: Limits, bounds: Bounds, store: Client) -> Self {
        // For the end of the process.
        crate::common::Collector::start().await;
        let server_ca = Ca::new("hearth");
        let tls = ServerTls::new(&server_ca.server(&["localhost", "127.0.0.1"])).unwrap();
        let trusted = Trusted::nobody(tls.clone(), "nobody has said so yet");
        let (api, refusals, stop) = (FakeApi::default(), Refusals::default(), CancellationToken::new());
        let mut registry = Registry::default();
        let metrics = AccessMetrics::register(&mut registry);
        let http_metrics = HttpMetrics::register(&mut registry);
        let state = QueryState::new(store, query::Limits::default(), http_metrics, Arc::new(registry));
        let reviewer = Reviewer::users(api.client());
        let access = Access::new(state, cluster.into(), reviewer, trusted.clone(), metrics.clone());
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener::tls(tcp, tls, Protocols::Https, refusals.clone()).with_bounds(bounds);
        let served = tokio::spawn(port::serve(listener, access, limits, stop.clone()));
        Self { address, api, trusted, metrics, refusals, stop, served, server_ca }
    }

    /// Makes this CA the front proxy's.
    pub(crate) fn trust(&self, ca: &Ca) {
        self.trusted.set(settings(ca)).unwrap();
    }

    /// A client that shows this certificate, by HTTP/1.1, so that its connection is used again.
    pub(crate) fn client(&self, certificate: Option<&Pair>) -> reqwest::Client {
        self.builder(certificate).http1_only().build().unwrap()
    }

    /// The same, by HTTP/2.
    pub(crate) fn http2_client(&self, certificate: Option<&Pair>) -> reqwest::Client {
        self.builder(certificate).http2_prior_knowledge().build().unwrap()
    }

    fn builder(&self, certificate: Option<&Pair>) -> reqwest::ClientBuilder {
        let ca = reqwest::Certificate::from_pem(self.server_ca.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().use_rustls_tls().add_root_certificate(ca).timeout(PATIENCE);
        match certificate {
            Some(Pair { certificate, key }) => {
                let pem = format!("{key}{certificate}");
                builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
            }
            None => builder,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// What a path is answered on a new connection, with these headers.
    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        get(&self.client(None), &self.url(path), headers).await
    }

    /// A connection as TLS makes it, for what no HTTP client does.
    pub(crate) async fn connect(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server_ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = self.address.ip().into();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    /// Lets a user prove itself by a token, which is returned as a header.
    pub(crate) fn user(&self, name: &str) -> (&'static str, String) {
        let token = format!("token-of-{name}");
        self.api.know(&token, Caller { user: name.to_owned(), ..Caller::default() });
        ("authorization", format!("Bearer {token}"))
    }
}

/// The front proxy with certificates of this CA, and the usual headers.
pub(crate) fn settings(ca: &Ca) -> Settings {
    let headers = |name: &'static str| vec![HeaderName::from_static(name)];
    Settings {
        cas: ca.pem(),
        names: vec![PROXY.to_owned()],
        user: headers("x-remote-user"),
        uid: headers("x-remote-uid"),
        group: headers("x-remote-group"),
        extra: vec!["x-remote-extra-".to_owned()],
    }
}

/// What a client is answered.
pub(crate) async fn get(client: &reqwest::Client, url: &str, headers: &[(&str, &str)]) -> Answer {
    answer(headers.iter().fold(client.get(url), |request, (name, value)| request.header(*name, *value))).await
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap_or_else(|error| panic!("{error:?}"));
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and message, of an error of Kubernetes.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let json = self.json();
        assert_eq!((&json["kind"], &json["code"]), (&"Status".into(), &self.status.into()), "{json}");
        (self.status, json["message"].as_str().unwrap().to_owned())
    }

    /// The rows that an answer to `apps` is from, by their [`stored`] names, or its status.
    pub(crate) fn seen(&self) -> String {
        if self.status != 200 {
            return self.status.to_string();
        }
        let samples = self.json()["apps"][0]["samples"].as_u64().unwrap_or_default();
        let bits = ROWS.iter().enumerate().filter(|(bit, _)| samples & (1 << bit) != 0);
        bits.map(|(_, row)| *row).collect::<Vec<_>>().join(" ")
    }
}

/// Namespaces of rows that are stored for a cluster: `host` is outside of pods, `other` is in namespace a of
/// another cluster. Each has its own bit of samples.
const ROWS: [&str; 5] = ["a", "b", "c", "host", "other"];

/// Stores them.
pub(crate) async fn stored(cluster: &str) {
    let values = ROWS.iter().enumerate().map(|(bit, row)| {
        let (cluster, namespace) = match *row {
            "host" => (cluster.to_owned(), ""),
            "other" => (format!("{cluster}-other"), "a"),
            namespace => (cluster.to_owned(), namespace),
        };
        let samples = 1 << bit;
        format!(
            "(toDateTime(1708700010, 'UTC'), '{cluster}', 'shop', 'shop', 'shop', 1, 'complete', {samples}, {}, \
             'microseconds', 'on-cpu', 'eBPF', '{cluster}', '{namespace}')",
            samples * 10_101
        )
    });
    sql(&format!(
        "INSERT INTO profile.in_process_local (time, pod_node, app_service, process_name, thread_name, main_thread, \
         stack_end, sample_count, profile_value, profile_value_unit, profile_event_type, profile_language_type, \
         pod_cluster, pod_ns) VALUES {}",
        values.collect::<Vec<_>>().join(", ")
    ))
    .await;
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("it never was so: {what}"));
}
