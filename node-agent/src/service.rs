//! The agent as a service: from the command line to the running pipeline and back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use hearth_proto::collector::v1::AgentIdentity;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::agent::{Agent, Command, Options, unix_seconds};
use crate::cli::Cli;
use crate::durations::Accepted;
use crate::export::client::{self, Exporter};
use crate::http;
use crate::metrics::Metrics;
use crate::policy_file::{self, PolicyFile, PolicyFileError};
use crate::preflight::Machine;
use crate::symbols::{KernelNames, Limits, Symbolizer};

/// How long a stopping agent waits for the collector to acknowledge what is queued.
const LAST_FLUSH: Duration = Duration::from_secs(10);

/// Why the agent ended, by its exit code.
#[derive(Debug)]
pub enum Failure {
    /// 2: the policy file cannot be used.
    Policy(PolicyFileError),
    /// 1: anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs until SIGINT or SIGTERM; then closes the window and sends what is queued.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli {
        policy,
        collector,
        node,
        cluster,
        max_frequency,
        window,
        state_dir,
        queue_bytes,
        metrics,
        check,
    } = cli;
    let node = node.map_or_else(host_name, Ok)?;
    let accepted = if check {
        Accepted::in_memory()
    } else {
        Accepted::open(&state_dir.unwrap_or_else(|| Path::new("/var/lib/hearth").join(&node)))
    };
    let mut reader = PolicyReader { path: policy.clone(), max_frequency, accepted };
    let file = reader.read().map_err(Failure::Policy)?;
    file.warnings.iter().for_each(|warning| warn!("{warning}"));
    if check {
        println!(
            "{}: {} policies, node rate {} Hz",
            policy.display(),
            file.policies.len(),
            file.policies.node_rate()
        );
        return Ok(());
    }
    check_machine()?;

    let identity = AgentIdentity {
        instance: uuid::Uuid::new_v4().into_bytes().to_vec(),
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster,
    };
    let counters = Arc::new(Metrics::default());
    let exporter = client::Options { queue_bytes, ..client::Options::new(collector, identity) };
    let exporter = Arc::new(Exporter::start(exporter).context("--collector")?);
    let listener =
        http::bind(metrics).await.with_context(|| format!("cannot listen on {metrics} (--metrics)"))?;
    info!("metrics on http://{}/metrics", listener.local_addr().context("no address")?);
    let server = tokio::spawn(http::serve(listener, counters.clone(), exporter.clone()));

    let (commands, receiver) = channel();
    // Signals are caught before anything is attached, so that none ends the agent half-way.
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let (changed, changes) = channel();
    let _watcher = policy_file::watch(&policy, changed.clone())
        .inspect_err(|error| warn!("{error:#}; a change of the policy file needs SIGHUP"));
    forward_hangups(hangup, changed);
    let known = Known { text: file.text.clone(), next_end: file.next_end };
    reload_on_change(reader, known, changes, commands.clone(), counters.clone());

    let options = Options { window_seconds: window, max_frequency };
    let sampler = start_sampler(options, file, counters, exporter.clone(), receiver)?;
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = sampler.ended => Some(ended),
    };
    if ended.is_none() {
        info!("stopping");
        // A sampler that ended by itself cannot be told: its error follows.
        drop(commands.send(Command::Stop));
    }
    let result = tokio::task::spawn_blocking(move || sampler.thread.join()).await;
    let unsent = exporter.close(LAST_FLUSH).await;
    if unsent > 0 {
        error!("{unsent} windows could not be sent within {LAST_FLUSH:?} and are lost");
    }
    server.abort();
    match result {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(_)) | Err(_) => {
            Err(Failure::Other(anyhow::anyhow!("the sampler panicked; its message is above")))
        }
    }
}

/// The thread that samples, and a signal for its end.
struct Sampler {
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
    ended: tokio::sync::oneshot::Receiver<()>,
}

fn start_sampler(
    options: Options,
    file: PolicyFile,
    counters: Arc<Metrics>,
    exporter: Arc<Exporter>,
    commands: Receiver<Command>,
) -> anyhow::Result<Sampler> {
    let symbolizer = Symbolizer::new(Limits::default());
    match symbolizer.kernel_names() {
        names @ KernelNames::Available(_) => info!("{names}"),
        missing => warn!("{missing}"),
    }
    let sink = Box::new(move |window| exporter.push(window));
    let agent = Agent::start(options, file.policies, symbolizer, counters, sink)?;
    let (tell, ended) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("sampler".into())
        .spawn(move || {
            let result = agent.run(&commands).context("sampling failed");
            // Nobody waits for it while the agent is stopping.
            drop(tell);
            result
        })
        .context("cannot start the sampler's thread")?;
    Ok(Sampler { thread, ended })
}

/// Says what the machine lacks; an error if the agent cannot work on it.
fn check_machine() -> anyhow::Result<()> {
    let findings = Machine::read().check();
    findings.harmless.iter().for_each(|line| info!("{line}"));
    findings.lacking.iter().for_each(|line| warn!("{line}"));
    anyhow::ensure!(findings.fatal.is_empty(), "{}", findings.fatal.join("\n"));
    Ok(())
}

fn forward_hangups(mut hangup: tokio::signal::unix::Signal, changed: Sender<()>) {
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("SIGHUP: reading the policy file again");
            if changed.send(()).is_err() {
                return;
            }
        }
    });
}

/// Reads the policy file, with what is known of durations.
struct PolicyReader {
    path: PathBuf,
    max_frequency: u32,
    accepted: Accepted,
}

impl PolicyReader {
    fn read(&mut self) -> Result<PolicyFile, PolicyFileError> {
        policy_file::load(&self.path, self.max_frequency, &mut self.accepted, unix_seconds())
    }
}

/// The file in force.
struct Known {
    text: String,
    next_end: Option<i64>,
}

/// Reads the file again whenever it may have changed, and when a policy's duration
/// ends; a bad one leaves the old policies in force.
fn reload_on_change(
    mut reader: PolicyReader,
    mut known: Known,
    changes: Receiver<()>,
    commands: Sender<Command>,
    counters: Arc<Metrics>,
) {
    std::thread::spawn(move || {
        loop {
            match wait(&changes, known.next_end) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One edit is several events; what counts is the text.
            while changes.try_recv().is_ok() {}
            let ended = known.next_end.is_some_and(|end| end <= unix_seconds());
            match reader.read() {
                Ok(file) if file.text == known.text && !ended => {}
                Ok(file) => {
                    file.warnings.iter().for_each(|warning| warn!("{warning}"));
                    known = Known { text: file.text, next_end: file.next_end };
                    if commands.send(Command::Policies(file.policies)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // A duration that ended is looked at again when the file is good again.
                    known.next_end = None;
                    counters.configs_refused.inc();
                    error!("{error}");
                    error!("the policies from before stay in force");
                }
            }
        }
    });
}

/// Waits for a change, at most until `end` (Unix seconds).
fn wait(changes: &Receiver<()>, end: Option<i64>) -> Result<(), RecvTimeoutError> {
    let Some(end) = end else {
        return changes.recv().map_err(|_| RecvTimeoutError::Disconnected);
    };
    let left = u64::try_from(end - unix_seconds()).unwrap_or(0);
    changes.recv_timeout(Duration::from_secs(left))
}

fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    anyhow::ensure!(!name.is_empty(), "this host has no name: give one with --node");
    Ok(name)
}
