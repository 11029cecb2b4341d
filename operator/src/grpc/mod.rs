//! The service `NodeConfigs`: one stream per node.

mod reports;
mod session;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use hearth_proto::config::v1::node_configs_server::{NodeConfigs, NodeConfigsServer};
use hearth_proto::config::v1::{NodeReport, NodeUpdate};
use hearth_proto::config_limits;
use tokio::sync::Semaphore;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use self::session::Session;
use crate::hub::{Ended, Hub, Leadership};
use crate::metrics::{Metrics, Refusal};

/// Metadata of a refusal: where the leader is.
pub const LEADER: &str = "hearth-leader";
/// Streams that are open at once: twice as many as a cluster has nodes at most, so that all may reconnect
/// before the old ones are found dead.
pub const MAX_STREAMS: usize = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    streams: Arc<Semaphore>,
}

impl Service {
    /// Serves what the hub knows.
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { hub, metrics, streams: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// With another bound on the streams that are open.
    #[must_use]
    pub fn with_max_streams(self, streams: usize) -> Self {
        Self { streams: Arc::new(Semaphore::new(streams)), ..self }
    }

    /// The service with its limit on messages.
    pub fn into_server(self) -> NodeConfigsServer<Self> {
        NodeConfigsServer::new(self).max_decoding_message_size(config_limits::MAX_REPORT_BYTES)
    }
}

#[tonic::async_trait]
impl NodeConfigs for Service {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<NodeUpdate, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        if let Leadership::Standby(leader) = self.hub.leadership() {
            self.metrics.refused(Refusal::NotLeading);
            return Err(Ended::NotLeading(leader).into());
        }
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            self.metrics.refused(Refusal::TooMany);
            return Err(Status::resource_exhausted("too many streams are open: come again later"));
        };
        let session =
            Session::new(Arc::clone(&self.hub), Arc::clone(&self.metrics), request.into_inner(), permit);
        Ok(Response::new(Box::pin(futures::stream::unfold(session, Session::next))))
    }
}

impl From<Ended> for Status {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Replaced => Self::aborted("this node has opened another stream"),
            Ended::NotLeading(leader) => {
                let mut status = Self::failed_precondition("this operator does not lead");
                // An address that cannot be sent is as good as none.
                if let Some(leader) = leader.and_then(|leader| MetadataValue::try_from(leader).ok()) {
                    status.metadata_mut().insert(LEADER, leader);
                }
                status
            }
        }
    }
}

#[cfg(test)]
mod tests;
