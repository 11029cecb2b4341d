//! Puts the operator's configuration into force on this machine, and keeps it on disk.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::config::v1::{Config, Directory};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::client::Apply;
use super::compile::{Compiled, compile};
use super::store::Store;
use crate::clock::unix_seconds;
use crate::metrics::Metrics;
use crate::supervisor::Wanted;

/// Applies configurations.
pub struct Keeper {
    wanted: watch::Sender<Wanted>,
    directory: watch::Sender<Directory>,
    in_force: watch::Receiver<String>,
    store: Option<Store>,
    max_frequency: u32,
    metrics: Arc<Metrics>,
}

/// How long the sampler may take to work by a configuration; after that the operator is told all the same
/// that it was taken, and the counts tell the rest.
const PATIENCE: Duration = Duration::from_secs(10);

impl Keeper {
    /// What is wanted goes to `wanted`, answers about other objects to `directory`; `in_force` tells the hash
    /// of what the node works by.
    pub fn new(
        wanted: watch::Sender<Wanted>,
        directory: watch::Sender<Directory>,
        in_force: watch::Receiver<String>,
        store: Option<Store>,
        max_frequency: u32,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { wanted, directory, in_force, store, max_frequency, metrics }
    }

    /// Begins by what was kept on disk; its hash, or none.
    pub fn start(&self) -> String {
        let Some(config) = self.store.as_ref().and_then(Store::load) else {
            warn!("no configuration is kept here: nothing is sampled until the operator sends one");
            return String::new();
        };
        let hash = config.hash.clone();
        match self.put(config) {
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
    fn put(&self, config: Config) -> Result<usize, String> {
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
            config: Some(Arc::new(config)),
        });
        Ok(count)
    }
}

impl Apply for Keeper {
    async fn apply(&mut self, config: Config) -> Result<(), String> {
        let kept = config.clone();
        let policies = self.put(config)?;
        info!(hash = kept.hash, "{policies} policies from the operator");
        // "Applied" is to mean that samples are taken by it.
        let is_in_force = self.in_force.wait_for(|hash| *hash == kept.hash);
        if tokio::time::timeout(PATIENCE, is_in_force).await.is_err() {
            warn!("the sampler does not work by the new configuration within {PATIENCE:?}");
        }
        if let Some(store) = self.store.clone() {
            // A slow disk must not hold up what else this thread does.
            match tokio::task::spawn_blocking(move || store.save(&kept)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("cannot keep the configuration for a restart: {error}"),
                Err(error) => warn!("cannot keep the configuration for a restart: {error}"),
            }
        }
        Ok(())
    }

    fn know(&mut self, directory: Directory) {
        self.directory.send_replace(directory);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use hearth_proto::config::v1::Policy;

    use super::*;
    use crate::state_dir::StateDir;

    fn config(hash: &str, spec: &str) -> Config {
        let policy = Policy { name: "p".into(), spec: spec.into(), ..Policy::default() };
        Config { hash: hash.into(), policies: vec![policy], ..Config::default() }
    }

    #[tokio::test]
    async fn a_refused_configuration_replaces_neither_the_one_in_force_nor_the_one_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let keeper = || {
            let (wanted, of_wanted) = watch::channel(Wanted::default());
            let store = Some(Store::new(&state));
            // Nobody samples: the sender is gone, and nobody is waited for.
            let in_force = watch::channel(String::new()).1;
            (Keeper::new(wanted, watch::Sender::default(), in_force, store, 1000, metrics.clone()), of_wanted)
        };
        let rate =
            |wanted: &watch::Receiver<Wanted>| wanted.borrow().policies.as_ref().map(|p| p.node_rate());
        let (mut first, wanted) = keeper();
        assert_eq!((first.start(), rate(&wanted)), (String::new(), None), "a cold start samples nothing");
        first.apply(config("good", r#"{"frequency":49}"#)).await.unwrap();
        let refused = first.apply(config("bad", r#"{"frequency":0}"#)).await.unwrap_err();
        assert_eq!(refused, "policy p: spec.frequency is 0, below 1; write a whole number from 1 to 1000");
        assert_eq!((rate(&wanted), metrics.configs_refused.get()), (Some(49), 1));

        let (second, wanted) = keeper();
        assert_eq!((&*second.start(), rate(&wanted)), ("good", Some(49)));
    }
}
