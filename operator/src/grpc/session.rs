//! One stream, a task of its own. A node that does not read is not read from either, and an update is made only when
//! the one before it was taken, so that one waits in memory at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{Hello, NodeReport, NodeUpdate};
use prost::Message as _;
use tokio::sync::mpsc::{Permit, Sender};
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::incoming::Incoming;
use super::places::Place;
use super::reports::{self, Violation};
use crate::hub::{Hub, Waker};
use crate::metrics::{Metrics, Refusal};
use crate::nodes::StreamId;

/// How long a stream may be without its Hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Session {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    incoming: Incoming,
}

/// A stream whose node is known. Dropped, it is no longer the node's.
struct Open {
    hub: Arc<Hub>,
    node: Arc<str>,
    stream: StreamId,
    waker: Arc<Waker>,
    /// Of the directory that was sent last.
    directory: Option<blake3::Hash>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.hub.disconnect(&self.node, self.stream);
    }
}

/// An encoded [`NodeUpdate`] in pieces, or how the stream ends.
pub(super) type Next = Result<Vec<Bytes>, Status>;

impl Session {
    pub(super) fn new(hub: Arc<Hub>, metrics: Arc<Metrics>, incoming: Incoming) -> Self {
        Self { hub, metrics, incoming }
    }

    /// Until either side ends it, or the place is lost. What is sent last is a status.
    pub(super) async fn run(mut self, place: Place, updates: Sender<Next>) {
        let status = tokio::select! {
            ended = self.talk(&place, &updates) => match ended {
                Ok(()) => Status::new(Code::Ok, ""),
                Err(status) => status,
            },
            status = place.lost() => status,
            () = updates.closed() => return,
        };
        debug!("stream ended: {}", status.message());
        // Before the client takes the status, which may be never.
        drop(place);
        if updates.send(Err(status)).await.is_err() {
            debug!("the agent did not wait for the reason");
        }
    }

    /// `Ok`: the agent has nothing more to say.
    async fn talk(&mut self, place: &Place, updates: &Sender<Next>) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO_PATIENCE, self.incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello within 10 seconds"))?;
        let Some(report) = first? else { return Ok(()) };
        let mut open = self.hello(report, place)?;
        loop {
            let room = open.room(updates).await?;
            let update = loop {
                if let Some(update) = open.update(&self.metrics)? {
                    break update;
                }
                tokio::select! {
                    () = open.waker.woken() => {}
                    report = self.incoming.message() => {
                        let Some(report) = report? else { return Ok(()) };
                        let taken = open.take(report, &self.metrics);
                        taken.map_err(|violation| self.refuse(Some(&open.node), &violation))?;
                    }
                }
            };
            room.send(Ok(update));
        }
    }

    fn hello(&self, report: NodeReport, place: &Place) -> Result<Open, Status> {
        let hello = match report.report {
            Some(Report::Hello(hello)) => reports::hello(hello),
            Some(_) | None => Err(Violation::new("the first report must be a Hello")),
        };
        let Hello { node, instance: _, version, hash } =
            hello.map_err(|violation| self.refuse(None, &violation))?;
        place.check(&node).map_err(|refused| {
            warn!("stream refused: {refused}");
            self.metrics.refused(Refusal::Identity(refused.reason()));
            Status::from(refused)
        })?;
        let (node, stream, waker) = self.hub.connect(&node, hash);
        info!(?node, ?version, "agent connected");
        Ok(Open { hub: Arc::clone(&self.hub), node, stream, waker, directory: None })
    }

    fn refuse(&self, node: Option<&str>, violation: &Violation) -> Status {
        self.metrics.refused(Refusal::Invalid);
        if let Some(node) = node {
            warn!(?node, "stream refused: {violation}");
        }
        Status::invalid_argument(violation.to_string())
    }
}

impl Open {
    /// Waits until the update before was taken.
    async fn room<'a>(&self, updates: &'a Sender<Next>) -> Result<Permit<'a, Next>, Status> {
        loop {
            tokio::select! {
                room = updates.reserve() => {
                    return room.map_err(|_| Status::cancelled("the agent has gone"));
                }
                // What else wakes it is looked at when there is room.
                () = self.waker.woken() => self.hub.check(&self.node, self.stream)?,
            }
        }
    }

    /// What is new for the node.
    fn update(&mut self, metrics: &Metrics) -> Result<Option<Vec<Bytes>>, Status> {
        if let Some((nonce, config)) = self.hub.next_config(&self.node, self.stream)? {
            metrics.configs_sent.inc();
            return Ok(Some(config.update(nonce)));
        }
        if !self.waker.take_directory() {
            return Ok(None);
        }
        let Some(directory) = self.hub.directory(&self.node, self.stream) else { return Ok(None) };
        let hash = directory_hash(&directory);
        if self.directory.replace(hash) == Some(hash) {
            return Ok(None);
        }
        let update = NodeUpdate { update: Some(Update::Directory(directory)) };
        Ok(Some(vec![update.encode_to_vec().into()]))
    }

    fn take(&mut self, report: NodeReport, metrics: &Metrics) -> Result<(), Violation> {
        match report.report {
            Some(Report::Hello(_)) => return Err(Violation::new("a stream has one Hello")),
            Some(Report::Verdict(verdict)) => {
                let verdict = reports::verdict(verdict)?;
                if !verdict.refused.is_empty() {
                    metrics.configs_refused.inc();
                    warn!(node = ?self.node, "configuration refused: {:?}", verdict.refused);
                }
                let known = self.hub.verdict(&self.node, self.stream, verdict.nonce, verdict.refused);
                known.map_err(|unknown| Violation::new(&unknown.to_string()))?;
            }
            Some(Report::Counts(counts)) => {
                self.hub.counts(&self.node, self.stream, reports::counts(counts)?);
            }
            Some(Report::Wants(wants)) => {
                self.hub.wants(&self.node, self.stream, reports::wants(wants)?);
                self.waker.wake_directory();
            }
            // From an agent that is newer: it must do without an answer.
            None => debug!(node = ?self.node, "a report of an unknown kind"),
        }
        Ok(())
    }
}

/// Maps are hashed in the order of their keys: theirs is not the same twice.
fn directory_hash(directory: &hearth_proto::config::v1::Directory) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut add = |parts: &[&str]| {
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
    };
    let sorted = |map: &std::collections::HashMap<String, String>| {
        let mut pairs: Vec<(String, String)> = map.clone().into_iter().collect();
        pairs.sort();
        pairs
    };
    for namespace in &directory.namespaces {
        add(&["namespace", &namespace.name]);
        sorted(&namespace.labels).iter().for_each(|(key, value)| add(&[key, value]));
        for service in &namespace.services {
            add(&["service", &service.name]);
            sorted(&service.selector).iter().for_each(|(key, value)| add(&[key, value]));
        }
    }
    for workload in &directory.workloads {
        if let Some(object) = &workload.object {
            add(&["object", &object.namespace, &object.kind, &object.name]);
        }
        add(&[&workload.kind, &workload.name]);
    }
    hasher.finalize()
}
