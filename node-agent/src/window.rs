//! The rows of one window while it is open.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use hearth_profile::frame::{LOST, OVER_BUDGET};
use hearth_proto::collector::v1::StackEnd;

use crate::export::batch::{ProcessEntry, Row, Window};

/// A stack by its place in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StackRef(u32);

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    process: u32,
    thread: u32,
    main_thread: bool,
    stack: Option<StackRef>,
    end: i32,
    cpu: Option<u16>,
}

/// What a window may hold.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Rows with a stack of their own. Threads whose stacks are over the budget, and threads that are
    /// only counted, have as many again.
    pub rows: usize,
    /// Bytes of different stacks and names, estimated. Soft by one stack.
    pub stack_bytes: usize,
}

impl Default for Budget {
    /// As many bytes as 20,000 stacks of 40 frames take.
    fn default() -> Self {
        Self { rows: 20_000, stack_bytes: 24 << 20 }
    }
}

/// Collects samples into rows.
///
/// What exceeds the budget becomes rows under `[over budget]`, one per thread, so
/// that its time stays where it was spent; where even these are too many, it is
/// the time of a process 0 of that name.
pub struct OpenWindow {
    budget: Budget,
    rows: HashMap<RowKey, u32>,
    processes: Interner<Arc<ProcessEntry>>,
    threads: Interner<Arc<str>>,
    stacks: Interner<Arc<[Arc<str>]>>,
    /// The names in `stacks`, so that equal ones are one.
    frames: HashSet<Arc<str>>,
    /// What stacks and names take, and whatever was charged beside.
    stack_bytes: usize,
    over_budget: u64,
}

/// Of which thread a sample is.
#[derive(Clone, Debug)]
pub struct Thread<'a> {
    /// The process's row header.
    pub process: &'a Arc<ProcessEntry>,
    /// Name of the thread.
    pub name: &'a str,
    /// Thread id = process id.
    pub main: bool,
}

impl OpenWindow {
    /// Opens a window.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            rows: HashMap::new(),
            processes: Interner::default(),
            threads: Interner::default(),
            stacks: Interner::default(),
            frames: HashSet::new(),
            stack_bytes: 0,
            over_budget: 0,
        }
    }

    /// Whether another stack may be named for it.
    pub fn has_room(&self) -> bool {
        self.stack_bytes < self.budget.stack_bytes
    }

    /// Counts memory that is kept as long as the window is open.
    pub fn charge(&mut self, bytes: usize) {
        self.stack_bytes += bytes;
    }

    /// Gives a stack its place.
    pub fn stack(&mut self, frames: &[Arc<str>]) -> StackRef {
        if let Some(&index) = self.stacks.indices.get(frames) {
            return StackRef(index);
        }
        let frames: Arc<[Arc<str>]> = frames.iter().map(|frame| self.frame(frame)).collect();
        self.charge(size_of_val(&*frames) + 4 * size_of::<Arc<[Arc<str>]>>());
        StackRef(self.stacks.index(frames))
    }

    fn frame(&mut self, frame: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.frames.get(frame) {
            return known.clone();
        }
        self.charge(frame.len() + 3 * size_of::<Arc<str>>());
        self.frames.insert(frame.clone());
        frame.clone()
    }

    /// Adds samples of a thread; without a stack its time is only counted.
    pub fn add(
        &mut self,
        thread: &Thread<'_>,
        stack: Option<(StackRef, StackEnd)>,
        cpu: Option<u16>,
        samples: u32,
    ) {
        let limit = match stack {
            Some(_) => self.budget.rows,
            None => 2 * self.budget.rows,
        };
        if !self.add_within(limit, thread, stack, cpu, samples) {
            self.add_over_budget(thread, cpu, samples);
        }
    }

    /// Adds samples of a thread whose stack has no place.
    pub fn add_over_budget(&mut self, thread: &Thread<'_>, cpu: Option<u16>, samples: u32) {
        self.over_budget += u64::from(samples);
        let stack = Some((self.stack(&[OVER_BUDGET.into()]), StackEnd::Lost));
        if !self.add_within(2 * self.budget.rows, thread, stack, cpu, samples) {
            self.add_to_nobody(OVER_BUDGET, samples, thread.process.period_micros);
        }
    }

    /// Adds to the row, which is new only where there are fewer than `limit`.
    fn add_within(
        &mut self,
        limit: usize,
        thread: &Thread<'_>,
        stack: Option<(StackRef, StackEnd)>,
        cpu: Option<u16>,
        samples: u32,
    ) -> bool {
        let is_new = self.rows.len() < limit;
        let process = self.processes.indices.get(thread.process).copied();
        let name = self.threads.indices.get(thread.name).copied();
        let (process, name) = match (process, name) {
            (Some(process), Some(name)) => (process, name),
            _ if is_new => {
                (self.processes.index(thread.process.clone()), self.threads.index_str(thread.name))
            }
            _ => return false,
        };
        let key = RowKey {
            process,
            thread: name,
            main_thread: thread.main,
            stack: stack.map(|(stack, _)| stack),
            end: stack.map_or(StackEnd::Counted, |(_, end)| end).into(),
            cpu,
        };
        match self.rows.get_mut(&key) {
            Some(row) => *row = row.saturating_add(samples),
            None if !is_new => return false,
            None => {
                self.rows.insert(key, samples);
            }
        }
        true
    }

    /// Adds time that belongs to no process any more: the kernel's table of counts was full.
    pub fn add_uncounted(&mut self, ticks: u32, period_micros: u32) {
        self.add_to_nobody(LOST, ticks, period_micros);
    }

    /// Adds time that is shown under `Total` as that of a process `name`. A row for each length of
    /// tick, of which a window has few.
    fn add_to_nobody(&mut self, name: &str, samples: u32, period_micros: u32) {
        let process = Arc::new(ProcessEntry {
            pid: 0,
            start_time_millis: 0,
            name: name.into(),
            app_service: "".into(),
            policy: "".into(),
            period_micros,
            inside: None,
        });
        self.add_within(usize::MAX, &Thread { process: &process, name, main: true }, None, None, samples);
    }

    /// Samples that went under `[over budget]`.
    pub fn over_budget(&self) -> u64 {
        self.over_budget
    }

    /// Samples of all rows.
    pub fn samples(&self) -> u64 {
        self.rows.values().map(|&samples| u64::from(samples)).sum()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Closes the window, which covered this time (Unix seconds). Rows of a thread stand together.
    pub fn close(self, covered: Range<i64>) -> Window {
        // A window that is closed within its first second still has a length.
        let seconds = u32::try_from(covered.end - covered.start).unwrap_or(0).max(1);
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_unstable_by_key(|(key, _)| {
            (key.process, key.thread, key.main_thread, key.stack.map(|stack| stack.0), key.end, key.cpu)
        });
        let rows = rows
            .into_iter()
            .map(|(key, samples)| Row {
                process: self.processes.items[key.process as usize].clone(),
                thread_name: self.threads.items[key.thread as usize].clone(),
                main_thread: key.main_thread,
                stack: key.stack.map(|stack| self.stacks.items[stack.0 as usize].clone()),
                end: StackEnd::try_from(key.end).expect("the key was made from a StackEnd"),
                cpu: key.cpu,
                samples,
            })
            .collect();
        Window { start_unix: covered.start, seconds, rows, losses: Vec::new() }
    }
}

/// Gives equal things one number.
struct Interner<T> {
    indices: HashMap<T, u32>,
    items: Vec<T>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { indices: HashMap::new(), items: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interner<T> {
    fn index(&mut self, item: T) -> u32 {
        if let Some(&index) = self.indices.get(&item) {
            return index;
        }
        let index = u32::try_from(self.items.len()).expect("a window holds fewer than 2^32 things");
        self.items.push(item.clone());
        self.indices.insert(item, index);
        index
    }
}

impl Interner<Arc<str>> {
    fn index_str(&mut self, item: &str) -> u32 {
        match self.indices.get(item) {
            Some(&index) => index,
            None => self.index(item.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str) -> Arc<ProcessEntry> {
        Arc::new(ProcessEntry {
            pid: 1,
            start_time_millis: 0,
            name: name.into(),
            app_service: name.into(),
            policy: "p".into(),
            period_micros: 10_101,
            inside: None,
        })
    }

    /// Each line of `samples` is `process;thread;frame;…`; what comes out is the
    /// same with its count.
    fn check(rows: usize, samples: &str, expected: &[&str]) {
        check_within(Budget { rows, ..Budget::default() }, samples, expected);
    }

    fn check_within(budget: Budget, samples: &str, expected: &[&str]) {
        let mut window = OpenWindow::new(budget);
        for line in samples.lines() {
            let mut parts = line.trim().split(';').map(Arc::<str>::from);
            let process = process(&parts.next().expect("a process"));
            let name = parts.next().expect("a thread");
            let thread = Thread { process: &process, name: &name, main: false };
            let frames: Vec<_> = parts.collect();
            if frames.is_empty() {
                window.add(&thread, None, None, 1);
            } else if window.has_room() {
                let stack = window.stack(&frames);
                window.add(&thread, Some((stack, StackEnd::Complete)), None, 1);
            } else {
                window.add_over_budget(&thread, None, 1);
            }
        }
        let total = window.samples();
        assert_eq!(total, samples.lines().count() as u64, "no sample is lost");
        let rows = window.close(0..10).rows;
        let rows: Vec<String> = rows
            .iter()
            .map(|row| {
                let frames = row.stack.as_deref().unwrap_or_default().join(";");
                format!("{};{};{frames} {}", row.process.name, row.thread_name, row.samples)
            })
            .collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn equal_samples_are_one_row() {
        check(
            10,
            "a;t;main;f\na;t;main;f\na;t;main;g\na;u;main;f",
            &["a;t;main;f 2", "a;t;main;g 1", "a;u;main;f 1"],
        );
    }

    #[test]
    fn what_exceeds_the_budget_of_rows_keeps_its_thread_and_its_time() {
        check(
            2,
            "a;t;f\na;t;g\na;t;h\na;t;i\na;u;f\na;t;f",
            &["a;t;f 2", "a;t;g 1", "a;t;[over budget] 2", "a;u;[over budget] 1"],
        );
    }

    #[test]
    fn what_exceeds_the_budget_of_stacks_keeps_its_thread_and_its_time() {
        let budget = Budget { stack_bytes: 1, ..Budget::default() };
        check_within(
            budget,
            "a;t;f\na;t;g\nb;u;f",
            &["a;t;f 1", "a;t;[over budget] 1", "b;u;[over budget] 1"],
        );
    }

    #[test]
    fn counts_without_a_stack_have_room_beside_those_with_one() {
        check(1, "a;t;f\nb;t\nb;t", &["a;t;f 1", "b;t; 2"]);
    }

    #[test]
    fn however_many_threads_there_are_the_rows_end() {
        check(
            1,
            "a;t;f\nb;t\na;t;g\na;u;f\nc;t;f\nd;v\nb;t",
            &["a;t;f 1", "b;t; 2", "[over budget];[over budget]; 4"],
        );
    }

    #[test]
    fn equal_names_are_kept_once() {
        let mut window = OpenWindow::new(Budget::default());
        let name = "x".repeat(4000);
        let stacks = (0..100).map(|n| [Arc::from(name.as_str()), Arc::from(format!("f{n}"))]);
        for stack in stacks.collect::<Vec<_>>() {
            window.stack(&stack);
        }
        assert!(window.stack_bytes < 4000 + 100 * 200, "{} bytes", window.stack_bytes);
    }

    #[test]
    fn time_of_no_process_is_a_row_under_total() {
        let mut window = OpenWindow::new(Budget::default());
        window.add_uncounted(7, 10_101);
        let rows = window.close(0..10).rows;
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((&*row.process.name, &*row.thread_name, row.samples), (LOST, LOST, 7));
        assert_eq!((row.process.pid, &*row.process.app_service, row.end), (0, "", StackEnd::Counted));
    }
}
