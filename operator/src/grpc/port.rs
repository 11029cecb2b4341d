//! The port of gRPC, and the certificate that it may have to wait for.

use std::net::SocketAddr;

use anyhow::Context as _;
use hearth_tls::{Bounds, Listener, Pair, Refusals, ServerTls};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{MAX_STREAMS, Service};
use crate::certificates::{Serve, read};

/// A node that vanished must not hold its stream for ever.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(30);
/// An agent has one, and another while it replaces that.
const MAX_STREAMS_PER_CONNECTION: u32 = 8;
/// Each stream has a connection of its own, and may come before the one that it replaces is found dead.
const MAX_CONNECTIONS: usize = MAX_STREAMS + 1_000;
/// Connections that the kernel takes before we do: all agents may come at once.
const BACKLOG: u32 = 1024;

/// A port that is ours and does not listen: who connects before there is a certificate is refused at once, and
/// not held until it gives up.
#[derive(Debug)]
pub struct Port {
    socket: TcpSocket,
    bounds: Bounds,
}

/// With what it is served.
#[derive(Debug)]
pub enum Tls {
    /// In the clear.
    None,
    /// With a certificate that was brought.
    Brought(ServerTls),
    /// With one that is made, as soon as it is there.
    First(watch::Receiver<Option<ServerTls>>),
}

/// Takes certificates into use: the first one opens the port, the others replace it.
pub fn serving_first() -> (Serve, watch::Receiver<Option<ServerTls>>) {
    let (sender, receiver) = watch::channel(None::<ServerTls>);
    let serve = move |pair: &read::Pair| {
        let pair = Pair { certificate: pair.certificate.pem().to_owned(), key: pair.key.secret().to_owned() };
        let first = match &*sender.borrow() {
            Some(tls) => return Ok(tls.replace(&pair)?),
            None => ServerTls::new(&pair)?,
        };
        sender.send_replace(Some(first));
        Ok(())
    };
    (Box::new(serve), receiver)
}

impl Port {
    /// Takes `--grpc`.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // As a restarted operator finds the connections of the last one still closing.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = bind().with_context(|| format!("cannot listen on {address} (--grpc)"))?;
        Ok(Self { socket, bounds: Bounds::held(MAX_CONNECTIONS) })
    }

    /// With other bounds on connections than the usual.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// Which it is.
    ///
    /// # Errors
    /// The system does not know.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`; with certificates from the first one on.
    ///
    /// # Errors
    /// It cannot.
    pub async fn serve(
        self,
        tls: Tls,
        service: Service,
        refusals: Refusals,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let tls = match tls {
            Tls::None => None,
            Tls::Brought(tls) => Some(tls),
            Tls::First(mut first) => tokio::select! {
                () = stop.cancelled() => return Ok(()),
                first = first.wait_for(Option::is_some) => first.context("no certificate will ever come")?.clone(),
            },
        };
        let Self { socket, bounds } = self;
        let tcp = socket.listen(BACKLOG).context("cannot listen (--grpc)")?;
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
            .add_service(service)
            .serve_with_incoming_shutdown(
                Listener::grpc(tcp, tls, refusals).with_bounds(bounds),
                stop.cancelled_owned(),
            )
            .await
            .context("gRPC failed")
    }
}

#[cfg(test)]
mod tests;
