//! An hour of a small cluster's rows, made up, and encoded by the agent's own encoder.
//!
//! Each node runs twelve of forty services each; a service has 3,000 stacks, the nodes of a random tree of
//! calls; services and stacks are drawn by Zipf's law. Every run makes the same rows, except for their hour.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_node_agent::export::batch::{Limits, ProcessEntry, Row, StreamEncoder, Window};
use hearth_node_agent::pods::{Inside, Tags};
use hearth_proto::collector::v1::{AgentIdentity, SampleBatch, StackEnd};

const SERVICES: u32 = 40;
const SERVICES_PER_NODE: u32 = 12;
const STACKS_PER_SERVICE: usize = 3000;
const NAMES_PER_SERVICE: usize = 600;
const THREADS: [&str; 4] = ["main", "worker-1", "worker-2", "gc"];
const WINDOW_SECONDS: u32 = 10;
const WINDOWS: u32 = 3600 / WINDOW_SECONDS;
const PERIOD_MICROS: u32 = 10_101;

/// The hour.
pub(crate) struct Hour {
    /// Unix seconds at which it begins.
    pub(crate) start: i64,
    /// A stream of batches, a window each, for every node.
    pub(crate) nodes: Vec<Vec<SampleBatch>>,
    /// All rows again, for other layouts.
    pub(crate) rows: Vec<PlainRow>,
    /// The text of the stacks, by service and number: frames joined by `;`.
    pub(crate) stacks: Vec<Vec<String>>,
}

/// A row as another store would get it.
#[derive(Clone, Copy)]
pub(crate) struct PlainRow {
    pub(crate) time: u32,
    pub(crate) node: u32,
    pub(crate) service: u32,
    pub(crate) pid: u32,
    pub(crate) thread: usize,
    pub(crate) stack: usize,
    pub(crate) samples: u32,
}

/// Names of the services, the one with the most rows first.
pub(crate) fn service_name(service: u32) -> String {
    format!("service-{service:02}")
}

pub(crate) fn node_name(node: u32) -> String {
    format!("node-{node:02}.example")
}

/// Text of the thread's frame.
pub(crate) fn thread_name(thread: usize) -> &'static str {
    THREADS[thread]
}

/// The microseconds of some samples.
pub(crate) fn micros(samples: u32) -> i64 {
    i64::from(samples) * i64::from(PERIOD_MICROS)
}

impl Hour {
    /// So many rows a node and window in the hour that begins at `start`.
    pub(crate) fn generate(start: i64, nodes: u32, rows_a_window: u32) -> Self {
        let mut random = Random(42);
        let stacks: Vec<Vec<Arc<[Arc<str>]>>> = (0..SERVICES).map(|s| tree(s, &mut random)).collect();
        let text = |stack: &Arc<[Arc<str>]>| stack.join(";");
        let mut hour = Self {
            start,
            nodes: Vec::new(),
            rows: Vec::new(),
            stacks: stacks.iter().map(|stacks| stacks.iter().map(text).collect()).collect(),
        };
        let (services, popular) =
            (Zipf::new(SERVICES_PER_NODE as usize, 0.8), Zipf::new(STACKS_PER_SERVICE, 1.1));
        for node in 0..nodes {
            let identity = AgentIdentity {
                instance: (0..16).map(|_| random.next() as u8).collect(),
                node: node_name(node),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                // As an agent sends them: they cost what they cost.
                host_name: node_name(node),
                host_ip: format!("10.0.0.{node}"),
                region: "eu-central-1".to_owned(),
                zone: format!("eu-central-1{}", ["a", "b", "c"][node as usize % 3]),
                ..Default::default()
            };
            let mut encoder = StreamEncoder::new(identity, Limits { entries: usize::MAX, bytes: usize::MAX });
            let processes: Vec<_> = (0..SERVICES_PER_NODE).map(|i| process(node, i, start)).collect();
            let threads = THREADS.map(Arc::<str>::from);
            let batches = (0..WINDOWS).map(|window| {
                let time = start + i64::from(window * WINDOW_SECONDS);
                let mut drawn: HashMap<(usize, usize, usize), u32> = HashMap::new();
                while drawn.len() < rows_a_window as usize {
                    let key =
                        (services.draw(&mut random), random.below(THREADS.len()), popular.draw(&mut random));
                    *drawn.entry(key).or_default() += 1;
                }
                let mut drawn: Vec<_> = drawn.into_iter().collect();
                drawn.sort_unstable();
                let mut rows = Vec::with_capacity(drawn.len());
                for ((local, thread, stack), samples) in drawn {
                    let (service, entry) = &processes[local];
                    rows.push(Row {
                        process: entry.clone(),
                        thread_name: threads[thread].clone(),
                        main_thread: thread == 0,
                        stack: Some(stacks[*service as usize][stack].clone()),
                        end: StackEnd::Complete,
                        cpu: None,
                        samples,
                    });
                    let time = u32::try_from(time).unwrap_or(u32::MAX);
                    let (service, pid) = (*service, entry.pid);
                    hour.rows.push(PlainRow { time, node, service, pid, thread, stack, samples });
                }
                let window = Window { start_unix: time, seconds: WINDOW_SECONDS, rows, losses: Vec::new() };
                (time, window)
            });
            let batches = (1..).zip(batches).map(|(sequence, (_, window))| encoder.encode(sequence, &window));
            let batches = batches.collect();
            hour.nodes.push(batches);
        }
        hour
    }

    /// The same hour, less all but the first `windows` of each node.
    pub(crate) fn first_windows(&self, windows: usize) -> Vec<Vec<SampleBatch>> {
        self.nodes.iter().map(|batches| batches[..windows.min(batches.len())].to_vec()).collect()
    }

    /// CPUs that are busy all the time on one node.
    pub(crate) fn busy_cpus(&self) -> f64 {
        let micros: i64 = self.rows.iter().map(|row| micros(row.samples)).sum();
        micros as f64 / 1e6 / 3600.0 / self.nodes.len() as f64
    }

    /// Different stacks that occur, and the bytes of their text.
    pub(crate) fn distinct_stacks(&self) -> (usize, usize) {
        let mut used: Vec<_> = self.rows.iter().map(|row| (row.service, row.stack)).collect();
        used.sort_unstable();
        used.dedup();
        (used.len(), used.iter().map(|(service, stack)| self.stacks[*service as usize][*stack].len()).sum())
    }
}

/// Of a node's `local`-th service: its number, and its process there.
fn process(node: u32, local: u32, start: i64) -> (u32, Arc<ProcessEntry>) {
    // Popular services run on most nodes, and each node has some of its own.
    let service = if local < 4 { local } else { 4 + (node * 7 + local * 5) % (SERVICES - 4) };
    let entry = ProcessEntry {
        pid: 1000 + node * 97 + local * 1013,
        start_time_millis: (start - 86_400) * 1000 + i64::from(node * 7919 + local * 104_729),
        name: service_name(service).into(),
        app_service: service_name(service).into(),
        policy: "default/everything".into(),
        period_micros: PERIOD_MICROS,
        inside: Some(Inside { pod: Arc::new(pod(node, local, service)), container: "app".into() }),
    };
    (service, Arc::new(entry))
}

/// A pod of a Deployment, with the labels that most have and that agents collect by default.
fn pod(node: u32, local: u32, service: u32) -> Tags {
    let name = service_name(service);
    let hash = format!("{:09x}", 0x7_d9f6_bfbd_u64 + u64::from(service) * 104_729);
    let labels = [
        ("app.kubernetes.io/instance", format!("{name}-prod")),
        ("app.kubernetes.io/name", name.clone()),
        ("app.kubernetes.io/version", format!("1.{service}.3")),
        ("pod-template-hash", hash.clone()),
    ];
    Tags {
        namespace: format!("team-{}", service % 8).into(),
        name: format!("{name}-{hash}-{:05x}", node * 7919 + local * 131).into(),
        ip: format!("10.244.{node}.{}", local + 2).into(),
        service: name.as_str().into(),
        workload_kind: "Deployment".into(),
        workload: name.as_str().into(),
        labels: labels.map(|(key, value)| (key.into(), value.into())).to_vec(),
    }
}

/// The paths from the root to each node of a random tree of calls.
fn tree(service: u32, random: &mut Random) -> Vec<Arc<[Arc<str>]>> {
    const VERBS: [&str; 12] = [
        "parse",
        "lookup",
        "encode_response",
        "acquire",
        "serialize",
        "authenticate",
        "poll_next",
        "dispatch",
        "read_header",
        "compare",
        "insert_or_update",
        "hash",
    ];
    let names: Vec<Arc<str>> = (0..NAMES_PER_SERVICE)
        .map(|i| {
            let verb = VERBS[random.below(VERBS.len())];
            match i % 10 {
                0 => format!("[l] {verb}_{service}_{i}"),
                1 => format!("[k] do_{verb}_{}", i % 50),
                _ => format!("{}::module_{}::{verb}_{i}", service_name(service), i % 23),
            }
            .into()
        })
        .collect();
    let base: Vec<Arc<str>> = ["_start", "__libc_start_main", "main"].map(Arc::from).to_vec();
    let mut paths: Vec<Vec<Arc<str>>> = vec![base];
    while paths.len() < STACKS_PER_SERVICE {
        let mut path = paths[random.below(paths.len())].clone();
        path.push(names[random.below(names.len())].clone());
        paths.push(path);
    }
    // The most popular stacks are not the shallowest.
    for i in (1..paths.len()).rev() {
        paths.swap(i, random.below(i + 1));
    }
    paths.into_iter().map(Arc::from).collect()
}

/// Draws 0..n, the k-th with a weight of 1/(k+1)^s.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize, s: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=n).map(|k| {
            sum += (k as f64).powf(-s);
            sum
        });
        let sums: Vec<f64> = weights.collect();
        Self(sums.iter().map(|part| part / sum).collect())
    }

    fn draw(&self, random: &mut Random) -> usize {
        let at = random.next() as f64 / u64::MAX as f64;
        self.0.partition_point(|&sum| sum < at).min(self.0.len() - 1)
    }
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_its_rows_in_its_windows() {
        let hour = Hour::generate(7200, 20, 3);
        assert_eq!(hour.rows.len(), 20 * 360 * 3);
        assert!(hour.rows.iter().all(|row| (7200..10_800).contains(&row.time) && row.time % 10 == 0));
        let encoded: usize =
            hour.nodes.iter().flatten().filter_map(|b| b.rows.as_ref()).map(|r| r.thread.len()).sum();
        assert_eq!(encoded, hour.rows.len());
        assert_eq!(hour.first_windows(2).iter().map(Vec::len).sum::<usize>(), 40);
    }

    #[test]
    fn low_numbers_are_drawn_more_often() {
        let (zipf, mut random) = (Zipf::new(100, 1.1), Random(1));
        let mut drawn = [0; 100];
        (0..10_000).for_each(|_| drawn[zipf.draw(&mut random)] += 1);
        assert!(drawn[0] > 2 * drawn[2] && drawn[2] > 2 * drawn[20], "{drawn:?}");
    }
}
