//! The stream to the operator: one task, no thread of its own.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, TryFutureExt as _};
use hearth_proto::config::v1::node_configs_client::NodeConfigsClient;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{Config, Counts, Directory, Hello, NodeReport, NodeUpdate, Verdict, Wants};
use hearth_proto::config_limits::MAX_UPDATE_BYTES;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};

use super::retry::{Attempt, End, Retry, Waits};
use crate::remote::{Credentials, Remote, RemoteError, is_token_expired, outcome};

/// Where an operator that does not lead says who does.
const LEADER: &str = "hearth-leader";
/// Between two reports of counts.
const COUNTS_INTERVAL: Duration = Duration::from_secs(1);

/// What puts a configuration into force.
pub trait Apply: Send {
    /// Puts it into force.
    ///
    /// # Errors
    /// Why it is refused, for people. What was in force before stays.
    fn apply(&mut self, config: Config) -> impl Future<Output = Result<(), String>> + Send;

    /// Takes the answer to what the node wants to know.
    fn know(&mut self, directory: Directory);
}

/// Whom to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// URL of the operator's gRPC port, such as `http://127.0.0.1:20418`.
    pub operator: String,
    /// Whom to believe, and with which token to ask.
    pub credentials: Credentials,
    /// Name of the Kubernetes node.
    pub node: String,
    /// 16 random bytes, drawn once when the agent starts.
    pub instance: Vec<u8>,
    /// When to ask again.
    pub waits: Waits,
}

/// Follows the operator's configuration for one node.
#[derive(Debug)]
pub struct Client<A> {
    options: Options,
    remote: Remote,
    apply: A,
    counts: watch::Receiver<Counts>,
    wants: watch::Receiver<Wants>,
    /// Of the configuration in force; empty: none.
    hash: String,
    /// Whether the log last said that the operator is reached.
    is_reached: Option<bool>,
}

/// What the stream was told last.
#[derive(Default)]
struct Told {
    counts: Counts,
    wants: Wants,
    /// Not before this, the counts again.
    next_counts: Option<Instant>,
}

impl<A: Apply> Client<A> {
    /// A client that has not asked yet; `hash` is that of the configuration in force, if there is one.
    ///
    /// # Errors
    /// The operator's address cannot be used.
    pub fn new(
        options: Options,
        hash: String,
        apply: A,
        counts: watch::Receiver<Counts>,
        wants: watch::Receiver<Wants>,
    ) -> Result<Self, RemoteError> {
        let remote = Remote::new("--operator", &options.operator, &options.credentials)?;
        Ok(Self { options, remote, apply, counts, wants, hash, is_reached: None })
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let mut retry = Retry::new(self.options.waits);
        let mut to = None;
        loop {
            let remote = to.unwrap_or_else(|| self.remote.clone());
            let mut served = false;
            let status = self.stream(&remote, &mut served).await;
            let end = end(&status);
            self.on_end(&end, &status);
            let Attempt { wait, to: leader } = retry.after(end, served, random());
            to = leader.and_then(|leader| self.leader(&leader));
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream from its opening to its end; `served` when it brought a configuration.
    async fn stream(&mut self, remote: &Remote, served: &mut bool) -> Status {
        let (sender, outbound) = mpsc::channel(1);
        let request = match remote.request(ReceiverStream::new(outbound)).await {
            Ok(request) => request,
            Err(status) => return status,
        };
        let mut client = NodeConfigsClient::new(remote.channel()).max_decoding_message_size(MAX_UPDATE_BYTES);
        // The operator answers the call when it has read the Hello, so both go on at once.
        let call = client.stream(request);
        let mut updates = pin!(call.map_ok(tonic::Response::into_inner).try_flatten_stream());
        let mut next = Some(Report::Hello(self.hello()));
        let mut verdict = None;
        let mut told = Told::default();
        loop {
            if next.is_none() {
                next = self.due(&mut told);
            }
            let Self { counts, wants, .. } = self;
            tokio::select! {
                permit = sender.reserve(), if next.is_some() || verdict.is_some() => match permit {
                    Ok(permit) => permit.send(NodeReport { report: verdict.take().or_else(|| next.take()) }),
                    // The call let go of the stream, and `updates` is about to say why.
                    Err(_) => return last(updates.next().await),
                },
                // An operator that does not take its verdict is not read further.
                update = updates.next(), if verdict.is_none() => match update {
                    Some(Ok(update)) => verdict = self.on_update(update, served).await,
                    end => return last(end),
                },
                () = changed(counts), if told.next_counts.is_none() => {}
                () = changed(wants) => {}
                () = at(told.next_counts) => told.next_counts = None,
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            node: self.options.node.clone(),
            instance: self.options.instance.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            hash: self.hash.clone(),
        }
    }

    /// What changed since the operator was told.
    fn due(&mut self, told: &mut Told) -> Option<Report> {
        let wants = self.wants.borrow_and_update();
        if *wants != told.wants {
            told.wants = wants.clone();
            return Some(Report::Wants(wants.clone()));
        }
        drop(wants);
        if told.next_counts.is_some() {
            return None;
        }
        let counts = self.counts.borrow_and_update();
        if *counts == told.counts {
            return None;
        }
        told.counts = counts.clone();
        told.next_counts = Some(Instant::now() + COUNTS_INTERVAL);
        Some(Report::Counts(counts.clone()))
    }

    /// Takes what the operator sent; the answer, if there is one.
    async fn on_update(&mut self, update: NodeUpdate, served: &mut bool) -> Option<Report> {
        match update.update {
            Some(Update::Config(config)) => {
                *served = true;
                if self.is_reached != Some(true) {
                    self.is_reached = Some(true);
                    info!(operator = self.options.operator, "the configuration comes from the operator");
                }
                Some(Report::Verdict(self.on_config(config).await))
            }
            Some(Update::Directory(directory)) => {
                self.apply.know(directory);
                None
            }
            None => {
                debug!("the operator sent an update that this agent does not know");
                None
            }
        }
    }

    async fn on_config(&mut self, config: Config) -> Verdict {
        let (nonce, hash) = (config.nonce, config.hash.clone());
        if !hash.is_empty() && hash == self.hash {
            return Verdict { nonce, hash, refused: String::new() };
        }
        match self.apply.apply(config).await {
            Ok(()) => {
                self.hash.clone_from(&hash);
                Verdict { nonce, hash, refused: String::new() }
            }
            Err(refused) => {
                error!(hash, "the operator's configuration is refused, the one before stays: {refused}");
                Verdict { nonce, hash, refused }
            }
        }
    }

    fn on_end(&mut self, end: &End, status: &Status) {
        let (operator, code) = (&self.options.operator, status.code());
        let reason = status.message();
        match end {
            End::Replaced => {
                warn!(
                    operator,
                    "another agent speaks for node {}: {reason}; give each its own --node", self.options.node
                );
            }
            End::Rejected => {
                error!(operator, ?code, "the operator does not take what this agent says: {reason}")
            }
            End::TokenExpired => debug!(operator, "the stream ended with its token: {reason}"),
            End::NotLeader(Some(leader)) => debug!(operator, leader, "this operator does not lead"),
            End::NotLeader(None) | End::Lost if self.is_reached == Some(false) => {
                debug!(operator, ?code, "still, the operator {}: {}", outcome(status), chain(status));
            }
            End::NotLeader(None) | End::Lost => {
                self.is_reached = Some(false);
                warn!(
                    operator,
                    ?code,
                    "the operator {}, this node goes on by what it has: {}",
                    outcome(status),
                    chain(status)
                );
            }
        }
    }

    /// The leader, reached as the operator is.
    fn leader(&self, address: &str) -> Option<Remote> {
        match self.remote.at_leader(address) {
            Ok(leader) => Some(leader),
            Err(error) => {
                warn!("the leader that {} names cannot be asked: {error}", self.options.operator);
                None
            }
        }
    }
}

fn end(status: &Status) -> End {
    match status.code() {
        Code::FailedPrecondition => {
            let leader = status.metadata().get(LEADER).and_then(|value| value.to_str().ok());
            End::NotLeader(leader.filter(|leader| !leader.is_empty()).map(str::to_owned))
        }
        Code::Unauthenticated if is_token_expired(status) => End::TokenExpired,
        Code::Aborted => End::Replaced,
        // OUT_OF_RANGE is what gRPC libraries answer to a message over their limit.
        Code::InvalidArgument | Code::OutOfRange => End::Rejected,
        _ => End::Lost,
    }
}

/// Why a stream ended.
fn last(update: Option<Result<NodeUpdate, Status>>) -> Status {
    let without_reason = || Status::unavailable("the operator ended the stream");
    update.and_then(Result::err).unwrap_or_else(without_reason)
}

/// The status with what caused it: tonic alone says "transport error".
fn chain(status: &Status) -> String {
    crate::export::client::reason(status)
}

/// Waits for a change; for ever, if nobody can make one any more.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
    }
}

/// From 0 to 1.
fn random() -> f64 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / f64::from(u32::MAX)
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
