//! A window of samples, and how it is put on the wire.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hearth_profile::stack::{StackId, stack_id};
use hearth_proto::collector::v1::{
    AgentIdentity, Label, Loss, LossReason, Pod, Process, Rows, SampleBatch, Stack, StackEnd, Thread,
};
use hearth_proto::limits::{MAX_BATCH_BYTES, MAX_NAME_BYTES};

use crate::pods::{Inside, Tags};

/// Everything sampled in one window of one agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Start, Unix seconds.
    pub start_unix: i64,
    /// Length in seconds; the window crosses no hour.
    pub seconds: u32,
    /// Each (process, thread name, main thread, stack, end, cpu) once.
    pub rows: Vec<Row>,
    /// What is in no row, in samples.
    pub losses: Vec<(LossReason, u64)>,
}

/// Samples that are counted together.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Whose samples.
    pub process: Arc<ProcessEntry>,
    /// comm of the thread.
    pub thread_name: Arc<str>,
    /// tid = tgid.
    pub main_thread: bool,
    /// Frames as stored, root first; `None` where none was asked for.
    pub stack: Option<Arc<[Arc<str>]>>,
    /// How the walk ended.
    pub end: StackEnd,
    /// CPU number, where the policy keeps it.
    pub cpu: Option<u16>,
    /// How many.
    pub samples: u32,
}

/// A process under one decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProcessEntry {
    /// Pid in the host's pid namespace.
    pub pid: u32,
    /// Unix milliseconds.
    pub start_time_millis: i64,
    /// comm of the thread group's leader.
    pub name: Arc<str>,
    /// Empty for a process that no policy matched.
    pub app_service: Arc<str>,
    /// Id of the policy; empty as above.
    pub policy: Arc<str>,
    /// Microseconds that one sample stands for.
    pub period_micros: u32,
    /// Its pod and container; none outside pods, and where the pod is not known.
    pub inside: Option<Inside>,
}

impl Window {
    /// Samples in rows and losses.
    pub fn samples(&self) -> u64 {
        let rows = self.rows.iter().map(|row| u64::from(row.samples));
        rows.chain(self.losses.iter().map(|(_, samples)| *samples)).sum()
    }

    /// Cuts the rows into windows of which none is longer than about `max_wire` bytes on a new stream,
    /// nor than a collector takes, and says of each how much memory it keeps, in bytes. Losses stay
    /// with the first.
    pub fn split(self, max_wire: usize) -> Vec<(Window, usize)> {
        let Window { start_unix, seconds, rows, losses } = self;
        let mut parts = vec![(Window { start_unix, seconds, rows: Vec::new(), losses }, 0)];
        let mut meter = Meter::default();
        for row in rows {
            meter.add(&row);
            let (part, memory) = parts.last_mut().expect("begins with one part");
            if (meter.wire > max_wire || meter.stored > MAX_STORED) && !part.rows.is_empty() {
                meter = Meter::default();
                meter.add(&row);
                let next = Window { start_unix, seconds, rows: vec![row], losses: Vec::new() };
                parts.push((next, meter.memory));
            } else {
                part.rows.push(row);
                *memory = meter.memory;
            }
        }
        parts
    }
}

/// Bytes of one part as a collector counts them, with half of what it takes to spare.
const MAX_STORED: usize = MAX_BATCH_BYTES / 2;
/// Of each row: its numbers, and at four places the name of a node or cluster.
const STORED_ROW: usize = 256 + 4 * MAX_NAME_BYTES;

/// Bytes of rows, upper estimates. What rows share by reference counts once.
#[derive(Default)]
struct Meter {
    seen: HashSet<*const u8>,
    /// Stacks with their app.
    seen_in_app: HashSet<(*const u8, *const u8)>,
    /// Kept in memory.
    memory: usize,
    /// On the wire of a new stream.
    wire: usize,
    /// Where it is stored, with all texts written out and all stacks new.
    stored: usize,
}

impl Meter {
    fn add(&mut self, row: &Row) {
        self.memory += size_of::<Row>();
        // Five columns of at most 3, 3, 5, 1 and 2 bytes, and the thread's entry.
        self.wire += 14 + 10;
        self.text(&row.thread_name);
        let ProcessEntry { name, app_service, policy, inside, .. } = &*row.process;
        let names = [name, app_service, policy, &row.thread_name];
        self.stored += STORED_ROW + names.map(|name| name.len()).iter().sum::<usize>();
        let of_pod = inside.iter().flat_map(|inside| inside.pod.texts().chain([&inside.container]));
        self.stored += of_pod.map(|text| text.len()).sum::<usize>();
        if let Some(stack) = &row.stack
            && self.seen_in_app.insert((Arc::as_ptr(stack).cast(), Arc::as_ptr(app_service).cast()))
        {
            self.stored += 64 + stack.iter().map(|frame| frame.len() + 1).sum::<usize>();
        }
        if self.seen.insert(Arc::as_ptr(&row.process).cast()) {
            self.memory += size_of::<ProcessEntry>();
            self.wire += 50;
            [name, app_service, policy].into_iter().for_each(|text| self.text(text));
            if let Some(Inside { pod, container }) = inside {
                self.text(container);
                if self.seen.insert(Arc::as_ptr(pod).cast()) {
                    self.memory += size_of::<Tags>() + pod.labels.len() * size_of::<(Arc<str>, Arc<str>)>();
                    self.wire += 40 + 12 * pod.labels.len();
                    pod.texts().for_each(|text| self.text(text));
                }
            }
        }
        if let Some(stack) = &row.stack
            && self.seen.insert(Arc::as_ptr(stack).cast())
        {
            self.memory += stack.len() * size_of::<Arc<str>>();
            self.wire += 8 + 4 * stack.len();
            stack.iter().for_each(|frame| self.text(frame));
        }
    }

    fn text(&mut self, text: &Arc<str>) {
        if self.seen.insert(Arc::as_ptr(text).cast()) {
            self.memory += text.len() + 16;
            self.wire += text.len() + 4;
        }
    }
}

/// How much a stream's tables may hold before a new stream is due.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Strings, stacks, pods, processes and threads together.
    pub entries: usize,
    /// Memory in bytes, estimated.
    pub bytes: usize,
}

impl Default for Limits {
    /// A node of many short programs fills this in hours; the agent's whole memory is to stay below 64 MiB.
    fn default() -> Self {
        Self { entries: 250_000, bytes: 16 << 20 }
    }
}

/// Encodes the batches of one stream: what the stream has seen goes by its index.
///
/// The tables only grow. When [`is_full`](Self::is_full) says so, the caller has what was sent
/// acknowledged, ends the stream and opens another with a new encoder.
#[derive(Debug)]
pub struct StreamEncoder {
    /// Sent with the first batch.
    identity: Option<AgentIdentity>,
    limits: Limits,
    bytes: usize,
    strings: HashMap<Arc<str>, u32>,
    /// By id, not by text: a stack of 50 frames would keep a kilobyte here.
    stacks: HashMap<StackId, u32>,
    pods: HashMap<Arc<Tags>, u32>,
    processes: HashMap<Arc<ProcessEntry>, u32>,
    threads: HashMap<Thread, u32>,
}

impl StreamEncoder {
    /// For a new stream of this agent.
    pub fn new(identity: AgentIdentity, limits: Limits) -> Self {
        Self {
            identity: Some(identity),
            limits,
            bytes: 0,
            strings: HashMap::new(),
            stacks: HashMap::new(),
            pods: HashMap::new(),
            processes: HashMap::new(),
            threads: HashMap::new(),
        }
    }

    /// Whether the tables passed a limit.
    pub fn is_full(&self) -> bool {
        let Self { strings, stacks, pods, processes, threads, .. } = self;
        let entries = strings.len() + stacks.len() + pods.len() + processes.len() + threads.len();
        entries > self.limits.entries || self.bytes > self.limits.bytes
    }

    /// The next batch of the stream. The caller stamps `sent_at_micros` when it sends it.
    pub fn encode(&mut self, sequence: u64, window: &Window) -> SampleBatch {
        let mut batch = SampleBatch {
            agent: self.identity.take(),
            sequence,
            window_start: window.start_unix,
            window_seconds: window.seconds,
            ..SampleBatch::default()
        };
        let mut rows = Rows::default();
        let keeps_cpu = window.rows.iter().any(|row| row.cpu.is_some());
        for row in &window.rows {
            let Row { process, thread_name, main_thread, stack, end, cpu, samples } = row;
            let process = self.process(&mut batch, process);
            let name = self.string(&mut batch, thread_name);
            rows.thread.push(self.thread(&mut batch, Thread { process, name, main: *main_thread }));
            rows.stack.push(stack.as_ref().map_or(0, |frames| self.stack(&mut batch, frames)));
            rows.samples.push(*samples);
            rows.end.push((*end).into());
            if keeps_cpu {
                rows.cpu.push(cpu.map_or(0, |cpu| u32::from(cpu) + 1));
            }
        }
        batch.rows = Some(rows);
        let loss = |&(reason, samples): &(LossReason, u64)| Loss { reason: reason.into(), samples };
        batch.losses = window.losses.iter().map(loss).collect();
        batch
    }

    fn string(&mut self, batch: &mut SampleBatch, text: &Arc<str>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&index) = self.strings.get(text) {
            return index;
        }
        self.bytes += text.len() + size_of::<(Arc<str>, u32)>() + 16;
        batch.strings.push(text.to_string());
        append(&mut self.strings, text.clone())
    }

    fn stack(&mut self, batch: &mut SampleBatch, frames: &Arc<[Arc<str>]>) -> u32 {
        let id = stack_id(frames.iter());
        if let Some(&index) = self.stacks.get(&id) {
            return index;
        }
        self.bytes += size_of::<(StackId, u32)>();
        let frames = frames.iter().map(|frame| self.string(batch, frame)).collect();
        batch.stacks.push(Stack { frames });
        append(&mut self.stacks, id)
    }

    fn process(&mut self, batch: &mut SampleBatch, entry: &Arc<ProcessEntry>) -> u32 {
        if let Some(&index) = self.processes.get(entry) {
            return index;
        }
        self.bytes += size_of::<(Arc<ProcessEntry>, u32)>() + size_of::<ProcessEntry>();
        let ProcessEntry { pid, start_time_millis, name, app_service, policy, period_micros, inside } =
            &**entry;
        let process = Process {
            pid: *pid,
            start_time_millis: *start_time_millis,
            name: self.string(batch, name),
            app_service: self.string(batch, app_service),
            policy: self.string(batch, policy),
            period_micros: *period_micros,
            pod: inside.as_ref().map_or(0, |inside| self.pod(batch, &inside.pod)),
            container: inside.as_ref().map_or(0, |inside| self.string(batch, &inside.container)),
        };
        batch.processes.push(process);
        append(&mut self.processes, entry.clone())
    }

    fn pod(&mut self, batch: &mut SampleBatch, tags: &Arc<Tags>) -> u32 {
        if let Some(&index) = self.pods.get(tags) {
            return index;
        }
        let Tags { namespace, name, ip, service, workload_kind, workload, labels } = &**tags;
        self.bytes += size_of::<(Arc<Tags>, u32)>() + size_of::<Tags>() + size_of_val(&labels[..]);
        let pod = Pod {
            namespace: self.string(batch, namespace),
            name: self.string(batch, name),
            ip: self.string(batch, ip),
            service: self.string(batch, service),
            workload_kind: self.string(batch, workload_kind),
            workload: self.string(batch, workload),
            labels: labels
                .iter()
                .map(|(key, value)| Label { key: self.string(batch, key), value: self.string(batch, value) })
                .collect(),
        };
        batch.pods.push(pod);
        append(&mut self.pods, tags.clone())
    }

    fn thread(&mut self, batch: &mut SampleBatch, thread: Thread) -> u32 {
        if let Some(&index) = self.threads.get(&thread) {
            return index;
        }
        self.bytes += size_of::<(Thread, u32)>();
        batch.threads.push(thread);
        append(&mut self.threads, thread)
    }
}

/// Indices count from 1; 0 is none.
fn append<K: Eq + std::hash::Hash>(table: &mut HashMap<K, u32>, key: K) -> u32 {
    let index = u32::try_from(table.len() + 1).expect("a stream ends long before 2^32 entries");
    table.insert(key, index);
    index
}

#[cfg(test)]
#[path = "batch_tests.rs"]
pub(crate) mod tests;
