//! Follows the pods of this node at the API server.
//!
//! The one right that it needs is to list and watch pods. The list is asked of the API server's cache
//! (`resourceVersion=0`): 5,000 agents that start at once must not all go to etcd.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::directory::Wants;
use super::object::PodObject;
use super::pod::{LabelFilter, Owner, Pod};
use super::table::{Change, PodOptions};
use crate::metrics::{Metrics, PodEvent};

/// How long a list may take, with the wait before it after a failure, which is half a minute at most. A
/// connection that is dead is noticed by nobody else.
const LIST_PATIENCE: Duration = Duration::from_secs(90);
/// Inode of the cgroup namespace that the kernel begins with (`include/linux/proc_ns.h`).
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;

/// How pods are told, from the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct PodArgs {
    /// The labels of pods that rows carry as k8s.label: keys, or beginnings of keys with a *. Keep
    /// pod-template-hash and batch.kubernetes.io/job-name among them: `kubectl hearth` tells
    /// ReplicaSets and Jobs by these.
    #[arg(
        long,
        value_name = "KEYS",
        env = "HEARTH_AGENT_POD_LABELS",
        default_value = super::DEFAULT_LABELS,
        value_parser = LabelFilter::parse
    )]
    pub pod_labels: LabelFilter,

    /// Uid of the agent's own pod (metadata.uid of the downward API). Without it the processes of that
    /// pod are in none that is known, where the container runtime gives each its own cgroup namespace.
    #[arg(long, value_name = "UID", env = "HEARTH_AGENT_POD_UID", default_value = "")]
    pub pod_uid: String,
}

impl PodArgs {
    /// For the agent that is to know pods.
    pub fn options(&self) -> PodOptions {
        let has_own_namespace = match std::fs::metadata("/proc/self/ns/cgroup") {
            Ok(namespace) => namespace.ino() != INITIAL_CGROUP_NAMESPACE,
            Err(error) => {
                warn!("cannot tell the agent's cgroup namespace, taken for the machine's: {error}");
                false
            }
        };
        if has_own_namespace && self.pod_uid.is_empty() {
            warn!("the agent's own pod is not known: give its uid with --pod-uid");
        }
        let own = has_own_namespace.then(|| self.pod_uid.as_str().into());
        PodOptions { labels: self.pod_labels.clone(), own }
    }
}

/// A client with the rights of the agent's service account, or of a kubeconfig outside a cluster.
///
/// # Errors
/// There is neither, or it cannot be read.
pub async fn client() -> anyhow::Result<Client> {
    Client::try_default()
        .await
        .context("cannot tell how to reach the API server, which knows the pods of this node")
}

/// Tells of the pods of `node` until `tell` says that nobody listens, and `wants` what their namespaces
/// and owners make the agent ask the operator for.
pub async fn follow(
    client: Client,
    node: &str,
    tell: impl FnMut(Change) -> bool,
    wants: watch::Sender<Wants>,
    metrics: Arc<Metrics>,
) {
    let mut follower = Follower { tell, wants, metrics, known: HashMap::new(), listed: None, failing: false };
    // A watch goes on where it was by itself; what ends is a list that nobody answers.
    loop {
        // A page of a list is never taken from the cache, so kube asks for no version where it asks for pages.
        let config = Config { page_size: None, ..Config::default() };
        let config = config.fields(&format!("spec.nodeName={node}")).any_semantic();
        let pods: Api<DeserializeGuard<PodObject>> = Api::all(client.clone());
        let mut events = pin!(watcher(pods, config).default_backoff());
        follower.listed = Some(Vec::new());
        loop {
            let next = events.next();
            let event = if follower.listed.is_some() {
                tokio::time::timeout(LIST_PATIENCE, next).await.ok()
            } else {
                Some(next.await)
            };
            match event {
                Some(Some(Ok(event))) => {
                    if !follower.take(event) {
                        return;
                    }
                }
                Some(Some(Err(error))) => {
                    if !follower.failed(&error) {
                        break;
                    }
                }
                Some(None) => break,
                None => {
                    follower.metrics.pod_event(PodEvent::Failed);
                    warn!("the API server did not answer within {LIST_PATIENCE:?} which pods run on {node}");
                    break;
                }
            }
        }
    }
}

struct Follower<T> {
    tell: T,
    wants: watch::Sender<Wants>,
    metrics: Arc<Metrics>,
    /// Namespace and owner of each pod.
    known: HashMap<Arc<str>, (String, Option<Owner>)>,
    /// While all are listed: those that were.
    listed: Option<Vec<Pod>>,
    failing: bool,
}

impl<T: FnMut(Change) -> bool> Follower<T> {
    /// Whether anybody still listens.
    fn take(&mut self, event: Event<DeserializeGuard<PodObject>>) -> bool {
        if self.failing {
            self.failing = false;
            info!("the API server tells of pods again");
        }
        let change = match event {
            Event::Init => {
                self.listed = Some(Vec::new());
                return true;
            }
            Event::InitApply(object) => {
                let pod = self.readable(object);
                self.listed.get_or_insert_default().extend(pod);
                return true;
            }
            Event::InitDone => {
                let pods = self.listed.take().unwrap_or_default();
                self.metrics.pod_event(PodEvent::Listed);
                self.known = pods.iter().map(known).collect();
                Change::All(pods)
            }
            Event::Apply(object) => {
                let Some(pod) = self.readable(object) else { return true };
                self.metrics.pod_event(PodEvent::Changed);
                self.known.extend([known(&pod)]);
                Change::Changed(pod)
            }
            Event::Delete(DeserializeGuard(object)) => {
                self.metrics.pod_event(PodEvent::Deleted);
                let uid = match object {
                    Ok(object) => object.pod.uid,
                    Err(unreadable) => unreadable.metadata.uid.unwrap_or_default().into(),
                };
                self.known.remove(&uid);
                Change::Deleted(uid)
            }
        };
        let wants =
            Wants::of(self.known.values().map(|(namespace, owner)| (namespace.as_str(), owner.as_ref())));
        self.wants.send_if_modified(|before| {
            let is_new = *before != wants;
            *before = wants;
            is_new
        });
        (self.tell)(change)
    }

    /// One that cannot be read is nobody else's trouble.
    fn readable(&self, DeserializeGuard(object): DeserializeGuard<PodObject>) -> Option<Pod> {
        match object {
            Ok(object) => Some(object.pod),
            Err(unreadable) => {
                self.metrics.pod_event(PodEvent::Malformed);
                let kube::api::ObjectMeta { namespace, name, .. } = unreadable.metadata;
                let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
                warn!("pod {namespace}/{name} cannot be read and is not known: {}", unreadable.error);
                None
            }
        }
    }

    /// Whether the watch can go on from where it was.
    fn failed(&mut self, error: &watcher::Error) -> bool {
        let code = match error {
            watcher::Error::WatchError(status) => status.code,
            watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code,
            _ => 0,
        };
        if code == 410 {
            // What happened since is no longer known there: all pods are listed again.
            self.metrics.pod_event(PodEvent::Expired);
            debug!("the watch of pods is too old to go on: {error}");
            return matches!(error, watcher::Error::WatchError(_));
        }
        self.metrics.pod_event(PodEvent::Failed);
        let error = anyhow::Error::msg(format!("{error}"));
        if self.failing {
            debug!("pods are still not told: {error:#}");
        } else {
            self.failing = true;
            warn!("the API server does not tell of pods, tried again: {error:#}");
        }
        true
    }
}

fn known(pod: &Pod) -> (Arc<str>, (String, Option<Owner>)) {
    (pod.uid.clone(), (pod.namespace.clone(), pod.owner.clone()))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
