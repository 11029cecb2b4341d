//! The walk of a user stack.
//!
//! Frame pointers only, so far. The `.eh_frame` unwinder will stand beside
//! [`walk_frame_pointers`] and decide per address which of the two takes a step:
//! [`step`] is that place.

use crate::limits::MAX_USER_FRAMES;
use crate::memory::Memory;
use crate::record::{WALK_COMPLETE, WALK_NO_FRAME_POINTER, WALK_TRUNCATED};

/// Where the addresses go.
pub trait Frames {
    /// Stores the `index`-th address, leaf first.
    fn put(&mut self, index: usize, address: u64);
}

/// The registers a walk begins with, as at the moment of the sample.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// Instruction pointer.
    pub ip: u64,
    /// Frame pointer (rbp on x86-64).
    pub fp: u64,
}

/// What a walk gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Number of addresses stored; at least 1, the instruction pointer.
    pub frames: usize,
    /// One of the `WALK_…` codes of [`crate::record`].
    pub end: u32,
}

/// One step towards the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The caller: the return address and the caller's frame pointer.
    Caller {
        /// Address after the call instruction.
        return_address: u64,
        /// The caller's frame pointer.
        fp: u64,
    },
    /// There is none, or none that can be found; a `WALK_…` code.
    End(u32),
}

/// Addresses below are never code: `mmap_min_addr` keeps the first page unmapped.
const LOWEST_CODE: u64 = 4096;
/// First address beyond user space with four levels of page tables (x86-64, arm64 with 48 bits).
const END_OF_USER_SPACE: u64 = 1 << 47;

/// Follows one frame record.
///
/// A zero frame pointer or a zero return address is how thread entries mark the
/// outermost frame (x86-64 psABI, section 3.4.1: `%rbp` is zeroed by the ABI at
/// process entry). Anything that cannot be a frame record means that some caller
/// uses the register for something else.
#[inline(always)]
pub fn step<M: Memory>(memory: &mut M, fp: u64) -> Step {
    if fp == 0 {
        return Step::End(WALK_COMPLETE);
    }
    if !fp.is_multiple_of(8) || fp >= END_OF_USER_SPACE {
        return Step::End(WALK_NO_FRAME_POINTER);
    }
    let Some((caller_fp, return_address)) = memory.read_pair(fp) else {
        return Step::End(WALK_NO_FRAME_POINTER);
    };
    if return_address == 0 {
        return Step::End(WALK_COMPLETE);
    }
    // A record that names itself as its caller would be walked to the limit.
    if !(LOWEST_CODE..END_OF_USER_SPACE).contains(&return_address) || caller_fp == fp {
        return Step::End(WALK_NO_FRAME_POINTER);
    }
    Step::Caller { return_address, fp: caller_fp }
}

/// Steps of one walk: each gives a frame, and the first frame needs none.
pub const MAX_STEPS: usize = MAX_USER_FRAMES - 1;

/// A walk in progress. The kernel side turns the crank with `bpf_loop`, the host with
/// a plain loop: see [`walk_frame_pointers`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    fp: u64,
    frames: u64,
    end: u64,
}

impl Walk {
    /// Begins with the sampled instruction.
    #[inline(always)]
    pub fn begin<F: Frames>(registers: Registers, frames: &mut F) -> Self {
        frames.put(0, registers.ip);
        // A stack of just as many frames as there is room for counts as truncated: nobody saw its root.
        Self { fp: registers.fp, frames: 1, end: WALK_TRUNCATED as u64 }
    }

    /// Takes step number `index`, from 0; false where the walk has ended.
    ///
    /// The number comes from the caller because the verifier would follow a counter
    /// kept here through each of its values. One step a call, for the same reason:
    /// several multiply the paths that it follows by as many orders of their ends.
    #[inline(always)]
    pub fn advance<M: Memory, F: Frames>(&mut self, index: usize, memory: &mut M, frames: &mut F) -> bool {
        match step(memory, self.fp) {
            Step::Caller { return_address, fp } => {
                frames.put(index + 1, return_address);
                self.frames = index as u64 + 2;
                self.fp = fp;
                true
            }
            Step::End(end) => {
                // A process begins with zero in the register, and in code without frame pointers it stays there:
                // zero before the first step says nothing of callers.
                let says_nothing = index == 0 && self.fp == 0;
                self.end = if says_nothing { WALK_NO_FRAME_POINTER } else { end } as u64;
                false
            }
        }
    }

    /// What came of it.
    #[inline(always)]
    pub fn result(&self) -> Walked {
        Walked { frames: self.frames as usize, end: self.end as u32 }
    }
}

/// Walks by frame pointers from the sampled instruction to the thread's entry.
pub fn walk_frame_pointers<M: Memory, F: Frames>(
    memory: &mut M,
    registers: Registers,
    frames: &mut F,
) -> Walked {
    let mut walk = Walk::begin(registers, frames);
    let mut index = 0;
    while index < MAX_STEPS && walk.advance(index, memory, frames) {
        index += 1;
    }
    walk.result()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use super::*;

    struct Stack(HashMap<u64, (u64, u64)>);

    impl Memory for Stack {
        fn read_pair(&mut self, address: u64) -> Option<(u64, u64)> {
            self.0.get(&address).copied()
        }
    }

    struct Sink(Vec<u64>);

    impl Frames for Sink {
        fn put(&mut self, index: usize, address: u64) {
            assert_eq!(index, self.0.len(), "frames are stored in order");
            self.0.push(address);
        }
    }

    /// `records`: (address, caller's frame pointer, return address).
    fn check(fp: u64, records: &[(u64, u64, u64)], expected: &str) {
        let mut memory = Stack(records.iter().map(|&(at, next, ret)| (at, (next, ret))).collect());
        let mut sink = Sink(Vec::new());
        let walked = walk_frame_pointers(&mut memory, Registers { ip: 0x40_1000, fp }, &mut sink);
        assert_eq!(walked.frames, sink.0.len());
        let end = match walked.end {
            WALK_COMPLETE => "complete",
            WALK_TRUNCATED => "truncated",
            WALK_NO_FRAME_POINTER => "no frame pointer",
            other => panic!("unknown end {other}"),
        };
        let frames: Vec<String> = sink.0.iter().map(|a| format!("{a:x}")).collect();
        assert_eq!(format!("{}: {end}", frames.join(" ")), expected);
    }

    const SP: u64 = 0x7fff_0000_1000;

    #[test]
    fn a_zero_frame_pointer_is_the_root() {
        check(SP, &[(SP, SP + 64, 0x40_2000), (SP + 64, 0, 0x40_3000)], "401000 402000 403000: complete");
    }

    #[test]
    fn a_zero_frame_pointer_at_the_leaf_says_nothing_of_callers() {
        check(0, &[], "401000: no frame pointer");
    }

    #[test]
    fn a_zero_return_address_is_the_root_and_no_frame() {
        check(SP, &[(SP, SP + 64, 0x40_2000), (SP + 64, 7, 0)], "401000 402000: complete");
    }

    #[test]
    fn a_register_that_is_no_frame_pointer_ends_the_walk() {
        check(0x1235, &[], "401000: no frame pointer");
        check(SP, &[], "401000: no frame pointer");
        check(SP, &[(SP, SP + 64, 0x10)], "401000: no frame pointer");
        check(SP, &[(SP, SP + 64, u64::MAX - 7)], "401000: no frame pointer");
        check(u64::MAX - 7, &[], "401000: no frame pointer");
    }

    #[test]
    fn a_record_that_names_itself_does_not_loop() {
        check(SP, &[(SP, SP, 0x40_2000)], "401000: no frame pointer");
    }

    #[test]
    fn a_stack_may_go_on_elsewhere() {
        // Goroutines and coroutines: the caller's stack may lie below the callee's.
        check(
            SP,
            &[(SP, 0x1000_0000, 0x40_2000), (0x1000_0000, 0, 0x40_3000)],
            "401000 402000 403000: complete",
        );
    }

    #[test]
    fn the_limit_of_frames_is_kept_and_said() {
        let records: Vec<_> =
            (0..2 * MAX_USER_FRAMES as u64).map(|i| (SP + 16 * i, SP + 16 * (i + 1), 0x40_2000)).collect();
        let mut memory = Stack(records.iter().map(|&(at, next, ret)| (at, (next, ret))).collect());
        let mut sink = Sink(Vec::new());
        let walked = walk_frame_pointers(&mut memory, Registers { ip: 0x40_1000, fp: SP }, &mut sink);
        assert_eq!(walked, Walked { frames: MAX_USER_FRAMES, end: WALK_TRUNCATED });
    }
}
