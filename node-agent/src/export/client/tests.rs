#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::pin::Pin;

use futures::Stream;
use hearth_proto::collector::v1::LossReason;
use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Streaming};

use super::*;
use crate::export::batch::tests::{Decoder, identity, window};
use crate::export::queue::MAX_REFUSALS;

/// Far longer than any step takes: a test that gets there fails.
const SOON: Duration = Duration::from_secs(20);

/// What the collector of a test does with a batch.
#[derive(Clone, Copy)]
enum Reply {
    Ack(AckResult),
    Silence,
    End(Code),
    TokenExpired,
}

const STORED: Reply = Reply::Ack(AckResult::Stored);

/// Decides by the number of the stream, from 1, and the batch.
type Script = Arc<dyn Fn(u64, &SampleBatch) -> Reply + Send + Sync>;

/// A collector that follows a script and tells what it saw: `stream/sequence rows losses`, on a stream
/// of an agent that knows its zone `stream in ZONE/sequence …`.
struct Scripted {
    script: Script,
    streams: AtomicU64,
    seen: mpsc::UnboundedSender<String>,
}

#[tonic::async_trait]
impl Collector for Scripted {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<BatchAck, Status>> + Send>>;

    async fn export(
        &self,
        request: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let (script, seen) = (self.script.clone(), self.seen.clone());
        let (answers, answered) = mpsc::channel(16);
        let mut batches = request.into_inner();
        tokio::spawn(async move {
            let mut decoder = Decoder::default();
            let (mut known, mut place) = (false, String::new());
            loop {
                let batch = match batches.message().await {
                    Ok(Some(batch)) => batch,
                    // The test may be over.
                    Ok(None) => return drop(seen.send(format!("{stream} ended"))),
                    Err(_) => return,
                };
                if let Some(agent) = &batch.agent {
                    let nowhere =
                        AgentIdentity { region: String::new(), zone: String::new(), ..agent.clone() };
                    known |= nowhere == identity();
                    place = if agent.zone.is_empty() { String::new() } else { format!(" in {}", agent.zone) };
                }
                assert!(known && batch.sent_at_micros > 0);
                let loss = |loss: &hearth_proto::collector::v1::Loss| {
                    format!(" {:?}={}", LossReason::try_from(loss.reason).unwrap(), loss.samples)
                };
                let losses: String = batch.losses.iter().map(loss).collect();
                let rows = decoder.rows(&batch).join(", ");
                let reply = script(stream, &batch);
                // The test may be over.
                seen.send(format!("{stream}{place}/{} {rows}{losses}", batch.sequence)).ok();
                let answer = match reply {
                    Reply::Silence => continue,
                    Reply::Ack(result) => Ok(BatchAck {
                        sequence: batch.sequence,
                        result: result.into(),
                        message: String::new(),
                    }),
                    Reply::TokenExpired => Err(Status::unauthenticated("token expired")),
                    Reply::End(code) => Err(Status::new(code, "by the script")),
                };
                let ends = answer.is_err();
                if answers.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }
}

/// The collector's side of a test.
struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(script: impl Fn(u64, &SampleBatch) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    fn on(
        listener: TcpListener,
        script: impl Fn(u64, &SampleBatch) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let address = listener.local_addr().unwrap();
        let collector = Scripted { script: Arc::new(script), streams: AtomicU64::new(0), seen: sender };
        let serve = tonic::transport::Server::builder()
            .add_service(CollectorServer::new(collector))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        Self { address, seen }
    }

    /// The next batches it sees.
    async fn sees(&mut self, expected: &[&str]) {
        for expected in expected {
            let seen = tokio::time::timeout(SOON, self.seen.recv()).await;
            assert_eq!(seen.unwrap_or_else(|_| panic!("waited for {expected:?}")).unwrap(), *expected);
        }
    }
}

fn exporter(address: SocketAddr, change: impl FnOnce(&mut Options)) -> Exporter {
    let mut options = Options::new(format!("http://{address}"), identity());
    options.retry_first = Duration::from_millis(5);
    options.retry_max = Duration::from_millis(50);
    change(&mut options);
    Exporter::start(options).unwrap()
}

/// Awaits until the exporter's queue has so many batches.
async fn queued(exporter: &Exporter, batches: usize) {
    let mut pending = exporter.shared.pending.subscribe();
    let wanted = pending.wait_for(|pending| *pending == batches);
    tokio::time::timeout(SOON, wanted)
        .await
        .unwrap_or_else(|_| panic!("waited for {batches} batches"))
        .unwrap();
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn an_acknowledged_window_leaves_the_queue() {
    let mut server = Server::start(|_, _| STORED).await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1", "b;b* 2"]));
    exporter.push(window(10, &["a;a*;f 3"]));
    server.sees(&["1/1 a;a*;f 1, b;b* 2", "1/2 a;a*;f 3"]).await;
    assert_eq!(exporter.flush(SOON).await, 0);
    assert_eq!(exporter.queued(), (0, 0));
    let counters = exporter.counters();
    assert_eq!((count(&counters.batches_sent), count(&counters.batches_stored)), (2, 2));
    assert!(count(&counters.bytes_sent) > 0 && counters.connected.load(Ordering::Relaxed));
}

#[tokio::test]
async fn closing_ends_the_stream_as_the_protocol_asks() {
    let mut server = Server::start(|_, _| STORED).await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1"]));
    assert_eq!(exporter.close(SOON).await, 0);
    server.sees(&["1/1 a;a*;f 1", "1 ended"]).await;
}

#[tokio::test]
async fn what_is_not_acknowledged_stays_and_flush_says_so() {
    let mut server =
        Server::start(|_, batch| if batch.sequence == 1 { Reply::Silence } else { STORED }).await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1"]));
    exporter.push(window(10, &["a;a*;f 2"]));
    server.sees(&["1/1 a;a*;f 1", "1/2 a;a*;f 2"]).await;
    queued(&exporter, 1).await;
    assert_eq!(exporter.flush(Duration::from_millis(1)).await, 1);
}

#[tokio::test]
async fn too_old_is_an_acknowledgement_and_counted_apart() {
    let mut server = Server::start(|_, _| Reply::Ack(AckResult::TooOld)).await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1"]));
    server.sees(&["1/1 a;a*;f 1"]).await;
    assert_eq!(exporter.flush(SOON).await, 0);
    let counters = exporter.counters();
    assert_eq!((count(&counters.batches_stored), count(&counters.batches_too_old)), (0, 1));
}

#[tokio::test]
async fn a_broken_stream_gets_the_same_windows_again_under_the_same_numbers() {
    // The first stream stores 1, keeps 2 and 3 for itself and breaks at 3.
    let mut server = Server::start(|stream, batch| match (stream, batch.sequence) {
        (1, 2) => Reply::Silence,
        (1, 3) => Reply::End(Code::Unavailable),
        _ => STORED,
    })
    .await;
    let exporter = exporter(server.address, |_| {});
    for (start, rows) in [(0, "a;a*;f 1"), (10, "a;a*;f 2"), (20, "a;a*;g 3")] {
        exporter.push(window(start, &[rows]));
    }
    server.sees(&["1/1 a;a*;f 1", "1/2 a;a*;f 2", "1/3 a;a*;g 3", "2/2 a;a*;f 2", "2/3 a;a*;g 3"]).await;
    assert_eq!(exporter.flush(SOON).await, 0);
    assert_eq!(count(&exporter.counters().streams), 2);
}

#[test]
fn a_collector_that_is_killed_and_comes_back_misses_nothing() {
    // Its own runtime: ending it closes the socket in the middle of everything, as kill -9 does.
    let collector =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = collector();
    let mut server = first.block_on(Server::start(|_, _| Reply::Silence));
    let address = server.address;
    let agent = collector();
    let exporter = agent.block_on(async { exporter(address, |_| {}) });
    exporter.push(window(0, &["a;a*;f 1"]));
    agent.block_on(server.sees(&["1/1 a;a*;f 1"]));
    first.shutdown_timeout(SOON);
    exporter.push(window(10, &["a;a*;f 2"]));

    let second = collector();
    let mut server =
        second.block_on(async { Server::on(TcpListener::bind(address).await.unwrap(), |_, _| STORED) });
    agent.block_on(async {
        server.sees(&["1/1 a;a*;f 1", "1/2 a;a*;f 2"]).await;
        assert_eq!(exporter.flush(SOON).await, 0);
    });
}

#[tokio::test]
async fn what_the_queue_drops_arrives_as_loss() {
    // Nobody listens yet, so nothing is in flight for longer than a failed attempt takes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let bytes = window(0, &["a;a*;f 1"]).split(usize::MAX)[0].1;
    let exporter = exporter(address, |options| {
        options.queue_bytes = 2 * bytes;
        options.retry_first = Duration::from_millis(500);
    });
    // The first attempt has failed and the sender is waiting.
    exporter.push(window(0, &["a;a*;f 7"]));
    while exporter.shared.queue().in_flight() > 0 || count(&exporter.counters().streams) == 0 {
        tokio::task::yield_now().await;
    }
    for samples in ["8", "9", "10"] {
        exporter.push(window(10, &[&format!("a;a*;f {samples}")]));
    }
    let counters = exporter.counters();
    assert_eq!((count(&counters.batches_dropped), count(&counters.samples_dropped)), (2, 15));
    assert!(exporter.shared.dropping.load(Ordering::Relaxed), "it was logged, and is not again");
    let metrics = crate::metrics::Metrics::default();
    metrics.set_export(&exporter);
    assert_eq!(metrics.samples_dropped.get(), 15);
    let text = metrics.encode();
    for line in ["hearth_agent_queued_batches 2\n", &format!("hearth_agent_queued_bytes {}\n", 2 * bytes)] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let mut server = Server::on(TcpListener::bind(address).await.unwrap(), |_, _| STORED);
    server.sees(&["1/3 a;a*;f 9 QueueFull=7", "1/4 a;a*;f 10 QueueFull=8"]).await;
    queued(&exporter, 0).await;
    assert!(!exporter.shared.dropping.load(Ordering::Relaxed), "the next time is logged again");
}

#[tokio::test]
async fn a_batch_that_is_always_refused_is_given_up_and_the_others_arrive() {
    let mut server = Server::start(|_, batch| match batch.sequence {
        2 => Reply::End(Code::InvalidArgument),
        _ => STORED,
    })
    .await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1"]));
    server.sees(&["1/1 a;a*;f 1"]).await;
    queued(&exporter, 0).await;
    exporter.push(window(10, &["a;a*;f 20"]));
    server.sees(&["1/2 a;a*;f 20", "2/2 a;a*;f 20", "3/2 a;a*;f 20"]).await;
    queued(&exporter, 0).await;
    exporter.push(window(20, &["a;a*;f 3"]));
    server.sees(&["4/3 a;a*;f 3 QueueFull=20"]).await;
    assert_eq!(exporter.flush(SOON).await, 0);
    let counters = exporter.counters();
    assert_eq!((count(&counters.batches_refused), count(&counters.samples_dropped)), (1, 20));
    assert_eq!(count(&counters.streams), u64::from(MAX_REFUSALS) + 1);
}

#[tokio::test]
async fn among_several_in_flight_only_the_refused_one_is_given_up() {
    let mut server = Server::start(|stream, batch| match (stream, batch.sequence) {
        (_, 2) => Reply::End(Code::InvalidArgument),
        (1, _) => Reply::Silence,
        _ => STORED,
    })
    .await;
    let exporter = exporter(server.address, |_| {});
    for rows in ["a;a*;f 1", "a;a*;f 2", "a;a*;f 3"] {
        exporter.push(window(0, &[rows]));
    }
    assert_eq!(exporter.flush(SOON).await, 0);
    let counters = exporter.counters();
    assert_eq!((count(&counters.batches_stored), count(&counters.batches_refused)), (2, 1));
    server.sees(&["1/1 a;a*;f 1", "1/2 a;a*;f 2", "2/1 a;a*;f 1"]).await;
}

#[tokio::test]
async fn a_stream_with_full_tables_is_followed_by_another_with_empty_ones() {
    let mut server = Server::start(|_, _| STORED).await;
    let exporter = exporter(server.address, |options| {
        options.limits = Limits { entries: 7, bytes: usize::MAX };
        // Waiting would be a mistake: nothing is lost.
        options.retry_first = Duration::from_secs(3600);
    });
    let steps: [(&str, &[&str]); 3] = [
        ("a;a*;f 1", &["1/1 a;a*;f 1"]),
        ("a;a*;g 2", &["1/2 a;a*;g 2", "1 ended"]),
        ("a;a*;g 3", &["2/3 a;a*;g 3"]),
    ];
    for (rows, expected) in steps {
        exporter.push(window(0, &[rows]));
        server.sees(expected).await;
        assert_eq!(exporter.flush(SOON).await, 0);
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_refused_at_once() {
    let check = |url: &str, expected: &str| {
        let error = Exporter::start(Options::new(url, identity())).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        "https://c:1",
        "--collector https://c:1 needs --ca FILE with the CAs to trust: those of the system are not used",
    );
    check("c:1", "--collector \"c:1\" must begin with https:// or http://");
}

#[tokio::test]
async fn the_end_of_a_token_is_no_loss_of_the_collector() {
    let mut server = Server::start(|stream, batch| match (stream, batch.sequence) {
        (1, 2) => Reply::TokenExpired,
        _ => STORED,
    })
    .await;
    let exporter = exporter(server.address, |_| ());
    exporter.push(window(10, &["p;t 1"]));
    assert_eq!(exporter.flush(SOON).await, 0);
    exporter.push(window(20, &["p;t 2"]));
    assert_eq!(exporter.flush(SOON).await, 0);
    server.sees(&["1/1 p;t 1", "1/2 p;t 2", "2/2 p;t 2"]).await;
    assert!(exporter.counters().connected.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_node_that_learns_its_zone_says_so_on_another_stream() {
    let mut server = Server::start(|_, _| STORED).await;
    let exporter = exporter(server.address, |_| {});
    exporter.push(window(0, &["a;a*;f 1"]));
    server.sees(&["1/1 a;a*;f 1"]).await;
    let place = NodePlace { region: "eu-1".into(), zone: "eu-1a".into() };
    exporter.set_place(&place);
    exporter.push(window(10, &["a;a*;f 2"]));
    server.sees(&["1 ended", "2 in eu-1a/2 a;a*;f 2"]).await;
    exporter.set_place(&place);
    exporter.push(window(20, &["a;a*;f 3"]));
    server.sees(&["2 in eu-1a/3 a;a*;f 3"]).await;
}

#[test]
fn jitter_adds_at_most_half() {
    for _ in 0..100 {
        let wait = with_jitter(Duration::from_secs(2));
        assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&wait), "{wait:?}");
    }
}
