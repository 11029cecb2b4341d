//! An agent without a kernel: windows that the test makes up, sent by the agent's own exporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_e2e::daemon::{PATIENCE, wait_for};
use hearth_node_agent::export::batch::{ProcessEntry, Row, Window};
use hearth_node_agent::export::client::{Exporter, Options};
use hearth_proto::collector::v1::{AgentIdentity, StackEnd};
use tokio::task::JoinHandle;

use crate::instance::unix_now;
use crate::ledger::{Ledger, Sent, Stacks, batch_key};
use crate::runtime;

/// Between two windows. Real agents have at least a second between them; this
/// sends more batches through the moment of a kill.
const PAUSE: Duration = Duration::from_millis(150);
const APPS: [&str; 3] = ["shop", "cart", "mail"];
const STACKS_PER_APP: u64 = 4;
pub(crate) const PERIOD_MICROS: u32 = 10_101;

/// What a sender does beside the usual.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habit {
    /// Seconds by which its windows are of another time.
    pub(crate) shift: i64,
    /// Memory of its queue.
    pub(crate) queue_bytes: Option<usize>,
}

/// A running sender.
pub(crate) struct Sender {
    exporter: Arc<Exporter>,
    stop: Arc<AtomicBool>,
    pushing: JoinHandle<Ledger>,
}

impl Sender {
    /// Sends from now on.
    pub(crate) fn start(url: String, node: &str, habit: Habit) -> Self {
        let instance = uuid::Uuid::new_v4().into_bytes();
        let identity = AgentIdentity {
            instance: instance.to_vec(),
            node: node.to_owned(),
            version: "test".to_owned(),
            ..AgentIdentity::default()
        };
        let mut options = Options::new(url, identity);
        if let Some(bytes) = habit.queue_bytes {
            options.queue_bytes = bytes;
        }
        let _inside = runtime().enter();
        let exporter = Arc::new(Exporter::start(options).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let pushing =
            tokio::spawn(push(exporter.clone(), stop.clone(), node.to_owned(), instance, habit.shift));
        Self { exporter, stop, pushing }
    }

    /// Batches that the collector said it has stored.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.exporter.counters().batches_stored.load(Ordering::Relaxed)
    }

    /// Streams opened so far.
    pub(crate) fn streams(&self) -> u64 {
        self.exporter.counters().streams.load(Ordering::Relaxed)
    }

    /// Batches and samples that the full queue dropped.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        let counters = self.exporter.counters();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        (load(&counters.batches_dropped), load(&counters.samples_dropped))
    }

    /// Waits until so many more batches are acknowledged.
    pub(crate) fn wait_for_more(&self, batches: u64) {
        let wanted = self.acknowledged() + batches;
        wait_for(&format!("{wanted} acknowledged batches"), || (self.acknowledged() >= wanted).then_some(()));
    }

    /// Ends when everything is acknowledged: what was sent.
    pub(crate) fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        runtime().block_on(async {
            let ledger = self.pushing.await.unwrap();
            let left = self.exporter.flush(PATIENCE).await;
            assert_eq!(left, 0, "batches were not acknowledged within {PATIENCE:?}");
            ledger
        })
    }
}

/// Pushes windows until it is stopped. They are small: none is split, so the n-th is batch n.
async fn push(
    exporter: Arc<Exporter>,
    stop: Arc<AtomicBool>,
    node: String,
    instance: [u8; 16],
    shift: i64,
) -> Ledger {
    let mut ledger = Ledger::default();
    let processes: Vec<Arc<ProcessEntry>> =
        (100..).zip(APPS).map(|(pid, app)| Arc::new(process(pid, app))).collect();
    for sequence in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start_unix = unix_now() + shift;
        let rows = rows(&processes, sequence);
        let samples = rows.iter().map(|row| u64::from(row.samples)).sum();
        let key = batch_key(&instance, sequence);
        let mut stacks = Stacks::new();
        for row in &rows {
            let frames = row.stack.as_ref().unwrap().join(";");
            let stack = format!("[t] {};{frames}", row.thread_name);
            let place = [node.clone(), row.process.app_service.to_string(), stack];
            *stacks.entry(place).or_default() += u64::from(row.samples);
        }
        let sent = Sent { rows: rows.len() as u64, samples, stacks, acknowledged: true };
        ledger.batches.insert(key, sent);
        exporter.push(Window { start_unix, seconds: 1, rows, losses: Vec::new() });
        tokio::time::sleep(PAUSE).await;
    }
    ledger
}

fn process(pid: u32, app: &str) -> ProcessEntry {
    ProcessEntry {
        pid,
        start_time_millis: 1_700_000_000_000,
        name: app.into(),
        app_service: app.into(),
        policy: "faults".into(),
        period_micros: PERIOD_MICROS,
        inside: None,
    }
}

/// Of each app some stacks that come again in every window, and one that does not.
fn rows(processes: &[Arc<ProcessEntry>], sequence: u64) -> Vec<Row> {
    let of_app = |process: &Arc<ProcessEntry>| {
        (0..=STACKS_PER_APP)
            .map(|number| {
                let leaf = match number {
                    STACKS_PER_APP => format!("once_{sequence}"),
                    _ => format!("leaf_{number}"),
                };
                Row {
                    process: process.clone(),
                    thread_name: "worker".into(),
                    main_thread: false,
                    stack: Some(["main".into(), "work".into(), leaf.into()].into()),
                    end: StackEnd::Complete,
                    cpu: None,
                    samples: u32::try_from(1 + (sequence * 7 + number * 3) % 5).unwrap(),
                }
            })
            .collect::<Vec<_>>()
    };
    processes.iter().flat_map(of_app).collect()
}
