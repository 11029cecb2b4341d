//! From rows to the tree: what is shown of what is stored.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use clickhouse::Row;
use hearth_profile::frame;
use hearth_profile::stack::StackId;
use hearth_profile::tree::{FrameId, Tree, TreeBuilder};
use serde::Deserialize;

/// A row of [`super::plan::app`] and of [`super::plan::app_by_process`].
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct AppRow {
    /// [`StackId::to_bytes`]; zeros: no stack was asked for.
    pub stack_id: [u8; 16],
    /// As stored, without prefix.
    pub thread_name: String,
    /// How the stack's walk ended, as the column's number.
    pub end: i8,
    /// Microseconds that each of its samples stands for; 0 if it has none.
    pub period: i64,
    /// Smallest process id, in the pid namespace of the host; [`NO_PROCESS`] in rollups.
    pub first_process: u32,
    /// Largest process id.
    pub last_process: u32,
    /// Samples.
    pub samples: u64,
    /// Microseconds.
    pub value: i64,
    /// Those of `value` that come from rollups.
    pub rolled_up: i64,
}

/// A row of [`super::plan::total`].
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct TotalRow {
    /// As stored, without prefix.
    pub process_name: String,
    /// As stored, without prefix.
    pub thread_name: String,
    /// 1 for the main thread.
    pub main_thread: u8,
    /// As in [`AppRow`].
    pub period: i64,
    /// As in [`AppRow`].
    pub samples: u64,
    /// Microseconds.
    pub value: i64,
    /// Those of `value` that come from rollups.
    pub rolled_up: i64,
}

/// What stands for the processes of a row that a rollup does not tell apart.
pub const NO_PROCESS: u32 = 0;

pub(super) const NO_STACK: [u8; 16] = StackId::NONE.to_bytes();

/// The stacks of an answer, by id.
#[derive(Debug, Default)]
pub struct Stacks {
    /// Frames as stored: joined by `;`.
    frames: HashMap<[u8; 16], String>,
    /// Those with a frame that is shown with its process.
    by_process: HashSet<[u8; 16]>,
    /// Those with a frame that has no name.
    unresolved: HashSet<[u8; 16]>,
}

impl FromIterator<([u8; 16], String)> for Stacks {
    fn from_iter<I: IntoIterator<Item = ([u8; 16], String)>>(stacks: I) -> Self {
        let frames: HashMap<_, _> = stacks.into_iter().collect();
        let unresolved: HashSet<_> = frames
            .iter()
            .filter(|(_, text)| text.split(';').any(frame::is_unresolved))
            .map(|(id, _)| *id)
            .collect();
        // The frame that is shown with its process has no name either.
        let by_process = |id: &&[u8; 16]| frames[*id].split(';').any(|frame| frame == frame::PERF_MAP_FRAME);
        let by_process = unresolved.iter().filter(by_process).copied().collect();
        Self { frames, by_process, unresolved }
    }
}

impl Stacks {
    /// Whether a row holds several processes in which its stack looks different:
    /// then [`super::plan::app_by_process`] tells them apart.
    pub fn differ_by_process(&self, rows: &[AppRow]) -> bool {
        rows.iter().any(|r| r.first_process != r.last_process && self.by_process.contains(&r.stack_id))
    }

    /// Puts `by_process` in the place of those `rows` whose stacks look different in each process.
    pub fn tell_apart(&self, rows: &mut Vec<AppRow>, by_process: Vec<AppRow>) {
        rows.retain(|row| !self.by_process.contains(&row.stack_id));
        // A stack that came after the others were asked for is in the next answer.
        rows.extend(by_process.into_iter().filter(|row| self.by_process.contains(&row.stack_id)));
    }

    /// Whether the frames of a stack are known.
    pub fn contains(&self, stack_id: &[u8; 16]) -> bool {
        self.frames.contains_key(stack_id)
    }

    /// Whether one of a stack's frames has no name.
    pub fn has_unresolved(&self, stack_id: &[u8; 16]) -> bool {
        self.unresolved.contains(stack_id)
    }

    /// The frames of a stack as they are shown for a process, root first.
    pub(super) fn shown_frames(
        &self,
        stack_id: [u8; 16],
        process_id: u32,
        max_kernel_frames: Option<u32>,
    ) -> impl Iterator<Item = Cow<'_, str>> {
        let stored = match self.frames.get(&stack_id) {
            Some(frames) => frames.as_str(),
            None if stack_id == NO_STACK => "",
            // The time is real, whatever became of the frames.
            None => frame::STACK_TRACE_LOST,
        };
        // Kernel frames come last: the outermost, at the border to user space, first.
        let mut kernel_frames = 0;
        stored
            .split(';')
            .filter(|frame| !frame.is_empty())
            .take_while(move |frame| {
                kernel_frames += u32::from(frame.starts_with(frame::KERNEL));
                max_kernel_frames.is_none_or(|most| kernel_frames <= most)
            })
            .map(move |frame| match process_id {
                NO_PROCESS => Cow::Borrowed(frame),
                process_id => frame::with_pid(frame, process_id),
            })
    }
}

/// The tree of one app service: `[t] thread`, then the frames.
pub fn app_tree(app_service: &str, rows: &[AppRow], stacks: &Stacks, max_kernel_frames: Option<u32>) -> Tree {
    let mut tree = TreeBuilder::new(app_service);
    let mut threads: HashMap<&str, FrameId> = HashMap::new();
    let mut path = Vec::new();
    // Most stacks stand below several threads, and most threads above many: each is looked up once.
    let mut rows: Vec<&AppRow> = rows.iter().collect();
    rows.sort_unstable_by_key(|row| row.stack_id);
    for same_stack in rows.chunk_by(|a, b| a.stack_id == b.stack_id) {
        let by_process = stacks.by_process.contains(&same_stack[0].stack_id);
        for (at, row) in same_stack.iter().enumerate() {
            let AppRow { stack_id, thread_name, first_process, value, .. } = row;
            let thread =
                *threads.entry(thread_name).or_insert_with(|| tree.intern(&shown_thread(thread_name)));
            if at == 0 || by_process {
                let frames = stacks.shown_frames(*stack_id, *first_process, max_kernel_frames);
                path.clear();
                path.extend(frames.map(|frame| tree.intern(&frame)));
            }
            tree.add_interned(std::iter::once(thread).chain(path.iter().copied()), *value);
        }
    }
    tree.finish()
}

pub(super) fn shown_thread(name: &str) -> String {
    format!("{}{}", frame::THREAD, frame::clean_frame(name))
}

pub(super) fn shown_process(name: &str) -> String {
    format!("{}{}", frame::PROCESS, frame::clean_frame(name))
}

/// The tree of every process: `[p] process`, which keeps its main thread's
/// value, and `[t] thread` for the other threads.
pub fn total_tree(name: &str, rows: &[TotalRow]) -> Tree {
    let mut tree = TreeBuilder::new(name);
    for TotalRow { process_name, thread_name, main_thread, value, .. } in rows {
        let process = shown_process(process_name);
        if *main_thread != 0 {
            tree.add([process], *value);
        } else {
            tree.add([process, shown_thread(thread_name)], *value);
        }
    }
    tree.finish()
}

/// One decimal, and never 0.0 % or 100.0 % of a part that is neither.
pub(super) fn percent(part: i64, total: i64) -> String {
    let permille = (i128::from(part) * 1000 + i128::from(total) / 2) / i128::from(total).max(1);
    match permille {
        0 if part > 0 => "less than 0.1 %".to_owned(),
        1000 if part < total => "more than 99.9 %".to_owned(),
        _ => format!("{}.{} %", permille / 10, permille % 10),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(super) mod tests {
    use super::*;
    use crate::query::Quality;
    use hearth_profile::write::folded::folded;

    /// `id thread end pid-pid value`, one row a line, each sample of one microsecond.
    pub(in crate::query) fn rows(text: &str) -> Vec<AppRow> {
        text.lines()
            .map(|line| {
                let [id, thread, end, pids, value] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
                let (first, last) = pids.split_once('-').unwrap_or((pids, pids));
                let value: i64 = value.parse().unwrap();
                AppRow {
                    stack_id: id.parse::<u128>().unwrap().to_be_bytes(),
                    thread_name: thread.to_owned(),
                    end: end.parse().unwrap(),
                    period: 1,
                    first_process: first.parse().unwrap(),
                    last_process: last.parse().unwrap(),
                    samples: value.unsigned_abs(),
                    value,
                    rolled_up: 0,
                }
            })
            .collect()
    }

    pub(in crate::query) fn stacks() -> Stacks {
        [
            (1, "main;work;[l] memcpy"),
            (2, "main;[k] entry;[k] read;[k] copy"),
            (3, "Thread::run;[/tmp/perf-PID.map];[k] fault"),
            (4, "[k] ret_from_fork;[k] kthread;[k] work"),
            (5, "a[k] b;[k]c;[l] [k] d;[k] entry"),
        ]
        .map(|(id, frames)| (StackId(id).to_bytes(), frames.to_owned()))
        .into_iter()
        .collect()
    }

    fn check(text: &str, max_kernel_frames: Option<u32>, expected: &str) {
        let tree = app_tree("app", &rows(text), &stacks(), max_kernel_frames);
        assert_eq!(folded(&tree), expected);
    }

    #[test]
    fn a_thread_stands_above_its_frames() {
        check(
            "1 main 0 7 30\n1 io 0 7 5\n1 main 1 7 2",
            None,
            "app;[t] main;main;work;[l] memcpy 32\napp;[t] io;main;work;[l] memcpy 5\n",
        );
    }

    #[test]
    fn a_perf_map_frame_shows_the_process() {
        check("3 C2 0 29887 4", None, "app;[t] C2;Thread::run;[/tmp/perf-29887.map];[k] fault 4\n");
    }

    #[test]
    fn processes_that_share_a_perf_map_frame_are_told_apart() {
        let mut rows_of_all = rows("3 C2 0 8-9 10\n1 C2 0 8-9 1");
        assert!(stacks().differ_by_process(&rows_of_all));
        stacks().tell_apart(&mut rows_of_all, rows("3 C2 0 8 4\n3 C2 0 9 6"));
        assert_eq!(
            folded(&app_tree("app", &rows_of_all, &stacks(), None)),
            "app;[t] C2;Thread::run;[/tmp/perf-9.map];[k] fault 6\n\
             app;[t] C2;Thread::run;[/tmp/perf-8.map];[k] fault 4\n\
             app;[t] C2;main;work;[l] memcpy 1\n"
        );
    }

    #[test]
    fn what_arrives_before_processes_are_told_apart_is_in_tree_and_quality_alike() {
        let mut rows_of_all = rows("3 C2 0 8-9 10\n1 C2 0 8-9 1");
        // More of the stack came, at another end too, and one that is not among those that were asked for.
        stacks().tell_apart(&mut rows_of_all, rows("3 C2 0 8 4\n3 C2 1 9 8\n99 C2 0 9 7"));
        let quality = Quality::of_app(&rows_of_all, &stacks());
        assert_eq!((quality.value, quality.samples, quality.incomplete.truncated), (13, 13, 8));
        assert_eq!(app_tree("app", &rows_of_all, &stacks(), None).root().total, quality.value);
    }

    #[test]
    fn a_perf_map_frame_of_a_rollup_has_no_process() {
        check("3 C2 0 0 4", None, "app;[t] C2;Thread::run;[/tmp/perf-PID.map];[k] fault 4\n");
    }

    #[test]
    fn no_stack_and_unknown_stacks_keep_their_time() {
        check("0 a 5 7 3\n99 a 0 7 2", None, "app;[t] a 3\napp;[t] a;[stack trace lost] 2\n");
    }

    #[test]
    fn names_cannot_break_the_tree() {
        check("1 a;b 0 7 3", None, "app;[t] a:b;main;work;[l] memcpy 3\n");
    }

    #[test]
    fn kernel_frames_are_kept_from_user_space_on() {
        let whole = "app;[t] a;main;[k] entry;[k] read;[k] copy 3\n";
        check("2 a 0 7 3", None, whole);
        check("2 a 0 7 3", Some(4), whole);
        check("2 a 0 7 3", Some(3), whole);
        check("2 a 0 7 3", Some(2), "app;[t] a;main;[k] entry;[k] read 3\n");
        check("2 a 0 7 3", Some(1), "app;[t] a;main;[k] entry 3\n");
        check("2 a 0 7 3", Some(0), "app;[t] a;main 3\n");
        check("1 a 0 7 3", Some(0), "app;[t] a;main;work;[l] memcpy 3\n");
    }

    #[test]
    fn a_stack_of_the_kernel_alone_is_cut_the_same_way() {
        check("4 k 0 7 3", Some(4), "app;[t] k;[k] ret_from_fork;[k] kthread;[k] work 3\n");
        check("4 k 0 7 3", Some(3), "app;[t] k;[k] ret_from_fork;[k] kthread;[k] work 3\n");
        check("4 k 0 7 3", Some(1), "app;[t] k;[k] ret_from_fork 3\n");
        check("4 k 0 7 3", Some(0), "app;[t] k 3\n");
    }

    #[test]
    fn a_name_that_holds_k_in_brackets_is_no_kernel_frame() {
        check("5 a 0 7 3", Some(1), "app;[t] a;a[k] b;[k]c;[l] [k] d;[k] entry 3\n");
        check("5 a 0 7 3", Some(0), "app;[t] a;a[k] b;[k]c;[l] [k] d 3\n");
    }

    #[test]
    fn what_is_cut_keeps_its_time() {
        let rows = rows("1 a 0 7 1\n2 a 0 7 2\n3 b 0 7 4\n4 b 1 7 8\n5 c 0 7 16\n99 c 0 7 32\n0 c 5 7 64");
        for depth in [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(u32::MAX)] {
            assert_eq!(app_tree("app", &rows, &stacks(), depth).root().total, 127, "{depth:?}");
        }
    }

    #[test]
    fn in_total_a_main_thread_is_its_process() {
        let row = |process: &str, thread: &str, main_thread, value| TotalRow {
            process_name: process.into(),
            thread_name: thread.into(),
            main_thread,
            period: 1,
            samples: 1,
            value,
            rolled_up: 0,
        };
        let rows = [
            row("java", "java", 1, 2),
            row("java", "C2;x", 0, 5),
            row("java", "java", 0, 1),
            row("sh", "sh", 1, 1),
        ];
        assert_eq!(
            folded(&total_tree("Total", &rows)),
            "Total;[p] java 2\nTotal;[p] java;[t] C2:x 5\nTotal;[p] java;[t] java 1\nTotal;[p] sh 1\n"
        );
    }
}
