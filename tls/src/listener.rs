//! A port: TCP with TLS or without, as one stream of connections.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, error, warn};

use crate::certificate::common_name;
use crate::places::{Bounds, Full, Hold, Place, Places, Seat};
use crate::refusals::{Reason, Refusals, Refused};
use crate::server::{Protocols, ServerTls};

/// How long a client may take to prove itself and to be proven to.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once; further clients wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// Without a descriptor for the next connection it does not help to ask for it at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Takes connections, and yields each when its handshake is done. Dropping it lets go of the port and of the
/// handshakes, not of the connections that it has yielded.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    tls: Option<(ServerTls, Protocols)>,
    refusals: Refusals,
    handshakes: JoinSet<Result<Connection, (SocketAddr, Refused)>>,
    places: Places,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Listener {
    /// Without TLS.
    pub fn plain(tcp: TcpListener, refusals: Refusals) -> Self {
        Self::new(tcp, None, refusals)
    }

    /// With TLS.
    pub fn tls(tcp: TcpListener, tls: ServerTls, protocols: Protocols, refusals: Refusals) -> Self {
        Self::new(tcp, Some((tls, protocols)), refusals)
    }

    /// With TLS for gRPC where there is a certificate, else without.
    pub fn grpc(tcp: TcpListener, tls: Option<ServerTls>, refusals: Refusals) -> Self {
        Self::new(tcp, tls.map(|tls| (tls, Protocols::Grpc)), refusals)
    }

    fn new(tcp: TcpListener, tls: Option<(ServerTls, Protocols)>, refusals: Refusals) -> Self {
        Self { tcp, tls, refusals, handshakes: JoinSet::new(), places: Places::default(), pause: None }
    }

    /// With other bounds than the usual. Who exceeds them is closed, and counted as [`Reason::TooMany`].
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { places: Places::new(bounds), ..self }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not know.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection. To drop the future loses none.
    pub async fn accept(&mut self) -> Connection {
        poll_fn(|context| self.poll_accept(context)).await
    }

    /// As [`Self::accept`].
    pub fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<Connection> {
        loop {
            // Also for its waker: of the handshakes that the last turn began as well.
            while let Poll::Ready(Some(joined)) = self.handshakes.poll_join_next(context) {
                match joined {
                    Ok(Ok(connection)) => return Poll::Ready(connection),
                    Ok(Err((client, refused))) => self.refusals.count(client, &refused),
                    Err(failed) => error!("a handshake failed: {failed}"),
                }
            }
            if self.handshakes.len() >= MAX_HANDSHAKES {
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.tcp.poll_accept(context)) {
                Ok((stream, client)) => {
                    if let Some(connection) = self.admit(stream, client) {
                        return Poll::Ready(connection);
                    }
                }
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    warn!("cannot take a connection, trying again in {ACCEPT_PAUSE:?}: {error}");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }

    /// Gives a client its place; without TLS the connection is ready.
    fn admit(&mut self, stream: TcpStream, client: SocketAddr) -> Option<Connection> {
        // Small answers are not to wait for more; without it they are only slower.
        if let Err(error) = stream.set_nodelay(true) {
            debug!("{client}: no TCP_NODELAY: {error}");
        }
        let admitted = match self.tls.clone() {
            None => {
                let connection = Connection::begin(&self.places, client, stream, Arc::new([]));
                connection.map(Some)
            }
            Some((tls, protocols)) => self.shake(stream, client, &tls, protocols).map(|()| None),
        };
        admitted.unwrap_or_else(|full| {
            self.refusals.count(client, &full.into());
            None
        })
    }

    /// Begins a handshake.
    fn shake(
        &mut self,
        stream: TcpStream,
        client: SocketAddr,
        tls: &ServerTls,
        protocols: Protocols,
    ) -> Result<(), Full> {
        let handshake = self.places.handshake(client.ip())?;
        let places = self.places.clone();
        let (acceptor, own) = (TlsAcceptor::from(tls.config(protocols)), tls.validity());
        self.handshakes.spawn(async move {
            let _handshake = handshake;
            let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return Err((client, Refused::of(&error, own))),
                Err(_) => {
                    let detail = format!("the TLS handshake took more than {HANDSHAKE_PATIENCE:?}");
                    return Err((client, Refused { reason: Reason::Timeout, detail }));
                }
            };
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = shown.iter().map(|shown| shown.clone().into_owned()).collect();
            let connection = Connection::begin(&places, client, stream, certificates);
            connection.map_err(|full| (client, full.into()))
        });
        Ok(())
    }
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        Self { reason: Reason::TooMany, detail: full.to_string() }
    }
}

impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_accept(context).map(|connection| Some(Ok(connection)))
    }
}

/// One that went before it was taken.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Who is at the other end of a connection. Of a gRPC request: `request.extensions().get::<Peer>()`.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    certificates: Arc<[CertificateDer<'static>]>,
    seat: Arc<Seat>,
}

impl Peer {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The chain of its certificate, verified at the handshake; empty: it has shown none. Whether it is still
    /// good, [`ServerTls::trusts`] says.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The common name in its certificate.
    pub fn common_name(&self) -> Option<String> {
        common_name(self.certificates.first()?)
    }

    /// For one who has proven who they are: while they hold the connection, it is neither too long unused nor one of
    /// too many ([`Bounds`]).
    pub fn hold(&self) -> Hold {
        Hold::begin(&self.seat)
    }
}

/// What a connection is read from and written to.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, whose handshake is done. It is read and written in one task.
pub struct Connection {
    io: Box<dyn Io>,
    peer: Peer,
    unheld: Option<Unheld>,
    _place: Place,
}

/// Until when somebody has to hold a connection.
struct Unheld {
    limit: Duration,
    /// It is looked at then; who holds it need not say so here.
    next: Pin<Box<Sleep>>,
}

impl Connection {
    fn begin(
        places: &Places,
        address: SocketAddr,
        io: impl Io + 'static,
        certificates: Arc<[CertificateDer<'static>]>,
    ) -> Result<Self, Full> {
        let place = places.connect(address.ip(), !certificates.is_empty())?;
        let peer = Peer { address, certificates, seat: Arc::clone(place.seat()) };
        let unheld =
            places.bounds().unheld.map(|limit| Unheld { limit, next: Box::pin(tokio::time::sleep(limit)) });
        Ok(Self { io: Box::new(io), peer, unheld, _place: place })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What there is to read and write, unless nobody has held the connection for too long.
    fn io(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut dyn Io>> {
        if let Some(Unheld { limit, next }) = &mut self.unheld {
            while next.as_mut().poll(context).is_ready() {
                let due = self.peer.seat.unheld_since() + *limit;
                if due <= Instant::now() {
                    debug!("{}: closed, it has proven nothing for {limit:?}", self.peer.address);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                next.as_mut().reset(due);
            }
        }
        Ok(Pin::new(&mut *self.io))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io(context)?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
