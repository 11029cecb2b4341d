//! The agent as a service: from the command line to the running pipeline and back.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use hearth_proto::collector::v1::AgentIdentity;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::agent::{Agent, Command, Options};
use crate::cli::Cli;
use crate::clock::unix_seconds;
use crate::durations::Accepted;
use crate::export::client::{self, Exporter};
use crate::metrics::Metrics;
use crate::policies::PolicySet;
use crate::policy_file::{self, PolicyFileError};
use crate::preflight::Machine;
use crate::reload::{Look, Reload};
use crate::symbols::{KernelNames, Limits, Symbolizer};
use crate::{host, http};

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
    let (reload, policies) =
        Reload::start(policy.clone(), max_frequency, accepted, unix_seconds()).map_err(Failure::Policy)?;
    if check {
        println!("{}: {} policies, node rate {} Hz", policy.display(), policies.len(), policies.node_rate());
        return Ok(());
    }
    check_machine()?;

    let identity = AgentIdentity {
        instance: uuid::Uuid::new_v4().into_bytes().to_vec(),
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster,
        host_name: host::name(),
        host_ip: host::address(&collector).await,
        region: String::new(),
        zone: String::new(),
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
    let (to_sampler, of_reload) = (commands.clone(), counters.clone());
    std::thread::spawn(move || reload.follow(&changes, &to_sampler, &of_reload));

    let options = Options::new(window);
    let sampler = start_sampler(options, policies, counters, exporter.clone(), receiver)?;
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
    policies: PolicySet,
    counters: Arc<Metrics>,
    exporter: Arc<Exporter>,
    commands: Receiver<Command>,
) -> anyhow::Result<Sampler> {
    let symbolizer = Symbolizer::new(Limits::default());
    match symbolizer.kernel_names() {
        names @ KernelNames::Available(_) => info!("{names}"),
        missing => warn!("{missing}"),
    }
    let exported = counters.clone();
    let sink = Box::new(move |window| {
        exporter.push(window);
        exported.set_export(&exporter);
    });
    let agent = Agent::start(options, policies, symbolizer, counters, sink)?;
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

fn forward_hangups(mut hangup: tokio::signal::unix::Signal, changed: Sender<Look>) {
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!("SIGHUP: reading the policy file again");
            if changed.send(Look::Asked).is_err() {
                return;
            }
        }
    });
}

fn host_name() -> anyhow::Result<String> {
    let name = host::name();
    anyhow::ensure!(!name.is_empty(), "this host has no name: give one with --node");
    Ok(name)
}
