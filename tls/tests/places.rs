//! Who may keep a connection, and how many there may be: by loopback, which counts here as any other address.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hearth_tls::{Bounds, Connection, Listener, Peer, Reason, Refusals};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// Far longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nobody may hold a connection.
const UNHELD: Duration = Duration::from_millis(500);

/// Echoes what each connection says, and tells who is at its other end.
struct Server {
    address: SocketAddr,
    refusals: Refusals,
    peers: mpsc::UnboundedReceiver<Peer>,
}

impl Server {
    async fn start(bounds: Bounds) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let refusals = Refusals::default();
        let mut listener = Listener::plain(tcp, refusals.clone()).with_bounds(bounds);
        let (tell, peers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let connection = listener.accept().await;
                tell.send(connection.peer().clone()).unwrap();
                tokio::spawn(echo(connection));
            }
        });
        Self { address, refusals, peers }
    }

    async fn come(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    async fn peer(&mut self) -> Peer {
        within(self.peers.recv()).await.unwrap()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

async fn echo(connection: Connection) {
    let (mut from, mut to) = tokio::io::split(connection);
    // It may be ended.
    tokio::io::copy(&mut from, &mut to).await.ok();
}

async fn speaks(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok() && within(stream.read_exact(&mut answer)).await.is_ok()
}

async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = within(stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_connection_that_nobody_holds_ends_and_one_that_is_held_goes_on() {
    let mut server = Server::start(Bounds { unheld: Some(UNHELD), ..Bounds::default() }).await;
    let mut held = server.come(1).await;
    let peer = server.peer().await;
    let holds = (peer.hold(), peer.hold());
    // Later than the other would.
    let mut silent = server.come(1).await;
    ends(&mut silent).await;
    assert!(speaks(&mut held).await);
    drop(holds.0);
    ends(&mut server.come(1).await).await;
    assert!(speaks(&mut held).await, "one of two is enough");
    drop(holds.1);
    ends(&mut held).await;
}

#[tokio::test]
async fn what_is_said_does_not_keep_a_connection_that_nobody_holds() {
    let server = Server::start(Bounds { unheld: Some(UNHELD), ..Bounds::default() }).await;
    let mut talking = server.come(1).await;
    within(async { while speaks(&mut talking).await {} }).await;
}

#[tokio::test]
async fn who_does_not_read_cannot_keep_a_connection_that_nobody_holds() {
    let server = Server::start(Bounds { unheld: Some(UNHELD), ..Bounds::default() }).await;
    let mut deaf = server.come(1).await;
    let much = vec![0; 1 << 20];
    within(async { while deaf.write_all(&much).await.is_ok() {} }).await;
}

#[tokio::test]
async fn one_address_has_so_many_connections_that_nobody_holds() {
    let bounds = Bounds { unproven_per_address: 2, exempts_loopback: false, ..Bounds::default() };
    let mut server = Server::start(bounds).await;
    let (_one, _two) = (server.come(1).await, server.come(1).await);
    let hold = server.peer().await.hold();
    server.peer().await;
    let mut three = server.come(1).await;
    assert!(speaks(&mut three).await, "there is a place: the first is held");
    server.peer().await;
    ends(&mut server.come(1).await).await;
    assert_eq!(server.refusals.of(Reason::TooMany), 1);
    assert!(speaks(&mut server.come(2).await).await, "of another address");
    drop(hold);
    drop(three);
    // The first counts again.
    ends(&mut server.come(1).await).await;
}

#[tokio::test]
async fn at_home_there_may_be_as_many_as_like() {
    let server = Server::start(Bounds { unproven_per_address: 0, ..Bounds::default() }).await;
    assert!(speaks(&mut server.come(1).await).await);
}
