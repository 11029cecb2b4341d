//! The rows of one window while it is open.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_profile::frame::{LOST, OVER_BUDGET};
use hearth_proto::collector::v1::{LossReason, StackEnd};

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

/// Collects samples into rows.
///
/// Rows beyond the budget become rows under `[over budget]`, one per thread, so
/// that their time stays where it was spent.
pub struct OpenWindow {
    start_unix: i64,
    budget: usize,
    rows: HashMap<RowKey, u32>,
    processes: Interner<Arc<ProcessEntry>>,
    threads: Interner<Arc<str>>,
    stacks: Interner<Arc<[Arc<str>]>>,
    over_budget: u64,
    losses: Vec<(LossReason, u64)>,
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
    /// Opens a window that begins at `start_unix` (seconds) and holds `budget` rows.
    pub fn new(start_unix: i64, budget: usize) -> Self {
        Self {
            start_unix,
            budget,
            rows: HashMap::new(),
            processes: Interner::default(),
            threads: Interner::default(),
            stacks: Interner::default(),
            over_budget: 0,
            losses: Vec::new(),
        }
    }

    /// Gives a stack its place.
    pub fn stack(&mut self, frames: &[Arc<str>]) -> StackRef {
        if let Some(&index) = self.stacks.indices.get(frames) {
            return StackRef(index);
        }
        StackRef(self.stacks.index(frames.into()))
    }

    /// Adds samples of a thread; without a stack its time is only counted.
    pub fn add(
        &mut self,
        thread: &Thread<'_>,
        stack: Option<(StackRef, StackEnd)>,
        cpu: Option<u16>,
        samples: u32,
    ) {
        let key = RowKey {
            process: self.processes.index(thread.process.clone()),
            thread: self.threads.index_str(thread.name),
            main_thread: thread.main,
            stack: stack.map(|(stack, _)| stack),
            end: stack.map_or(StackEnd::Counted, |(_, end)| end).into(),
            cpu,
        };
        if let Some(row) = self.rows.get_mut(&key) {
            *row = row.saturating_add(samples);
            return;
        }
        if self.rows.len() >= self.budget && key.stack.is_some() {
            self.over_budget += u64::from(samples);
            let stack = self.stack(&[OVER_BUDGET.into()]);
            let key = RowKey { stack: Some(stack), end: StackEnd::Lost.into(), ..key };
            *self.rows.entry(key).or_default() += samples;
            return;
        }
        self.rows.insert(key, samples);
    }

    /// Adds time that belongs to no process any more: the kernel's table of counts was full.
    pub fn add_uncounted(&mut self, ticks: u32, period_micros: u32) {
        let process = Arc::new(ProcessEntry {
            pid: 0,
            start_time_millis: 0,
            name: LOST.into(),
            app_service: "".into(),
            policy: "".into(),
            period_micros,
        });
        self.add(&Thread { process: &process, name: LOST, main: true }, None, None, ticks);
    }

    /// Notes samples that are in no row.
    pub fn lose(&mut self, reason: LossReason, samples: u64) {
        if samples > 0 {
            self.losses.push((reason, samples));
        }
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
        self.rows.is_empty() && self.losses.is_empty()
    }

    /// Closes the window at `end_unix` (seconds). Rows of a thread stand together.
    pub fn close(self, end_unix: i64) -> Window {
        // A window that is closed within its first second still has a length.
        let seconds = u32::try_from(end_unix - self.start_unix).unwrap_or(0).max(1);
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
        Window { start_unix: self.start_unix, seconds, rows, losses: self.losses }
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
        })
    }

    /// Each line of `samples` is `process;thread;frame;…`; what comes out is the
    /// same with its count.
    fn check(budget: usize, samples: &str, expected: &[&str]) {
        let mut window = OpenWindow::new(0, budget);
        for line in samples.lines() {
            let mut parts = line.trim().split(';').map(Arc::<str>::from);
            let process = process(&parts.next().expect("a process"));
            let thread = parts.next().expect("a thread");
            let frames: Vec<_> = parts.collect();
            let stack = (!frames.is_empty()).then(|| (window.stack(&frames), StackEnd::Complete));
            window.add(&Thread { process: &process, name: &thread, main: false }, stack, None, 1);
        }
        let total = window.samples();
        assert_eq!(total, samples.lines().count() as u64, "no sample is lost");
        let rows = window.close(10).rows;
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
    fn what_exceeds_the_budget_keeps_its_thread_and_its_time() {
        check(
            2,
            "a;t;f\na;t;g\na;t;h\na;t;i\na;u;f\na;t;f",
            &["a;t;f 2", "a;t;g 1", "a;t;[over budget] 2", "a;u;[over budget] 1"],
        );
    }

    #[test]
    fn counts_without_a_stack_are_never_over_budget() {
        check(1, "a;t;f\nb;t\nc;t\nb;t", &["a;t;f 1", "b;t; 2", "c;t; 1"]);
    }
}
