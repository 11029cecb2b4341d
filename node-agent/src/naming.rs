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
use crate::symbols::{Backing, ProcessImage, Symbolizer, UserNames};
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
        let mut outermost = Outermost::Other;
        if let Some(address) = key.user.last() {
            let image = process.image();
            let names = self.symbolizer.name_user(image, &key.user, defer, &mut frames);
            outermost = outermost_of(image, *address, &names);
        }
        self.symbolizer.name_kernel(&key.kernel, &mut frames);
        if frames.is_empty() {
            return (vec![STACK_TRACE_LOST.into()], StackEnd::Lost);
        }
        (frames, stack_end(key.walk_end, outermost))
    }
}

/// What the walk ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outermost {
    /// A function in which threads begin.
    ThreadEntry,
    /// Code that the process compiled itself.
    Jit,
    Other,
}

fn outermost_of(image: &ProcessImage, address: u64, names: &UserNames) -> Outermost {
    if names.begins_at_thread_entry {
        return Outermost::ThreadEntry;
    }
    let mapping = image.space.find(address.saturating_sub(1));
    match mapping.map(|mapping| &mapping.backing) {
        Some(Backing::Anonymous) => Outermost::Jit,
        _ => Outermost::Other,
    }
}

/// How the walk ended, with what only the names tell.
///
/// The outermost functions of a thread are often built without frame pointers (the C
/// library's start code), so that the chain breaks *in* them: they have no caller, and
/// the stack is complete.
fn stack_end(walk_end: u32, outermost: Outermost) -> StackEnd {
    match (walk_end, outermost) {
        (WALK_COMPLETE | WALK_NO_USER_STACK, _) => StackEnd::Complete,
        (WALK_TRUNCATED, _) => StackEnd::Truncated,
        (WALK_NO_FRAME_POINTER, Outermost::ThreadEntry) => StackEnd::Complete,
        (WALK_NO_FRAME_POINTER, Outermost::Jit) => StackEnd::Jit,
        // A code that this agent does not know is no claim to completeness.
        _ => StackEnd::NoUnwindInfo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_stack_is_what_walk_and_names_say_together() {
        use Outermost::{Jit, Other, ThreadEntry};
        let table = [
            (WALK_COMPLETE, Other, StackEnd::Complete),
            (WALK_NO_USER_STACK, Other, StackEnd::Complete),
            (WALK_TRUNCATED, ThreadEntry, StackEnd::Truncated),
            (WALK_NO_FRAME_POINTER, ThreadEntry, StackEnd::Complete),
            (WALK_NO_FRAME_POINTER, Jit, StackEnd::Jit),
            (WALK_NO_FRAME_POINTER, Other, StackEnd::NoUnwindInfo),
            (99, ThreadEntry, StackEnd::NoUnwindInfo),
        ];
        for (walk_end, outermost, expected) in table {
            assert_eq!(stack_end(walk_end, outermost), expected, "walk {walk_end} ending in {outermost:?}");
        }
    }
}
