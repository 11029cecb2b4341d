//! The HTTPS port as the command line asks for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use hearth_identity::{Reviewer, api_server};
use hearth_tls::http::Limits;
use hearth_tls::{Listener, Protocols, Refusals, ServerTls};
use kube::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::follow::{Pace, follow};
use super::front_proxy::Trusted;
use super::port;
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
    pub cluster: Option<String>,
    /// Counts requests.
    pub metrics: AccessMetrics,
    /// Counts connections that did not come about.
    pub refusals: Refusals,
    /// How long a request may take, until its answer is read.
    pub request: Duration,
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

    /// Serves until `stop`, and until what was asked before is answered.
    ///
    /// # Errors
    /// It is not known whose rows are to be shown.
    pub fn start(
        self,
        behind: Behind,
        stop: CancellationToken,
    ) -> anyhow::Result<JoinHandle<Result<(), Infallible>>> {
        let Self { tcp, tls, api_server } = self;
        let Behind { state, cluster, metrics, refusals, request } = behind;
        let cluster = cluster.context(
            "--https shows the rows of one cluster, and outside of a pod nobody says which: give --cluster NAME",
        )?;
        let address = tcp.local_addr().context("--https")?;
        tracing::info!("whoever may see profiles of the cluster {cluster} asks https://{address}");
        let trusted = Trusted::nobody(tls.clone(), "the API server has not been asked yet");
        let reviewer = Reviewer::users(api_server.clone());
        let access = Access::new(state, cluster.into(), reviewer, trusted.clone(), metrics);
        let limits = Limits { request, ..Limits::default() };
        let listener = Listener::tls(tcp, tls, Protocols::Https, refusals).with_bounds(port::BOUNDS);
        Ok(tokio::spawn(async move {
            tokio::select! {
                () = follow(api_server, trusted, Pace::default()) => {}
                () = port::serve(listener, access, limits, stop) => {}
            }
            Ok(())
        }))
    }
}
