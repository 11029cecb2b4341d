//! The one task that inserts.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickhouse::Client;
use clickhouse::error::Error;
use hearth_kill_points::Point;
use hearth_proto::collector::v1::AckResult;
use lru::LruCache;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rows::{SampleRow, StackRow};
use super::{Queued, StackText};
use crate::metrics::{DropReason, Metrics};

/// How long the first batch of an INSERT waits for others: windows end at the
/// same moment on all nodes, and agents that share an INSERT share a part.
const LINGER: Duration = Duration::from_secs(1);
/// Rows of one INSERT. ClickHouse cuts blocks at about a million rows, and a
/// block is what is written as a whole.
const INSERT_ROWS: usize = 500_000;
/// Bytes of one INSERT, to which one batch may come on top: `hearth-clickhouse`
/// refuses a request over 256 MiB, however often it is sent.
const INSERT_BYTES: usize = 128 << 20;
/// Stacks whose having been sent is remembered: 50 MB.
const KNOWN_STACKS: NonZeroUsize = NonZeroUsize::new(500_000).expect("not zero");
/// How long an INSERT may take before it counts as failed.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// Pauses after failures: this, then twice as long, up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Between two log lines about the same failure.
const FAILURE_REPEAT: Duration = Duration::from_secs(60);
/// Seconds around a batch's window in which it is looked for: a corrected
/// clock may put a resent batch into a neighbouring window.
const LOOKUP_SLACK_SECONDS: u32 = 120;

/// What the writer stamps and obeys.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// `pod_cluster` of all rows; `None` takes what each agent says.
    pub cluster: Option<String>,
    /// How long what is queued may take to be stored at the stop.
    pub stop_patience: Duration,
}

/// Inserts what comes out of the queue.
pub struct Writer {
    client: Client,
    config: WriterConfig,
    metrics: Metrics,
    queue: mpsc::UnboundedReceiver<Queued>,
    /// [`StackText::key`], and the day (since 1970, UTC) it was last sent.
    known_stacks: LruCache<(u64, u128), u32>,
    /// What was said last of a store that does not take anything, and when.
    failing: Option<(String, Instant)>,
}

impl Writer {
    /// `client`'s database must be `profile`.
    pub fn new(
        client: Client,
        config: WriterConfig,
        metrics: Metrics,
        queue: mpsc::UnboundedReceiver<Queued>,
    ) -> Self {
        let client = client.with_setting("async_insert", "0");
        let known_stacks = LruCache::new(KNOWN_STACKS);
        Self { client, config, metrics, queue, known_stacks, failing: None }
    }

    /// Runs until the queue is closed and empty, or `stop` came and the
    /// patience is over. Answers how many batches were left.
    pub async fn run(mut self, stop: CancellationToken) -> usize {
        let patience = self.config.stop_patience;
        let mut pending: Vec<Queued> = Vec::new();
        let give_up = async move {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            () = self.insert_until_closed(&mut pending) => 0,
            () = give_up => {
                pending.len() + self.queue.len()
            }
        }
    }

    async fn insert_until_closed(&mut self, pending: &mut Vec<Queued>) {
        let mut pause = FIRST_PAUSE;
        loop {
            // What failed has waited already.
            if pending.is_empty() && !self.gather(pending).await {
                return;
            }
            self.drop_abandoned(pending);
            match self.store(pending).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.note_success();
                }
                Err(error) => {
                    self.note_failure(&error);
                    // Whether ClickHouse has them is not known now. An INSERT
                    // that timed out here may even still be running there: the
                    // look-up must wait until it has left system.processes,
                    // and does not yet.
                    for queued in pending.iter_mut() {
                        queued.maybe_stored = true;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits for a first batch, and then for others until an INSERT is full or the
    /// time is over. False when the queue is closed and nothing is left.
    async fn gather(&mut self, pending: &mut Vec<Queued>) -> bool {
        let Some(first) = self.queue.recv().await else { return false };
        let until = tokio::time::Instant::now() + LINGER;
        let (mut rows, mut bytes) = (first.batch.rows.len(), first.batch.bytes);
        pending.push(first);
        while rows < INSERT_ROWS && bytes < INSERT_BYTES {
            match tokio::time::timeout_at(until, self.queue.recv()).await {
                Ok(Some(queued)) => {
                    rows += queued.batch.rows.len();
                    bytes += queued.batch.bytes;
                    pending.push(queued);
                }
                // The time is over, or the queue is closed and empty.
                Err(_) | Ok(None) => break,
            }
        }
        true
    }

    /// A stream that ended sends its batches again on the next one.
    fn drop_abandoned(&self, pending: &mut Vec<Queued>) {
        let before = pending.len();
        pending.retain(|queued| !queued.acks.is_closed());
        let dropped = (before - pending.len()) as u64;
        self.metrics.dropped(DropReason::StreamEnded, dropped);
    }

    /// Stores and acknowledges all of `pending`, or leaves all in it.
    async fn store(&mut self, pending: &mut Vec<Queued>) -> Result<(), Error> {
        let mut stored = self.look_up(pending).await?;
        let fresh: Vec<&Queued> = pending.iter().filter(|queued| stored.insert(queued.batch.key)).collect();
        let now = now_micros();
        let started = Instant::now();
        Point::CollectorBeforeInsert.reached();
        let new_stacks = self.insert_stacks(pending, now).await?;
        self.metrics.stacks.inc_by(new_stacks);
        Point::CollectorBetweenStacksAndRows.reached();
        self.insert_rows(&fresh, now).await?;
        Point::CollectorAfterInsert.reached();
        self.metrics.insert_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.batches.inc_by(fresh.len() as u64);
        fresh.iter().for_each(|queued| queued.batch.count_losses(&self.metrics));
        self.metrics.rows.inc_by(fresh.iter().map(|queued| queued.batch.rows.len() as u64).sum());
        self.metrics.dropped(DropReason::Duplicate, (pending.len() - fresh.len()) as u64);
        for queued in pending.drain(..) {
            queued.acknowledge(AckResult::Stored, "");
        }
        Ok(())
    }

    /// Which of the batches that may be stored already are.
    async fn look_up(&self, pending: &[Queued]) -> Result<HashSet<u64>, Error> {
        let suspects: Vec<&Queued> = pending.iter().filter(|queued| queued.maybe_stored).collect();
        let times = suspects.iter().map(|queued| queued.batch.time);
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
            return Ok(HashSet::new());
        };
        let longest = suspects.iter().map(|queued| queued.batch.window_seconds).max().unwrap_or_default();
        let slack = LOOKUP_SLACK_SECONDS + longest;
        let keys: Vec<u64> = suspects.iter().map(|queued| queued.batch.key).collect();
        let found = self
            .client
            .query(
                "SELECT DISTINCT batch FROM in_process_local \
                 WHERE time >= toDateTime(?) AND time <= toDateTime(?) AND batch IN ?",
            )
            .bind(first.saturating_sub(slack))
            .bind(last.saturating_add(slack))
            .bind(keys)
            .fetch_all::<u64>()
            .await?;
        Ok(found.into_iter().collect())
    }

    /// Sends the stacks that were not sent today; answers how many.
    async fn insert_stacks(&mut self, pending: &[Queued], now_micros: i64) -> Result<u64, Error> {
        let now = u32::try_from(now_micros / 1_000_000).unwrap_or(u32::MAX);
        let today = now / 86_400;
        let mut unsent: HashMap<(u64, u128), &StackText> = HashMap::new();
        for stack in pending.iter().flat_map(|queued| &queued.batch.stacks) {
            let key = stack.key();
            if self.known_stacks.get(&key) != Some(&today) {
                unsent.insert(key, stack);
            }
        }
        if unsent.is_empty() {
            return Ok(0);
        }
        let mut insert = self
            .client
            .insert::<StackRow<'_>>("stacks")
            .await?
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT))
            .with_setting("query_id", query_id("stacks"));
        for stack in unsent.values() {
            insert.write(&StackRow::new(stack, now)).await?;
        }
        insert.end().await?;
        let sent = unsent.len() as u64;
        for key in unsent.into_keys() {
            self.known_stacks.put(key, today);
        }
        Ok(sent)
    }

    async fn insert_rows(&self, fresh: &[&Queued], now_micros: i64) -> Result<(), Error> {
        // Agents with nothing to say send batches without rows.
        if fresh.iter().all(|queued| queued.batch.rows.is_empty()) {
            return Ok(());
        }
        let mut insert = self
            .client
            .insert::<SampleRow<'_>>("in_process_local")
            .await?
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT))
            .with_setting("query_id", query_id("rows"));
        let cluster = self.config.cluster.as_deref();
        for queued in fresh {
            for row in &queued.batch.rows {
                insert.write(&SampleRow::new(&queued.batch, row, cluster, now_micros)).await?;
            }
        }
        insert.end().await
    }

    fn note_success(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("ClickHouse stores again");
        }
    }

    /// Says why when that changes, and else now and then.
    fn note_failure(&mut self, error: &Error) {
        self.metrics.insert_failures.inc();
        let text = error.to_string();
        let is_known = self
            .failing
            .as_ref()
            .is_some_and(|(known, said)| *known == text && said.elapsed() < FAILURE_REPEAT);
        if !is_known {
            tracing::warn!("ClickHouse does not store, trying again until it does: {text}");
            self.failing = Some((text, Instant::now()));
        }
    }
}

/// Names our INSERTs in `system.processes`.
fn query_id(what: &str) -> String {
    format!("hearth-{what}-{}", Uuid::new_v4())
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
