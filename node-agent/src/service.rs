//! The agent as a service: from the command line to the running pipeline and back.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::Context as _;
use hearth_program::asked_to_stop;
use hearth_proto::collector::v1::AgentIdentity;
use hearth_proto::config::v1::{Counts, Directory, Wants};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tracing::{error, info, warn};

use crate::agent::Options;
use crate::cli::{Cli, Source};
use crate::clock::unix_seconds;
use crate::config::client::{self as operator, Client};
use crate::config::keeper::Keeper;
use crate::config::retry::Waits;
use crate::durations::Accepted;
use crate::export::client::{self, Exporter};
use crate::failsafe::{FailSafe, Start};
use crate::governor::CpuLimit;
use crate::metrics::Metrics;
use crate::pods::PodNews;
use crate::policy_file::{self, PolicyFileError};
use crate::preflight::Machine;
use crate::reload::{Look, Reload};
use crate::state_dir::{StateDir, StateDirError};
use crate::supervisor::{Setup, Supervisor, Wanted};
use crate::{host, http, pods};

/// How long a stopping agent waits for the collector to acknowledge what is queued.
const LAST_FLUSH: Duration = Duration::from_secs(10);
/// By then another agent of this node that is stopping has ended: after its last flush.
const OTHER_ENDS: Duration = Duration::from_secs(15);

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

/// Where policies come from, ready to be followed.
enum Origin {
    File { path: PathBuf, reload: Box<Reload> },
    Operator(Box<Client<Keeper>>),
}

impl Origin {
    /// The policies of a file, read for the first time.
    fn file(
        path: PathBuf,
        max_frequency: u32,
        state_dir: &Path,
        wanted: &watch::Sender<Wanted>,
    ) -> Result<Self, PolicyFileError> {
        let accepted = Accepted::open(state_dir);
        let (reload, policies) = Reload::start(path.clone(), max_frequency, accepted, unix_seconds())?;
        wanted.send_replace(Wanted { policies: Some(policies), ..Wanted::default() });
        Ok(Self::File { path, reload: Box::new(reload) })
    }
}

/// Runs until SIGINT or SIGTERM; then closes the window and sends what is queued.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli {
        source,
        pods,
        collector,
        credentials,
        node,
        cluster,
        max_frequency,
        window,
        state_dir,
        resume,
        off_file,
        max_cpu_share,
        queue_bytes,
        metrics,
        check,
    } = cli;
    if let (true, Some(policy)) = (check, &source.policy) {
        return check_file(policy, max_frequency).map_err(Failure::Policy);
    }
    let node = node.map_or_else(host_name, Ok)?;
    let folder = state_dir.unwrap_or_else(|| Path::new("/var/lib/hearth").join(&node));
    let state = open_state(&folder).await?;
    let instance = uuid::Uuid::new_v4().into_bytes().to_vec();
    let counters = Arc::new(Metrics::default());
    let wanted = watch::Sender::new(Wanted::default());
    let counts = watch::Sender::new(Counts::default());
    let in_force = watch::Sender::new(String::new());
    let (mut news, mut with_pods) = (PodNews::none(), None);
    let origin = match source {
        Source { policy: Some(path), .. } => {
            Origin::file(path, max_frequency, &folder, &wanted).map_err(Failure::Policy)?
        }
        Source { operator, .. } => {
            let url =
                operator.context("say where the policies come from: --policy FILE or --operator URL")?;
            info!("node {node}, configured by {url}");
            let (want, wants) = watch::channel(Wants::default());
            let directory = watch::Sender::new(Directory::default());
            news = follow_pods(&node, want, directory.subscribe(), counters.clone()).await?;
            with_pods = Some(pods.options());
            let keeper = Keeper::new(
                wanted.clone(),
                directory,
                in_force.subscribe(),
                state.as_ref(),
                max_frequency,
                counters.clone(),
            );
            let hash = keeper.start();
            let (node, instance) = (node.clone(), instance.clone());
            let (waits, credentials) = (Waits::default(), credentials.clone());
            let options = operator::Options { operator: url, credentials, node, instance, waits };
            let client = Client::new(options, hash, keeper, counts.subscribe(), wants);
            Origin::Operator(Box::new(client.context("cannot follow the operator")?))
        }
    };
    let is_reported = matches!(origin, Origin::Operator(_));
    let cannot = check_machine(is_reported, &counters)?;
    let safe = fail_safe(state.as_ref(), resume, &wanted, &counters);

    let identity = AgentIdentity {
        instance,
        node,
        version: env!("CARGO_PKG_VERSION").into(),
        cluster,
        host_name: host::name(),
        host_ip: host::address(&collector).await,
        region: String::new(),
        zone: String::new(),
    };
    let exporter = client::Options { credentials, queue_bytes, ..client::Options::new(collector, identity) };
    let exporter = Arc::new(Exporter::start(exporter).context("cannot send to the collector")?);
    let server = serve_metrics(metrics, counters.clone(), exporter.clone()).await?;

    // Signals are caught before anything is attached, so that none ends the agent half-way.
    let stop = asked_to_stop().context("cannot catch SIGTERM and SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let cpu = CpuLimit { share: max_cpu_share / 100.0, ..CpuLimit::default() };
    let options = Options { cpu, counts, pods: with_pods, ..Options::new(window) };
    let setup = Setup { options, off_file, max_frequency, cannot, is_reported, in_force };
    let supervisor =
        Supervisor::new(setup, wanted.subscribe(), news, safe, counters.clone(), exporter.clone());
    let follower = follow(origin, hangup, wanted, &counters);
    let result = supervisor.run(stop).await;
    follower.abort();
    let unsent = exporter.close(LAST_FLUSH).await;
    if unsent > 0 {
        error!("{unsent} windows could not be sent within {LAST_FLUSH:?} and are lost");
    }
    server.abort();
    Ok(result?)
}

/// Serves metrics until the task is aborted.
async fn serve_metrics(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    exporter: Arc<Exporter>,
) -> anyhow::Result<JoinHandle<()>> {
    let listener =
        http::bind(address).await.with_context(|| format!("cannot listen on {address} (--metrics)"))?;
    info!("metrics on http://{}/metrics", listener.local_addr().context("no address")?);
    Ok(tokio::spawn(http::serve(listener, metrics, exporter)))
}

/// Follows this node's pods; what is told of them, and `want` what it makes the agent ask the operator for.
async fn follow_pods(
    node: &str,
    want: watch::Sender<Wants>,
    directory: watch::Receiver<Directory>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<PodNews> {
    let api = pods::watch::client().await?;
    let (tell, changes) = mpsc::unbounded_channel();
    let (wanted, mut told) = watch::channel(pods::Wants::default());
    let node = node.to_owned();
    tokio::spawn(async move {
        let tell = move |change| tell.send(change).is_ok();
        pods::watch::follow(api, &node, tell, wanted, metrics).await;
    });
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            want.send_replace(told.borrow_and_update().clone().into());
        }
    });
    Ok(PodNews::new(changes, directory))
}

/// Says what a policy file says, or what is wrong with it.
fn check_file(policy: &Path, max_frequency: u32) -> Result<(), PolicyFileError> {
    let (_, policies) =
        Reload::start(policy.to_owned(), max_frequency, Accepted::in_memory(), unix_seconds())?;
    println!("{}: {} policies, node rate {} Hz", policy.display(), policies.len(), policies.node_rate());
    Ok(())
}

/// The state folder; without one the agent works all the same, and says what it does not know then.
async fn open_state(folder: &Path) -> anyhow::Result<Option<StateDir>> {
    match StateDir::open_within(folder, OTHER_ENDS).await {
        Ok(state) => Ok(Some(state)),
        Err(error @ StateDirError::Locked { .. }) => Err(error.into()),
        Err(error @ StateDirError::Unusable { .. }) => {
            warn!("{error}; until then a restart knows nothing of what was before");
            Ok(None)
        }
    }
}

/// Takes in this start, and says what it found of the one before.
fn fail_safe(
    state: Option<&StateDir>,
    resume: bool,
    wanted: &watch::Sender<Wanted>,
    metrics: &Metrics,
) -> FailSafe {
    let annotation = wanted.borrow().resume.clone();
    let (mut safe, found) = FailSafe::start(state, unix_seconds(), annotation.as_deref());
    match found {
        Start::Clean => {}
        Start::Killed => {
            warn!("the agent before this one was killed within its first minute");
            metrics.count_unclean_start("killed");
        }
        Start::Unclean => {
            warn!("the machine went down within the first minute of the agent before this one");
            metrics.count_unclean_start("reboot");
        }
    }
    if resume {
        safe.resume();
    }
    safe
}

/// Follows where the policies come from, until it is told to end.
fn follow(
    origin: Origin,
    hangup: Signal,
    wanted: watch::Sender<Wanted>,
    metrics: &Arc<Metrics>,
) -> AbortHandle {
    match origin {
        Origin::File { path, reload } => {
            let (changed, changes) = channel();
            let watcher = policy_file::watch(&path, changed.clone())
                .inspect_err(|error| warn!("{error:#}; a change of the policy file needs SIGHUP"));
            let metrics = metrics.clone();
            let tell = move |policies| {
                wanted.send_replace(Wanted { policies: Some(policies), ..Wanted::default() });
            };
            std::thread::spawn(move || reload.follow(&changes, tell, &metrics));
            let hangups = on_hangup(hangup, "reading the policy file again", move || {
                if changed.send(Look::Asked).is_err() {
                    warn!("nobody reads the policy file any more");
                }
            });
            tokio::spawn(async move {
                hangups.await;
                drop(watcher);
            })
            .abort_handle()
        }
        Origin::Operator(client) => {
            let hangups =
                on_hangup(hangup, "the operator sends what changes, there is nothing to read", || ());
            tokio::spawn(async move {
                tokio::join!(client.run(), hangups);
            })
            .abort_handle()
        }
    }
}

async fn on_hangup(mut hangup: Signal, what: &str, act: impl Fn()) {
    while hangup.recv().await.is_some() {
        info!("SIGHUP: {what}");
        act();
    }
}

/// Says what the machine lacks. Where it cannot be sampled at all: what somebody else is to be told, or
/// an error.
fn check_machine(is_reported: bool, metrics: &Metrics) -> anyhow::Result<Option<String>> {
    let findings = Machine::read().check();
    findings.capabilities.iter().for_each(|capability| metrics.set_missing(&capability.to_string()));
    findings.harmless.iter().for_each(|line| info!("{line}"));
    findings.lacking.iter().for_each(|line| warn!("{line}"));
    let fatal = Some(findings.fatal.join("\n")).filter(|fatal| !fatal.is_empty());
    match fatal {
        Some(fatal) if !is_reported => anyhow::bail!(fatal),
        fatal => {
            fatal.iter().for_each(|fatal| warn!("nothing can be sampled here: {fatal}"));
            Ok(fatal)
        }
    }
}

fn host_name() -> anyhow::Result<String> {
    let name = host::name();
    anyhow::ensure!(!name.is_empty(), "this host has no name: give one with --node");
    Ok(name)
}
