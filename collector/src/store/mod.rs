//! Puts batches into ClickHouse.
//!
//! Streams put their batches in one queue ([`Queue`]), bounded in bytes; the
//! [`Writer`] takes what is there about once a second, inserts it as a whole,
//! stacks first, then losses, then rows, and acknowledges. What may be stored
//! already waits for older INSERTs and is looked up ([`resent`]). When ClickHouse
//! is away the queue fills, and streams are no longer read.

mod resent;
mod rows;
mod writer;

use std::sync::Arc;

use hearth_profile::stack::StackId;
use hearth_proto::collector::v1::{AckResult, BatchAck, StackEnd};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

pub use writer::{Writer, WriterConfig};

use crate::ingest::decode::Agent;
use crate::ingest::limits::MAX_BATCH_BYTES;
use crate::metrics::Lost;

/// All samples of one window of one agent, resolved and checked.
#[derive(Debug)]
pub struct Batch {
    /// The `batch` column: xxh3-64 over instance and sequence.
    pub key: u64,
    /// Who sent it.
    pub agent: Agent,
    /// Its number among the agent's.
    pub sequence: u64,
    /// Start of the window, Unix seconds.
    pub time: u32,
    /// Length of the window.
    pub window_seconds: u32,
    /// The agent's clock when it sent this, Unix microseconds.
    pub sent_at_micros: i64,
    /// One per (thread, stack, end, cpu).
    pub rows: Vec<Row>,
    /// Of the stacks that the rows use, those that are new in their app and on their stream today.
    pub stacks: Vec<StackText>,
    /// Samples that are in no row, each reason once.
    pub losses: Vec<(Lost, u64)>,
    /// Why its rows are not wanted any more; then it has none.
    pub too_old: Option<String>,
    /// About what its rows and stacks take in INSERTs, and no less than they
    /// take in memory.
    pub bytes: usize,
}

impl Batch {
    /// The `batch` column of an agent's batch.
    pub fn key(instance: &[u8; 16], sequence: u64) -> u64 {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(instance);
        bytes[16..].copy_from_slice(&sequence.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    /// End of its window, Unix microseconds.
    pub fn closed_at_micros(&self) -> i64 {
        (i64::from(self.time) + i64::from(self.window_seconds)) * 1_000_000
    }

    /// Gives its rows up: their samples are lost, for this reason.
    pub fn give_up(&mut self, too_old: String) {
        let samples = self.samples();
        if samples > 0 {
            self.losses.push((Lost::TooOld, samples));
        }
        (self.rows, self.stacks) = (Vec::new(), Vec::new());
        self.bytes = BATCH_BYTES;
        self.too_old = Some(too_old);
    }

    /// Samples in its rows.
    pub fn samples(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.samples)).sum()
    }
}

/// A row of `profile.in_process_local`, less what its batch says.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its process.
    pub process: Arc<ProcessInfo>,
    /// comm of the thread.
    pub thread_name: Arc<str>,
    /// tid = tgid.
    pub main_thread: bool,
    /// [`StackId::NONE`] if none was asked for.
    pub stack: StackId,
    /// How the walk ended.
    pub end: StackEnd,
    /// [`Row::NO_CPU`] where the policy does not keep it.
    pub cpu: u16,
    /// Samples.
    pub samples: u32,
    /// Samples × period of the process.
    pub value_micros: i64,
}

impl Row {
    /// The `cpu` of a row whose policy does not keep it.
    pub const NO_CPU: u16 = 0xfff;

    /// About what it takes in an INSERT.
    pub(crate) fn bytes(&self, agent: &Agent) -> usize {
        let ProcessInfo { name, app_service, policy, pod, container, .. } = &*self.process;
        // pod_node, host and agent are the node.
        let names = [
            name,
            app_service,
            policy,
            &self.thread_name,
            &agent.cluster,
            &agent.node,
            &agent.host_name,
            &agent.host_ip,
            &agent.region,
            &agent.zone,
            container,
        ];
        let of_pod = pod.as_ref().map_or(0, |pod| pod.bytes());
        ROW_BYTES + names.map(|name| name.len()).iter().sum::<usize>() + 2 * agent.node.len() + of_pod
    }
}

/// A process under one decision.
#[derive(Debug)]
pub struct ProcessInfo {
    /// In the host's pid namespace.
    pub pid: u32,
    /// Unix milliseconds.
    pub start_time_millis: i64,
    /// comm of the leader.
    pub name: Arc<str>,
    /// Empty if no policy matched.
    pub app_service: Arc<str>,
    /// As `app_service`.
    pub policy: Arc<str>,
    /// Microseconds that a sample stands for.
    pub period_micros: u32,
    /// None outside pods.
    pub pod: Option<Arc<PodInfo>>,
    /// Its container; empty outside pods, and where it is not known.
    pub container: Arc<str>,
}

/// A pod as rows name it.
#[derive(Debug, Default)]
pub struct PodInfo {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// An IPv4 or IPv6 address; may be empty.
    pub ip: Arc<str>,
    /// A Service that selects it; may be empty.
    pub service: Arc<str>,
    /// Kind of its workload, as the column has it.
    pub group_type: u8,
    /// Its workload; may be empty.
    pub group: Arc<str>,
    /// Labels that were asked for.
    pub labels: Box<[(Box<str>, Box<str>)]>,
}

impl PodInfo {
    /// What its labels take, in memory and in an INSERT.
    pub(crate) fn label_bytes(&self) -> usize {
        size_of_val(&*self.labels)
            + self.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }

    fn bytes(&self) -> usize {
        let Self { namespace, name, ip, service, group, .. } = self;
        [namespace, name, ip, service, group].map(|text| text.len()).iter().sum::<usize>()
            + self.label_bytes()
    }
}

/// A stack as it is stored: once for each app that has it.
#[derive(Debug, Clone)]
pub struct StackText {
    /// The app's name.
    pub app_service: Arc<str>,
    /// Its id.
    pub id: StackId,
    /// Frames, root first, joined by `;`.
    pub text: Arc<str>,
}

/// Where a stream's acknowledgements go. It is closed when the stream ended.
pub type AckSender = mpsc::Sender<Result<BatchAck, Status>>;

/// A batch on its way to the store.
#[derive(Debug)]
pub struct Queued {
    batch: Batch,
    /// It might be stored already: looked up before it is inserted.
    maybe_stored: bool,
    /// An INSERT with it ended in an error, so that what is found of it is ours
    /// and was not counted.
    tried: bool,
    /// All of it was found, and it is in the metrics.
    counted: bool,
    acks: AckSender,
    _room: Room,
}

impl Queued {
    fn acknowledge(&self) {
        let (result, message) = match &self.batch.too_old {
            None => (AckResult::Stored, String::new()),
            Some(why) => (AckResult::TooOld, why.clone()),
        };
        let ack = BatchAck { sequence: self.batch.sequence, result: result.into(), message };
        // Closed: the agent sends the batch again, and it is found. Full: the
        // agent has long stopped reading, and comes to the same.
        if let Err(error) = self.acks.try_send(Ok(ack)) {
            tracing::debug!(sequence = self.batch.sequence, "acknowledgement not delivered: {error}");
        }
    }
}

/// Bytes that may wait for ClickHouse: 25 s of 50 nodes at their full budget of
/// rows, of some 200 bytes each.
const QUEUE_BYTES: usize = 512 << 20;
/// What a batch costs beside its rows and stacks, so that empty ones are bounded too.
pub(crate) const BATCH_BYTES: usize = 20 << 10;
/// A row less its names: numbers, lengths, and texts that are the same in all rows.
const ROW_BYTES: usize = 120;

const _: () = assert!(size_of::<Row>() <= ROW_BYTES);
// A batch fits, and its cost is a number of permits.
const _: () = assert!(MAX_BATCH_BYTES <= QUEUE_BYTES && QUEUE_BYTES <= u32::MAX as usize);

impl StackText {
    /// Tells it from every other: the app by a hash of its name, which takes less room.
    fn key(&self) -> (u64, u128) {
        (xxhash_rust::xxh3::xxh3_64(self.app_service.as_bytes()), self.id.0)
    }
}

/// The streams' end of the queue.
#[derive(Debug, Clone)]
pub struct Queue {
    sender: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    /// Bytes that are taken for a batch before its size is known.
    largest: usize,
}

/// Room in the queue, given back when it is dropped.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Room {
    /// Gives back what exceeds `bytes`.
    fn shrink(&mut self, bytes: usize) {
        // The part that is split off is dropped.
        let _surplus = self.0.split(self.0.num_permits().saturating_sub(bytes));
    }
}

/// The store is gone: the collector is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the collector is stopping")]
pub struct Closed;

impl Queue {
    /// A queue and the end that the [`Writer`] takes.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Queued>) {
        Self::with_room(QUEUE_BYTES)
    }

    /// As [`Queue::new`], for so many bytes.
    pub fn with_room(bytes: usize) -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The channel itself has no bound; the room has.
        (
            Self { sender, room: Arc::new(Semaphore::new(bytes)), largest: bytes.min(MAX_BATCH_BYTES) },
            receiver,
        )
    }

    /// Room for the largest batch, once it is there. To be taken before a batch is
    /// resolved, so that what is resolved and waits is bounded too.
    pub async fn room(&self) -> Result<Room, Closed> {
        let bytes = u32::try_from(self.largest).expect("the queue's bytes are a number of permits");
        Arc::clone(&self.room).acquire_many_owned(bytes).await.map(Room).map_err(|_| Closed)
    }

    /// Puts a batch in, which keeps as much of the room as it needs. `maybe_stored`
    /// has it looked up first.
    pub fn put(
        &self,
        batch: Batch,
        maybe_stored: bool,
        acks: AckSender,
        mut room: Room,
    ) -> Result<(), Closed> {
        room.shrink(batch.bytes);
        let queued = Queued { batch, maybe_stored, tried: false, counted: false, acks, _room: room };
        self.sender.send(queued).map_err(|_| Closed)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn batch(sequence: u64, bytes: usize) -> Batch {
        let agent = Agent { node: "n".into(), ..Agent::default() };
        Batch {
            key: sequence,
            agent,
            sequence,
            time: 0,
            window_seconds: 10,
            sent_at_micros: 0,
            rows: Vec::new(),
            stacks: Vec::new(),
            losses: Vec::new(),
            too_old: None,
            bytes,
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_queue_holds_so_many_bytes_and_then_makes_wait() {
        const MOST: usize = MAX_BATCH_BYTES;
        let (queue, mut receiver) = Queue::with_room(2 * MOST);
        let (acks, _answers) = mpsc::channel(1);
        let put = |sequence, bytes| {
            let (queue, acks) = (queue.clone(), acks.clone());
            Box::pin(async move { queue.put(batch(sequence, bytes), false, acks, queue.room().await?) })
        };
        assert!(poll(&mut put(1, MOST - 60)).is_ready());
        // However small it is: nobody knows before it is resolved.
        assert!(poll(&mut put(2, 60)).is_ready());
        assert!(poll(&mut put(3, 60)).is_ready());
        let mut fourth = pin!(put(4, 30));
        let mut fifth = pin!(put(5, 1));
        assert!(poll(&mut fourth).is_pending());
        // Nobody passes who waits.
        assert!(poll(&mut fifth).is_pending());
        // Taken out, a batch still takes its room: the writer has it in memory.
        let first = receiver.try_recv().unwrap();
        assert!(poll(&mut fourth).is_pending());
        drop(first);
        assert!(poll(&mut fourth).is_ready());
        assert!(poll(&mut fifth).is_ready());
        let order = std::iter::from_fn(|| receiver.try_recv().ok()).map(|queued| queued.batch.sequence);
        assert_eq!(order.collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn room_that_was_taken_for_nothing_is_given_back() {
        let (queue, _receiver) = Queue::with_room(MAX_BATCH_BYTES);
        let taken = |queue: &Queue| MAX_BATCH_BYTES - queue.room.available_permits();
        drop(poll(&mut Box::pin(queue.room())));
        assert_eq!(taken(&queue), 0);
        let Poll::Ready(room) = poll(&mut Box::pin(queue.room())) else { panic!("no room") };
        let (acks, _answers) = mpsc::channel(1);
        queue.put(batch(1, 60), false, acks, room.unwrap()).unwrap();
        assert_eq!(taken(&queue), 60);
    }
}
