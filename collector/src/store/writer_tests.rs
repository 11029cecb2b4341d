//! Against a store that takes everything, or nothing, and remembers what it was sent.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use clickhouse::Compression;
use hearth_profile::stack::StackId;
use hearth_proto::collector::v1::{AckResult, StackEnd};
use tokio::sync::Semaphore;

use super::*;
use crate::ingest::decode::Agent;
use crate::metrics::Lost;
use crate::store::{Batch, ProcessInfo, Queue, Room};

const DAY: i64 = 86_400 * 1_000_000;

struct Store {
    writer: Writer,
    fails: Arc<AtomicBool>,
    sent: mpsc::UnboundedReceiver<Bytes>,
    count: u64,
}

impl Store {
    async fn start() -> Self {
        let (record, sent) = mpsc::unbounded_channel();
        let fails = Arc::new(AtomicBool::new(false));
        let failing = Arc::clone(&fails);
        let answer = move |body: Bytes| async move {
            record.send(body).unwrap();
            if failing.load(Ordering::Relaxed) { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
        };
        let client = client_of(answer).await;
        let config = WriterConfig { cluster: None, stop_patience: Duration::ZERO };
        let (_, queue) = mpsc::unbounded_channel();
        Self { writer: Writer::new(client, config, Metrics::default(), queue), fails, sent, count: 0 }
    }

    /// Inserts the stacks of batches (`a b, other/b c` are two) at a time of `day`; what was sent of a to d.
    async fn insert(&mut self, day: i64, batches: &str) -> Result<String, Error> {
        let queued: Vec<Queued> = batches.split(", ").map(queued).collect();
        let inserted = self.writer.insert_stacks(queued.iter(), day * DAY + DAY / 2).await;
        let sent: Vec<Bytes> = std::iter::from_fn(|| self.sent.try_recv().ok()).collect();
        let text = String::from_utf8_lossy(&sent.concat()).into_owned();
        let found: String = ["a", "b", "c", "d"].into_iter().filter(|s| text.contains(&frames(s))).collect();
        inserted?;
        self.count += found.len() as u64;
        assert_eq!(self.writer.metrics.stacks.get(), self.count);
        Ok(found)
    }
}

/// A ClickHouse whose INSERT of rows failed here and runs on there.
#[derive(Debug, Default)]
struct Slow {
    runs: AtomicBool,
    has_committed: AtomicBool,
    statements: Mutex<Vec<&'static str>>,
}

impl Slow {
    /// Status and RowBinary.
    fn answer(&self, insert: &str, question: &str) -> (StatusCode, Vec<u8>) {
        let (statement, answer) = if insert.contains("in_process_local") {
            self.runs.store(true, Ordering::Relaxed);
            ("rows", Err(()))
        } else if insert.contains("losses") {
            ("losses", Ok(vec![]))
        } else if question.contains("system.processes") {
            let mark = b"\x12hearth-insert-slow";
            ("processes", Ok(if self.runs.load(Ordering::Relaxed) { mark.to_vec() } else { vec![] }))
        } else if question.contains("FROM in_process_local") {
            let found = if self.has_committed.load(Ordering::Relaxed) { vec![0; 8] } else { vec![] };
            ("look up rows", Ok(found))
        } else {
            ("look up losses", Ok(vec![]))
        };
        self.statements.lock().unwrap().push(statement);
        answer.map_or((StatusCode::GATEWAY_TIMEOUT, vec![]), |answer| (StatusCode::OK, answer))
    }

    fn count(&self, statement: &str) -> usize {
        self.statements.lock().unwrap().iter().filter(|said| **said == statement).count()
    }

    fn commit(&self) {
        self.has_committed.store(true, Ordering::Relaxed);
        self.runs.store(false, Ordering::Relaxed);
    }

    /// A writer that stores there, with the other end of its queue.
    async fn write(self: &Arc<Self>, metrics: Metrics) -> (Queue, tokio::task::JoinHandle<usize>) {
        let answering = Arc::clone(self);
        let answer = move |uri: Uri, body: Bytes| async move {
            answering.answer(uri.query().unwrap_or_default(), &String::from_utf8_lossy(&body))
        };
        let (queue, receiver) = Queue::new();
        let config = WriterConfig { cluster: None, stop_patience: Duration::ZERO };
        let writer = Writer::new(client_of(answer).await, config, metrics, receiver);
        (queue, tokio::spawn(writer.run(CancellationToken::new())))
    }
}

/// What an INSERT that failed here has brought there is found once it is over,
/// not inserted again, and counted once.
#[tokio::test]
async fn an_insert_that_runs_on_after_it_failed_here_is_waited_for() {
    let slow = Arc::new(Slow::default());
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (queue, writer) = slow.write(metrics.clone()).await;
    let (acks, mut answers) = mpsc::channel(1);
    let Queued { mut batch, .. } = queued("a");
    batch.stacks.clear();
    batch.losses = vec![(Lost::RingFull, 9)];
    batch.rows = vec![row()];
    queue.put(batch, false, acks, queue.room().await.unwrap()).unwrap();
    while slow.count("processes") < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!((slow.count("rows"), slow.count("look up rows")), (1, 0));
    slow.commit();
    assert_eq!(answers.recv().await.unwrap().unwrap().result(), AckResult::Stored);
    let counted = [slow.count("rows"), slow.count("losses"), slow.count("look up rows")];
    assert_eq!(counted, [1, 1, 1]);
    assert_eq!((metrics.batches.get(), metrics.rows.get()), (1, 1));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("samples_lost_total{reason=\"RingFull\"} 9"), "{text}");
    assert!(!text.contains("Duplicate"), "{text}");
    drop(queue);
    assert_eq!(writer.await.unwrap(), 0);
}

/// The stream that brought a batch died, another brings it again, and one INSERT is
/// made of what both brought.
#[tokio::test]
async fn the_other_copy_of_a_batch_waits_for_the_insert_that_failed_too() {
    let slow = Arc::new(Slow::default());
    let metrics = Metrics::default();
    let (queue, writer) = slow.write(metrics.clone()).await;
    let (acks, mut answers) = mpsc::channel(2);
    for maybe_stored in [false, true] {
        let Queued { mut batch, .. } = queued("a");
        batch.stacks.clear();
        batch.rows = vec![row()];
        queue.put(batch, maybe_stored, acks.clone(), queue.room().await.unwrap()).unwrap();
    }
    // Once before the INSERT, and then while it runs on.
    while slow.count("processes") < 4 {
        assert!(slow.count("rows") <= 1, "it was inserted again while it ran");
        tokio::task::yield_now().await;
    }
    assert_eq!((slow.count("rows"), slow.count("look up rows")), (1, 0));
    slow.commit();
    for _ in 0..2 {
        assert_eq!(answers.recv().await.unwrap().unwrap().result(), AckResult::Stored);
    }
    assert_eq!((slow.count("rows"), metrics.batches.get(), metrics.rows.get()), (1, 1, 1));
    drop(queue);
    assert_eq!(writer.await.unwrap(), 0);
}

/// What ClickHouse refuses, however often it is sent, holds up nothing else.
#[tokio::test]
async fn a_batch_that_is_refused_is_tried_behind_the_others() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let answer = move |body: Bytes| async move {
        if !body.windows(6).any(|bytes| bytes == b"poison") {
            return StatusCode::OK;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        StatusCode::INTERNAL_SERVER_ERROR
    };
    let (queue, receiver) = Queue::new();
    let config = WriterConfig { cluster: None, stop_patience: Duration::ZERO };
    let writer = Writer::new(client_of(answer).await, config, Metrics::default(), receiver);
    let writing = tokio::spawn(writer.run(CancellationToken::new()));
    let (acks, mut answers) = mpsc::channel(1);
    for (sequence, thread) in [(1, "poison"), (2, "t")] {
        let Queued { mut batch, .. } = queued("a");
        batch.key = sequence;
        batch.sequence = sequence;
        batch.rows = vec![crate::store::Row { thread_name: thread.into(), ..row() }];
        queue.put(batch, true, acks.clone(), queue.room().await.unwrap()).unwrap();
        while refusals.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }
    let ack = tokio::time::timeout(Duration::from_secs(20), answers.recv()).await.unwrap();
    assert_eq!(ack.unwrap().unwrap().sequence, 2);
    writing.abort();
}

fn row() -> crate::store::Row {
    let process = ProcessInfo {
        pid: 1,
        start_time_millis: 0,
        name: "p".into(),
        app_service: "app".into(),
        policy: "".into(),
        period_micros: 10_101,
        pod: None,
        container: "".into(),
    };
    crate::store::Row {
        process: Arc::new(process),
        thread_name: "t".into(),
        main_thread: true,
        stack: StackId(1),
        end: StackEnd::Complete,
        cpu: 0,
        samples: 1,
        value_micros: 10_101,
    }
}

/// A client of a server that answers so, without its question for the table's
/// columns, and in plain bytes.
async fn client_of<T: 'static>(answer: impl axum::handler::Handler<T, ()>) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    Client::default().with_url(url).with_validation(false).with_compression(Compression::None)
}

fn frames(stack: &str) -> String {
    format!("main;stack_{stack}")
}

fn queued(stacks: &str) -> Queued {
    let agent = Agent { node: "n".into(), ..Agent::default() };
    let stacks =
        stacks.split(' ').map(|stack| stack.split_once('/').unwrap_or(("app", stack))).map(|(app, stack)| {
            StackText {
                app_service: app.into(),
                id: StackId(u128::from(stack.as_bytes()[0])),
                text: frames(stack).into(),
            }
        });
    let batch = Batch {
        key: 0,
        agent,
        sequence: 1,
        time: 0,
        window_seconds: 10,
        sent_at_micros: 0,
        rows: Vec::new(),
        stacks: stacks.collect(),
        losses: Vec::new(),
        too_old: None,
        bytes: 0,
    };
    let (acks, _) = mpsc::channel(1);
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Queued { batch, maybe_stored: false, tried: false, counted: false, acks, _room: Room(room) }
}

#[tokio::test]
async fn a_stack_is_sent_once_a_day_whoever_brings_it() {
    let mut store = Store::start().await;
    assert_eq!(store.insert(100, "a b, b c").await.unwrap(), "abc");
    assert_eq!(store.insert(100, "a, b c").await.unwrap(), "");
    assert_eq!(store.insert(100, "c d").await.unwrap(), "d");
    // Each app has its own.
    assert_eq!(store.insert(100, "a other/b").await.unwrap(), "b");
    assert_eq!(store.insert(100, "other/b").await.unwrap(), "");
    // Each batch of the next day brings its own, or its text would expire before its rows.
    assert_eq!(store.insert(101, "a").await.unwrap(), "a");
    assert_eq!(store.insert(101, "a b, d").await.unwrap(), "bd");
    assert_eq!(store.insert(101, "a b d").await.unwrap(), "");
}

#[tokio::test]
async fn what_the_store_did_not_take_is_sent_again() {
    let mut store = Store::start().await;
    store.fails.store(true, Ordering::Relaxed);
    assert!(store.insert(100, "a b").await.is_err());
    store.fails.store(false, Ordering::Relaxed);
    assert_eq!(store.insert(100, "a b").await.unwrap(), "ab");
}
