//! A collector in this process, with an engine of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickhouse::Client;
use hearth_collector::embedded::{Embedded, EmbeddedConfig};
use hearth_collector::ingest::Ingest;
use hearth_collector::ingest::decode::StreamTables;
use hearth_collector::metrics::Metrics;
use hearth_collector::schema::{self, Retention};
use hearth_collector::store::{Batch, Queue, Writer, WriterConfig};
use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_proto::collector::v1::{
    AckResult, AgentIdentity, BatchAck, Process, Rows, SampleBatch, Stack, StackEnd, Thread,
};
use hearth_tls::{Bounds, Listener, Refusals};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const RETENTION: Retention = Retention {
    raw: Duration::from_secs(72 * 3600),
    minute: Duration::from_secs(14 * 86_400),
    hour: Duration::from_secs(90 * 86_400),
};

/// A collector: engine, writer, gRPC server.
pub(crate) struct Collector {
    pub embedded: Embedded,
    /// On the database `profile`.
    pub clickhouse: Client,
    pub grpc: CollectorClient<Channel>,
    /// What `grpc` is a client of.
    pub channel: Channel,
    pub stop: CancellationToken,
    pub writer: JoinHandle<usize>,
    registry: Registry,
    _dir: tempfile::TempDir,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        // Only the first test of the process sets it.
        let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::start(engine(dir.path().join("data"))).await.unwrap();
        let client = Client::default().with_url(embedded.url());
        schema::apply(&client, RETENTION).await.unwrap();
        let clickhouse = client.with_database("profile");

        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let stop = CancellationToken::new();
        let (queue, receiver) = Queue::new();
        let config = WriterConfig { cluster: None, stop_patience: Duration::from_secs(10) };
        let writer = Writer::new(clickhouse.clone(), config, metrics.clone(), receiver);
        let writer = tokio::spawn(writer.run(stop.clone()));
        let ingest = Ingest::new(queue, metrics, RETENTION.raw, stop.clone());

        let channel = serve(ingest, stop.clone()).await;
        let grpc = CollectorClient::new(channel.clone());
        Self { embedded, clickhouse, grpc, channel, stop, writer, registry, _dir: dir }
    }

    pub(crate) async fn open(&self) -> Stream {
        let (batches, outgoing) = mpsc::channel(16);
        Stream::open(&self.grpc, batches, outgoing).await
    }

    /// The answer to a query, as TSV.
    pub(crate) async fn ask(&self, query: &str) -> String {
        ask(&self.clickhouse, query).await
    }

    /// A value of `/metrics`; 0 if it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.registry, name)
    }
}

/// The store alone: engine, writer and the end of the queue that streams have.
pub(crate) struct Store {
    pub embedded: Embedded,
    /// On the database `profile`.
    pub client: Client,
    pub queue: Queue,
    pub answers: mpsc::Receiver<Result<BatchAck, tonic::Status>>,
    pub writer: JoinHandle<usize>,
    acks: mpsc::Sender<Result<BatchAck, tonic::Status>>,
    registry: Registry,
    _dir: tempfile::TempDir,
}

impl Store {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With a settings profile of its writer's user.
    pub(crate) async fn start_with(profile: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::start(engine(dir.path().join("data"))).await.unwrap();
        let client = Client::default().with_url(embedded.url());
        schema::apply(&client, RETENTION).await.unwrap();
        let client = client.with_database("profile");
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (queue, receiver) = Queue::new();
        let (acks, answers) = mpsc::channel(10);
        let config = WriterConfig { cluster: None, stop_patience: Duration::from_secs(10) };
        let of_writer =
            profile.iter().fold(client.clone(), |client, (name, value)| client.with_setting(*name, *value));
        let writer = Writer::new(of_writer, config, metrics, receiver);
        let writer = tokio::spawn(writer.run(CancellationToken::new()));
        Self { embedded, client, queue, answers, writer, acks, registry, _dir: dir }
    }

    /// Has a batch stored, after a look-up if it may be there already.
    pub(crate) async fn put(&self, batch: Batch, maybe_stored: bool) {
        let room = self.queue.room().await.unwrap();
        self.queue.put(batch, maybe_stored, self.acks.clone(), room).unwrap();
    }

    /// Sequence and result of the next acknowledgement.
    pub(crate) async fn ack(&mut self) -> (u64, AckResult) {
        let ack = tokio::time::timeout(Duration::from_secs(20), self.answers.recv()).await;
        let ack = ack.expect("no acknowledgement within 20 s").unwrap().unwrap();
        (ack.sequence, ack.result())
    }

    /// The answer to a query, as TSV.
    pub(crate) async fn ask(&self, query: &str) -> String {
        ask(&self.client, query).await
    }

    /// A value of `/metrics`; 0 if it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        metric(&self.registry, name)
    }
}

/// A batch as a stream of its own resolves it.
pub(crate) fn resolved(batch: SampleBatch) -> Batch {
    StreamTables::default().accept(batch).unwrap()
}

async fn ask(client: &Client, query: &str) -> String {
    let bytes = client.query_raw(query).fetch_bytes("TSV").unwrap().collect().await;
    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
}

/// The service on a port of its own, and a connection to it.
pub(crate) async fn serve(ingest: Ingest, stop: CancellationToken) -> Channel {
    serve_within(Bounds::held(100), ingest, stop).await.1
}

/// The same with these bounds, and where it is.
pub(crate) async fn serve_within(
    bounds: Bounds,
    ingest: Ingest,
    stop: CancellationToken,
) -> (SocketAddr, Channel) {
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = Listener::plain(tcp, Refusals::default()).with_bounds(bounds);
    let server = tonic::transport::Server::builder()
        .add_service(ingest.into_server())
        .serve_with_incoming_shutdown(listener, stop.cancelled_owned());
    tokio::spawn(server);
    (address, Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap())
}

/// A value that a registry shows; 0 if it is not there yet.
pub(crate) fn metric(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// An agent's stream.
pub(crate) struct Stream {
    pub batches: mpsc::Sender<SampleBatch>,
    pub acks: Streaming<BatchAck>,
}

impl Stream {
    /// A stream whose first batches may be in the channel already.
    pub(crate) async fn open(
        grpc: &CollectorClient<Channel>,
        batches: mpsc::Sender<SampleBatch>,
        outgoing: mpsc::Receiver<SampleBatch>,
    ) -> Self {
        let answer = grpc.clone().export(ReceiverStream::new(outgoing)).await.unwrap();
        Self { batches, acks: answer.into_inner() }
    }

    pub(crate) async fn send(&self, batch: SampleBatch) {
        self.batches.send(batch).await.unwrap();
    }

    /// Sequence and result of the next acknowledgement, or the error that ended the stream.
    pub(crate) async fn ack(&mut self) -> Result<(u64, AckResult), tonic::Status> {
        let ack = tokio::time::timeout(Duration::from_secs(20), self.acks.message())
            .await
            .expect("no acknowledgement within 20 s")?
            .expect("the stream ended without an acknowledgement");
        Ok((ack.sequence, ack.result()))
    }
}

/// How the engine is started on a directory, at a free port.
pub(crate) fn engine(data_dir: PathBuf) -> EmbeddedConfig {
    EmbeddedConfig {
        program: engine_program(),
        data_dir,
        http: free_address(),
        libchdb: None,
        password: None,
    }
}

/// A loopback address whose port was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Builds hearth-clickhouse, which cargo does not do for another package's tests.
pub(crate) fn engine_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let collector = PathBuf::from(env!("CARGO_BIN_EXE_hearth-collector"));
            let built = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--package", "hearth-clickhouse"])
                .current_dir(std::env::var_os("CARGO_MANIFEST_DIR").expect("tests are run by cargo"))
                .status()
                .unwrap();
            assert!(built.success(), "hearth-clickhouse does not build");
            collector.with_file_name("hearth-clickhouse")
        })
        .clone()
}

/// Start of the window that ended last.
pub(crate) fn last_window() -> i64 {
    let now = now_micros() / 1_000_000;
    now - now % 10 - 10
}

pub(crate) fn now_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

pub(crate) fn identity(instance: u8) -> AgentIdentity {
    AgentIdentity {
        instance: vec![instance; 16],
        node: format!("node-{instance}"),
        version: "0.1.0".into(),
        cluster: "home".into(),
        host_name: format!("host-{instance}"),
        host_ip: format!("2001:DB8:0::{instance}"),
        ..AgentIdentity::default()
    }
}

/// A first batch: a matched process with two threads and two stacks, an
/// unmatched one, four rows.
pub(crate) fn first_batch(instance: u8, sequence: u64) -> SampleBatch {
    let strings = ["redis-server", "bio_close_file", "ns/p", "main", "work", "[k] asm", "kthreadd", "[l] f"];
    let process = |pid, name, app_service, policy, period_micros| Process {
        pid,
        start_time_millis: 1_700_000_000_123,
        name,
        app_service,
        policy,
        period_micros,
        ..Process::default()
    };
    let thread = |process, name, main| Thread { process, name, main };
    SampleBatch {
        agent: Some(identity(instance)),
        sequence,
        window_start: last_window(),
        window_seconds: 10,
        sent_at_micros: now_micros(),
        strings: strings.map(str::to_owned).to_vec(),
        stacks: vec![Stack { frames: vec![4, 5] }, Stack { frames: vec![4, 8, 6] }],
        pods: Vec::new(),
        processes: vec![process(4711, 1, 1, 3, 10_101), process(2, 7, 0, 0, 2_004)],
        threads: vec![thread(1, 1, true), thread(1, 2, false), thread(2, 7, true)],
        rows: Some(Rows {
            thread: vec![1, 1, 2, 3],
            stack: vec![1, 2, 2, 0],
            samples: vec![7, 1, 2, 40],
            end: vec![
                StackEnd::Complete.into(),
                StackEnd::NoUnwindInfo.into(),
                StackEnd::Complete.into(),
                StackEnd::Counted.into(),
            ],
            cpu: vec![0, 4, 1, 0],
        }),
        losses: Vec::new(),
    }
}

/// A later batch of the same stream: one row with what was sent before.
pub(crate) fn next_batch(sequence: u64) -> SampleBatch {
    SampleBatch {
        agent: None,
        strings: Vec::new(),
        stacks: Vec::new(),
        processes: Vec::new(),
        threads: Vec::new(),
        rows: Some(Rows {
            thread: vec![2],
            stack: vec![1],
            samples: vec![3],
            end: vec![StackEnd::Complete.into()],
            cpu: Vec::new(),
        }),
        ..first_batch(0, sequence)
    }
}
