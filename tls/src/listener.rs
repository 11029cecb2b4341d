//! A port: TCP with TLS or without, as one stream of connections.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{error, warn};

use crate::certificate::common_name;
use crate::refusals::{Reason, Refusals, Refused};
use crate::server::{Protocols, ServerTls};

/// How long a client may take to prove itself and to be proven to.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once; further clients wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// Handshakes at once with one address: a client that lets them hang cannot take all.
const MAX_HANDSHAKES_PER_ADDRESS: usize = 64;
/// Connections at once, where the program says nothing else.
const MAX_CONNECTIONS: usize = 8192;
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
    shaking: Shaking,
    places: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Handshakes under way, by address.
type Shaking = Arc<Mutex<HashMap<IpAddr, usize>>>;

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
        Self {
            tcp,
            tls,
            refusals,
            handshakes: JoinSet::new(),
            shaking: Shaking::default(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            pause: None,
        }
    }

    /// At most so many connections at once, handshakes among them; one more is closed, and counted as
    /// [`Reason::TooMany`].
    #[must_use]
    pub fn with_max_connections(self, connections: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(connections)), ..self }
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
        let too_many = |detail: &str| Refused { reason: Reason::TooMany, detail: detail.to_owned() };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.refusals.count(client, &too_many("as many connections are open as may be"));
            return None;
        };
        // Small answers are not to wait for more; without it they are only slower.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("{client}: no TCP_NODELAY: {error}");
        }
        let peer = Peer { address: client, certificates: Arc::new([]) };
        let Some((tls, protocols)) = &self.tls else {
            return Some(Connection { io: Box::new(stream), peer, _place: place });
        };
        let Some(shake) = Shake::begin(&self.shaking, client.ip()) else {
            self.refusals.count(client, &too_many("its address has as many handshakes under way as may be"));
            return None;
        };
        let (acceptor, own) = (TlsAcceptor::from(tls.config(*protocols)), tls.validity());
        self.handshakes.spawn(async move {
            let _shake = shake;
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
            let peer = Peer { certificates, ..peer };
            Ok(Connection { io: Box::new(stream), peer, _place: place })
        });
        None
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

/// One handshake among those of its address.
#[derive(Debug)]
struct Shake {
    all: Shaking,
    address: IpAddr,
}

impl Shake {
    /// `None`: there are too many of this address.
    fn begin(all: &Shaking, address: IpAddr) -> Option<Self> {
        let mut counts = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= MAX_HANDSHAKES_PER_ADDRESS {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { all: all.clone(), address })
    }
}

impl Drop for Shake {
    fn drop(&mut self) {
        let mut counts = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Who is at the other end of a connection. Of a gRPC request: `request.extensions().get::<Peer>()`.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    certificates: Arc<[CertificateDer<'static>]>,
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
}

/// What a connection is read from and written to.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, whose handshake is done.
pub struct Connection {
    io: Box<dyn Io>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
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
        Pin::new(&mut *self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
