//! Receives what node agents sampled: the gRPC service.

pub mod decode;
mod instance;
pub mod limits;
mod places;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_identity::{Agents, Refused};
use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{BatchAck, SampleBatch};
use hearth_tls::Peer;
use lru::LruCache;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use self::decode::{StreamTables, Violation};
use self::instance::{Instance, Noted};
use self::places::{Full, Place, Places};
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
    agents: Option<Agents>,
    places: Places,
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
        let instances = Arc::new(Mutex::new(LruCache::new(KNOWN_INSTANCES)));
        Self { queue, metrics, stop, retention_raw, agents: None, places: Places::default(), instances }
    }

    /// From agents that prove their node.
    #[must_use]
    pub fn with_agents(self, agents: Option<Agents>) -> Self {
        Self { agents, ..self }
    }

    /// With another bound on the streams that are open.
    #[must_use]
    pub fn with_max_streams(self, streams: usize) -> Self {
        Self { places: Places::new(streams), ..self }
    }

    /// The service with its limit on messages.
    pub fn into_server(self) -> CollectorServer<Self> {
        CollectorServer::new(self).max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    }

    /// Who opens a stream, and its place. Proof first: who proves nothing shall not be in the way of those who do.
    async fn admit(&self, request: &Request<Streaming<SampleBatch>>) -> Result<Place, Status> {
        let headers = request.metadata().as_ref();
        let agent = match &self.agents {
            Some(agents) => Some(agents.node_of(headers).await.map_err(|refused| self.refuse(refused))?),
            None => None,
        };
        self.places.take(agent, request.extensions().get::<Peer>()).map_err(|full| {
            self.metrics.rejected(match full {
                Full::All(_) => RejectReason::TooManyStreams,
                Full::Node(_) => RejectReason::TooManyOfNode,
            });
            Status::resource_exhausted(full.to_string())
        })
    }

    fn refuse(&self, refused: Refused) -> Status {
        tracing::debug!("stream refused: {refused}");
        self.metrics.rejected(refused.reason().into());
        refused.into()
    }

    /// `Err`: how the stream ends.
    async fn receive(
        &self,
        mut incoming: Streaming<SampleBatch>,
        acks: &AckSender,
        place: &Place,
    ) -> Result<(), Status> {
        let mut tables = StreamTables::default();
        let ended = tokio::select! {
            ended = self.listen(&mut incoming, &mut tables, acks, place) => ended,
            // What is queued may be stored and is not acknowledged: it comes again, and is looked up.
            () = place.expired() => {
                tracing::debug!(node = node_of(&tables), "the token of a stream has expired");
                return Err(Refused::Expired.into());
            }
        };
        ended.inspect_err(|status| {
            tracing::warn!(node = node_of(&tables), "stream ended: {}", status.message());
        })
    }

    async fn listen(
        &self,
        incoming: &mut Streaming<SampleBatch>,
        tables: &mut StreamTables,
        acks: &AckSender,
        place: &Place,
    ) -> Result<(), Status> {
        let opened_at = unix_seconds(now_micros());
        loop {
            let asked = Instant::now();
            let message = tokio::select! {
                message = incoming.message() => message,
                () = acks.closed() => return Ok(()),
                () = self.stop.cancelled() => return Ok(()),
            };
            // Half-closed: what is queued is still acknowledged.
            let Some(batch) = message.map_err(|status| self.bad_message(status))? else { return Ok(()) };
            if let Some(agent) = &batch.agent {
                place.check(&agent.node).map_err(|refused| self.refuse(refused))?;
            }
            // A stream's first message is read as soon as it is there.
            let fresh = tables.agent().is_none() || asked.elapsed() >= limits::FRESH_AFTER;
            let arrival = Arrival { fresh, at_micros: now_micros(), opened_at };
            self.take(tables, batch, arrival, acks).await?;
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
        let place = self.admit(&request).await?;
        let (acks, answers) = mpsc::channel(limits::MAX_UNREAD_ACKS);
        let ingest = self.clone();
        tokio::spawn(async move {
            ingest.metrics.streams.inc();
            let ended = ingest.receive(request.into_inner(), &acks, &place).await;
            ingest.metrics.streams.dec();
            // Before the agent takes the reason, which may be never.
            drop(place);
            // Closed if the agent has gone, and then nobody needs the reason.
            if let Err(status) = ended
                && acks.send(Err(status)).await.is_err()
            {
                tracing::debug!("the agent did not wait for the reason");
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn node_of(tables: &StreamTables) -> &str {
    tables.agent().map(|agent| &*agent.node).unwrap_or_default()
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
