//! What one agent may send. Whatever exceeds a limit ends its stream; the
//! others live on.

use std::time::Duration;

pub use hearth_proto::limits::{MAX_BATCH_BYTES, MAX_NAME_BYTES, MAX_POD_LABELS, MAX_STACK_BYTES};

/// Bytes of one gRPC message.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Bytes of one string: a name or a frame. Demangled C++ names are the longest.
pub const MAX_STRING_BYTES: usize = 4 << 10;
/// Bytes of a label's key: a DNS name of 253 and a name of 63.
pub const MAX_LABEL_KEY_BYTES: usize = 317;
/// Frames of one stack.
pub const MAX_FRAMES: usize = 1024;
/// New entries that one batch may add to each of the stream's tables.
pub const MAX_ENTRIES: usize = 100_000;
/// Rows of one batch: five times an agent's own budget per window.
pub const MAX_ROWS: usize = 100_000;
/// Bytes that the tables of one stream may take. Then the stream is ended with
/// RESOURCE_EXHAUSTED and the agent opens another with empty tables.
pub const MAX_TABLE_BYTES: usize = 64 << 20;
/// Seconds of one window; it never crosses an hour.
pub const MAX_WINDOW_SECONDS: u32 = 3600;
/// Seconds a window may begin after its batch was sent, by the agent's clock.
pub const MAX_AHEAD_SECONDS: i64 = 60;
/// Seconds an agent's clock may be off before its windows are corrected.
pub const MAX_CLOCK_OFFSET_SECONDS: i64 = 30;
/// Seconds by which the age of an agent's batches varies while its clock stands:
/// a correction is kept, so that a batch that is sent again gets the same one.
pub const CLOCK_JITTER_SECONDS: i64 = 5;
/// Whoever waited so long for a batch received it as soon as it was sent: it
/// lay in no buffer. Less than the shortest window.
pub const FRESH_AFTER: Duration = Duration::from_millis(500);
/// A batch must be this much younger than the raw retention: the partition of an
/// older one would be dropped before anybody could look at it, or roll it up.
pub const RETENTION_MARGIN: Duration = Duration::from_secs(2 * 3600);
/// Acknowledgements that wait for one agent to read them; the agent that lets
/// more pile up has stopped listening.
pub const MAX_UNREAD_ACKS: usize = 1024;
/// Losses of one batch; there are three reasons.
pub const MAX_LOSSES: usize = 1000;
/// Samples that one batch may report as lost: what 8,192 CPUs give in a year at
/// 1,000 per second. More would only overflow somebody's sum later.
pub const MAX_LOST_SAMPLES: u64 = 1 << 48;
/// Streams that may be open; an agent has one. Each may hold full tables and one
/// message beside what is in the queue.
pub const MAX_STREAMS: usize = 4096;
/// Those of one proven node: its agent's, and that of the agent before it or of a connection that is not known to be
/// dead yet.
pub const MAX_NODE_STREAMS: usize = 2;
/// Connections: agents' streams have one each, and may come before the one that they replace is found dead.
pub const MAX_CONNECTIONS: usize = 2 * MAX_STREAMS;
/// Streams on one connection; an agent has one.
pub const MAX_CONNECTION_STREAMS: u32 = 8;
/// CPUs that a node may have: the most that Linux is built for. A window
/// holds at most its length of CPU time on each of them, and rows that say more
/// would only overflow somebody's sum later.
pub const MAX_CPUS: i64 = 8192;
/// Microseconds that one sample may stand for: rates from 1 to 1,000 per second.
pub const PERIOD_MICROS: std::ops::RangeInclusive<u32> = 1_000..=1_000_000;

const _: () = assert!(MAX_STACK_BYTES < MAX_TABLE_BYTES);
const _: () = assert!(MAX_MESSAGE_BYTES < MAX_TABLE_BYTES);
