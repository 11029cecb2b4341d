//! Against a store that takes everything, or nothing, and remembers what it was sent.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use clickhouse::Compression;
use hearth_profile::stack::StackId;
use tokio::sync::Semaphore;

use super::*;
use crate::ingest::decode::Agent;
use crate::store::Batch;

const DAY: i64 = 86_400 * 1_000_000;

struct Store {
    writer: Writer,
    fails: Arc<AtomicBool>,
    sent: mpsc::UnboundedReceiver<Bytes>,
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
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
        // Without the question for the table's columns, and as plain text.
        let client =
            Client::default().with_url(url).with_validation(false).with_compression(Compression::None);
        let config = WriterConfig { cluster: None, stop_patience: Duration::ZERO };
        let (_, queue) = mpsc::unbounded_channel();
        Self { writer: Writer::new(client, config, Metrics::default(), queue), fails, sent }
    }

    /// Inserts the stacks of batches (`a b, other/b c` are two) at a time of `day`; what was sent of a to d.
    async fn insert(&mut self, day: i64, batches: &str) -> Result<String, Error> {
        let queued: Vec<Queued> = batches.split(", ").map(queued).collect();
        let inserted = self.writer.insert_stacks(&queued, day * DAY + DAY / 2).await;
        let sent: Vec<Bytes> = std::iter::from_fn(|| self.sent.try_recv().ok()).collect();
        let text = String::from_utf8_lossy(&sent.concat()).into_owned();
        let found: String = ["a", "b", "c", "d"].into_iter().filter(|s| text.contains(&frames(s))).collect();
        assert_eq!(inserted? as usize, found.len());
        Ok(found)
    }
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
        bytes: 0,
    };
    let (acks, _) = mpsc::channel(1);
    let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Queued { batch, maybe_stored: false, acks, _room: room }
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
