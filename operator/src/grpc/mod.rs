//! The service `NodeConfigs`: one stream per node.
//!
//! Written on HTTP/2 by hand, not by the generated server: that one copies each message into a buffer of its
//! stream and keeps it, 100 KB for each of 5,000 nodes whose policies are the same. Here they are one piece of
//! memory for all of them.

mod incoming;
mod places;
pub mod port;
mod reports;
mod session;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use hearth_identity::Agents;
use hearth_proto::config_limits;
use hearth_tls::Peer;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as HttpService;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, header};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tracing::debug;

use self::incoming::Incoming;
use self::places::Places;
use self::session::Session;
use crate::hub::{Ended, Hub, Leadership};
use crate::metrics::{Metrics, Refusal};

/// Metadata of a refusal: where the leader is.
pub const LEADER: &str = "hearth-leader";
/// Streams that are open at once: twice as many as a cluster has nodes at most, so that all may reconnect
/// before the old ones are found dead.
pub const MAX_STREAMS: usize = 10_000;

/// The one method.
const PATH: &str = "/hearth.config.v1.NodeConfigs/Stream";

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    agents: Option<Agents>,
    places: Places,
}

impl Service {
    /// Serves what the hub knows, to agents that prove their node if they are to be asked for it.
    pub fn new(hub: Arc<Hub>, metrics: Arc<Metrics>, agents: Option<Agents>) -> Self {
        Self { hub, metrics, agents, places: Places::new(MAX_STREAMS) }
    }

    /// With another bound on the streams that are open.
    #[must_use]
    pub fn with_max_streams(self, streams: usize) -> Self {
        Self { places: Places::new(streams), ..self }
    }

    async fn stream(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (request, body) = request.into_parts();
        if request.uri.path() != PATH {
            return Err(Status::unimplemented("this service has one method: Stream"));
        }
        if let Leadership::Standby(leader) = self.hub.leadership() {
            self.metrics.refused(Refusal::NotLeading);
            return Err(Ended::NotLeading(leader).into());
        }
        // Before it takes a place: who proves nothing shall not be in the way of those who do.
        let agent = match &self.agents {
            Some(agents) => Some(agents.node_of(&request.headers).await),
            None => None,
        };
        let agent = agent.transpose().map_err(|refused| {
            debug!("stream refused: {refused}");
            self.metrics.refused(Refusal::Identity(refused.reason()));
            Status::from(refused)
        })?;
        let Some(place) = self.places.take(agent, request.extensions.get::<Peer>()).await else {
            self.metrics.refused(Refusal::TooMany);
            return Err(Status::resource_exhausted("too many streams are open: come again later"));
        };
        let incoming = Incoming::new(body, config_limits::MAX_REPORT_BYTES);
        // One: an update is made when the one before it was taken.
        let (updates, taken) = mpsc::channel(1);
        tokio::spawn(Session::new(self.hub, self.metrics, incoming).run(place, updates));
        let mut response = Response::new(Body::new(StreamBody::new(frames(ReceiverStream::new(taken)))));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }
}

/// Messages with their prefix, and the status as the trailers.
fn frames(
    messages: impl Stream<Item = Result<Vec<Bytes>, Status>>,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    messages.flat_map(|message| {
        let frames = match message {
            Ok(pieces) => {
                let mut prefix = BytesMut::with_capacity(5);
                // Not compressed.
                prefix.put_u8(0);
                let length: usize = pieces.iter().map(Bytes::len).sum();
                // A length that does not fit is far beyond what an agent takes.
                prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
                std::iter::once(prefix.freeze()).chain(pieces).map(Frame::data).collect()
            }
            Err(status) => vec![Frame::trailers(trailers(&status))],
        };
        stream::iter(frames.into_iter().map(Ok))
    })
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Its message cannot be a header: the code alone.
        trailers.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    trailers
}

impl NamedService for Service {
    const NAME: &'static str = "hearth.config.v1.NodeConfigs";
}

impl HttpService<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.clone().stream(request);
        answer.map(|answer| Ok(answer.unwrap_or_else(Status::into_http))).boxed()
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
