//! From addresses to the frames of a row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_node_agent_ebpf::record::{
    WALK_COMPLETE, WALK_NO_FRAME_POINTER, WALK_NO_USER_STACK, WALK_TRUNCATED,
};
use hearth_profile::frame::{STACK_TRACE_LOST, TRUNCATED};
use hearth_proto::collector::v1::StackEnd;

use crate::kernel::sample::RawSample;
use crate::process::Process;
use crate::symbols::{AddressSpace, Symbolizer, UserNames};
use crate::window::{OpenWindow, StackRef};

/// Addresses of a process between two changes of its mappings.
#[derive(PartialEq, Eq, Hash)]
struct Addresses {
    tgid: u32,
    epoch: u32,
    walk_end: u32,
    user: Vec<u64>,
    kernel: Vec<u64>,
}

/// Names stacks; remembers within a window those it named, as most samples repeat.
pub struct Namer {
    symbolizer: Symbolizer,
    named: HashMap<Addresses, (StackRef, StackEnd)>,
}

impl Namer {
    /// Names by `symbolizer`.
    pub fn new(symbolizer: Symbolizer) -> Self {
        Self { symbolizer, named: HashMap::new() }
    }

    /// What does the naming.
    pub fn symbolizer(&mut self) -> &mut Symbolizer {
        &mut self.symbolizer
    }

    /// Forgets the places of stacks: a new window has its own.
    pub fn begin_window(&mut self) {
        self.named.clear();
        self.symbolizer.begin_window();
    }

    /// The place of the sample's stack in `window`, and how its walk ended.
    pub fn name(
        &mut self,
        process: &mut Process,
        sample: RawSample,
        defer: Duration,
        window: &mut OpenWindow,
    ) -> (StackRef, StackEnd) {
        let RawSample { header, kernel, user } = sample;
        let key =
            Addresses { tgid: header.tgid, epoch: process.epoch, walk_end: header.walk_end, user, kernel };
        if let Some(&known) = self.named.get(&key) {
            return known;
        }
        let (frames, end) = self.frames(process, &key, defer);
        let named = (window.stack(&frames), end);
        self.named.insert(key, named);
        named
    }

    fn frames(
        &mut self,
        process: &mut Process,
        key: &Addresses,
        defer: Duration,
    ) -> (Vec<Arc<str>>, StackEnd) {
        let mut frames = Vec::with_capacity(key.user.len() + key.kernel.len() + 1);
        if key.walk_end == WALK_TRUNCATED {
            frames.push(TRUNCATED.into());
        }
        let mut names = UserNames::default();
        if !key.user.is_empty() {
            let image = process.image();
            let user = match key.walk_end {
                WALK_NO_FRAME_POINTER => within_code(&image.space, &key.user),
                _ => &key.user,
            };
            names = self.symbolizer.name_user(image, user, defer, &mut frames);
        }
        self.symbolizer.name_kernel(&key.kernel, &mut frames);
        if frames.is_empty() {
            return (vec![STACK_TRACE_LOST.into()], StackEnd::Lost);
        }
        (frames, stack_end(key.walk_end, &names))
    }
}

/// The addresses up to the last one that lies in code, the sampled one always.
///
/// Where a caller uses the frame pointer's register for something else, the walk takes
/// whatever two words that points to for a frame before it notices: an address in no
/// executable mapping was never a return address.
fn within_code<'a>(space: &AddressSpace, addresses: &'a [u64]) -> &'a [u64] {
    if space.is_empty() {
        // Nothing is known of the process: nothing can be held against an address.
        return addresses;
    }
    let in_code = |address: &u64| space.find(address.saturating_sub(1)).is_some();
    let last = addresses.iter().rposition(in_code).unwrap_or(0);
    &addresses[..=last]
}

/// How the walk ended, with what only the names tell.
///
/// The outermost functions of a thread are often built without frame pointers (the C
/// library's start code), so that the chain breaks *in* them: they have no caller, and
/// the stack is complete.
fn stack_end(walk_end: u32, names: &UserNames) -> StackEnd {
    match walk_end {
        WALK_COMPLETE | WALK_NO_USER_STACK => StackEnd::Complete,
        WALK_TRUNCATED => StackEnd::Truncated,
        WALK_NO_FRAME_POINTER if names.outermost_is_entry => StackEnd::Complete,
        WALK_NO_FRAME_POINTER if names.outermost_is_jit => StackEnd::Jit,
        // A code that this agent does not know is no claim to completeness.
        _ => StackEnd::NoUnwindInfo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::{Backing, Mapping};

    #[test]
    fn an_address_that_is_no_code_was_no_caller() {
        let mut space = AddressSpace::new();
        assert_eq!(within_code(&space, &[1, 2]), &[1, 2]);
        let mapping = Mapping { start: 0x1000, end: 0x2000, file_offset: 0, backing: Backing::Anonymous };
        space.insert(mapping);
        assert_eq!(within_code(&space, &[0x1800, 0x1900, 0x7777]), &[0x1800, 0x1900]);
        assert_eq!(within_code(&space, &[0x1800, 0x7777, 0x1900]), &[0x1800, 0x7777, 0x1900]);
        // A call may be the last instruction of its mapping.
        assert_eq!(within_code(&space, &[0x1800, 0x2000]), &[0x1800, 0x2000]);
        assert_eq!(within_code(&space, &[0x9999, 0x7777]), &[0x9999], "the sampled address stays");
    }

    #[test]
    fn the_end_of_a_stack_is_what_walk_and_names_say_together() {
        let entry = UserNames { outermost_is_entry: true, ..UserNames::default() };
        let jit = UserNames { outermost_is_jit: true, ..UserNames::default() };
        let other = UserNames::default();
        let table = [
            (WALK_COMPLETE, &other, StackEnd::Complete),
            (WALK_NO_USER_STACK, &other, StackEnd::Complete),
            (WALK_TRUNCATED, &entry, StackEnd::Truncated),
            (WALK_NO_FRAME_POINTER, &entry, StackEnd::Complete),
            (WALK_NO_FRAME_POINTER, &jit, StackEnd::Jit),
            (WALK_NO_FRAME_POINTER, &other, StackEnd::NoUnwindInfo),
            (99, &entry, StackEnd::NoUnwindInfo),
        ];
        for (walk_end, names, expected) in table {
            assert_eq!(stack_end(walk_end, names), expected, "walk {walk_end} with {names:?}");
        }
    }
}
