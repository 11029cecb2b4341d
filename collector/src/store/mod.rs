//! Puts batches into ClickHouse.
//!
//! Streams put their batches in one bounded queue ([`Queue`]); the [`Writer`]
//! takes what is there about once a second, inserts it as a whole, stacks
//! before rows, and acknowledges. When ClickHouse is away the queue fills, and
//! streams are no longer read.

mod rows;
mod writer;

use std::sync::Arc;

use hearth_profile::stack::StackId;
use hearth_proto::collector::v1::{AckResult, BatchAck, StackEnd};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

pub use writer::{Writer, WriterConfig};

use crate::ingest::decode::Agent;

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
    /// Reason (`LossReason`) and samples.
    pub losses: Vec<(i32, u64)>,
}

impl Batch {
    /// The `batch` column of an agent's batch.
    pub fn key(instance: &[u8; 16], sequence: u64) -> u64 {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(instance);
        bytes[16..].copy_from_slice(&sequence.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&bytes)
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
    acks: AckSender,
    _room: OwnedSemaphorePermit,
}

impl Queued {
    fn acknowledge(&self, result: AckResult, message: &str) {
        let ack =
            BatchAck { sequence: self.batch.sequence, result: result.into(), message: message.to_owned() };
        // Closed: the agent sends the batch again, and it is found. Full: the
        // agent has long stopped reading, and comes to the same.
        if let Err(error) = self.acks.try_send(Ok(ack)) {
            tracing::debug!(sequence = self.batch.sequence, "acknowledgement not delivered: {error}");
        }
    }
}

/// Rows that may wait for ClickHouse: 25 s of 50 nodes at their full budget.
const QUEUE_ROWS: u32 = 2_500_000;
/// What a batch costs beside its rows, so that empty ones are bounded too.
const BATCH_COST: u32 = 100;

/// The streams' end of the queue.
#[derive(Debug, Clone)]
pub struct Queue {
    sender: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
}

/// The store is gone: the collector is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the collector is stopping")]
pub struct Closed;

impl Queue {
    /// A queue and the end that the [`Writer`] takes.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The channel itself has no bound; the room has.
        (Self { sender, room: Arc::new(Semaphore::new(QUEUE_ROWS as usize)) }, receiver)
    }

    /// Puts a batch in, once there is room. `maybe_stored` has it looked up first.
    pub async fn put(&self, batch: Batch, maybe_stored: bool, acks: AckSender) -> Result<(), Closed> {
        let cost = u32::try_from(batch.rows.len()).unwrap_or(QUEUE_ROWS).saturating_add(BATCH_COST);
        let room = Arc::clone(&self.room).acquire_many_owned(cost.min(QUEUE_ROWS)).await;
        let queued = Queued { batch, maybe_stored, acks, _room: room.map_err(|_| Closed)? };
        self.sender.send(queued).map_err(|_| Closed)
    }
}
