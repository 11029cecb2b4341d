//! Receives what node agents sampled: the gRPC service.

pub mod decode;
mod instance;
pub mod limits;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{BatchAck, SampleBatch};
use lru::LruCache;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use self::decode::{StreamTables, Violation};
use self::instance::{Instance, Noted};
use crate::metrics::{Metrics, RejectReason};
use crate::store::{AckSender, Batch, Queue};

/// Agent instances that are remembered.
const KNOWN_INSTANCES: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// A batch whose window began so long after its stream was opened, or later, was
/// never on another stream, of this collector or of another.
const RESEND_SLACK_SECONDS: u32 = 120;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingest {
    queue: Queue,
    metrics: Metrics,
    /// Ends the streams, after what they have sent.
    stop: CancellationToken,
    retention_raw: Duration,
    max_streams: usize,
    streams: Arc<Semaphore>,
    instances: Arc<Mutex<LruCache<[u8; 16], Instance>>>,
}

/// How a batch came.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// It lay in no buffer.
    fresh: bool,
    /// When it was read, before it waited for anything here: Unix microseconds.
    at_micros: i64,
    /// When its stream was opened, Unix seconds.
    opened_at: u32,
}

impl Ingest {
    /// Puts what comes into `queue` until `stop`.
    pub fn new(queue: Queue, metrics: Metrics, retention_raw: Duration, stop: CancellationToken) -> Self {
        let instances = LruCache::new(KNOWN_INSTANCES);
        let max_streams = limits::MAX_STREAMS;
        let streams = Arc::new(Semaphore::new(max_streams));
        let instances = Arc::new(Mutex::new(instances));
        Self { queue, metrics, stop, retention_raw, max_streams, streams, instances }
    }

    /// With another bound on the streams that are open.
    #[must_use]
    pub fn with_max_streams(self, streams: usize) -> Self {
        Self { max_streams: streams, streams: Arc::new(Semaphore::new(streams)), ..self }
    }

    /// The service with its limit on messages.
    pub fn into_server(self) -> CollectorServer<Self> {
        CollectorServer::new(self).max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    async fn receive(&self, mut incoming: Streaming<SampleBatch>, acks: AckSender) {
        let mut tables = StreamTables::default();
        let opened_at = unix_seconds(now_micros());
        loop {
            let asked = Instant::now();
            let message = tokio::select! {
                message = incoming.message() => message,
                () = acks.closed() => break,
                () = self.stop.cancelled() => break,
            };
            let outcome = match message {
                // Half-closed: what is queued is still acknowledged.
                Ok(None) => break,
                Ok(Some(batch)) => {
                    // A stream's first message is read as soon as it is there.
                    let fresh = tables.agent().is_none() || asked.elapsed() >= limits::FRESH_AFTER;
                    let arrival = Arrival { fresh, at_micros: now_micros(), opened_at };
                    self.take(&mut tables, batch, arrival, &acks).await
                }
                Err(status) => Err(self.bad_message(status)),
            };
            if let Err(status) = outcome {
                let node = tables.agent().map(|agent| &*agent.node).unwrap_or_default();
                tracing::warn!(node, "stream ended: {}", status.message());
                // Closed if the agent has gone, and then nobody needs the reason.
                if acks.send(Err(status)).await.is_err() {
                    tracing::debug!("the agent did not wait for the reason");
                }
                break;
            }
        }
    }

    async fn take(
        &self,
        tables: &mut StreamTables,
        batch: SampleBatch,
        Arrival { fresh, at_micros, opened_at }: Arrival,
        acks: &AckSender,
    ) -> Result<(), Status> {
        let is_first = tables.agent().is_none();
        // Before it is resolved: what a message becomes is larger than itself.
        let room = tokio::select! {
            room = self.queue.room() => room.map_err(|closed| Status::unavailable(closed.to_string()))?,
            () = acks.closed() => return Err(Status::cancelled("the agent has gone")),
        };
        let mut batch = tables.accept(batch).map_err(|violation| {
            self.metrics.rejected(match violation {
                Violation::Invalid(_) => RejectReason::InvalidArgument,
                Violation::TablesFull => RejectReason::TablesFull,
            });
            Status::from(violation)
        })?;
        self.metrics.batches_received.inc();
        if is_first {
            let (node, version) = (&batch.agent.node, &batch.agent.version);
            tracing::info!(%node, version, sequence = batch.sequence, "agent connected");
        }
        let Noted { known, offset } = self.note(&batch, at_micros, fresh);
        if offset != 0 {
            batch.time = moved(batch.time, batch.window_seconds, offset);
            self.metrics.clock_corrections.inc();
        }
        let maybe_stored = known || batch.time <= opened_at.saturating_add(RESEND_SLACK_SECONDS);
        // Now, not when it came: it may have waited long for room.
        let age = (now_micros() / 1_000_000).saturating_sub(i64::from(batch.time));
        let oldest = self.retention_raw.saturating_sub(limits::RETENTION_MARGIN).as_secs();
        if u64::try_from(age).is_ok_and(|age| age > oldest) {
            tables.not_stored();
            batch.give_up(format!("the window began {age} s ago; at most {oldest} s are kept"));
        }
        let put = self.queue.put(batch, maybe_stored, acks.clone(), room);
        put.map_err(|closed| Status::unavailable(closed.to_string()))
    }

    fn note(&self, batch: &Batch, at_micros: i64, fresh: bool) -> Noted {
        let age = at_micros.saturating_sub(batch.sent_at_micros) / 1_000_000;
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        let instance = instances.get_or_insert_mut(batch.agent.instance, Instance::default);
        instance.note(batch.sequence, age, fresh)
    }

    fn bad_message(&self, status: Status) -> Status {
        match status.code() {
            // The agent went away, or the connection did.
            Code::Cancelled | Code::Unavailable | Code::Unknown => status,
            // Too large, or not protobuf.
            _ => {
                self.metrics.rejected(RejectReason::BadMessage);
                Status::invalid_argument(status.message())
            }
        }
    }
}

#[tonic::async_trait]
impl Collector for Ingest {
    type ExportStream = ReceiverStream<Result<BatchAck, Status>>;

    async fn export(
        &self,
        request: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let Ok(open) = Arc::clone(&self.streams).try_acquire_owned() else {
            self.metrics.rejected(RejectReason::TooManyStreams);
            return Err(Status::resource_exhausted(format!(
                "{} streams are open, as many as may be: come again later",
                self.max_streams
            )));
        };
        let (acks, answers) = mpsc::channel(limits::MAX_UNREAD_ACKS);
        let ingest = self.clone();
        tokio::spawn(async move {
            let _open = open;
            ingest.metrics.streams.inc();
            ingest.receive(request.into_inner(), acks).await;
            ingest.metrics.streams.dec();
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// The start of a window that is moved by `offset` seconds.
fn moved(time: u32, window_seconds: u32, offset: i64) -> u32 {
    let moved = i64::from(time).saturating_add(offset).max(0);
    // Windows begin at multiples of their length, and so within one hour.
    let moved = moved - moved % i64::from(window_seconds);
    u32::try_from(moved).unwrap_or(u32::MAX)
}

fn unix_seconds(micros: i64) -> u32 {
    u32::try_from(micros / 1_000_000).unwrap_or(u32::MAX)
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
