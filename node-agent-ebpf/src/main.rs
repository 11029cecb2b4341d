//! The BPF programs: filter, walk, emit. Thin by intent; what can be plain Rust is in the library.
//!
//! - `on_tick` runs on every CPU at the node rate (perf event on `cpu-clock`).
//! - `on_exec` clears a process's decision the moment it replaces its program, so
//!   that a decision made for the old name never holds for the new one.
#![no_std]
#![no_main]

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, pt_regs};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    generated::{
        bpf_get_current_comm, bpf_get_current_task_btf, bpf_get_stack, bpf_loop, bpf_probe_read_kernel,
        bpf_probe_read_user, bpf_task_pt_regs,
    },
};
use aya_ebpf::macros::{map, perf_event, raw_tracepoint};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use aya_ebpf::programs::{PerfEventContext, RawTracePointContext};
use hearth_node_agent_ebpf::limits::{
    COMM_BYTES, FRAME_SLOTS, MAX_COUNTS, MAX_DECISIONS, MAX_KERNEL_FRAMES, MIN_RING_BYTES,
};
use hearth_node_agent_ebpf::memory::{Pieces, Source};
use hearth_node_agent_ebpf::record::{
    COUNT_LOST_MATCHED, COUNT_LOST_UNDECIDED, COUNT_UNMATCHED, Config, CountKey, DECISION_UNMATCHED,
    Decision, EXITS, Exit, SAMPLE_HEADER_BYTES, SampleHeader, Scratch, WALK_NO_FRAME_POINTER,
    WALK_NO_USER_STACK, WALK_TRUNCATED,
};
use hearth_node_agent_ebpf::thin::keeps;
use hearth_node_agent_ebpf::walk::{Frames, MAX_STEPS, Registers, Walk, Walked};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Ticks of each CPU so far; user space gives it a random start.
#[map]
static TICKS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DECISIONS: HashMap<u32, Decision> = HashMap::with_max_entries(MAX_DECISIONS, 0);
#[map]
static COUNTS: PerCpuHashMap<CountKey, u64> = PerCpuHashMap::with_max_entries(MAX_COUNTS, 0);
#[map]
static SAMPLES: RingBuf = RingBuf::with_byte_size(MIN_RING_BYTES, 0);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
static EXIT_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EXITS, 0);

/// The kernel lends its tracing helpers only to programs that name such a licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[perf_event]
fn on_tick(ctx: PerfEventContext) -> u32 {
    let exit = tick(&ctx).unwrap_or(Exit::NotReady);
    bump(exit);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn on_exec(_ctx: RawTracePointContext) -> i32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if DECISIONS.remove(&tgid).is_ok() {
        bump(Exit::ExecCleared);
    }
    0
}

#[inline(always)]
fn bump(exit: Exit) {
    if let Some(counter) = EXIT_COUNTERS.get_ptr_mut(exit as u32) {
        // SAFETY: a per-CPU value, and perf events on one CPU do not nest in each other.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn tick(ctx: &PerfEventContext) -> Option<Exit> {
    let config = CONFIG.get(0)?;
    let node_rate = config.node_rate;
    let ticks = TICKS.get_ptr_mut(0)?;
    // SAFETY: as in `bump`.
    let tick = unsafe { *ticks };
    // SAFETY: as in `bump`.
    unsafe { *ticks = tick.wrapping_add(1) };
    if node_rate == 0 {
        return None;
    }

    let pid_tgid = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
    if tid == 0 {
        return Some(Exit::Idle);
    }

    // SAFETY: the value is a plain integer; a torn read cannot happen at four aligned bytes.
    let decision = unsafe { DECISIONS.get(&tgid) }.copied();
    let rate = match decision {
        Some(DECISION_UNMATCHED) => return Some(count(tgid, tid, COUNT_UNMATCHED, Exit::Counted)),
        Some(rate) if !keeps(tick, rate, node_rate) => return Some(Exit::Thinned),
        Some(rate) => rate,
        None => 0,
    };

    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: per CPU, and used by this program alone.
    let scratch = unsafe { &mut *scratch };
    let kernel_frames = kernel_stack(ctx, scratch);
    let walked = user_stack(ctx, scratch, kernel_frames);
    scratch.header = SampleHeader {
        // SAFETY: a helper without arguments.
        time: unsafe { bpf_ktime_get_ns() },
        tick,
        tgid,
        tid,
        // SAFETY: a helper without arguments.
        cpu: unsafe { bpf_get_smp_processor_id() },
        rate,
        node_rate,
        user_frames: walked.frames as u16,
        kernel_frames: kernel_frames as u16,
        walk_end: walked.end,
        reserved: 0,
        comm: [0; COMM_BYTES],
    };
    // SAFETY: the helper writes at most COMM_BYTES, zero-terminated.
    unsafe { bpf_get_current_comm(scratch.header.comm.as_mut_ptr().cast(), COMM_BYTES as u32) };

    let bytes = SAMPLE_HEADER_BYTES + (kernel_frames + walked.frames) * 8;
    Some(match (send(scratch, bytes), rate) {
        (true, 0) => Exit::SampledUndecided,
        (true, _) => Exit::Sampled,
        (false, 0) => count(tgid, tid, COUNT_LOST_UNDECIDED, Exit::RingFull),
        (false, _) => count(tgid, tid, COUNT_LOST_MATCHED, Exit::RingFull),
    })
}

/// Counts a tick under its thread's name; `counted` unless the table is full.
#[inline(always)]
fn count(tgid: u32, tid: u32, kind: u16, counted: Exit) -> Exit {
    let mut key = CountKey { tgid, kind, main_thread: (tgid == tid) as u16, comm: [0; COMM_BYTES] };
    // SAFETY: the helper writes at most COMM_BYTES, zero-terminated.
    unsafe { bpf_get_current_comm(key.comm.as_mut_ptr().cast(), COMM_BYTES as u32) };
    if let Some(ticks) = COUNTS.get_ptr_mut(&key) {
        // SAFETY: a per-CPU value, as in `bump`.
        unsafe { *ticks += 1 };
        return counted;
    }
    // Two CPUs may both find no entry: the second then finds the first's, with its own value at zero.
    const BPF_NOEXIST: u64 = 1;
    if COUNTS.insert(&key, &1, BPF_NOEXIST).is_ok() {
        return counted;
    }
    match COUNTS.get_ptr_mut(&key) {
        Some(ticks) => {
            // SAFETY: as above.
            unsafe { *ticks += 1 };
            counted
        }
        None => Exit::CountsFull,
    }
}

/// Puts the kernel's addresses at the start of the frames; returns their number.
#[inline(always)]
fn kernel_stack(ctx: &PerfEventContext, scratch: &mut Scratch) -> usize {
    // SAFETY: the context is valid while the program runs.
    if in_user_mode(unsafe { (*ctx.ctx).regs.cs }) {
        return 0;
    }
    // SAFETY: the buffer has room for MAX_KERNEL_FRAMES addresses.
    let bytes = unsafe {
        bpf_get_stack(ctx.ctx.cast(), scratch.frames.as_mut_ptr().cast(), (MAX_KERNEL_FRAMES * 8) as u32, 0)
    };
    if bytes <= 0 {
        bump(Exit::NoKernelStack);
        return 0;
    }
    // The mask says to the verifier what the helper promises.
    (bytes as usize / 8) & (MAX_KERNEL_FRAMES.next_power_of_two() - 1)
}

/// Walks the user stack into the frames behind the kernel's.
#[inline(always)]
fn user_stack(ctx: &PerfEventContext, scratch: &mut Scratch, kernel_frames: usize) -> Walked {
    let Some(registers) = user_registers(ctx) else {
        return Walked { frames: 0, end: WALK_NO_USER_STACK };
    };
    let mut slots = Slots { frames: &raw mut scratch.frames, base: kernel_frames };
    let memory = Pieces::new(UserMemory, &mut scratch.piece);
    let mut walking = Walking { walk: Walk::begin(registers, &mut slots), memory, slots };
    // A loop in the program itself would be verified frame by frame: 200,000 instructions.
    // SAFETY: the callback gets this very struct, which outlives the call.
    unsafe { bpf_loop(MAX_STEPS as u32, advance as *mut c_void, (&raw mut walking).cast::<c_void>(), 0) };
    let walked = walking.walk.result();
    match walked.end {
        WALK_NO_FRAME_POINTER => bump(Exit::WalkBroken),
        WALK_TRUNCATED => bump(Exit::WalkTruncated),
        _ => {}
    }
    // The mask says to the verifier what the walk promises.
    Walked { frames: walked.frames & (FRAME_SLOTS - 1), end: walked.end }
}

#[repr(C)]
struct Walking<'a> {
    walk: Walk,
    memory: Pieces<'a, UserMemory>,
    slots: Slots,
}

/// One step of the walk; 1 ends `bpf_loop`.
unsafe extern "C" fn advance(index: u64, walking: *mut Walking<'_>) -> i64 {
    // SAFETY: `bpf_loop` hands on what `user_stack` gave it.
    let walking = unsafe { &mut *walking };
    i64::from(!walking.walk.advance(index as usize, &mut walking.memory, &mut walking.slots))
}

/// The registers user space had: the sample's own, or, where the sample hit the
/// kernel, those saved at its entry.
#[inline(always)]
fn user_registers(ctx: &PerfEventContext) -> Option<Registers> {
    // SAFETY: the context is valid while the program runs.
    let sampled = unsafe { &(*ctx.ctx).regs };
    if in_user_mode(sampled.cs) {
        return Some(Registers { ip: sampled.rip, fp: sampled.rbp });
    }
    // SAFETY: the current task is valid, and so are its saved registers.
    let saved = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as usize;
    // Kernel threads never came from user space: their area holds no user segment.
    in_user_mode(saved_register(saved, offset_of!(pt_regs, cs))?).then_some(())?;
    Some(Registers {
        ip: saved_register(saved, offset_of!(pt_regs, rip))?,
        fp: saved_register(saved, offset_of!(pt_regs, rbp))?,
    })
}

/// Reads by helper: plain loads would be merged by the compiler with those from the
/// context, and the verifier refuses one instruction for two kinds of pointer.
#[inline(always)]
fn saved_register(registers: usize, offset: usize) -> Option<u64> {
    let mut register = 0_u64;
    // SAFETY: the helper checks the address and writes eight bytes.
    let failed = unsafe {
        bpf_probe_read_kernel((&raw mut register).cast(), 8, (registers + offset) as *const c_void)
    };
    (failed == 0).then_some(register)
}

/// The privilege level in the code segment's selector: 3 is user space.
#[inline(always)]
fn in_user_mode(cs: u64) -> bool {
    cs & 3 == 3
}

struct UserMemory;

impl Source for UserMemory {
    #[inline(always)]
    fn copy<const WORDS: usize>(&self, address: u64, to: &mut [u64; WORDS]) -> bool {
        // SAFETY: the helper checks the user's address and writes these bytes, which `to` has.
        unsafe {
            bpf_probe_read_user(to.as_mut_ptr().cast(), size_of_val(to) as u32, address as *const _) == 0
        }
    }
}

#[repr(C)]
struct Slots {
    frames: *mut [u64; FRAME_SLOTS],
    base: usize,
}

impl Frames for Slots {
    #[inline(always)]
    fn put(&mut self, index: usize, address: u64) {
        // SAFETY: points into the CPU's scratch space; the mask keeps it there.
        unsafe { (*self.frames)[(self.base + index) & (FRAME_SLOTS - 1)] = address };
    }
}

/// Copies the used part of the scratch space into the ring buffer.
#[inline(always)]
fn send(scratch: &Scratch, bytes: usize) -> bool {
    // A power of two below the size of the scratch space: what the verifier can check.
    const MASK: usize = 8191;
    const _: () = assert!(MASK <= size_of::<Scratch>());
    // SAFETY: the length is at most MASK, which is within the scratch space.
    let record = unsafe { core::slice::from_raw_parts((&raw const *scratch).cast::<u8>(), bytes & MASK) };
    SAMPLES.output::<[u8]>(record, u64::from(BPF_RB_NO_WAKEUP)).is_ok()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
