//! The one task that inserts.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clickhouse::error::Error;
use clickhouse::insert::Insert;
use clickhouse::{Client, Row};
use hearth_kill_points::Point;
use lru::LruCache;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::resent::{Found, Resent, mark, running_inserts};
use super::rows::{LossRow, SampleRow, StackRow};
use super::{Queued, StackText};
use crate::ingest::limits::MAX_ROWS;
use crate::metrics::{DropReason, Metrics};
use crate::store_check;

/// How long the first batch of an INSERT waits for others: windows end at the
/// same moment on all nodes, and agents that share an INSERT share a part.
const LINGER: Duration = Duration::from_secs(1);
/// Rows of one INSERT, to which one batch may come on top.
const INSERT_ROWS: usize = 500_000;
/// Where ClickHouse cuts blocks. A block is what is written as a whole, so none of our
/// INSERTs may be cut, whatever the server's settings profile says. The two minima hold for the
/// blocks that it puts together again: without the one of bytes, rows alone count.
const BLOCKS: [(&str, &str); 3] = [
    ("max_insert_block_size", "1048576"),
    ("min_insert_block_size_rows", "1048576"),
    ("min_insert_block_size_bytes", "0"),
];
const _: () = assert!(INSERT_ROWS + MAX_ROWS < 1_048_576);
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
/// How often it is asked whether the INSERTs that resent batches wait for are over.
const WAIT_STEP: Duration = Duration::from_millis(250);
/// From then on somebody should know that they wait.
const LONG_WAIT: Duration = Duration::from_secs(10);
/// Between two log lines about the same failure.
const FAILURE_REPEAT: Duration = Duration::from_secs(60);

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
    /// When it was said last that resent batches wait.
    said_waiting: Option<Instant>,
}

/// What was taken out of the queue and is not stored.
#[derive(Debug, Default)]
struct Work {
    /// To be inserted as it is.
    fresh: Vec<Queued>,
    /// To be looked up before. Nobody else waits for these.
    resent: Vec<Resent>,
}

impl Work {
    fn len(&self) -> usize {
        self.fresh.len() + self.resent.iter().map(|resent| resent.batches.len()).sum::<usize>()
    }

    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<Queued>> {
        self.resent.iter_mut().map(|resent| &mut resent.batches).chain([&mut self.fresh])
    }

    /// A stream that ended sends its batches again on the next one.
    fn drop_abandoned(&mut self) -> usize {
        let before = self.len();
        self.lists().for_each(|batches| batches.retain(|queued| !queued.acks.is_closed()));
        self.drop_stored();
        before - self.len()
    }

    /// An INSERT failed. What it brings after all may be any of these: one batch is in
    /// several groups when two streams bring it.
    fn insert_failed(&mut self) {
        self.resent.iter_mut().for_each(Resent::look_again);
    }

    fn drop_stored(&mut self) {
        self.resent.retain(|resent| !resent.batches.is_empty());
    }
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
        Self { client, config, metrics, queue, known_stacks, failing: None, said_waiting: None }
    }

    /// Runs until the queue is closed and empty, or `stop` came and the
    /// patience is over. Answers how many batches were left.
    pub async fn run(mut self, stop: CancellationToken) -> usize {
        let patience = self.config.stop_patience;
        let mut work = Work::default();
        let give_up = async move {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            () = self.insert_until_closed(&mut work) => 0,
            () = give_up => {
                work.len() + self.queue.len()
            }
        }
    }

    async fn insert_until_closed(&mut self, work: &mut Work) {
        let mut pause = FIRST_PAUSE;
        while self.gather(work).await {
            match self.round(work).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.note_success();
                }
                Err(error) => {
                    self.note_failure(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits for a first batch, and then for others until an INSERT is full or the
    /// time is over; not for long while resent batches wait for something else.
    /// False when the queue is closed and nothing is left.
    async fn gather(&mut self, work: &mut Work) -> bool {
        // What was not even tried has waited already.
        if !work.fresh.is_empty() {
            return true;
        }
        let first = if work.resent.is_empty() {
            let Some(first) = self.queue.recv().await else { return false };
            first
        } else {
            let until = tokio::time::Instant::now() + WAIT_STEP;
            match tokio::time::timeout_at(until, self.queue.recv()).await {
                Ok(Some(first)) => first,
                Err(_) => return true,
                // Closed and empty: nobody comes any more.
                Ok(None) => {
                    tokio::time::sleep_until(until).await;
                    return true;
                }
            }
        };
        let until = tokio::time::Instant::now() + LINGER;
        let (mut rows, mut bytes) = (first.batch.rows.len(), first.batch.bytes);
        let mut batches = vec![first];
        while rows < INSERT_ROWS && bytes < INSERT_BYTES {
            match tokio::time::timeout_at(until, self.queue.recv()).await {
                Ok(Some(queued)) => {
                    rows += queued.batch.rows.len();
                    bytes += queued.batch.bytes;
                    batches.push(queued);
                }
                // The time is over, or the queue is closed and empty.
                Err(_) | Ok(None) => break,
            }
        }
        let (resent, fresh) = batches.into_iter().partition(|queued: &Queued| queued.maybe_stored);
        work.fresh = fresh;
        work.resent.push(Resent::new(resent));
        work.drop_stored();
        Point::CollectorBeforeInsert.reached();
        true
    }

    /// Stores all of `work` that can be stored now.
    async fn round(&mut self, work: &mut Work) -> Result<(), Error> {
        self.metrics.dropped(DropReason::StreamEnded, work.drop_abandoned() as u64);
        if !work.resent.is_empty() {
            // Before the INSERT of this round, which they need not wait for.
            let running = running_inserts(&self.client).await?;
            work.resent.iter_mut().for_each(|resent| resent.see(&running));
            self.note_waiting(&work.resent);
        }
        // Also of those that wait: a later batch of their stream has rows with their
        // stacks, and may be stored before them.
        self.insert_stacks(work.lists().flat_map(|batches| &*batches), now_micros()).await?;
        work.lists().flatten().for_each(|queued| queued.batch.stacks = Vec::new());
        if !work.fresh.is_empty()
            && let Err(error) = self.store(&mut work.fresh, &Found::default()).await
        {
            // Whether ClickHouse has them is not known now.
            work.resent.push(Resent::new(std::mem::take(&mut work.fresh)));
            work.insert_failed();
            return Err(error);
        }
        while let Some(at) = work.resent.iter().position(Resent::can_be_looked_up) {
            let batches = &mut work.resent[at].batches;
            let stored = match Found::look_up(&self.client, batches).await {
                Ok(found) => self.store(batches, &found).await,
                Err(error) => Err(error),
            };
            let resent = work.resent.remove(at);
            if let Err(error) = stored {
                // Behind the others, which may be taken where this one is refused.
                work.resent.push(resent);
                work.insert_failed();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Stores what was not `found` of `batches` and acknowledges all, or leaves
    /// all in it.
    async fn store(&mut self, batches: &mut Vec<Queued>, found: &Found) -> Result<(), Error> {
        batches.iter_mut().for_each(|queued| self.settle(queued, found));
        let stored = self.insert_all(batches).await;
        // An agent may have two streams, and the same batch on both.
        let mut seen = HashSet::new();
        for queued in batches.iter_mut().filter(|queued| !queued.counted) {
            let is_first = seen.insert(queued.batch.key);
            match stored {
                Ok(()) => self.count(queued, !is_first),
                Err(_) => queued.tried |= is_first,
            }
        }
        stored?;
        batches.drain(..).for_each(|queued| queued.acknowledge());
        Ok(())
    }

    /// Takes out what was found, so that only the rest is inserted. What is found of
    /// one that we tried is ours, and counted now.
    fn settle(&self, queued: &mut Queued, found: &Found) {
        let key = queued.batch.key;
        if !queued.counted && found.has_all(&queued.batch) {
            self.count(queued, !queued.tried);
            queued.counted = true;
        }
        if found.has_rows(key) {
            queued.batch.rows = Vec::new();
        }
        queued.batch.losses.retain(|(lost, samples)| {
            if queued.tried && found.has_exactly(key, *lost) {
                self.metrics.lost(*lost, *samples);
            }
            !found.has_loss(key, *lost)
        });
    }

    async fn insert_all(&self, batches: &mut [Queued]) -> Result<(), Error> {
        let started = Instant::now();
        self.insert_losses(batches).await?;
        Point::CollectorBetweenStacksAndRows.reached();
        self.insert_rows(batches).await?;
        Point::CollectorAfterInsert.reached();
        self.metrics.insert_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    fn count(&self, Queued { batch, .. }: &Queued, is_known: bool) {
        if is_known {
            self.metrics.dropped(DropReason::Duplicate, 1);
        } else if batch.too_old.is_some() {
            self.metrics.dropped(DropReason::TooOld, 1);
        } else {
            self.metrics.batches.inc();
            self.metrics.rows.inc_by(batch.rows.len() as u64);
        }
    }

    /// Sends the stacks that were not sent today.
    async fn insert_stacks<'a>(
        &mut self,
        batches: impl Iterator<Item = &'a Queued>,
        now_micros: i64,
    ) -> Result<(), Error> {
        let now = u32::try_from(now_micros / 1_000_000).unwrap_or(u32::MAX);
        let today = now / 86_400;
        let mut unsent: HashMap<(u64, u128), &StackText> = HashMap::new();
        for stack in batches.flat_map(|queued| &queued.batch.stacks) {
            let key = stack.key();
            if self.known_stacks.get(&key) != Some(&today) {
                unsent.insert(key, stack);
            }
        }
        let mut unsent = unsent.into_iter().peekable();
        while unsent.peek().is_some() {
            let mut insert = self.insert::<StackRow<'_>>("stacks").await?;
            let (mut keys, mut bytes) = (Vec::new(), 0);
            // Of all that waits they may be more than one INSERT takes.
            while bytes < INSERT_BYTES
                && let Some((key, stack)) = unsent.next()
            {
                insert.write(&StackRow::new(stack, now)).await?;
                bytes += stack.text.len() + size_of::<StackText>();
                keys.push(key);
            }
            insert.end().await?;
            self.metrics.stacks.inc_by(keys.len() as u64);
            keys.into_iter().for_each(|key| _ = self.known_stacks.put(key, today));
        }
        Ok(())
    }

    /// Inserts the losses, and takes them out of their batches: should the rows
    /// fail, they are not lost again.
    async fn insert_losses(&self, batches: &mut [Queued]) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let all = batches.iter().map(|queued| &queued.batch);
        let losses =
            all.flat_map(|batch| batch.losses.iter().map(move |(lost, samples)| (batch, *lost, *samples)));
        let losses: Vec<_> = losses.filter(|(batch, lost, _)| seen.insert((batch.key, *lost))).collect();
        if losses.is_empty() {
            return Ok(());
        }
        let mut insert = self.insert::<LossRow<'_>>("losses").await?;
        let cluster = self.config.cluster.as_deref();
        for (batch, lost, samples) in &losses {
            insert.write(&LossRow::new(batch, *lost, *samples, cluster)).await?;
        }
        insert.end().await?;
        losses.into_iter().for_each(|(_, lost, samples)| self.metrics.lost(lost, samples));
        batches.iter_mut().for_each(|queued| queued.batch.losses.clear());
        Ok(())
    }

    async fn insert_rows(&self, batches: &[Queued]) -> Result<(), Error> {
        // Agents with nothing to say send batches without rows.
        if batches.iter().all(|queued| queued.batch.rows.is_empty()) {
            return Ok(());
        }
        let now = now_micros();
        let mut insert = self.insert::<SampleRow<'_>>("in_process_local").await?;
        let cluster = self.config.cluster.as_deref();
        let mut seen = HashSet::new();
        for batch in batches.iter().map(|queued| &queued.batch).filter(|batch| seen.insert(batch.key)) {
            for row in &batch.rows {
                insert.write(&SampleRow::new(batch, row, cluster, now)).await?;
            }
        }
        insert.end().await
    }

    async fn insert<T: Row>(&self, table: &str) -> Result<Insert<T>, Error> {
        let mark = mark();
        let insert = self.client.insert::<T>(table).await?;
        let insert = BLOCKS.iter().fold(insert, |insert, (name, value)| insert.with_setting(*name, *value));
        Ok(insert
            .with_timeouts(Some(SEND_TIMEOUT), Some(END_TIMEOUT))
            .with_setting("query_id", &mark)
            .with_setting("log_comment", mark)
            // However far apart the windows are that agents send: a batch is in one
            // partition, and none is held up by another.
            .with_setting("max_partitions_per_insert_block", "0"))
    }

    fn note_success(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("ClickHouse stores again");
        }
    }

    /// Says now and then that resent batches wait, and for what.
    fn note_waiting(&mut self, resent: &[Resent]) {
        let waits = resent.iter().filter_map(Resent::waits).max_by_key(|(_, waited)| *waited);
        let Some((mark, waited)) = waits.filter(|(_, waited)| *waited > LONG_WAIT) else { return };
        if self.said_waiting.is_none_or(|said| said.elapsed() > FAILURE_REPEAT) {
            tracing::warn!(
                "batches that were sent again wait for an INSERT that began before them ({waited:.0?}): \
                 SELECT * FROM system.processes WHERE Settings['log_comment'] = '{mark}'"
            );
            self.said_waiting = Some(Instant::now());
        }
    }

    /// Says why when that changes, and else now and then.
    fn note_failure(&mut self, error: &Error) {
        self.metrics.insert_failures.inc();
        let remedy = match error {
            Error::BadResponse(answer) => store_check::remedy(answer),
            _ => None,
        };
        let text = remedy.map_or_else(|| error.to_string(), |remedy| format!("{remedy}: {error}"));
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

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
