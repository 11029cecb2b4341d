//! Puts the operator's configuration into force on this machine, and keeps it on disk.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::config::v1::{Config, Directory};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::client::Apply;
use super::compile::{Compiled, compile, with_kept};
use super::store::{Kept, Store};
use crate::clock::unix_seconds;
use crate::metrics::Metrics;
use crate::state_dir::StateDir;
use crate::supervisor::Wanted;

/// Applies configurations.
pub struct Keeper {
    wanted: watch::Sender<Wanted>,
    directory: watch::Sender<Directory>,
    in_force: watch::Receiver<String>,
    store: Option<Store<Config>>,
    /// What is to be kept of the directory; the task behind it keeps the latest.
    keep_directory: Option<watch::Sender<Arc<Directory>>>,
    max_frequency: u32,
    metrics: Arc<Metrics>,
}

/// After a failure to keep what comes seldom.
const KEEP_AGAIN: Duration = Duration::from_secs(60);
/// How long the sampler may take to work by a configuration; after that the operator is told all the same
/// that it was taken, and the counts tell the rest.
const PATIENCE: Duration = Duration::from_secs(10);

impl Keeper {
    /// What is wanted goes to `wanted`, answers about other objects to `directory`; `in_force` tells the hash
    /// of what the node works by. Without a state folder nothing outlives this process. In a runtime: it has a task.
    pub fn new(
        wanted: watch::Sender<Wanted>,
        directory: watch::Sender<Directory>,
        in_force: watch::Receiver<String>,
        state: Option<&StateDir>,
        max_frequency: u32,
        metrics: Arc<Metrics>,
    ) -> Self {
        let directories = state.map(Store::<Directory>::new);
        if let Some(kept) = directories.as_ref().and_then(Store::load) {
            directory.send_replace(kept);
        }
        let keep_directory = directories.map(keep_latest);
        let store = state.map(Store::new);
        Self { wanted, directory, in_force, store, keep_directory, max_frequency, metrics }
    }

    /// Begins by what was kept on disk; the configuration's hash, or none.
    pub fn start(&self) -> String {
        let Some(config) = self.store.as_ref().and_then(Store::load) else {
            warn!("no configuration is kept here: nothing is sampled until the operator sends one");
            return String::new();
        };
        let hash = config.hash.clone();
        match self.put(Arc::new(config)) {
            Ok(policies) => {
                info!("{policies} policies from the disk, until the operator sends others");
                hash
            }
            Err(refused) => {
                error!(
                    "the kept configuration is refused, nothing is sampled until the operator sends another: {refused}"
                );
                String::new()
            }
        }
    }

    /// Number of its policies, if it is not refused.
    fn put(&self, config: Arc<Config>) -> Result<usize, String> {
        let compiled = compile(&config, unix_seconds(), self.max_frequency);
        let Compiled { policies, next_end } = compiled.inspect_err(|_| {
            self.metrics.configs_refused.inc();
        })?;
        let count = policies.len();
        self.wanted.send_replace(Wanted {
            policies: Some(policies),
            off: config.off,
            resume: Some(config.resume.clone()),
            next_end,
            config: Some(config),
        });
        Ok(count)
    }
}

impl Apply for Keeper {
    async fn apply(&mut self, config: Config) -> Result<(), String> {
        let sent = config.policies.len();
        let config = Arc::new(with_kept(config, self.wanted.borrow().config.as_deref()));
        let policies = self.put(Arc::clone(&config))?;
        info!(hash = config.hash, "{sent} policies from the operator");
        if policies > sent {
            let kept = policies - sent;
            info!("{kept} policies are invalid as they are now: what this node has of them stays in force");
        }
        // "Applied" is to mean that samples are taken by it.
        let is_in_force = self.in_force.wait_for(|hash| *hash == config.hash);
        if tokio::time::timeout(PATIENCE, is_in_force).await.is_err() {
            warn!("the sampler does not work by the new configuration within {PATIENCE:?}");
        }
        if let Some(store) = self.store.clone() {
            // Nothing more is read of the stream meanwhile: "applied" means also that it outlives a restart.
            keep(store, config).await;
        }
        Ok(())
    }

    fn know(&mut self, directory: Directory) {
        // It comes again with each stream.
        if *self.directory.borrow() == directory {
            return;
        }
        self.directory.send_replace(directory.clone());
        if let Some(keep) = &self.keep_directory {
            keep.send_replace(Arc::new(directory));
        }
    }
}

/// A task that keeps the latest of what it is sent. No configuration waits for a slow disk because of it, and the
/// disk is not given more than it takes.
fn keep_latest<M: Kept + 'static>(store: Store<M>) -> watch::Sender<Arc<M>> {
    let (sender, mut latest) = watch::channel(Arc::new(M::default()));
    tokio::spawn(async move {
        while latest.changed().await.is_ok() {
            let message = Arc::clone(&latest.borrow_and_update());
            while !keep(store.clone(), Arc::clone(&message)).await && !latest.has_changed().unwrap_or(true) {
                tokio::time::sleep(KEEP_AGAIN).await;
            }
        }
    });
    sender
}

/// Keeps it for a restart; whether that was possible.
async fn keep<M: Kept + 'static>(store: Store<M>, message: Arc<M>) -> bool {
    // It must not hold up what else this thread does.
    let outcome = match tokio::task::spawn_blocking(move || store.save(&message)).await {
        Ok(outcome) => outcome,
        Err(error) => Err(error.into()),
    };
    outcome.inspect_err(|error| warn!("cannot keep the {} for a restart: {error}", M::NAME)).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use hearth_proto::config::v1::{Namespace, Policy, PolicyReference};

    use super::*;

    /// A node whose agent may restart.
    struct Node {
        state: StateDir,
        metrics: Arc<Metrics>,
        _folder: tempfile::TempDir,
    }

    /// What one agent of it has in force.
    struct Agent {
        keeper: Keeper,
        wanted: watch::Receiver<Wanted>,
        directory: watch::Receiver<Directory>,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let state = StateDir::open(folder.path()).unwrap();
            Self { state, metrics: Arc::default(), _folder: folder }
        }

        fn agent(&self) -> Agent {
            let (wanted, of_wanted) = watch::channel(Wanted::default());
            let (directory, of_directory) = watch::channel(Directory::default());
            // Nobody samples: the sender is gone, and nobody is waited for.
            let in_force = watch::channel(String::new()).1;
            let keeper =
                Keeper::new(wanted, directory, in_force, Some(&self.state), 1000, self.metrics.clone());
            Agent { keeper, wanted: of_wanted, directory: of_directory }
        }
    }

    impl Agent {
        fn rate(&self) -> Option<u32> {
            self.wanted.borrow().policies.as_ref().map(|policies| policies.node_rate())
        }
    }

    fn config(hash: &str, spec: &str) -> Config {
        let policy = Policy { name: "p".into(), spec: spec.into(), ..Policy::default() };
        Config { hash: hash.into(), policies: vec![policy], ..Config::default() }
    }

    #[tokio::test]
    async fn a_refused_configuration_replaces_neither_the_one_in_force_nor_the_one_on_disk() {
        let node = Node::new();
        let mut first = node.agent();
        assert_eq!(
            (first.keeper.start(), first.rate()),
            (String::new(), None),
            "a cold start samples nothing"
        );
        first.keeper.apply(config("good", r#"{"frequency":49}"#)).await.unwrap();
        let refused = first.keeper.apply(config("bad", r#"{"frequency":0}"#)).await.unwrap_err();
        assert_eq!(refused, "policy p: spec.frequency is 0, below 1; write a whole number from 1 to 1000");
        assert_eq!((first.rate(), node.metrics.configs_refused.get()), (Some(49), 1));

        let second = node.agent();
        assert_eq!((&*second.keeper.start(), second.rate()), ("good", Some(49)));
    }

    #[tokio::test]
    async fn what_is_kept_of_the_configuration_before_outlives_a_restart() {
        let node = Node::new();
        let mut agent = node.agent();
        agent.keeper.apply(config("valid", r#"{"frequency":49}"#)).await.unwrap();
        let kept = PolicyReference { name: "p".into(), ..PolicyReference::default() };
        let keeping = Config { hash: "kept".into(), kept: vec![kept], ..Config::default() };
        for _ in 0..2 {
            agent.keeper.apply(keeping.clone()).await.unwrap();
            assert_eq!(agent.rate(), Some(49));
            agent = node.agent();
            assert_eq!((&*agent.keeper.start(), agent.rate()), ("kept", Some(49)));
        }
        agent.keeper.apply(Config { hash: "deleted".into(), ..Config::default() }).await.unwrap();
        assert_eq!(agent.rate(), Some(0));
    }

    #[tokio::test]
    async fn what_was_told_of_other_objects_outlives_a_restart() {
        let node = Node::new();
        let directory = |name: &str| Directory {
            namespaces: vec![Namespace { name: name.into(), ..Namespace::default() }],
            ..Directory::default()
        };
        let mut first = node.agent();
        first.keeper.start();
        assert!(!first.directory.has_changed().unwrap(), "nothing was told");
        first.keeper.know(directory("old"));
        first.keeper.know(directory("shop"));
        first.directory.mark_unchanged();
        first.keeper.know(directory("shop"));
        assert!(!first.directory.has_changed().unwrap(), "the same again is no news");
        let store = Store::<Directory>::new(&node.state);
        while store.load() != Some(directory("shop")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        let second = node.agent();
        second.keeper.start();
        assert!(second.directory.has_changed().unwrap());
        assert_eq!(*second.directory.borrow(), directory("shop"));
    }
}
