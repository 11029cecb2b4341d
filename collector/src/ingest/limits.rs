//! What one agent may send. Whatever exceeds a limit ends its stream; the
//! others live on.

/// Bytes of one gRPC message.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Bytes of one string: a name or a frame. Demangled C++ names are the longest.
pub const MAX_STRING_BYTES: usize = 4 << 10;
/// Frames of one stack.
pub const MAX_FRAMES: usize = 1024;
/// Bytes of one stack's text. A table of stacks that repeat one long string
/// would otherwise grow without bound from a short message.
pub const MAX_STACK_BYTES: usize = 128 << 10;
/// New entries that one batch may add to each of the stream's tables.
pub const MAX_ENTRIES: usize = 100_000;
/// Rows of one batch: five times an agent's own budget per window.
pub const MAX_ROWS: usize = 100_000;
/// Bytes that the tables of one stream may take. Then the stream is ended with
/// RESOURCE_EXHAUSTED and the agent opens another with empty tables.
pub const MAX_TABLE_BYTES: usize = 64 << 20;
/// Bytes of the identity's node and cluster.
pub const MAX_NAME_BYTES: usize = 253;
/// Seconds of one window; it never crosses an hour.
pub const MAX_WINDOW_SECONDS: u32 = 3600;
/// Seconds a window may begin after its batch was sent, by the agent's clock.
pub const MAX_AHEAD_SECONDS: i64 = 60;
/// Seconds an agent's clock may be off before its windows are corrected.
pub const MAX_CLOCK_OFFSET_SECONDS: i64 = 30;
/// Acknowledgements that wait for one agent to read them; the agent that lets
/// more pile up has stopped listening.
pub const MAX_UNREAD_ACKS: usize = 1024;
/// Samples of one batch per row: more than any window can hold would only
/// overflow somebody's sum later.
pub const MAX_SAMPLES: u32 = 1_000_000 * 3600;

const _: () = assert!(MAX_STACK_BYTES < MAX_TABLE_BYTES);
const _: () = assert!(MAX_MESSAGE_BYTES < MAX_TABLE_BYTES);
