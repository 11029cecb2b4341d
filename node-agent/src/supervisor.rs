//! Lets the sampler work, or keeps it from it: by what is wanted, and by what is safe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use hearth_proto::config::v1::{Config, Counts, Detached, DetachedReason, PolicyCount};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use crate::agent::{Agent, Command, Options};
use crate::clock::unix_seconds;
use crate::config::compile::{Compiled, compile};
use crate::export::client::Exporter;
use crate::failsafe::FailSafe;
use crate::metrics::Metrics;
use crate::pods::{KnownPods, NodePlace, PodNews};
use crate::policies::PolicySet;
use crate::symbols::{KernelNames, Limits, Symbolizer};

/// An agent that samples for so long without taking the machine down is taken to be safe.
const PROBATION: Duration = Duration::from_secs(60);
/// A kernel that refused is asked again.
const RETRY: Duration = Duration::from_secs(60);
/// Between two looks at the off file and at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be done on this node.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The policies; `None`: none are known yet.
    pub policies: Option<PolicySet>,
    /// Profiling is switched off by the node's label.
    pub off: bool,
    /// The node's annotation `hearth.dev/resume`, where there is Kubernetes.
    pub resume: Option<String>,
    /// When the next policy's `duration` ends, Unix seconds.
    pub next_end: Option<i64>,
    /// What the policies were compiled from, if they came from the operator.
    pub config: Option<Arc<Config>>,
}

/// How the supervisor works.
#[derive(Debug)]
pub struct Setup {
    /// Of the sampler.
    pub options: Options,
    /// While this file is there, nothing is sampled.
    pub off_file: PathBuf,
    /// No rate exceeds this.
    pub max_frequency: u32,
    /// Why this machine cannot be sampled at all, if that is so.
    pub cannot: Option<String>,
    /// Somebody else is told why nothing is sampled: the agent stays. Otherwise it ends.
    pub is_reported: bool,
    /// Told the hash of the operator's configuration that the sampler works by.
    pub in_force: watch::Sender<String>,
}

/// Starts and stops the sampler.
pub struct Supervisor {
    setup: Setup,
    wanted: watch::Receiver<Wanted>,
    news: PodNews,
    pods: KnownPods,
    safe: FailSafe,
    metrics: Arc<Metrics>,
    exporter: Arc<Exporter>,
    sampler: Option<Sampler>,
    /// What is wanted, less the policies whose duration is over.
    current: Wanted,
    /// Until when the agent is on probation.
    probation: Option<Instant>,
    /// The kernel refused, and is asked again then.
    refused: Option<(String, Instant)>,
    /// What was last said of being detached.
    said: Option<Detached>,
}

/// The thread that samples, and a signal for its end.
struct Sampler {
    commands: Sender<Command>,
    /// What its policies ask for, before the agent slows down.
    rate: u32,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
    ended: oneshot::Receiver<()>,
}

impl Supervisor {
    /// Nothing is sampled yet.
    pub fn new(
        setup: Setup,
        wanted: watch::Receiver<Wanted>,
        news: PodNews,
        safe: FailSafe,
        metrics: Arc<Metrics>,
        exporter: Arc<Exporter>,
    ) -> Self {
        Self {
            setup,
            wanted,
            news,
            pods: KnownPods::default(),
            safe,
            metrics,
            exporter,
            sampler: None,
            current: Wanted::default(),
            probation: None,
            refused: None,
            said: None,
        }
    }

    /// Works until `stop` says by which signal; then closes the window.
    ///
    /// # Errors
    /// The sampler failed while it worked, or cannot work and nobody would be told.
    pub async fn run(mut self, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
        let result = self.work(stop).await;
        // However it ended, the machine went on.
        let result = result.and(self.detach().await);
        self.safe.unmark();
        result
    }

    async fn work(&mut self, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_new = true;
        loop {
            self.settle(is_new).await?;
            is_new = false;
            tokio::select! {
                signal = &mut stop => {
                    info!("{signal}: stopping");
                    return Ok(());
                }
                () = ended(&mut self.sampler) => return Ok(()),
                changed = self.wanted.changed() => match changed {
                    Ok(()) => is_new = true,
                    // Whoever could change it is gone: what is wanted stays.
                    Err(_) => drop(look.tick().await),
                },
                _ = look.tick() => {}
                command = self.news.next(&mut self.pods) => self.send(command),
            }
        }
    }

    /// Tells the sampler, if it works. One that ended by itself cannot be told: its error follows.
    fn send(&self, command: Command) {
        if let Some(sampler) = &self.sampler {
            drop(sampler.commands.send(command));
        }
    }

    /// Brings the sampler to what is wanted; `is_new` when that may be something else than before.
    async fn settle(&mut self, mut is_new: bool) -> anyhow::Result<()> {
        if is_new {
            self.current = self.wanted.borrow_and_update().clone();
            if let Some(config) = &self.current.config {
                self.exporter.set_place(&place(config));
            }
        }
        if let Some(ended) = self.end_durations() {
            (self.current, is_new) = (ended, true);
        }
        if let Some(resume) = &self.current.resume {
            self.safe.see_resume(resume);
        }
        if self.probation.is_some_and(|end| Instant::now() >= end) {
            self.probation = None;
            self.safe.unmark();
        }
        let (detached, policies) = (self.detached(), &self.current.policies);
        let Some(policies) = policies.as_ref().filter(|_| detached.is_none()) else {
            let was_at_work = self.sampler.is_some();
            self.detach().await?;
            if was_at_work {
                self.safe.unmark();
            }
            self.say(detached, is_new || was_at_work);
            self.say_in_force();
            return Ok(());
        };
        if self.sampler.is_none() {
            self.attach(policies.clone()).await?;
        } else if is_new {
            self.tell(policies.clone()).await;
        }
        self.say_in_force();
        Ok(())
    }

    /// Says by which configuration this node works now.
    fn say_in_force(&self) {
        let hash = self.current.config.as_ref().map(|config| config.hash.clone()).unwrap_or_default();
        self.setup.in_force.send_if_modified(|last| {
            let is_new = *last != hash;
            *last = hash;
            is_new
        });
    }

    /// Gives the sampler other policies, and waits until it works by them.
    async fn tell(&mut self, policies: PolicySet) {
        let Some(sampler) = &mut self.sampler else { return };
        let rate = policies.node_rate();
        if sampler.rate == 0 && rate > 0 {
            self.safe.mark();
            self.probation = Some(Instant::now() + PROBATION);
        }
        sampler.rate = rate;
        let (tell, reached) = oneshot::channel();
        // One that ended by itself cannot be told: its error follows.
        drop(sampler.commands.send(Command::Policies(policies)));
        drop(sampler.commands.send(Command::Reached(tell)));
        if reached.await.is_err() {
            debug!("the sampler ended before it worked by the new policies");
        }
    }

    /// What is wanted from now on, if a policy's duration is over.
    fn end_durations(&self) -> Option<Wanted> {
        let wanted = &self.current;
        let (config, now) = (wanted.config.as_ref()?, unix_seconds());
        if wanted.next_end.is_none_or(|end| now < end) {
            return None;
        }
        match compile(config, now, self.setup.max_frequency) {
            Ok(Compiled { policies, next_end }) => {
                Some(Wanted { policies: Some(policies), next_end, ..wanted.clone() })
            }
            Err(error) => {
                error!("a duration is over, and its configuration is refused by now: {error}");
                None
            }
        }
    }

    /// Why nothing is to be attached.
    fn detached(&self) -> Option<Detached> {
        let because =
            |reason: DetachedReason, message: String| Some(Detached { reason: reason.into(), message });
        let (Setup { off_file, cannot, .. }, wanted) = (&self.setup, &self.current);
        if self.safe.is_detached() {
            let remedy = match wanted.resume {
                Some(_) => "change the node's annotation hearth.dev/resume to sample again",
                None => "start the agent with --resume to sample again",
            };
            let message =
                format!("the machine went down twice within 10 minutes while the agent sampled; {remedy}");
            return because(DetachedReason::UncleanStart, message);
        }
        if wanted.off {
            let message = "the node's label hearth.dev/profiling=off asks for it".to_owned();
            return because(DetachedReason::Off, message);
        }
        if is_there(off_file) {
            return because(DetachedReason::Off, format!("the file {} asks for it", off_file.display()));
        }
        if let Some(cannot) = cannot {
            return because(DetachedReason::CannotSample, cannot.clone());
        }
        match &self.refused {
            Some((message, until)) if Instant::now() < *until => {
                because(DetachedReason::CannotSample, message.clone())
            }
            Some(_) | None => None,
        }
    }

    /// Says that nothing is sampled, to everybody who asks.
    fn say(&mut self, detached: Option<Detached>, is_new: bool) {
        let policies = self.current.policies.as_ref();
        let is_wanted = policies.is_some_and(|policies| policies.node_rate() > 0);
        let detached = detached.filter(|_| is_wanted);
        if !is_new && detached == self.said {
            return;
        }
        let reason = detached.as_ref().map(Detached::reason);
        let does_as_asked = matches!(reason, None | Some(DetachedReason::Off));
        self.metrics.ready.store(does_as_asked.into(), Ordering::Relaxed);
        if let Some(Detached { message, .. }) = detached.as_ref().filter(|_| detached != self.said) {
            warn!("detached, nothing is sampled: {message}");
        }
        self.metrics.set_detached(reason.map(label));
        let ids = policies.map(|policies| (0..policies.len()).map(|place| policies.id(place)));
        let policies =
            ids.into_iter().flatten().map(|policy| PolicyCount { policy, ..PolicyCount::default() });
        let counts = Counts { policies: policies.collect(), frequency: 0, detached: detached.clone() };
        self.setup.options.counts.send_replace(counts);
        self.said = detached;
    }

    async fn attach(&mut self, policies: PolicySet) -> anyhow::Result<()> {
        if self.said.take().is_some() {
            info!("attaching again");
        }
        self.metrics.set_detached(None);
        self.safe.mark();
        let rate = policies.node_rate();
        let (commands, receiver) = channel();
        for command in self.pods.commands() {
            commands.send(command).context("the receiver is here")?;
        }
        let (tell, ended) = oneshot::channel();
        let (started, start) = oneshot::channel();
        let (options, metrics, exporter) =
            (self.setup.options.clone(), self.metrics.clone(), self.exporter.clone());
        let thread = std::thread::Builder::new().name("sampler".into()).spawn(move || {
            let result = sample(options, policies, metrics, exporter, &receiver, started);
            // Nobody waits for it while the agent is stopping.
            drop(tell);
            result
        });
        let thread = thread.context("cannot start the sampler's thread")?;
        self.sampler = Some(Sampler { commands, rate, thread, ended });
        if start.await.is_ok() {
            (self.probation, self.refused) = (Some(Instant::now() + PROBATION), None);
            return Ok(());
        }
        let Err(error) = self.detach().await else {
            anyhow::bail!("the sampler ended before it began");
        };
        self.safe.unmark();
        if !self.setup.is_reported {
            return Err(error);
        }
        self.refused = Some((format!("{error:#}"), Instant::now() + RETRY));
        Ok(())
    }

    /// Ends the sampler, if it works, and hands over what it has.
    async fn detach(&mut self) -> anyhow::Result<()> {
        let Some(sampler) = self.sampler.take() else { return Ok(()) };
        self.probation = None;
        // One that ended by itself cannot be told: its error follows.
        drop(sampler.commands.send(Command::Stop));
        match tokio::task::spawn_blocking(move || sampler.thread.join()).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => anyhow::bail!("the sampler panicked; its message is above"),
        }
    }
}

/// Where a configuration says that the node is.
fn place(config: &Config) -> NodePlace {
    NodePlace::of(&config.node_labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Waits for the end of a sampler that works.
async fn ended(sampler: &mut Option<Sampler>) {
    match sampler {
        // Told or dropped: ended either way.
        Some(sampler) => drop((&mut sampler.ended).await),
        None => std::future::pending().await,
    }
}

/// Works on the sampler's own thread; `started` is told when everything is attached.
fn sample(
    options: Options,
    policies: PolicySet,
    metrics: Arc<Metrics>,
    exporter: Arc<Exporter>,
    commands: &Receiver<Command>,
    started: oneshot::Sender<()>,
) -> anyhow::Result<()> {
    let symbolizer = Symbolizer::new(Limits::default());
    match symbolizer.kernel_names() {
        names @ KernelNames::Available(_) => info!("{names}"),
        missing => warn!("{missing}"),
    }
    let exported = metrics.clone();
    let sink = Box::new(move |window| {
        exporter.push(window);
        exported.set_export(&exporter);
    });
    let agent = Agent::start(options, policies, symbolizer, metrics, sink)?;
    if started.send(()).is_err() {
        debug!("nobody waits for the sampler's start any more");
    }
    agent.run(commands).context("sampling failed")
}

/// Also a link to nothing is there: whoever made it wanted something.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn label(reason: DetachedReason) -> &'static str {
    match reason {
        DetachedReason::Unspecified => "unspecified",
        DetachedReason::UncleanStart => "unclean_start",
        DetachedReason::Off => "off",
        DetachedReason::CannotSample => "cannot_sample",
    }
}
