//! From batches with indices to rows with values: the tables of one stream.
//!
//! Pure: no IO, no clock. Everything an agent sends is checked here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use hearth_profile::stack::{StackId, stack_id};
use hearth_proto::collector::v1::{
    AgentIdentity, Label, Loss, Pod, Process, Rows, SampleBatch, Stack, StackEnd, Thread,
};
use tonic::{Code, Status};

use super::limits::*;
use crate::metrics::Lost;
use crate::query::filter::tags::pod_group_type;
use crate::store::{BATCH_BYTES, Batch, PodInfo, ProcessInfo, Row, StackText};

/// A batch broke the contract; its stream ends.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Violation {
    /// A value or index that must not be.
    #[error("{0}")]
    Invalid(String),
    /// The stream's tables are full; another stream begins with empty ones.
    #[error("the tables of this stream exceed {MAX_TABLE_BYTES} bytes: open another stream")]
    TablesFull,
}

impl From<Violation> for Status {
    fn from(violation: Violation) -> Self {
        let code = match violation {
            Violation::Invalid(_) => Code::InvalidArgument,
            Violation::TablesFull => Code::ResourceExhausted,
        };
        Status::new(code, violation.to_string())
    }
}

/// Who a stream's agent is, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agent {
    /// Drawn by the agent when it started.
    pub instance: [u8; 16],
    /// Its node.
    pub node: Arc<str>,
    /// Its version, for logs.
    pub version: String,
    /// What it wants `pod_cluster` to be; may be empty.
    pub cluster: Arc<str>,
    /// What its host calls itself; may be empty.
    pub host_name: Arc<str>,
    /// An IPv4 or IPv6 address of its host; may be empty.
    pub host_ip: Arc<str>,
    /// Region of its node; may be empty.
    pub region: Arc<str>,
    /// Availability zone of its node; may be empty.
    pub zone: Arc<str>,
}

/// The tables of one stream. Index 0 is none, so entry `i` is at `i - 1`.
#[derive(Debug, Default)]
pub struct StreamTables {
    agent: Option<Agent>,
    /// Of the batch that was accepted last.
    sequence: u64,
    strings: Vec<Arc<str>>,
    stacks: Vec<StackEntry>,
    pods: Vec<Arc<PodInfo>>,
    processes: Vec<ProcessEntry>,
    threads: Vec<ThreadInfo>,
    handed_over: HandedOver,
    bytes: usize,
}

/// Its text is made when it is asked for: most stacks of a long stream are
/// known to the store, and their texts would fill the tables.
#[derive(Debug)]
struct StackEntry {
    id: StackId,
    /// Bytes of its text.
    bytes: usize,
    /// Indices into the strings, each known to be there.
    frames: Box<[u32]>,
}

/// What a window of one day has brought to the store: a stack is kept once for
/// each app, and sent again daily.
#[derive(Debug, Default)]
struct HandedOver {
    /// Since 1970, UTC.
    day: u32,
    /// Index of the stack, index of the app's name.
    stacks: HashSet<(u32, u32)>,
}

#[derive(Debug, Clone)]
struct ProcessEntry {
    info: Arc<ProcessInfo>,
    /// Index of the app's name.
    app: u32,
}

#[derive(Debug)]
struct ThreadInfo {
    process: ProcessEntry,
    name: Arc<str>,
    main: bool,
}

impl HandedOver {
    /// What an entry takes in the set, its spare room included.
    const ENTRY_BYTES: usize = 2 * size_of::<(u32, u32)>();
}

impl StreamTables {
    /// Who speaks, once the first batch was taken.
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// What was accepted last is not going to be stored: stacks that came with
    /// it must come again.
    pub fn not_stored(&mut self) {
        self.forget_handed_over();
    }

    /// Adds the batch's entries to the tables and resolves its rows. After a
    /// violation the tables are useless.
    pub fn accept(&mut self, batch: SampleBatch) -> Result<Batch, Violation> {
        let SampleBatch {
            agent,
            sequence,
            window_start,
            window_seconds,
            sent_at_micros,
            strings,
            stacks,
            pods,
            processes,
            threads,
            rows,
            losses,
        } = batch;
        let agent = self.identify(agent)?;
        if sequence == 0 {
            return invalid("sequence 0: batches count from 1");
        }
        if sequence <= self.sequence {
            return invalid(format!(
                "sequence {sequence} after {}: they count up within a stream; what is sent again goes on another",
                self.sequence
            ));
        }
        let time = window(window_start, window_seconds, sent_at_micros)?;
        for (table, entries) in [
            ("strings", strings.len()),
            ("stacks", stacks.len()),
            ("pods", pods.len()),
            ("processes", processes.len()),
            ("threads", threads.len()),
        ] {
            if entries > MAX_ENTRIES {
                return invalid(format!("{entries} new {table}, over the limit of {MAX_ENTRIES}"));
            }
        }
        strings.into_iter().try_for_each(|string| self.add_string(string))?;
        stacks.into_iter().try_for_each(|stack| self.add_stack(stack))?;
        pods.into_iter().try_for_each(|pod| self.add_pod(pod))?;
        processes.into_iter().try_for_each(|process| self.add_process(process))?;
        threads.into_iter().try_for_each(|thread| self.add_thread(thread))?;
        if losses.len() > MAX_LOSSES {
            return invalid(format!("{} losses, over the limit of {MAX_LOSSES}", losses.len()));
        }
        let (rows, stacks, bytes) = self.resolve(&agent, &rows.unwrap_or_default(), time, window_seconds)?;
        let losses = lost(losses)?;
        self.sequence = sequence;
        Ok(Batch {
            key: Batch::key(&agent.instance, sequence),
            agent,
            sequence,
            time,
            window_seconds,
            sent_at_micros,
            rows,
            stacks,
            losses,
            too_old: None,
            bytes,
        })
    }

    fn identify(&mut self, agent: Option<AgentIdentity>) -> Result<Agent, Violation> {
        match (agent, &self.agent) {
            (None, None) => invalid("the first batch of a stream must say who the agent is"),
            (None, Some(known)) => Ok(known.clone()),
            (Some(agent), known) => {
                let agent = check_identity(agent)?;
                if known.as_ref().is_some_and(|known| *known != agent) {
                    return invalid("the agent's identity changed within a stream");
                }
                Ok(self.agent.insert(agent).clone())
            }
        }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Violation> {
        self.bytes += bytes;
        if self.bytes > MAX_TABLE_BYTES { Err(Violation::TablesFull) } else { Ok(()) }
    }

    fn add_string(&mut self, string: String) -> Result<(), Violation> {
        if string.len() > MAX_STRING_BYTES {
            let number = self.strings.len() + 1;
            return invalid(format!(
                "string {number} has {} bytes, over the limit of {MAX_STRING_BYTES}",
                string.len()
            ));
        }
        self.grow(string.len() + 2 * size_of::<Arc<str>>())?;
        self.strings.push(string.into());
        Ok(())
    }

    fn add_stack(&mut self, Stack { frames }: Stack) -> Result<(), Violation> {
        let number = self.stacks.len() + 1;
        if frames.is_empty() || frames.len() > MAX_FRAMES {
            return invalid(format!(
                "stack {number} has {} frames; allowed are 1 to {MAX_FRAMES}",
                frames.len()
            ));
        }
        let mut texts = Vec::with_capacity(frames.len());
        for frame in &frames {
            if *frame == 0 {
                return invalid(format!("stack {number} has a frame without text"));
            }
            let text = &**entry(&self.strings, *frame, "string")?;
            if text.is_empty() || text.contains(';') {
                return invalid(format!("stack {number} has the frame {text:?}: empty, or with a ;"));
            }
            texts.push(text);
        }
        let bytes = texts.iter().map(|text| text.len() + 1).sum::<usize>() - 1;
        if bytes > MAX_STACK_BYTES {
            return invalid(format!(
                "stack {number} has {bytes} bytes of text, over the limit of {MAX_STACK_BYTES}"
            ));
        }
        let id = stack_id(&texts);
        self.grow(size_of::<StackEntry>() + size_of_val(&frames[..]))?;
        self.stacks.push(StackEntry { id, bytes, frames: frames.into() });
        Ok(())
    }

    fn add_pod(&mut self, pod: Pod) -> Result<(), Violation> {
        let Pod { namespace, name, ip, service, workload_kind, workload, labels } = pod;
        let number = self.pods.len() + 1;
        if namespace == 0 || name == 0 {
            return invalid(format!("pod {number} has no namespace or no name"));
        }
        if (workload_kind == 0) != (workload == 0) {
            return invalid(format!("pod {number} has a workload without kind or name"));
        }
        if labels.len() > MAX_POD_LABELS {
            let count = labels.len();
            return invalid(format!("pod {number} has {count} labels, over the limit of {MAX_POD_LABELS}"));
        }
        let text = |what: &str, index: u32, limit: usize| {
            let text = self.string(index)?;
            if text.len() > limit {
                return invalid(format!("pod {number}: its {what} is longer than {limit} bytes"));
            }
            Ok(text)
        };
        let mut keys = BTreeSet::new();
        let mut label = |Label { key, value }: Label| {
            let key = text("label's key", key, MAX_LABEL_KEY_BYTES)?;
            let value = text("label's value", value, MAX_NAME_BYTES)?;
            if key.is_empty() || !keys.insert(key.clone()) {
                return invalid(format!("pod {number} has the label {key:?} twice, or it is empty"));
            }
            Ok((Box::from(&*key), Box::from(&*value)))
        };
        let labels =
            labels.into_iter().map(&mut label).collect::<Result<Box<[(Box<str>, Box<str>)]>, _>>()?;
        let Some(ip) = address(&text("address", ip, MAX_NAME_BYTES)?) else {
            return invalid(format!("pod {number}: its address is no IPv4 or IPv6 address"));
        };
        let info = PodInfo {
            namespace: text("namespace", namespace, MAX_NAME_BYTES)?,
            name: text("name", name, MAX_NAME_BYTES)?,
            ip: ip.into(),
            service: text("service", service, MAX_NAME_BYTES)?,
            group_type: pod_group_type(&text("kind of workload", workload_kind, MAX_NAME_BYTES)?),
            group: text("workload", workload, MAX_NAME_BYTES)?,
            labels,
        };
        self.grow(size_of::<PodInfo>() + info.label_bytes() + 4 * size_of::<usize>())?;
        self.pods.push(Arc::new(info));
        Ok(())
    }

    fn add_process(&mut self, process: Process) -> Result<(), Violation> {
        let Process { pid, start_time_millis, name, app_service, policy, period_micros, pod, container } =
            process;
        let number = self.processes.len() + 1;
        if !PERIOD_MICROS.contains(&period_micros) {
            return invalid(format!("process {number} has a period of {period_micros} µs"));
        }
        // DateTime64(3) ends in the year 2299.
        if !(0..=10_413_791_999_999).contains(&start_time_millis) {
            return invalid(format!("process {number} started at {start_time_millis} ms"));
        }
        if pod == 0 && container != 0 {
            return invalid(format!("process {number} is in a container and in no pod"));
        }
        let info = ProcessInfo {
            pid,
            start_time_millis,
            name: self.string(name)?,
            app_service: self.string(app_service)?,
            policy: self.string(policy)?,
            period_micros,
            pod: match pod {
                0 => None,
                pod => Some(entry(&self.pods, pod, "pod")?.clone()),
            },
            container: self.string(container)?,
        };
        self.grow(size_of::<ProcessInfo>() + 4 * size_of::<usize>())?;
        self.processes.push(ProcessEntry { info: Arc::new(info), app: app_service });
        Ok(())
    }

    fn add_thread(&mut self, Thread { process, name, main }: Thread) -> Result<(), Violation> {
        let process = entry(&self.processes, process, "process")?.clone();
        let name = self.string(name)?;
        self.grow(size_of::<ThreadInfo>())?;
        self.threads.push(ThreadInfo { process, name, main });
        Ok(())
    }

    fn string(&self, index: u32) -> Result<Arc<str>, Violation> {
        match index {
            0 => Ok(Arc::from("")),
            index => entry(&self.strings, index, "string").map(Arc::clone),
        }
    }

    /// The rows; of the stacks they use those that no window of that day has
    /// brought to the store, each once; and the bytes of both in INSERTs, which
    /// are summed up before any text is made.
    fn resolve(
        &mut self,
        agent: &Agent,
        rows: &Rows,
        time: u32,
        window_seconds: u32,
    ) -> Result<(Vec<Row>, Vec<StackText>, usize), Violation> {
        let Rows { thread, stack, samples, end, cpu } = rows;
        let count = thread.len();
        if count > MAX_ROWS {
            return invalid(format!("{count} rows, over the limit of {MAX_ROWS}"));
        }
        let lengths = [stack.len(), samples.len(), end.len()];
        if lengths.iter().any(|length| *length != count) || !(cpu.is_empty() || cpu.len() == count) {
            return invalid(format!(
                "columns differ in length: thread {count}, stack {}, samples {}, end {}, cpu {}",
                stack.len(),
                samples.len(),
                end.len(),
                cpu.len()
            ));
        }
        let mut out = Vec::with_capacity(count);
        let mut cpu_time_left = i64::from(window_seconds) * MAX_CPUS * 1_000_000;
        let mut bytes = BATCH_BYTES;
        for at in 0..count {
            let cpu = cpu.get(at).copied().unwrap_or_default();
            let row = self.row(thread[at], stack[at], samples[at], end[at], cpu);
            let row = row.map_err(|violation| match violation {
                Violation::Invalid(text) => Violation::Invalid(format!("row {at}: {text}")),
                other => other,
            })?;
            cpu_time_left -= row.value_micros;
            if cpu_time_left < 0 {
                return invalid(format!(
                    "row {at}: with its {} samples more CPU time than {window_seconds} s on {MAX_CPUS} CPUs",
                    row.samples
                ));
            }
            bytes += row.bytes(agent);
            out.push(row);
        }
        let day = time / 86_400;
        if self.handed_over.day != day {
            self.forget_handed_over();
            self.handed_over.day = day;
        }
        let mut new = Vec::new();
        for (thread, stack) in thread.iter().zip(stack).filter(|(_, stack)| **stack != 0) {
            // Every index was checked with its row.
            let app = self.threads[*thread as usize - 1].process.app;
            if self.handed_over.stacks.insert((*stack, app)) {
                self.grow(HandedOver::ENTRY_BYTES)?;
                bytes += self.stacks[*stack as usize - 1].bytes + size_of::<StackText>();
                new.push((*thread, *stack));
            }
        }
        if bytes > MAX_BATCH_BYTES {
            return invalid(format!(
                "{bytes} bytes of names and stacks ({count} rows, {} new stacks), over the limit of \
                 {MAX_BATCH_BYTES}",
                new.len()
            ));
        }
        let text = |(thread, stack): (u32, u32)| {
            let process = &self.threads[thread as usize - 1].process;
            let StackEntry { id, bytes, frames } = &self.stacks[stack as usize - 1];
            StackText {
                app_service: Arc::clone(&process.info.app_service),
                id: *id,
                text: folded(&self.strings, frames, *bytes),
            }
        };
        Ok((out, new.into_iter().map(text).collect(), bytes))
    }

    fn forget_handed_over(&mut self) {
        self.bytes -= self.handed_over.stacks.len() * HandedOver::ENTRY_BYTES;
        self.handed_over.stacks.clear();
    }

    fn row(&self, thread: u32, stack: u32, samples: u32, end: i32, cpu: u32) -> Result<Row, Violation> {
        let thread = entry(&self.threads, thread, "thread")?;
        let Ok(end) = StackEnd::try_from(end) else {
            return invalid(format!("unknown end of a stack {end}"));
        };
        if (stack == 0) != (end == StackEnd::Counted) {
            return invalid(format!("stack {stack} with the end {}", end.as_str_name()));
        }
        if samples == 0 {
            return invalid("0 samples");
        }
        if cpu > u32::from(Row::NO_CPU) {
            return invalid(format!("CPU {}", cpu - 1));
        }
        Ok(Row {
            process: Arc::clone(&thread.process.info),
            thread_name: Arc::clone(&thread.name),
            main_thread: thread.main,
            stack: match stack {
                0 => StackId::NONE,
                stack => entry(&self.stacks, stack, "stack")?.id,
            },
            end,
            cpu: cpu.checked_sub(1).map_or(Row::NO_CPU, |cpu| cpu as u16),
            samples,
            // At most 2^32 · 10^6: no overflow.
            value_micros: i64::from(samples) * i64::from(thread.process.info.period_micros),
        })
    }
}

fn folded(strings: &[Arc<str>], frames: &[u32], bytes: usize) -> Arc<str> {
    let mut text = String::with_capacity(bytes);
    for frame in frames {
        if !text.is_empty() {
            text.push(';');
        }
        text.push_str(&strings[*frame as usize - 1]);
    }
    text.into()
}

/// What was lost, each reason once.
fn lost(losses: Vec<Loss>) -> Result<Vec<(Lost, u64)>, Violation> {
    let mut sums = BTreeMap::new();
    for Loss { reason, samples } in losses {
        let sum: &mut u64 = sums.entry(Lost::from(reason)).or_default();
        *sum = sum.saturating_add(samples);
        if *sum > MAX_LOST_SAMPLES {
            return invalid(format!("{sum} lost samples, over the limit of {MAX_LOST_SAMPLES}"));
        }
    }
    Ok(sums.into_iter().filter(|(_, samples)| *samples > 0).collect())
}

fn check_identity(agent: AgentIdentity) -> Result<Agent, Violation> {
    let AgentIdentity { instance, node, version, cluster, host_name, host_ip, region, zone } = agent;
    let Ok(instance) = <[u8; 16]>::try_from(instance.as_slice()) else {
        return invalid(format!("the agent's instance has {} bytes instead of 16", instance.len()));
    };
    if node.is_empty() {
        return invalid("the agent's node has no name");
    }
    for (what, name) in [
        ("node", &node),
        ("version", &version),
        ("cluster", &cluster),
        ("host_name", &host_name),
        ("region", &region),
        ("zone", &zone),
    ] {
        if name.len() > MAX_NAME_BYTES {
            return invalid(format!("the agent's {what} is longer than {MAX_NAME_BYTES} bytes"));
        }
    }
    let Some(host_ip) = address(&host_ip) else {
        return invalid("the agent's host_ip is no IPv4 or IPv6 address");
    };
    Ok(Agent {
        instance,
        node: node.into(),
        version,
        cluster: cluster.into(),
        host_name: host_name.into(),
        host_ip: host_ip.into(),
        region: region.into(),
        zone: zone.into(),
    })
}

/// The one text of an address, which is compared as text; of none the empty one.
fn address(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(String::new());
    }
    text.parse::<IpAddr>().ok().map(|address| address.to_string())
}

/// The window's start in Unix seconds.
fn window(start: i64, seconds: u32, sent_at_micros: i64) -> Result<u32, Violation> {
    let Ok(time) = u32::try_from(start) else {
        return invalid(format!("window starts at {start}"));
    };
    if seconds == 0 || seconds > MAX_WINDOW_SECONDS {
        return invalid(format!("window of {seconds} s; allowed are 1 to {MAX_WINDOW_SECONDS}"));
    }
    if time / 3600 != time.saturating_add(seconds - 1) / 3600 {
        return invalid(format!("window of {seconds} s from {start} crosses an hour"));
    }
    if start > (sent_at_micros / 1_000_000).saturating_add(MAX_AHEAD_SECONDS) {
        return invalid(format!("window from {start} was sent before it began"));
    }
    Ok(time)
}

fn entry<'a, T>(table: &'a [T], index: u32, what: &str) -> Result<&'a T, Violation> {
    (index as usize)
        .checked_sub(1)
        .and_then(|at| table.get(at))
        .ok_or_else(|| Violation::Invalid(format!("{what} {index} was never sent ({} were)", table.len())))
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Violation> {
    Err(Violation::Invalid(reason.into()))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
