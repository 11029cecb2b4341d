//! The pods of this node as they were told, for samplers that begin later.

use std::collections::HashMap;
use std::sync::Arc;

use hearth_proto::config::v1;
use tokio::sync::{mpsc, watch};

use super::directory::Directory;
use super::pod::Pod;
use super::table::Change;
use crate::agent::Command;

/// What is told of pods.
pub struct PodNews {
    changes: mpsc::UnboundedReceiver<Change>,
    directory: watch::Receiver<v1::Directory>,
}

/// What was told until now.
#[derive(Default)]
pub struct KnownPods {
    /// `None`: all of them were never told.
    pods: Option<HashMap<Arc<str>, Pod>>,
    directory: Option<Directory>,
}

impl PodNews {
    /// From the API server, and from the operator.
    pub fn new(changes: mpsc::UnboundedReceiver<Change>, directory: watch::Receiver<v1::Directory>) -> Self {
        Self { changes, directory }
    }

    /// Nothing is ever told: there is no Kubernetes.
    pub fn none() -> Self {
        Self { changes: mpsc::unbounded_channel().1, directory: watch::channel(v1::Directory::default()).1 }
    }

    /// Waits for the next thing that is told, and keeps it; what a sampler is to be told of it.
    pub async fn next(&mut self, known: &mut KnownPods) -> Command {
        tokio::select! {
            Some(change) = self.changes.recv() => {
                known.take(change.clone());
                Command::Pods(change)
            }
            Ok(()) = self.directory.changed() => {
                let directory = Directory::from(self.directory.borrow_and_update().clone());
                known.directory = Some(directory.clone());
                Command::Directory(directory)
            }
            else => std::future::pending().await,
        }
    }
}

impl KnownPods {
    fn take(&mut self, change: Change) {
        match change {
            Change::All(pods) => {
                self.pods = Some(pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect());
            }
            Change::Changed(pod) => {
                self.pods.get_or_insert_default().insert(pod.uid.clone(), pod);
            }
            Change::Deleted(uid) => {
                self.pods.get_or_insert_default().remove(&uid);
            }
        }
    }

    /// What a sampler that begins is to be told.
    pub fn commands(&self) -> Vec<Command> {
        let directory = self.directory.clone().map(Command::Directory);
        let pods =
            self.pods.as_ref().map(|pods| Command::Pods(Change::All(pods.values().cloned().collect())));
        directory.into_iter().chain(pods).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { uid: uid.into(), ..Pod::default() }
    }

    /// The pods that a sampler which begins now is told of.
    fn told(known: &KnownPods) -> Vec<String> {
        let mut uids: Vec<String> = known
            .commands()
            .into_iter()
            .filter_map(|command| match command {
                Command::Pods(Change::All(pods)) => Some(pods),
                _ => None,
            })
            .flatten()
            .map(|pod| pod.uid.to_string())
            .collect();
        uids.sort();
        uids
    }

    #[tokio::test]
    async fn a_sampler_that_begins_later_knows_what_was_told_before() {
        let (tell, changes) = mpsc::unbounded_channel();
        let (tell_directory, directory) = watch::channel(v1::Directory::default());
        let (mut news, mut known) = (PodNews::new(changes, directory), KnownPods::default());
        assert!(known.commands().is_empty(), "that there is no pod was not told");
        tell.send(Change::All(vec![pod("a"), pod("b")])).unwrap();
        tell.send(Change::Changed(pod("c"))).unwrap();
        tell.send(Change::Deleted("a".into())).unwrap();
        for _ in 0..3 {
            news.next(&mut known).await;
        }
        assert_eq!(told(&known), ["b", "c"]);
        tell_directory.send(v1::Directory::default()).unwrap();
        assert!(matches!(news.next(&mut known).await, Command::Directory(_)));
        assert_eq!(known.commands().len(), 2);
    }
}
