//! Batches that are sent again: nothing is lost, nothing is stored twice.

use std::sync::Arc;

use clickhouse::Client;
use hearth_collector::ingest::decode::StreamTables;
use hearth_collector::store::Batch;
use hearth_proto::collector::v1::{AckResult, Loss, LossReason, Rows, SampleBatch, StackEnd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::harness::{Collector, Store, first_batch, last_window, next_batch, now_micros, resolved};

const ROWS: &str = "SELECT batch, count() FROM in_process_local GROUP BY ALL ORDER BY ALL";
const LOSSES: &str = "SELECT reason, samples FROM losses ORDER BY ALL";
const DUPLICATES: &str = "hearth_collector_batches_dropped_total{reason=\"Duplicate\"}";

/// An INSERT of one row of a batch, as a collector that was killed leaves it
/// behind: it runs until it is let go, and then commits.
struct Hanging {
    let_go: Arc<Semaphore>,
    insert: JoinHandle<Result<(), clickhouse::error::Error>>,
}

impl Hanging {
    /// Waits until ClickHouse runs it.
    async fn start(client: &Client, mark: &'static str, batch: u64) -> Self {
        // What it inserts comes from a server that takes its time.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let let_go = Arc::new(Semaphore::new(0));
        let gate = Arc::clone(&let_go);
        tokio::spawn(async move {
            loop {
                let (mut peer, _) = listener.accept().await.unwrap();
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    assert_ne!(peer.read(&mut [0; 4096]).await.unwrap(), 0);
                    let _open = gate.acquire().await.unwrap();
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n1\n";
                    // It may have what it wants from another connection.
                    let _ = peer.write_all(answer.as_bytes()).await;
                });
            }
        });
        let insert = format!(
            "INSERT INTO in_process_local (time, batch, sample_count) \
             SELECT {}, {batch}, x FROM url('{url}', TSV, 'x UInt32')",
            last_window()
        );
        let running = client.clone().with_setting("log_comment", mark);
        let insert = tokio::spawn(async move { running.query(&insert).execute().await });
        let seen = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = ?";
        while client.query(seen).bind(mark).fetch_one::<u64>().await.unwrap() == 0 {
            assert!(!insert.is_finished(), "{:?}", insert.await);
        }
        Self { let_go, insert }
    }

    async fn let_go(self) {
        self.let_go.add_permits(1000);
        self.insert.await.unwrap().unwrap();
    }
}

/// The last INSERT of a killed collector commits only now: the batch is found,
/// because it is not looked up before. What is fresh does not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_resent_batch_waits_for_the_inserts_before_it() {
    let mut store = Store::start().await;
    let key = Batch::key(&[1; 16], 1);
    let hanging = Hanging::start(&store.client, "hearth-insert-of-before", key).await;
    store.put(resolved(first_batch(1, 1)), true).await;
    for sequence in 11..=13 {
        store.put(resolved(first_batch(2, sequence)), false).await;
        assert_eq!(store.ack().await, (sequence, AckResult::Stored));
    }
    assert!(!store.ask(ROWS).await.contains(&format!("{key}\t")), "it was not looked up after the INSERT");
    hanging.let_go().await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    assert!(store.ask(ROWS).await.contains(&format!("{key}\t1\n")), "{}", store.ask(ROWS).await);
    assert_eq!(store.metric(DUPLICATES), 1);
    assert_eq!(store.metric("hearth_collector_batches_total"), 3);
    store.embedded.stop().await;
}

/// A later batch of the same stream has rows with stacks that came with the one
/// that waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_stacks_of_a_batch_that_waits_are_stored() {
    let mut store = Store::start().await;
    let hanging = Hanging::start(&store.client, "hearth-insert-of-before", 1).await;
    let mut tables = StreamTables::default();
    store.put(tables.accept(first_batch(1, 1)).unwrap(), true).await;
    store.put(tables.accept(next_batch(2)).unwrap(), false).await;
    assert_eq!(store.ack().await, (2, AckResult::Stored));
    let shown = "SELECT profile_location_str FROM in_process WHERE app_service != 'Total'";
    assert_eq!(store.ask(shown).await, "[t] bio_close_file;main;work\n");
    hanging.let_go().await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    store.embedded.stop().await;
}

/// What others insert is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_resent_batch_does_not_wait_for_strangers() {
    let mut store = Store::start().await;
    let hanging = Hanging::start(&store.client, "somebody", 1).await;
    store.put(resolved(first_batch(1, 1)), true).await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    hanging.let_go().await;
    store.embedded.stop().await;
}

fn with_losses(batch: SampleBatch, losses: &[(LossReason, u64)]) -> SampleBatch {
    let losses = losses.iter().map(|(reason, samples)| Loss { reason: (*reason).into(), samples: *samples });
    SampleBatch { losses: losses.collect(), ..batch }
}

/// What an agent lost stands beside its rows, each reason once.
#[tokio::test(flavor = "multi_thread")]
async fn losses_are_stored() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    let losses = [LossReason::RingFull, LossReason::QueueFull, LossReason::RingFull, LossReason::CountsFull]
        .map(|reason| (reason, 5));
    let mut batch = with_losses(first_batch(1, 1), &losses);
    // Of an agent that knows more reasons, and one that says nothing.
    batch.losses.extend([Loss { reason: 77, samples: 2 }, Loss { reason: 77, samples: 0 }]);
    batch.losses.push(Loss { reason: LossReason::Unspecified.into(), samples: 3 });
    let time = batch.window_start;
    stream.send(batch).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
    let key = Batch::key(&[1; 16], 1);
    let common = format!("{time}\t{key}\thome\tnode-1\t");
    assert_eq!(
        collector
            .ask("SELECT toUnixTimestamp(time), batch, pod_cluster, pod_node, reason, samples FROM losses ORDER BY reason")
            .await,
        format!("{common}counts-full\t5\n{common}queue-full\t5\n{common}ring-full\t10\n{common}unspecified\t5\n")
    );
    for (reason, samples) in [("CountsFull", 5), ("QueueFull", 5), ("RingFull", 10), ("Unspecified", 5)] {
        let metric = format!("hearth_collector_samples_lost_total{{reason=\"{reason}\"}}");
        assert_eq!(collector.metric(&metric), samples, "{reason}");
    }
}

/// Rows and losses are two INSERTs, and a collector may have died between them.
#[tokio::test(flavor = "multi_thread")]
async fn a_resent_batch_is_completed() {
    let mut store = Store::start().await;
    let batch = with_losses(first_batch(1, 1), &[(LossReason::RingFull, 9), (LossReason::QueueFull, 4)]);
    let key = Batch::key(&[1; 16], 1);
    let lost = "queue-full\t4\nring-full\t9\n";
    for missing in ["losses", "in_process_local", "stacks", "losses"] {
        store.ask(&format!("TRUNCATE TABLE {missing}")).await;
        store.put(resolved(batch.clone()), true).await;
        assert_eq!(store.ack().await, (1, AckResult::Stored));
        assert_eq!(store.ask(ROWS).await, format!("{key}\t4\n"), "without {missing}");
        assert_eq!(store.ask(LOSSES).await, lost, "without {missing}");
    }
    // Half of the losses would be none of an INSERT's making, but is told apart too.
    store.ask("DELETE FROM losses WHERE reason = 'ring-full'").await;
    store.put(resolved(batch), true).await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    assert_eq!(store.ask(LOSSES).await, lost);
    store.embedded.stop().await;
}

/// An agent that had nothing but losses to tell, and told it twice.
#[tokio::test(flavor = "multi_thread")]
async fn losses_without_rows_are_stored_once() {
    let collector = Collector::start().await;
    let empty = SampleBatch { rows: Some(Rows::default()), ..first_batch(1, 1) };
    let batch = with_losses(empty, &[(LossReason::RingFull, 9)]);
    for _ in 0..3 {
        let mut stream = collector.open().await;
        stream.send(batch.clone()).await;
        assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
        assert_eq!(collector.ask(LOSSES).await, "ring-full\t9\n");
    }
    assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"RingFull\"}"), 9);
    assert_eq!(collector.metric("hearth_collector_batches_total"), 1);
    assert_eq!(collector.metric(DUPLICATES), 2);
}

/// What is older than the retention is a loss, at its own time and once.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_old_is_a_loss() {
    let collector = Collector::start().await;
    // The raw retention is 72 h; what is older than 70 h is not taken any more.
    let time = last_window() - 71 * 3600;
    let old = SampleBatch { window_start: time, sent_at_micros: now_micros(), ..first_batch(1, 1) };
    let old = with_losses(old, &[(LossReason::RingFull, 9)]);
    for _ in 0..2 {
        let mut stream = collector.open().await;
        stream.send(old.clone()).await;
        assert_eq!(stream.ack().await.unwrap(), (1, AckResult::TooOld));
        assert_eq!(
            collector.ask("SELECT toUnixTimestamp(time), reason, samples FROM losses ORDER BY reason").await,
            format!("{time}\tring-full\t9\n{time}\ttoo-old\t50\n")
        );
        assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"TooOld\"}"), 50);
        assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"RingFull\"}"), 9);
        // Its stacks were not stored either, and come with the next that has them.
        stream.send(next_batch(2)).await;
        assert_eq!(stream.ack().await.unwrap(), (2, AckResult::Stored));
        assert_eq!(collector.ask("SELECT frames FROM stacks").await, "main;work\n");
    }
    assert_eq!(collector.metric("hearth_collector_batches_dropped_total{reason=\"TooOld\"}"), 1);
    assert_eq!(collector.metric("hearth_collector_batches_total"), 1);
}

/// Samples are in rows or lost, also when a batch got old between two attempts,
/// or the retention was changed.
#[tokio::test(flavor = "multi_thread")]
async fn samples_are_not_both_stored_and_lost() {
    let mut store = Store::start().await;
    let [in_time, too_old] = [false, true].map(|too_old| {
        move |instance| {
            let mut batch = resolved(first_batch(instance, 1));
            if too_old {
                batch.give_up("it is".into());
            }
            batch
        }
    });
    store.put(in_time(1), true).await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    store.put(too_old(1), true).await;
    assert_eq!(store.ack().await, (1, AckResult::TooOld));
    assert_eq!(store.ask(LOSSES).await, "");
    store.put(too_old(2), true).await;
    assert_eq!(store.ack().await, (1, AckResult::TooOld));
    store.put(in_time(2), true).await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    assert_eq!(store.ask(LOSSES).await, "too-old\t50\n");
    assert_eq!(store.ask(ROWS).await, format!("{}\t4\n", Batch::key(&[1; 16], 1)));
    store.embedded.stop().await;
}

/// A batch is wholly there or not at all, also where ClickHouse is told to cut INSERTs small.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_is_one_part_whatever_the_settings_profile_says() {
    let small = ["max_insert_block_size", "min_insert_block_size_rows", "min_insert_block_size_bytes"];
    let mut store = Store::start_with(&small.map(|name| (name, "1000"))).await;
    store.ask("SYSTEM STOP MERGES in_process_local").await;
    let rows = Rows {
        thread: vec![1; 5000],
        stack: vec![1; 5000],
        samples: vec![1; 5000],
        end: vec![StackEnd::Complete.into(); 5000],
        cpu: (0..5000).map(|row| row % 1000).collect(),
    };
    store.put(resolved(SampleBatch { rows: Some(rows), ..first_batch(1, 1) }), false).await;
    assert_eq!(store.ack().await, (1, AckResult::Stored));
    assert_eq!(store.ask("SELECT count(), uniqExact(_part) FROM in_process_local").await, "5000\t1\n");
    store.embedded.stop().await;
}

/// Windows of very many hours and days in one INSERT hold up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn windows_far_apart_are_stored() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    for sequence in 1..=120 {
        let time = last_window() - (71 * 3600 + 86_400 * (120 - sequence as i64));
        let batch = if sequence == 1 { first_batch(1, 1) } else { next_batch(sequence) };
        stream.send(SampleBatch { window_start: time, sent_at_micros: now_micros(), ..batch }).await;
    }
    for sequence in 1..=120 {
        assert_eq!(stream.ack().await.unwrap(), (sequence, AckResult::TooOld));
    }
    assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"TooOld\"}"), 50 + 119 * 3);
    assert_eq!(collector.metric("hearth_collector_insert_failures_total"), 0);
}
