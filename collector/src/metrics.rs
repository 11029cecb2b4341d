//! What the receiving half counts about itself.

use hearth_proto::collector::v1::LossReason;
use hearth_tls::Refusals;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Why a batch was not inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DropReason {
    /// Its stream ended; the agent sends it again.
    StreamEnded,
    /// It was stored before.
    Duplicate,
    /// It is older than the retention.
    TooOld,
}

/// Why a stream was ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum RejectReason {
    /// A batch broke the contract.
    InvalidArgument,
    /// A message was over its limit, or no message at all.
    BadMessage,
    /// The stream's tables were full.
    TablesFull,
    /// As many streams were open as may be.
    TooManyStreams,
}

/// Why samples are in no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
pub enum Lost {
    /// The agent's queue was full.
    QueueFull,
    /// The kernel's table of counts was full.
    CountsFull,
    /// The kernel's ring buffer was full.
    RingFull,
    /// A reason that this version does not know.
    Unspecified,
    /// The batch was older than the retention.
    TooOld,
}

impl Lost {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::QueueFull, Self::CountsFull, Self::RingFull, Self::Unspecified, Self::TooOld];

    /// The `reason` of `profile.losses`.
    pub fn text(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::CountsFull => "counts-full",
            Self::RingFull => "ring-full",
            Self::Unspecified => "unspecified",
            Self::TooOld => "too-old",
        }
    }
}

impl From<i32> for Lost {
    fn from(reason: i32) -> Self {
        match LossReason::try_from(reason) {
            Ok(LossReason::QueueFull) => Self::QueueFull,
            Ok(LossReason::CountsFull) => Self::CountsFull,
            Ok(LossReason::RingFull) => Self::RingFull,
            Ok(LossReason::Unspecified) | Err(_) => Self::Unspecified,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: DropReason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabels {
    reason: RejectReason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LostLabels {
    reason: Lost,
}

/// Counters of the receiving half. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Rows stored.
    pub rows: Counter,
    /// Batches received and found good.
    pub batches_received: Counter,
    /// Batches stored.
    pub batches: Counter,
    /// Stacks sent to the store.
    pub stacks: Counter,
    /// Seconds of each shared INSERT.
    pub insert_seconds: InsertSeconds,
    /// INSERTs that failed and were tried again.
    pub insert_failures: Counter,
    /// Streams that are open.
    pub streams: Gauge,
    /// Batches whose window was corrected by the agent's clock.
    pub clock_corrections: Counter,
    /// Connections that were refused before any request.
    pub tls_refused: Refusals,
    rejected: Family<RejectLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    lost: Family<LostLabels, Counter>,
}

/// A histogram from 1 ms to 65 s.
#[derive(Debug, Clone)]
pub struct InsertSeconds(Histogram);

impl Default for InsertSeconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.001, 4.0, 9)))
    }
}

impl InsertSeconds {
    /// Counts one INSERT.
    pub fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

impl Metrics {
    /// Registers them in a registry without prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("hearth_collector");
        registry.register("rows", "Rows stored", metrics.rows.clone());
        registry.register(
            "batches_received",
            "Batches received and found good",
            metrics.batches_received.clone(),
        );
        registry.register("batches", "Batches stored", metrics.batches.clone());
        registry.register("stacks", "Stacks sent to the store", metrics.stacks.clone());
        registry.register_with_unit(
            "insert",
            "Time of a shared INSERT",
            Unit::Seconds,
            metrics.insert_seconds.0.clone(),
        );
        registry.register(
            "insert_failures",
            "INSERTs that failed and were tried again",
            metrics.insert_failures.clone(),
        );
        metrics.tls_refused.register(registry);
        registry.register("streams", "Streams that are open", metrics.streams.clone());
        registry.register(
            "clock_corrections",
            "Batches whose window was corrected by the agent's clock",
            metrics.clock_corrections.clone(),
        );
        registry.register(
            "streams_rejected",
            "Streams ended because of what they sent",
            metrics.rejected.clone(),
        );
        registry.register("batches_dropped", "Batches received and not inserted", metrics.dropped.clone());
        registry.register("samples_lost", "Samples that are in no row", metrics.lost.clone());
        metrics
    }

    /// A stream was ended.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected.get_or_create(&RejectLabels { reason }).inc();
    }

    /// Batches were not inserted.
    pub fn dropped(&self, reason: DropReason, batches: u64) {
        self.dropped.get_or_create(&DropLabels { reason }).inc_by(batches);
    }

    /// Samples are in no row.
    pub fn lost(&self, reason: Lost, samples: u64) {
        self.lost.get_or_create(&LostLabels { reason }).inc_by(samples);
    }
}
