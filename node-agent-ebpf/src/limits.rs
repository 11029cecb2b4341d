//! Limits of the kernel side, each with its reason.

/// Frames of one user stack. A power of two, so that an index can be masked in a
/// way the verifier follows. Deeper stacks end as [`crate::record::WALK_TRUNCATED`].
pub const MAX_USER_FRAMES: usize = 512;

/// Frames of one kernel stack: `kernel.perf_event_max_stack` is 127 by default,
/// and `bpf_get_stack` refuses more.
pub const MAX_KERNEL_FRAMES: usize = 127;

/// Slots for both stacks of a sample; a power of two for the same reason.
pub const FRAME_SLOTS: usize = 1024;

/// Processes with a decision. 32,768 is the kernel's own default `pid_max` on
/// small machines; beyond it a process stays undecided, which costs a stack walk
/// and loses nothing.
pub const MAX_DECISIONS: u32 = 32_768;

/// Threads (process, name, main or not) that are counted without a stack.
/// What exceeds it is counted as lost.
pub const MAX_COUNTS: u32 = 16_384;

/// Bytes of `comm` with its terminating zero (`TASK_COMM_LEN`, `include/linux/sched.h`).
pub const COMM_BYTES: usize = 16;

/// Smallest size of the ring buffer; user space sets the real one by CPUs and rate.
pub const MIN_RING_BYTES: u32 = 1 << 20;

const _: () = assert!(MAX_USER_FRAMES.is_power_of_two());
const _: () = assert!(FRAME_SLOTS.is_power_of_two());
const _: () = assert!(MAX_USER_FRAMES + MAX_KERNEL_FRAMES <= FRAME_SLOTS);
