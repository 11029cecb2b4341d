//! The stream to the collector.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, TryFutureExt as _};
use hearth_kill_points::Point;
use hearth_program::and_causes;
use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_proto::collector::v1::{AckResult, AgentIdentity, BatchAck, SampleBatch};
use prost::Message as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::batch::{Limits, StreamEncoder, Window};
use super::queue::{Broken, Queue};
use crate::pods::NodePlace;
use crate::remote::{Credentials, Remote, RemoteError, is_token_expired, outcome};

/// How long the collector may take to end its side of a stream that we ended.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where the windows go, and how hard to try.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the collector's gRPC port, such as `http://127.0.0.1:20417`.
    pub collector: String,
    /// Whom to believe, and with which token to send.
    pub credentials: Credentials,
    /// Who speaks; its instance is drawn anew at every start.
    pub identity: AgentIdentity,
    /// Memory that unacknowledged windows may take, in bytes.
    pub queue_bytes: usize,
    /// How much the tables of one stream may hold.
    pub limits: Limits,
    /// Wait after losing a stream. It doubles with every attempt that brings no acknowledgement, and up to
    /// half of it is added at random, so that the agents of a cluster do not return at once.
    pub retry_first: Duration,
    /// The wait grows to this and no further.
    pub retry_max: Duration,
}

impl Options {
    /// With the documented defaults.
    pub fn new(collector: impl Into<String>, identity: AgentIdentity) -> Self {
        Self {
            collector: collector.into(),
            credentials: Credentials::default(),
            identity,
            queue_bytes: 32 << 20,
            limits: Limits::default(),
            // A collector drops the queued batches of a stream that ended: give it the time.
            retry_first: Duration::from_secs(2),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// What the exporter counts, since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams opened.
    pub streams: AtomicU64,
    /// Batches put on a stream; one that is sent again counts again.
    pub batches_sent: AtomicU64,
    /// Bytes of their encoding.
    pub bytes_sent: AtomicU64,
    /// Batches that the collector has stored.
    pub batches_stored: AtomicU64,
    /// Batches that the collector dropped as too old.
    pub batches_too_old: AtomicU64,
    /// Batches dropped because the queue was full.
    pub batches_dropped: AtomicU64,
    /// Batches given up because the collector refused them.
    pub batches_refused: AtomicU64,
    /// Samples of the dropped and the refused.
    pub samples_dropped: AtomicU64,
    /// Whether the newest stream has brought an acknowledgement and is not lost.
    pub connected: AtomicBool,
}

/// Queues windows and sends them in the background. Dropping it ends the sending.
#[derive(Debug)]
pub struct Exporter {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Batches in the queue; every change wakes the sender and those who wait for an empty queue.
    pending: watch::Sender<usize>,
    /// Set when the stream is to end as soon as everything on it is acknowledged.
    closing: AtomicBool,
    /// Who speaks on the next stream.
    identity: watch::Sender<AgentIdentity>,
    /// Told when it has.
    closed: Notify,
    counters: Counters,
    /// Whether the queue has dropped anything since the collector last acknowledged.
    dropping: AtomicBool,
}

impl Exporter {
    /// Starts sending. The first connection is made at once; a collector that is not there yet is waited for.
    /// To be called within a tokio runtime.
    ///
    /// # Errors
    /// The collector's address cannot be used.
    pub fn start(options: Options) -> Result<Self, RemoteError> {
        let remote = Remote::new("--collector", &options.collector, &options.credentials)?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(options.queue_bytes)),
            pending: watch::channel(0).0,
            closing: AtomicBool::new(false),
            identity: watch::channel(options.identity.clone()).0,
            closed: Notify::new(),
            counters: Counters::default(),
            dropping: AtomicBool::new(false),
        });
        let sender = Sender { shared: shared.clone(), remote, options, state: State::Starting };
        Ok(Self { shared, task: tokio::spawn(sender.run()) })
    }

    /// Queues a window. Never waits: what does not fit pushes out the oldest, which is counted and arrives
    /// as a loss.
    pub fn push(&self, window: Window) {
        let dropped = self.shared.queue().push(window);
        let counters = &self.shared.counters;
        counters.batches_dropped.fetch_add(dropped.batches, Ordering::Relaxed);
        counters.samples_dropped.fetch_add(dropped.samples, Ordering::Relaxed);
        if dropped.batches > 0 && !self.shared.dropping.swap(true, Ordering::Relaxed) {
            warn!(
                samples = dropped.samples,
                "the queue is full and drops its oldest windows until the collector takes some; --queue-bytes makes it larger"
            );
        }
        self.shared.tell();
    }

    /// Says where the node is from now on. The next window goes on a stream that tells it.
    pub fn set_place(&self, place: &NodePlace) {
        let NodePlace { region, zone } = place;
        let is_new = self.shared.identity.send_if_modified(|identity| {
            let is_new = identity.region != *region || identity.zone != *zone;
            (identity.region, identity.zone) = (region.clone(), zone.clone());
            is_new
        });
        if is_new {
            self.shared.tell();
        }
    }

    /// Waits until everything is acknowledged, at most so long. Returns the number of batches that are not.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let mut pending = self.shared.pending.subscribe();
        let empty = pending.wait_for(|pending| *pending == 0);
        match tokio::time::timeout(deadline, empty).await {
            Ok(_) => 0,
            Err(_) => self.shared.queue().len(),
        }
    }

    /// Waits as [`Self::flush`] does, then ends the stream as the protocol asks, so that the collector does
    /// not take it for a failure. Nothing is to be pushed afterwards.
    pub async fn close(&self, deadline: Duration) -> usize {
        let left = self.flush(deadline).await;
        if left == 0 && self.shared.counters.connected.load(Ordering::Relaxed) {
            self.shared.closing.store(true, Ordering::Relaxed);
            self.shared.tell();
            if tokio::time::timeout(2 * GOODBYE, self.shared.closed.notified()).await.is_err() {
                debug!("the stream to the collector was not ended in time");
            }
        }
        left
    }

    /// What was sent, acknowledged and dropped so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Batches in the queue, and their memory in bytes, estimated.
    pub fn queued(&self) -> (usize, usize) {
        let queue = self.shared.queue();
        (queue.len(), queue.bytes())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing in the queue can be half changed by a panic that matters more than going on.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // Under the lock, so that an older length cannot overtake a newer one.
        let queue = self.queue();
        self.pending.send_replace(queue.len());
    }
}

/// What was logged last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Streaming,
    Lost,
}

/// How a stream ended.
enum StreamEnd {
    /// By us: its tables were full, we are another or closing, and everything on it is acknowledged.
    Full,
    /// By the collector or the network.
    Broken(Status),
}

struct Sender {
    shared: Arc<Shared>,
    remote: Remote,
    options: Options,
    state: State,
}

impl Sender {
    async fn run(mut self) {
        // Connects when the first call is made, and again after a connection broke.
        let channel = self.remote.channel();
        let mut wait = self.options.retry_first;
        loop {
            let (began, stored_before) = (Instant::now(), self.acknowledged());
            let status = match self.stream(channel.clone()).await {
                StreamEnd::Full if self.shared.closing.load(Ordering::Relaxed) => {
                    self.shared.closed.notify_one();
                    return;
                }
                StreamEnd::Full => {
                    debug!("the stream to the collector is used up, opening another");
                    continue;
                }
                StreamEnd::Broken(status) => status,
            };
            // A stream that lived long was taken, though there may have been nothing to send.
            if self.acknowledged() > stored_before || began.elapsed() > self.options.retry_max {
                wait = self.options.retry_first;
            }
            self.on_broken(&status);
            tokio::time::sleep(with_jitter(wait)).await;
            wait = (wait * 2).min(self.options.retry_max);
        }
    }

    fn acknowledged(&self) -> u64 {
        let counters = &self.shared.counters;
        counters.batches_stored.load(Ordering::Relaxed) + counters.batches_too_old.load(Ordering::Relaxed)
    }

    /// One stream from its opening to its end.
    async fn stream(&mut self, channel: Channel) -> StreamEnd {
        // Tonic's own queue holds one batch; ours holds the rest, where it can be bounded and counted.
        let (sender, outbound) = mpsc::channel(1);
        let request = match self.remote.request(ReceiverStream::new(outbound)).await {
            Ok(request) => request,
            Err(status) => return StreamEnd::Broken(status),
        };
        let mut client = CollectorClient::new(channel);
        // The collector may wait for the first batch before it answers the call, so both go on at once.
        let call = client.export(request);
        let mut acks = pin!(call.map_ok(tonic::Response::into_inner).try_flatten_stream());
        let mut identity = self.shared.identity.subscribe();
        let mut encoder = StreamEncoder::new(identity.borrow_and_update().clone(), self.options.limits);
        let mut pending = self.shared.pending.subscribe();
        let mut takes_more = true;
        self.shared.counters.streams.fetch_add(1, Ordering::Relaxed);
        loop {
            // Its sender lives as long as `shared`.
            let is_used_up = encoder.is_full() || identity.has_changed().unwrap_or(false);
            let done = is_used_up || self.shared.closing.load(Ordering::Relaxed);
            if done && self.shared.queue().in_flight() == 0 {
                drop(sender);
                if tokio::time::timeout(GOODBYE, acks.next()).await.is_err() {
                    debug!("the collector does not end its side of the stream");
                }
                return StreamEnd::Full;
            }
            let can_send = takes_more && !is_used_up && self.shared.queue().can_send();
            tokio::select! {
                ack = acks.next() => match ack {
                    Some(Ok(ack)) => {
                        Point::AgentAfterAck.reached();
                        self.on_ack(&ack);
                    }
                    Some(Err(status)) => return StreamEnd::Broken(status),
                    None => return StreamEnd::Broken(Status::unavailable("the collector ended the stream")),
                },
                permit = sender.reserve(), if can_send => match permit {
                    Ok(permit) => {
                        // There is room: what was put there before has left.
                        if self.shared.queue().in_flight() > 0 {
                            Point::AgentAfterSend.reached();
                        }
                        let next = self.shared.queue().send_next();
                        if let Some((sequence, window)) = next {
                            Point::AgentBeforeSend.reached();
                            permit.send(self.encode(&mut encoder, sequence, &window));
                        }
                    }
                    // The call let go of the stream, and `acks` is about to say why.
                    Err(_) => takes_more = false,
                },
                changed = pending.changed(), if !can_send => {
                    changed.expect("the sender of `pending` lives as long as `shared`");
                }
            }
        }
    }

    fn encode(&self, encoder: &mut StreamEncoder, sequence: u64, window: &Window) -> SampleBatch {
        let mut batch = encoder.encode(sequence, window);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        batch.sent_at_micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let counters = &self.shared.counters;
        counters.batches_sent.fetch_add(1, Ordering::Relaxed);
        counters.bytes_sent.fetch_add(batch.encoded_len() as u64, Ordering::Relaxed);
        batch
    }

    fn on_ack(&mut self, ack: &BatchAck) {
        if !self.shared.queue().acknowledge(ack.sequence) {
            debug!(sequence = ack.sequence, "the collector acknowledged a batch that is not waiting for it");
            return;
        }
        self.shared.dropping.store(false, Ordering::Relaxed);
        let counters = &self.shared.counters;
        match ack.result() {
            AckResult::Stored => counters.batches_stored.fetch_add(1, Ordering::Relaxed),
            AckResult::TooOld => {
                warn!(sequence = ack.sequence, "the collector dropped a batch as too old: {}", ack.message);
                counters.batches_too_old.fetch_add(1, Ordering::Relaxed)
            }
            AckResult::Unspecified => {
                // A newer collector's word. It is done with the batch, and so must we be.
                let (sequence, result) = (ack.sequence, ack.result);
                warn!(
                    sequence,
                    result, "the collector acknowledged a batch in an unknown way: {}", ack.message
                );
                counters.batches_stored.fetch_add(1, Ordering::Relaxed)
            }
        };
        if self.state != State::Streaming {
            self.state = State::Streaming;
            counters.connected.store(true, Ordering::Relaxed);
            info!(collector = self.options.collector, "samples reach the collector");
        }
        self.shared.tell();
    }

    fn on_broken(&mut self, status: &Status) {
        // OUT_OF_RANGE is what gRPC libraries answer to a message over their limit.
        let refused = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange);
        let broken = if refused { Broken::Refused } else { Broken::Lost };
        let given_up = self.shared.queue().stream_ended(broken);
        if let Some((sequence, samples)) = given_up {
            warn!(sequence, samples, "gave up a batch that the collector refuses: {}", status.message());
            let counters = &self.shared.counters;
            counters.batches_refused.fetch_add(1, Ordering::Relaxed);
            counters.samples_dropped.fetch_add(samples, Ordering::Relaxed);
            self.shared.tell();
        }
        if is_token_expired(status) && self.state == State::Streaming {
            // The next one is in the file; that the collector is given the time all the same is for its INSERTs.
            debug!("the stream to the collector ended with its token: {}", status.message());
            return;
        }
        self.shared.counters.connected.store(false, Ordering::Relaxed);
        let (code, reason, collector) = (status.code(), reason(status), &self.options.collector);
        let outcome = outcome(status);
        if self.state == State::Lost {
            debug!(collector, ?code, "still, the collector {outcome}: {reason}");
        } else {
            self.state = State::Lost;
            warn!(collector, ?code, "the collector {outcome}, samples wait in the queue: {reason}");
        }
    }
}

/// The status with what caused it: tonic alone says "transport error".
pub(crate) fn reason(status: &Status) -> String {
    and_causes(status.message().to_owned(), status)
}

/// Between `wait` and one and a half times as long.
fn with_jitter(wait: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    wait + wait / 2 * u32::from(random) / 256
}

#[cfg(test)]
mod tests;
