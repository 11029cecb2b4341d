//! The agent against collectors and operators that serve by TLS: reached, refused, and while their certificates
//! and CAs are exchanged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_node_agent::config::client::{self as operator, Apply, Client};
use hearth_node_agent::config::retry::Waits;
use hearth_node_agent::export::batch::Window;
use hearth_node_agent::export::client::{Exporter, Options};
use hearth_node_agent::remote::Credentials;
use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{AckResult, AgentIdentity, BatchAck, LossReason, SampleBatch};
use hearth_proto::config::v1::node_configs_server::{NodeConfigs, NodeConfigsServer};
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{Config, Directory, NodeReport, NodeUpdate};
use hearth_tls::testing::{Ca, Valid};
use hearth_tls::{Listener, Pair, Reason, Refusals, ServerTls};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// Far longer than any step takes: a test that gets there fails.
const SOON: Duration = Duration::from_secs(20);
const LOOPBACK: &str = "127.0.0.1:0";

/// A server as a process: when it is killed, its connections are cut.
struct Server {
    address: SocketAddr,
    refusals: Refusals,
    runtime: Option<Runtime>,
}

impl Server {
    async fn start(address: &str, tls: &ServerTls, routes: Routes) -> Self {
        let runtime = Runtime::new().unwrap();
        let (refusals, tls, address) = (Refusals::default(), tls.clone(), address.to_owned());
        let (tell, told) = oneshot::channel();
        let counted = refusals.clone();
        runtime.spawn(async move {
            let tcp = TcpListener::bind(address).await.unwrap();
            tell.send(tcp.local_addr().unwrap()).unwrap();
            let incoming = Listener::grpc(tcp, Some(tls), counted);
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let address = tokio::time::timeout(SOON, told).await.expect("it listens in time").unwrap();
        Self { address, refusals, runtime: Some(runtime) }
    }

    /// Its port is free then.
    async fn kill(mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    }

    async fn refuses(&self, reason: Reason) {
        let counted = async {
            while self.refusals.of(reason) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(SOON, counted).await;
        let others: Vec<_> =
            Reason::ALL.into_iter().filter(|&each| each != reason && self.refusals.of(each) > 0).collect();
        assert!(in_time.is_ok() && others.is_empty(), "waited for {reason:?}, saw {others:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn bearer<T>(request: &Request<T>) -> String {
    let bearer = request.metadata().get("authorization");
    bearer.map_or("none", |bearer| bearer.to_str().unwrap()).to_owned()
}

/// Stores everything, and tells the token of each stream.
struct Stores(mpsc::UnboundedSender<String>);

#[tonic::async_trait]
impl Collector for Stores {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<BatchAck, Status>> + Send>>;

    async fn export(
        &self,
        request: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        // The test may be over.
        self.0.send(bearer(&request)).ok();
        let stored = |batch: SampleBatch| BatchAck {
            sequence: batch.sequence,
            result: AckResult::Stored.into(),
            message: String::new(),
        };
        Ok(Response::new(Box::pin(request.into_inner().map(move |batch| batch.map(stored)))))
    }
}

/// A collector, and what is told of its streams.
fn collector() -> (Routes, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    (Routes::new(CollectorServer::new(Stores(tell))), told)
}

/// The agent's files.
struct Files(TempDir);

impl Files {
    fn new(cas: &[&Ca]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.trust(cas);
        std::fs::write(files.path("token"), "first").unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trust(&self, cas: &[&Ca]) {
        let bundle: String = cas.iter().map(|ca| ca.pem()).collect();
        std::fs::write(self.path("ca.crt"), bundle).unwrap();
    }

    fn credentials(&self) -> Credentials {
        Credentials { ca: Some(self.path("ca.crt")), token_file: Some(self.path("token")) }
    }
}

fn exporter(url: String, credentials: Credentials) -> Exporter {
    let identity = AgentIdentity { instance: vec![7; 16], node: "n".into(), ..AgentIdentity::default() };
    let soon = Duration::from_millis(5);
    let options = Options { credentials, retry_first: soon, retry_max: soon, ..Options::new(url, identity) };
    Exporter::start(options).unwrap()
}

fn window() -> Window {
    Window {
        start_unix: 1_800_000_000,
        seconds: 10,
        rows: Vec::new(),
        losses: vec![(LossReason::RingFull, 1)],
    }
}

/// All that was pushed is stored.
async fn arrives(exporter: &Exporter, batches: u64) {
    assert_eq!(exporter.flush(SOON).await, 0, "all is acknowledged in time");
    assert_eq!(exporter.counters().batches_stored.load(Ordering::Relaxed), batches);
    assert_eq!(exporter.counters().batches_dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn samples_reach_a_collector_by_tls_with_the_token() {
    let ca = Ca::new("hearth");
    let files = Files::new(&[&ca]);
    let (routes, mut streams) = collector();
    let tls = ServerTls::new(&ca.server(&["localhost"])).unwrap();
    let server = Server::start(LOOPBACK, &tls, routes).await;
    let exporter = exporter(format!("https://localhost:{}", server.address.port()), files.credentials());
    exporter.push(window());
    arrives(&exporter, 1).await;
    assert_eq!(streams.recv().await.unwrap(), "Bearer first");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_and_counted_by_its_reason() {
    let ca = Ca::new("hearth");
    let names = &["127.0.0.1"];
    let cases: [(Pair, Reason); 4] = [
        (ca.server_valid(names, Valid::Expired), Reason::Expired),
        (ca.server_valid(names, Valid::NotYet), Reason::NotYetValid),
        (Ca::new("foreign").server(names), Reason::UnknownCa),
        (ca.server(&["hearth-operator"]), Reason::BadCertificate),
    ];
    for (pair, reason) in cases {
        let files = Files::new(&[&ca]);
        let (routes, mut streams) = collector();
        let tls = ServerTls::new(&pair).unwrap();
        let server = Server::start(LOOPBACK, &tls, routes).await;
        let exporter = exporter(format!("https://{}", server.address), files.credentials());
        exporter.push(window());
        server.refuses(reason).await;
        assert!(streams.try_recv().is_err(), "no token was sent");
        // Neither is anything lost: it waits until the certificate is good.
        tls.replace(&ca.server(names)).unwrap();
        arrives(&exporter, 1).await;
    }
}

#[tokio::test]
async fn an_agent_without_tls_is_counted_as_another_protocol() {
    let ca = Ca::new("hearth");
    let (routes, _streams) = collector();
    let tls = ServerTls::new(&ca.server(&["127.0.0.1"])).unwrap();
    let server = Server::start(LOOPBACK, &tls, routes).await;
    let exporter = exporter(format!("http://{}", server.address), Credentials::default());
    exporter.push(window());
    server.refuses(Reason::BadProtocol).await;
    assert_eq!(exporter.queued().0, 1);
}

#[tokio::test]
async fn samples_flow_on_while_the_ca_is_exchanged() {
    let (old, new) = (Ca::new("hearth"), Ca::new("hearth"));
    let names = &["127.0.0.1"];
    let files = Files::new(&[&old]);
    let (routes, mut streams) = collector();
    let tls = ServerTls::new(&old.server(names)).unwrap();
    let mut server = Server::start(LOOPBACK, &tls, routes.clone()).await;
    let address = server.address.to_string();
    let exporter = exporter(format!("https://{address}"), files.credentials());
    exporter.push(window());
    arrives(&exporter, 1).await;

    // Each step with batches on the way, and with connections that must be made anew.
    let mut pushed = 1;
    let steps: [(&str, &dyn Fn()); 3] = [
        ("both are trusted", &|| files.trust(&[&old, &new])),
        ("the new one signs", &|| tls.replace(&new.server(names)).unwrap()),
        ("the old one is gone", &|| files.trust(&[&new])),
    ];
    for (step, take) in steps {
        take();
        exporter.push(window());
        server.kill().await;
        exporter.push(window());
        std::fs::write(files.path("token"), step).unwrap();
        server = Server::start(&address, &tls, routes.clone()).await;
        exporter.push(window());
        pushed += 3;
        arrives(&exporter, pushed).await;
        let bearer = async { while streams.recv().await.unwrap() != format!("Bearer {step}") {} };
        tokio::time::timeout(SOON, bearer).await.expect("a stream with the new token");
        let refused: u64 = Reason::ALL.into_iter().map(|reason| server.refusals.of(reason)).sum();
        assert_eq!(refused, 0, "{step}");
    }
}

/// Sends one configuration, or says who leads; and tells the token of each stream.
struct Plays {
    leader: Option<String>,
    tell: mpsc::UnboundedSender<String>,
}

#[tonic::async_trait]
impl NodeConfigs for Plays {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<NodeUpdate, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        // The test may be over.
        self.tell.send(bearer(&request)).ok();
        if let Some(leader) = &self.leader {
            let mut status = Status::failed_precondition("another leads");
            status.metadata_mut().insert("hearth-leader", leader.parse().unwrap());
            return Err(status);
        }
        let (updates, answer) = mpsc::channel(1);
        let config = Config { nonce: 1, hash: "h1".into(), ..Config::default() };
        updates.send(Ok(NodeUpdate { update: Some(Update::Config(config)) })).await.unwrap();
        tokio::spawn(async move {
            let mut reports = request.into_inner();
            while let Some(Ok(_)) = reports.next().await {}
            drop(updates);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answer))))
    }
}

fn plays(leader: Option<String>) -> (Routes, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    (Routes::new(NodeConfigsServer::new(Plays { leader, tell })), told)
}

/// Tells the hash of what it is given.
struct Told(mpsc::UnboundedSender<String>);

impl Apply for Told {
    async fn apply(&mut self, config: Config) -> Result<(), String> {
        // The test may be over.
        self.0.send(config.hash).ok();
        Ok(())
    }

    fn know(&mut self, _: Directory) {}
}

/// An agent of this operator, and the configurations that it is given.
fn agent(operator: String, credentials: Credentials) -> mpsc::UnboundedReceiver<String> {
    let soon = Duration::from_millis(20);
    let waits = Waits { first: soon, max: soon, spread: soon, long: soon };
    let options =
        operator::Options { operator, credentials, node: "node-1".into(), instance: vec![7; 16], waits };
    let (tell, told) = mpsc::unbounded_channel();
    let (counts, wants) = (watch::channel(Default::default()).1, watch::channel(Default::default()).1);
    tokio::spawn(Client::new(options, String::new(), Told(tell), counts, wants).unwrap().run());
    told
}

#[tokio::test]
async fn a_leader_at_an_address_is_verified_by_the_name_of_the_operator() {
    let ca = Ca::new("hearth");
    let files = Files::new(&[&ca]);
    // No certificate is for an address.
    let tls = ServerTls::new(&ca.server(&["localhost"])).unwrap();
    let (routes, mut streams) = plays(None);
    let leader = Server::start(LOOPBACK, &tls, routes).await;
    let (routes, _asked) = plays(Some(leader.address.to_string()));
    let standby = Server::start(LOOPBACK, &tls, routes).await;
    let mut told = agent(format!("https://localhost:{}", standby.address.port()), files.credentials());
    let hash = tokio::time::timeout(SOON, told.recv()).await.expect("a configuration in time");
    assert_eq!(hash.as_deref(), Some("h1"));
    assert_eq!(streams.recv().await.as_deref(), Some("Bearer first"));
}

#[tokio::test]
async fn what_a_standby_says_leads_to_no_other_service_and_off_tls_to_nobody() {
    let ca = Ca::new("hearth");
    let files = Files::new(&[&ca]);
    let tls = ServerTls::new(&ca.server(&["localhost"])).unwrap();
    let (routes, mut streams) = plays(None);
    let other = ServerTls::new(&ca.server(&["hearth-collector", "127.0.0.1"])).unwrap();
    let impostor = Server::start(LOOPBACK, &other, routes).await;
    let (routes, _asked) = plays(Some(impostor.address.to_string()));
    let standby = Server::start(LOOPBACK, &tls, routes).await;
    let _told = agent(format!("https://localhost:{}", standby.address.port()), files.credentials());
    impostor.refuses(Reason::BadCertificate).await;
    assert!(streams.try_recv().is_err(), "no token was sent");

    let open = TcpListener::bind(LOOPBACK).await.unwrap();
    let (routes, mut asked) = plays(Some(format!("http://{}", open.local_addr().unwrap())));
    let standby = Server::start(LOOPBACK, &tls, routes).await;
    let _told = agent(format!("https://localhost:{}", standby.address.port()), files.credentials());
    for _ in 0..3 {
        tokio::select! {
            asked = tokio::time::timeout(SOON, asked.recv()) => {
                asked.expect("the standby is asked again").unwrap();
            }
            _ = open.accept() => panic!("the agent went off TLS"),
        }
    }
}
