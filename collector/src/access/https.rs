//! The HTTPS port as the command line asks for it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use hearth_identity::{Reviewer, api_server};
use hearth_tls::{Listener, Protocols, Refusals, ServerTls};
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::follow::{Pace, follow};
use super::front_proxy::Trusted;
use super::port::{self, Limits};
use super::{Access, AccessMetrics};
use crate::http::QueryState;

/// The port, taken and not served yet.
pub struct Https {
    tcp: TcpListener,
    tls: ServerTls,
    api_server: Client,
}

/// What its requests are answered with.
pub struct Behind {
    /// Answers questions.
    pub state: QueryState,
    /// Whose rows: this cluster's.
    pub cluster: String,
    /// Counts requests.
    pub metrics: AccessMetrics,
    /// Counts connections that did not come about.
    pub refusals: Refusals,
}

impl Https {
    /// Takes the port. Its certificate is followed until `stop`, apart from that of gRPC: whoever asks clients for
    /// certificates does so on all ports of one.
    ///
    /// # Errors
    /// It is taken, or there is no certificate, or no way to the API server.
    pub async fn bind(
        address: SocketAddr,
        certificate: Option<(PathBuf, PathBuf)>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (certificate, key) = certificate.context("--https needs --tls-cert and --tls-key")?;
        let tls = ServerTls::followed(certificate, key, stop.cancelled_owned());
        let tls = tls.await.context("--tls-cert and --tls-key")?;
        let api_server = api_server::client().await.context("--https asks the API server who may read")?;
        let tcp = TcpListener::bind(address).await.with_context(|| format!("--https {address}"))?;
        Ok(Self { tcp, tls, api_server })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not know.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop`, and until what was asked before is answered.
    pub async fn serve(self, behind: Behind, stop: CancellationToken) {
        let Self { tcp, tls, api_server } = self;
        let Behind { state, cluster, metrics, refusals } = behind;
        let trusted = Trusted::nobody(tls.clone(), "the API server has not been asked yet");
        let reviewer = Reviewer::users(api_server.clone());
        let access = Access::new(state, cluster.into(), reviewer, trusted.clone(), metrics);
        let limits = Limits::default();
        let listener =
            Listener::tls(tcp, tls, Protocols::Https, refusals).with_max_connections(limits.connections);
        tokio::select! {
            () = follow(api_server, trusted, Pace::default()) => {}
            () = port::serve(listener, access, limits, stop) => {}
        }
    }
}
