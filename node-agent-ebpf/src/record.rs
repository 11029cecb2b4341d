//! Records and map values that cross from the kernel to user space.
//!
//! `repr(C)`, without padding, and of plain integers only: the kernel may hand
//! over any bit pattern, and an unknown code must be a value, not undefined.

use crate::limits::{COMM_BYTES, FRAME_SLOTS};
use crate::memory::PIECE_WORDS;

/// The walk reached the outermost frame.
pub const WALK_COMPLETE: u32 = 0;
/// The stack is deeper than [`crate::limits::MAX_USER_FRAMES`].
pub const WALK_TRUNCATED: u32 = 1;
/// The chain of frame pointers broke: a caller was built without them.
pub const WALK_NO_FRAME_POINTER: u32 = 2;
/// There is no user stack: a kernel thread.
pub const WALK_NO_USER_STACK: u32 = 3;

/// One sample as it stands in the ring buffer. `kernel_frames` addresses follow,
/// then `user_frames` addresses, each leaf first, u64 in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SampleHeader {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// The CPU's tick counter at this sample, for thinning in user space.
    pub tick: u64,
    /// Process (thread group) id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// CPU number.
    pub cpu: u32,
    /// Samples per second that this sample was kept at; 0 where the process has
    /// no decision yet and the sample was taken at `node_rate`.
    pub rate: u32,
    /// Ticks per second of this CPU at that moment.
    pub node_rate: u32,
    /// Number of user addresses.
    pub user_frames: u16,
    /// Number of kernel addresses.
    pub kernel_frames: u16,
    /// One of the `WALK_…` codes.
    pub walk_end: u32,
    /// 0; keeps the size a multiple of eight.
    pub reserved: u32,
    /// Name of the thread, zero-terminated.
    pub comm: [u8; COMM_BYTES],
}

/// Size of [`SampleHeader`] in bytes.
pub const SAMPLE_HEADER_BYTES: usize = 64;
const _: () = assert!(size_of::<SampleHeader>() == SAMPLE_HEADER_BYTES);
const _: () = assert!(core::mem::offset_of!(SampleHeader, comm) == 48);

/// Scratch space of one CPU: a sample while it is being made.
#[repr(C)]
pub struct Scratch {
    /// The header.
    pub header: SampleHeader,
    /// Kernel addresses, then user addresses.
    pub frames: [u64; FRAME_SLOTS],
    /// The piece of the user's stack that was read last.
    pub piece: [u64; PIECE_WORDS],
}

/// Ticks of a process that no policy matched.
pub const COUNT_UNMATCHED: u16 = 0;
/// Samples of a matched process that found the ring buffer full; they were thinned already.
pub const COUNT_LOST_MATCHED: u16 = 1;
/// Samples of an undecided process that found the ring buffer full; not thinned.
pub const COUNT_LOST_UNDECIDED: u16 = 2;

/// Key of the table of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CountKey {
    /// Process id.
    pub tgid: u32,
    /// One of the `COUNT_…` codes.
    pub kind: u16,
    /// 1 where tid = tgid.
    pub main_thread: u16,
    /// Name of the thread, zero-terminated.
    pub comm: [u8; COMM_BYTES],
}
const _: () = assert!(size_of::<CountKey>() == 24);

/// A decision: [`DECISION_UNMATCHED`], or the rate in samples per second.
pub type Decision = u32;
/// Count this process's ticks, take no stack.
pub const DECISION_UNMATCHED: Decision = 0;

/// What the programs read before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Ticks per second of every CPU.
    pub node_rate: u32,
    /// 0; keeps the size a multiple of eight.
    pub reserved: u32,
}

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $index:literal, $text:literal;)*) => {
        /// Every way a tick can end, and each step in it that can fail: one counter each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Exit { $($(#[$doc])* $name = $index,)* }

        impl Exit {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Exit] = &[$(Exit::$name,)*];

            /// The label under which the counter is exported.
            pub const fn label(self) -> &'static str {
                match self { $(Exit::$name => $text,)* }
            }
        }
    };
}

exits! {
    /// The CPU was idle.
    Idle = 0, "idle";
    /// A sample of a matched process was sent.
    Sampled = 1, "sampled";
    /// A sample of a process without a decision was sent.
    SampledUndecided = 2, "sampled_undecided";
    /// A matched process's tick was not one to keep at its rate.
    Thinned = 3, "thinned";
    /// An unmatched process's tick was counted.
    Counted = 4, "counted";
    /// The ring buffer was full; the sample is in the table of counts.
    RingFull = 5, "ring_full";
    /// The table of counts was full; the tick is only in this counter.
    CountsFull = 6, "counts_full";
    /// No configuration was there yet, or a map was missing.
    NotReady = 7, "not_ready";
    /// The kernel's stack could not be read (the sample was sent without it).
    NoKernelStack = 8, "no_kernel_stack";
    /// The user stack's walk broke off (the sample was sent with what there was).
    WalkBroken = 9, "walk_broken";
    /// The user stack is deeper than the limit (the sample was sent with what there was).
    WalkTruncated = 10, "walk_truncated";
    /// A process replaced its program and its decision was cleared.
    ExecCleared = 11, "exec_cleared";
}

/// Number of counters.
pub const EXITS: u32 = Exit::ALL.len() as u32;
