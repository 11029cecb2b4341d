//! From addresses to the frames of a row.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_node_agent_ebpf::record::{
    WALK_COMPLETE, WALK_NO_FRAME_POINTER, WALK_NO_USER_STACK, WALK_TRUNCATED,
};
use hearth_profile::frame::{STACK_TRACE_LOST, TRUNCATED};
use hearth_proto::collector::v1::StackEnd;
use hearth_proto::limits::MAX_STACK_BYTES;

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

impl Addresses {
    /// Bytes of memory that it takes as a key, with what it is the key of.
    fn bytes(&self) -> usize {
        size_of::<(Self, (StackRef, StackEnd))>() + size_of_val(&*self.user) + size_of_val(&*self.kernel)
    }
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

    /// The place of the sample's stack in `window`, and how its walk ended. `None` where
    /// the window has no room for another stack: a process can make as many as there are samples.
    pub fn name(
        &mut self,
        process: &mut Process,
        sample: RawSample,
        defer: Duration,
        window: &mut OpenWindow,
    ) -> Option<(StackRef, StackEnd)> {
        let RawSample { header, kernel, user } = sample;
        let key =
            Addresses { tgid: header.tgid, epoch: process.epoch, walk_end: header.walk_end, user, kernel };
        if let Some(&known) = self.named.get(&key) {
            return Some(known);
        }
        if !window.has_room() {
            return None;
        }
        let (frames, end) = self.frames(process, &key, defer);
        let named = (window.stack(&frames), end);
        window.charge(key.bytes());
        self.named.insert(key, named);
        Some(named)
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
        if cut_to(MAX_STACK_BYTES, &mut frames) {
            return (frames, StackEnd::Truncated);
        }
        (frames, stack_end(key.walk_end, &names))
    }
}

/// Leaves the frames next to the leaf whose text has at most so many bytes, joined as it is
/// stored; true if there were more.
fn cut_to(bytes: usize, frames: &mut Vec<Arc<str>>) -> bool {
    let mut rest = bytes.saturating_sub(TRUNCATED.len());
    let fits = |frame: &Arc<str>| match rest.checked_sub(frame.len() + 1) {
        Some(left) => {
            rest = left;
            true
        }
        None => false,
    };
    let kept = frames.iter().rev().map(fits).take_while(|fits| *fits).count();
    if kept == frames.len() {
        return false;
    }
    frames.splice(..frames.len() - kept, [TRUNCATED.into()]);
    true
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
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use hearth_node_agent_ebpf::record::SampleHeader;
    use hearth_profile::frame::{OVER_BUDGET, PERF_MAP_FRAME};

    use super::*;
    use crate::process::Processes;
    use crate::symbols::{Backing, Limits, Mapping, ProcessImage};
    use crate::window::{Budget, Thread};

    /// Where the compiled code of a [`Scene`] lies.
    const CODE: u64 = 0x1000_0000;

    /// This process, as if it had compiled code, and its perf map.
    struct Scene {
        namer: Namer,
        processes: Processes,
        map: std::path::PathBuf,
        /// There is one map of this process.
        _alone: std::sync::MutexGuard<'static, ()>,
    }

    impl Scene {
        fn new(map: &str) -> Self {
            static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
            let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut space = AddressSpace::new();
            let (start, end) = (CODE, CODE + (1 << 28));
            space.insert(Mapping { start, end, file_offset: 0, backing: Backing::Anonymous });
            let mut processes = Processes::scan().unwrap();
            let pid = std::process::id();
            processes.get(pid).image = Some(ProcessImage::new(pid, 0, space));
            let scene = Self {
                namer: Namer::new(Symbolizer::new(Limits::default())),
                processes,
                map: format!("/tmp/perf-{pid}.map").into(),
                _alone: alone,
            };
            std::fs::write(&scene.map, map).unwrap();
            scene
        }

        /// Adds a sample with these user addresses, as the agent does.
        fn sample(&mut self, user: Vec<u64>, defer: Duration, window: &mut OpenWindow) {
            let process = self.processes.get(std::process::id());
            let header = SampleHeader {
                time: 0,
                tick: 0,
                tgid: process.tgid,
                tid: process.tgid,
                cpu: 0,
                rate: 99,
                node_rate: 99,
                user_frames: 0,
                kernel_frames: 0,
                walk_end: WALK_NO_FRAME_POINTER,
                reserved: 0,
                comm: [0; 16],
            };
            let sample = RawSample { header, kernel: Vec::new(), user };
            let stack = self.namer.name(process, sample, defer, window);
            let entry = process.entry(None, 99);
            let thread = Thread { process: &entry, name: "main", main: true };
            match stack {
                Some(stack) => window.add(&thread, Some(stack), None, 1),
                None => window.add_over_budget(&thread, None, 1),
            }
        }

        /// The leaf's name of a sample in a window of its own.
        fn leaf(&mut self, address: u64, defer: Duration) -> String {
            let mut window = OpenWindow::new(Budget::default());
            self.namer.begin_window();
            self.sample(vec![address], defer, &mut window);
            window.close(0..1).rows[0].stack.as_ref().unwrap().last().unwrap().to_string()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            std::fs::remove_file(&self.map).unwrap();
        }
    }

    /// A process that makes up a stack of 511 new addresses for each of 300 samples, all listed in this map.
    /// Gives the bytes of memory that the window keeps.
    fn made_up_stacks(map: &str, stack_bytes: usize) -> usize {
        let mut scene = Scene::new(map);
        let mut window = OpenWindow::new(Budget { stack_bytes, ..Budget::default() });
        for sample in 0..300 {
            let address = |frame: u64| CODE + 4 * (511 * sample + frame);
            scene.sample((0..511).map(address).collect(), Duration::ZERO, &mut window);
        }
        assert_eq!(window.samples(), 300, "no time is lost");
        let parts = window.close(0..10).split(usize::MAX);
        let over_budget = |stack: &Arc<[Arc<str>]>| &*stack[0] == OVER_BUDGET;
        let rows = parts.iter().flat_map(|(window, _)| &window.rows);
        let beyond = rows.filter(|row| row.stack.as_ref().is_some_and(over_budget));
        assert_eq!(beyond.count(), 1, "one row of the thread for what exceeds the budget");
        parts.iter().map(|(_, memory)| memory).sum()
    }

    /// Frames and the bytes to cut them to; what is left, and whether that is not all.
    fn check_cut(frames: &str, bytes: usize, expected: &str, is_cut: bool) {
        let mut frames: Vec<Arc<str>> = frames.split(';').map(Arc::from).collect();
        assert_eq!(cut_to(bytes, &mut frames), is_cut);
        assert_eq!(frames.join(";"), expected);
    }

    #[test]
    fn a_stack_that_is_too_long_keeps_what_is_next_to_its_leaf() {
        check_cut("main;work;leaf", 100, "main;work;leaf", false);
        check_cut("main;work;leaf", TRUNCATED.len() + 10, "[truncated];work;leaf", true);
        check_cut("main;work;leaf", TRUNCATED.len() + 9, "[truncated];leaf", true);
        check_cut("[truncated];work;leaf", TRUNCATED.len() + 10, "[truncated];work;leaf", true);
        // With its marks it is never longer than it may be.
        let long = ["x".repeat(4000).as_str(); 40].join(";");
        let mut frames: Vec<Arc<str>> = long.split(';').map(Arc::from).collect();
        assert!(cut_to(MAX_STACK_BYTES, &mut frames));
        let bytes = frames.join(";").len();
        assert!((MAX_STACK_BYTES - 4100..=MAX_STACK_BYTES).contains(&bytes), "{bytes}");
    }

    #[test]
    fn stacks_that_a_process_makes_up_fill_no_memory() {
        let long_name = "x".repeat(4000);
        let memory = made_up_stacks(&format!("{CODE:x} 10000000 {long_name}\n"), 1 << 18);
        assert!(memory < (1 << 18) + 16 * 1024, "{memory} bytes for a budget of 256 KiB");
    }

    #[test]
    fn names_that_a_process_makes_up_fill_no_memory() {
        let line = |n: u64| format!("{:x} 100 {n:0>3990}\n", CODE + 0x100 * n);
        let memory = made_up_stacks(&(0..2400).map(line).collect::<String>(), 1 << 20);
        // The last stack may bring 511 names.
        assert!(memory < (3 << 20), "{memory} bytes for a budget of 1 MiB");
    }

    #[test]
    fn a_map_that_changed_is_read_again_after_the_policys_interval_only() {
        let hour = Duration::from_secs(3600);
        let mut scene = Scene::new(&format!("{CODE:x} 10 first\n"));
        assert_eq!(scene.leaf(CODE, hour), "first");
        std::fs::write(&scene.map, format!("{CODE:x} 10 first\n{:x} 10 second\n", CODE + 0x10)).unwrap();
        assert_eq!(scene.leaf(CODE + 0x10, hour), PERF_MAP_FRAME);
        assert_eq!(scene.leaf(CODE + 0x10, Duration::ZERO), "second");
    }

    #[test]
    fn a_map_that_did_not_change_is_not_read_again() {
        let mut scene = Scene::new(&format!("{CODE:x} 10 first\n"));
        let readings = |scene: &mut Scene| {
            scene.processes.get(std::process::id()).image.as_ref().unwrap().perf_map_readings()
        };
        assert_eq!(scene.leaf(CODE, Duration::ZERO), "first");
        assert_eq!(scene.leaf(CODE + 0x10, Duration::ZERO), PERF_MAP_FRAME);
        assert_eq!(readings(&mut scene), 1);
        // Another text of the same size and, as it says itself, of the same time.
        let written = std::fs::metadata(&scene.map).unwrap().modified().unwrap();
        std::fs::write(&scene.map, format!("{:x} 10 other\n", CODE + 0x10)).unwrap();
        std::fs::File::options().write(true).open(&scene.map).unwrap().set_modified(written).unwrap();
        assert_eq!(scene.leaf(CODE + 0x10, Duration::ZERO), "other");
        assert_eq!(readings(&mut scene), 2);
    }

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
