//! Agents that prove their node, and those that do not. Needs no engine: nothing is stored.

use std::net::SocketAddr;
use std::time::Duration;

use hearth_collector::ingest::Ingest;
use hearth_collector::ingest::limits::MAX_BATCH_BYTES;
use hearth_collector::metrics::Metrics;
use hearth_collector::store::{Queue, Queued};
use hearth_identity::fake::{FakeApi, Mood, forged_token};
use hearth_identity::{Account, Agents};
use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_tls::Bounds;
use prometheus_client::registry::Registry;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::{RETENTION, Stream, first_batch, metric, next_batch, serve_within};

const HOUR: Duration = Duration::from_secs(3600);

/// How long a connection may be without a stream.
const UNHELD: Duration = Duration::from_millis(500);

/// The receiving half, which takes agents by their tokens.
struct Collector {
    api: FakeApi,
    address: SocketAddr,
    grpc: CollectorClient<Channel>,
    registry: Registry,
    queue: Queue,
    _receiver: mpsc::UnboundedReceiver<Queued>,
    _stop: DropGuard,
}

impl Collector {
    async fn start(max_streams: usize) -> Self {
        Self::start_within(Bounds::held(100), max_streams).await
    }

    async fn start_within(bounds: Bounds, max_streams: usize) -> Self {
        let api = FakeApi::default();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (queue, receiver) = Queue::with_room(MAX_BATCH_BYTES + 50_000);
        let stop = CancellationToken::new();
        let agents = Agents::new(api.client(), account(), "hearth".to_owned());
        let ingest = Ingest::new(queue.clone(), metrics, RETENTION.raw, stop.clone())
            .with_max_streams(max_streams)
            .with_agents(Some(agents));
        let (address, channel) = serve_within(bounds, ingest, stop.clone()).await;
        let grpc = CollectorClient::new(channel);
        Self { api, address, grpc, registry, queue, _receiver: receiver, _stop: stop.drop_guard() }
    }

    fn token(&self, node: &str, life: Duration) -> String {
        self.api.agent_token(&account(), "hearth", Some(node), life)
    }

    async fn open(&self, token: Option<&str>) -> Result<Stream, Status> {
        let (batches, outgoing) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let answer = self.grpc.clone().export(request).await?;
        Ok(Stream { batches, acks: answer.into_inner() })
    }

    async fn refused(&self, token: Option<&str>) -> Status {
        self.open(token).await.map(drop).unwrap_err()
    }

    fn rejected(&self, reason: &str) -> u64 {
        self.metric(&format!("hearth_collector_streams_rejected_total{{reason=\"{reason}\"}}"))
    }

    fn metric(&self, name: &str) -> u64 {
        metric(&self.registry, name)
    }

    /// Waits until a metric is that.
    async fn has(&self, name: &str, value: u64) {
        within(async {
            while self.metric(name) != value {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn account() -> Account {
    "hearth/agent".parse().unwrap()
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

const RECEIVED: &str = "hearth_collector_batches_received_total";
const STREAMS: &str = "hearth_collector_streams";

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_brings_what_was_sampled_on_its_node() {
    let collector = Collector::start(10).await;
    let own = collector.open(Some(&collector.token("node-1", HOUR))).await.unwrap();
    own.send(first_batch(1, 1)).await;
    own.send(next_batch(2)).await;
    collector.has(RECEIVED, 2).await;
    let mut other = collector.open(Some(&collector.token("node-1", HOUR))).await.unwrap();
    other.send(first_batch(2, 1)).await;
    let ended = other.ack().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::PermissionDenied,
            r#"other node: the agent says that it is on "node-2", and its token that it is on "node-1""#
        )
    );
    assert_eq!((collector.metric(RECEIVED), collector.rejected("OtherNode")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_proves_nothing_is_refused_with_the_reason() {
    let collector = Collector::start(10).await;
    let api = &collector.api;
    let forged = forged_token(&account().user(), "hearth", HOUR, "forged");
    let audience = api.agent_token(&account(), "other", Some("a"), HOUR);
    let other = api.agent_token(&"hearth/operator".parse().unwrap(), "hearth", Some("a"), HOUR);
    let nowhere = api.agent_token(&account(), "hearth", None, HOUR);
    for (token, code, begin, reason) in [
        (None, Code::Unauthenticated, "no token", "NoToken"),
        (Some(&*forged), Code::Unauthenticated, "bad token", "BadToken"),
        (
            Some(&*collector.token("a", Duration::ZERO)),
            Code::Unauthenticated,
            "token expired",
            "TokenExpired",
        ),
        (Some(&*audience), Code::Unauthenticated, "other audience", "OtherAudience"),
        (Some(&*other), Code::PermissionDenied, "other account", "OtherAccount"),
        (Some(&*nowhere), Code::PermissionDenied, "no node", "NoNode"),
    ] {
        let refused = collector.refused(token).await;
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().starts_with(begin), "{refused}");
        assert_eq!(collector.rejected(reason), 1, "{reason}");
    }
    api.set_mood(Mood::Away);
    let token = collector.token("node-1", HOUR);
    assert_eq!(collector.refused(Some(&token)).await.code(), Code::Unavailable);
    assert_eq!(collector.rejected("ApiServerAway"), 1);
    api.set_mood(Mood::Answers);
    let stream = collector.open(Some(&token)).await.unwrap();
    stream.send(first_batch(1, 1)).await;
    collector.has(RECEIVED, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_two_streams_at_most_and_is_in_nobodys_way() {
    let collector = Collector::start(10).await;
    let token = collector.token("node-1", HOUR);
    let first = collector.open(Some(&token)).await.unwrap();
    let _second = collector.open(Some(&token)).await.unwrap();
    let refused = collector.refused(Some(&collector.token("node-1", HOUR))).await;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::ResourceExhausted, "2 streams of node node-1 are open, as many as may be: come again later")
    );
    assert_eq!(collector.rejected("TooManyOfNode"), 1);
    collector.open(Some(&collector.token("node-2", HOUR))).await.unwrap();
    drop(first);
    within(async { while collector.open(Some(&token)).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_nothing_takes_no_place() {
    let collector = Collector::start(1).await;
    for n in 0..50 {
        let forged = forged_token(&account().user(), "hearth", HOUR, &format!("forged {n}"));
        assert_eq!(collector.refused(Some(&forged)).await.code(), Code::Unauthenticated);
    }
    let _held = collector.open(Some(&collector.token("node-1", HOUR))).await.unwrap();
    let refused = collector.refused(Some(&collector.token("node-2", HOUR))).await;
    assert!(refused.message().starts_with("1 streams are open"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token_also_while_it_waits_for_room() {
    let collector = Collector::start(10).await;
    let life = Duration::from_secs(3);
    let mut idle = collector.open(Some(&collector.token("node-1", life))).await.unwrap();
    let mut waiting = collector.open(Some(&collector.token("node-2", life))).await.unwrap();
    let _all = collector.queue.room().await.unwrap();
    waiting.send(first_batch(2, 1)).await;
    for stream in [&mut idle, &mut waiting] {
        let ended = stream.ack().await.unwrap_err();
        assert_eq!(
            (ended.code(), ended.message()),
            (Code::Unauthenticated, "token expired: open another stream with a fresh one")
        );
    }
    collector.has(STREAMS, 0).await;
    assert_eq!(collector.metric(RECEIVED), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_an_admitted_stream_ends() {
    let bounds = Bounds { unheld: Some(UNHELD), ..Bounds::held(10) };
    let collector = Collector::start_within(bounds, 10).await;
    let stream = collector.open(Some(&collector.token("node-1", HOUR))).await.unwrap();
    // Refused streams do not keep theirs.
    let other = Channel::from_shared(format!("http://{}", collector.address)).unwrap().connect_lazy();
    let refused = async {
        let mut other = CollectorClient::new(other);
        while other.export(tokio_stream::empty()).await.unwrap_err().code() == Code::Unauthenticated {}
    };
    tokio::join!(within(refused), within(ends(collector.address)));
    stream.send(first_batch(1, 1)).await;
    collector.has(RECEIVED, 1).await;
}

async fn ends(address: SocketAddr) {
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    // A reset is an end as well.
    silent.read_to_end(&mut Vec::new()).await.ok();
}
