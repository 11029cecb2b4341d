//! One stream. It is driven by its own answer being read: a node that does not read is not read from either,
//! and an update is made only when it can be sent, so that nothing waits in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{Hello, NodeReport, NodeUpdate};
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::reports::{self, Violation};
use crate::hub::{Hub, Waker};
use crate::metrics::{Metrics, Refusal};
use crate::nodes::StreamId;

/// How long a stream may be without its Hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Session {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    incoming: Streaming<NodeReport>,
    phase: Phase,
    _permit: OwnedSemaphorePermit,
}

enum Phase {
    /// Nobody has said who speaks.
    New,
    Open(Open),
    Over,
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
type Next = Result<Vec<Bytes>, Status>;

impl Session {
    pub(super) fn new(
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
        incoming: Streaming<NodeReport>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { hub, metrics, incoming, phase: Phase::New, _permit: permit }
    }

    /// The next thing to send. A status is the last one.
    pub(super) async fn next(mut self) -> Option<(Next, Self)> {
        match self.step().await {
            _ if matches!(self.phase, Phase::Over) => None,
            Ok(Some(update)) => Some((Ok(update), self)),
            Ok(None) => {
                self.phase = Phase::Over;
                Some((Err(Status::new(Code::Ok, "")), self))
            }
            Err(status) => {
                if let Phase::Open(open) = &self.phase {
                    debug!(node = ?open.node, "stream ended: {}", status.message());
                }
                self.phase = Phase::Over;
                Some((Err(status), self))
            }
        }
    }

    /// `None`: the agent has nothing more to say.
    async fn step(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        loop {
            match &mut self.phase {
                Phase::Over => return Ok(None),
                Phase::New => {
                    let first = tokio::time::timeout(HELLO_PATIENCE, self.incoming.message()).await;
                    let first = first.map_err(|_| Status::deadline_exceeded("no Hello within 10 seconds"))?;
                    let Some(report) = first? else { return Ok(None) };
                    let open = self.hello(report).map_err(|violation| self.refuse(&violation))?;
                    self.phase = Phase::Open(open);
                }
                Phase::Open(open) => {
                    if let Some(update) = open.update(&self.metrics)? {
                        return Ok(Some(update));
                    }
                    tokio::select! {
                        () = open.waker.woken() => {}
                        report = self.incoming.message() => {
                            let Some(report) = report? else { return Ok(None) };
                            let taken = open.take(report, &self.metrics);
                            taken.map_err(|violation| self.refuse(&violation))?;
                        }
                    }
                }
            }
        }
    }

    fn hello(&self, report: NodeReport) -> Result<Open, Violation> {
        let Some(Report::Hello(hello)) = report.report else {
            return Err(Violation::new("the first report must be a Hello"));
        };
        let Hello { node, instance: _, version, hash } = reports::hello(hello)?;
        let (node, stream, waker) = self.hub.connect(&node, hash);
        info!(?node, ?version, "agent connected");
        Ok(Open { hub: Arc::clone(&self.hub), node, stream, waker, directory: None })
    }

    fn refuse(&self, violation: &Violation) -> Status {
        self.metrics.refused(Refusal::Invalid);
        if let Phase::Open(open) = &self.phase {
            warn!(node = ?open.node, "stream refused: {violation}");
        }
        Status::invalid_argument(violation.to_string())
    }
}

impl Open {
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
