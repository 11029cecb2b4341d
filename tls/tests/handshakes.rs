//! Real handshakes over loopback: who is let in, who is refused, and what both sides say of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_tls::testing::{Ca, Valid};
use hearth_tls::{
    Bounds, ConnectError, Connection, Connector, Listener, Pair, Peer, Protocols, Reason, Refusals, ServerTls,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower::Service as _;

/// Far longer than any step takes, and shorter than the patience of a handshake.
const SOON: Duration = Duration::from_secs(8);
const NAMES: &[&str] = &["hearth-operator", "127.0.0.1"];

/// Those by default, of clients that are not at home.
const AFAR: Bounds = Bounds {
    connections: 8192,
    unproven: 8192,
    unproven_per_address: 64,
    handshakes_per_address: 16,
    unheld: None,
    exempts_loopback: false,
};

/// Echoes what each connection says, and tells who is at its other end.
struct Server {
    address: SocketAddr,
    refusals: Refusals,
    peers: mpsc::UnboundedReceiver<Peer>,
}

impl Server {
    async fn start(tls: &ServerTls) -> Self {
        Self::on(|tcp, refusals| Listener::tls(tcp, tls.clone(), Protocols::Grpc, refusals)).await
    }

    async fn on(listen: impl FnOnce(TcpListener, Refusals) -> Listener) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusals = Refusals::default();
        let mut listener = listen(tcp, refusals.clone());
        let address = listener.local_addr().unwrap();
        let (tell, peers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let connection = listener.accept().await;
                // The test may be over.
                tell.send(connection.peer().clone()).ok();
                tokio::spawn(echo(connection));
            }
        });
        Self { address, refusals, peers }
    }

    /// Waits until so many were refused for this reason, and none for another.
    async fn has_refused(&self, reason: Reason, times: u64) {
        self.refusals_are(&[(reason, times)]).await;
    }

    async fn refusals_are(&self, expected: &[(Reason, u64)]) {
        let counts = || -> Vec<_> {
            let all = Reason::ALL.into_iter().map(|reason| (reason, self.refusals.of(reason)));
            all.filter(|(_, times)| *times > 0).collect()
        };
        let counted = async {
            while counts() != expected {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(SOON, counted).await;
        assert!(in_time.is_ok(), "waited for {expected:?}: {:?}", counts());
    }

    async fn peer(&mut self) -> Peer {
        tokio::time::timeout(SOON, self.peers.recv()).await.expect("a connection in time").unwrap()
    }
}

async fn echo(connection: Connection) {
    let (mut from, mut to) = tokio::io::split(connection);
    // A client may go as it likes.
    tokio::io::copy(&mut from, &mut to).await.ok();
}

/// Whether what is said is echoed.
async fn speak(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// A file with CAs, and a client that trusts them.
struct Client {
    folder: TempDir,
    connector: Connector,
}

impl Client {
    fn trusting(cas: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, cas).unwrap();
        let connector = Connector::new(file).with_server_name("hearth-operator").unwrap();
        Self { folder, connector }
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    async fn connect(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, ConnectError> {
        let url: Uri = format!("https://{address}").parse().unwrap();
        let connecting = self.connector.clone().call(url);
        let stream = tokio::time::timeout(SOON, connecting).await.expect("a handshake in time")?;
        let mut stream = stream.into_inner();
        speak(&mut stream).await.unwrap();
        Ok(stream)
    }

    async fn refuses(&self, address: SocketAddr, expected: &str) {
        let error = self.connect(address).await.map(|_| "connected").unwrap_err().to_string();
        let error = error.replace(&address.to_string(), "SERVER");
        let error = error.replace(&self.ca_file().display().to_string(), "FILE");
        assert!(error.contains(expected), "{error}");
    }
}

/// As the API server comes: with a certificate of its own, from an address of its own.
async fn come(
    server: &Server,
    ca: &Ca,
    own: Option<&Pair>,
    from: Ipv4Addr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match own {
        Some(Pair { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let tcp = socket.connect(server.address).await.unwrap();
    let name = ServerName::try_from("hearth-operator").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    speak(&mut stream).await?;
    Ok(stream)
}

/// A server with this certificate, asked by a client that trusts `ca`.
async fn check_refused(served: &Pair, ca: &Ca, reason: Reason, said: &str) {
    let server = Server::start(&ServerTls::new(served).unwrap()).await;
    Client::trusting(&ca.pem()).refuses(server.address, said).await;
    server.has_refused(reason, 1).await;
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_is_let_in() {
    let ca = Ca::new("hearth");
    let mut server = Server::start(&ServerTls::new(&ca.server(NAMES)).unwrap()).await;
    let stream = Client::trusting(&ca.pem()).connect(server.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let peer = server.peer().await;
    assert_eq!(peer.address(), stream.get_ref().0.local_addr().unwrap());
    assert!(peer.certificates().is_empty() && peer.common_name().is_none());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_both_say_so() {
    let ca = Ca::new("hearth");
    let said = "the certificate of SERVER expired at ";
    check_refused(&ca.server_valid(NAMES, Valid::Expired), &ca, Reason::Expired, said).await;
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused_and_both_say_so() {
    let ca = Ca::new("hearth");
    let said = "the certificate of SERVER is not valid yet, but from ";
    check_refused(&ca.server_valid(NAMES, Valid::NotYet), &ca, Reason::NotYetValid, said).await;
}

#[tokio::test]
async fn a_foreign_ca_is_refused_and_both_say_so() {
    let said = "the certificate of SERVER is of a CA that is not in --ca FILE: add the CA that issued it";
    let served = Ca::new("another").server(NAMES);
    check_refused(&served, &Ca::new("hearth"), Reason::UnknownCa, said).await;
    // As two releases make them.
    let served = Ca::new("hearth").server(NAMES);
    check_refused(&served, &Ca::new("hearth"), Reason::UnknownCa, said).await;
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_and_the_client_says_which() {
    let ca = Ca::new("hearth");
    let said = "the certificate of SERVER is not for hearth-operator, but for ";
    check_refused(&ca.server(&["hearth-collector"]), &ca, Reason::BadCertificate, said).await;
    check_refused(&ca.server(&["127.0.0.1"]), &ca, Reason::BadCertificate, said).await;
}

#[tokio::test]
async fn without_another_name_that_of_the_url_is_verified() {
    let ca = Ca::new("hearth");
    let client = Client::trusting(&ca.pem());
    let client = Client { connector: Connector::new(client.ca_file()), ..client };
    let server = Server::start(&ServerTls::new(&ca.server(&["127.0.0.1"])).unwrap()).await;
    client.connect(server.address).await.unwrap();
    let server = Server::start(&ServerTls::new(&ca.server(&["hearth-operator"])).unwrap()).await;
    client.refuses(server.address, "is not for 127.0.0.1").await;
}

#[tokio::test]
async fn a_replaced_certificate_is_that_of_new_connections_and_open_ones_go_on() {
    let ca = Ca::new("hearth");
    let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
    let server = Server::start(&tls).await;
    let client = Client::trusting(&ca.pem());
    let mut open = client.connect(server.address).await.unwrap();

    let next = Ca::new("next");
    tls.replace(&next.server(NAMES)).unwrap();
    speak(&mut open).await.unwrap();
    client.refuses(server.address, "is of a CA that is not in --ca").await;
    std::fs::write(client.ca_file(), format!("{}{}", ca.pem(), next.pem())).unwrap();
    client.connect(server.address).await.unwrap();
    std::fs::write(client.ca_file(), next.pem()).unwrap();
    client.connect(server.address).await.unwrap();
}

#[tokio::test]
async fn a_pair_that_does_not_fit_leaves_the_one_before() {
    let ca = Ca::new("hearth");
    let (one, other) = (ca.server(NAMES), ca.server(NAMES));
    let tls = ServerTls::new(&one).unwrap();
    let server = Server::start(&tls).await;
    let error = tls.replace(&Pair { key: other.key, ..one }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the key is not that of the certificate: give the key that it was issued for"
    );
    Client::trusting(&ca.pem()).connect(server.address).await.unwrap();
}

#[tokio::test]
async fn cas_that_cannot_be_used_are_named_and_read_again() {
    let ca = Ca::new("hearth");
    let server = Server::start(&ServerTls::new(&ca.server(NAMES)).unwrap()).await;
    let client = Client::trusting("");
    client.refuses(server.address, "the CAs to trust, --ca FILE, cannot be used").await;
    std::fs::remove_file(client.ca_file()).unwrap();
    client.refuses(server.address, "the CAs to trust, --ca FILE, cannot be used").await;
    std::fs::write(client.ca_file(), ca.pem()).unwrap();
    client.connect(server.address).await.unwrap();
}

#[tokio::test]
async fn a_client_that_lets_its_handshake_hang_holds_up_nobody() {
    let ca = Ca::new("hearth");
    let server = Server::start(&ServerTls::new(&ca.server(NAMES)).unwrap()).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    // The head of a ClientHello of 512 bytes, and no more.
    slow.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    Client::trusting(&ca.pem()).connect(server.address).await.unwrap();
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let ca = Ca::new("hearth");
    let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
    let server =
        Server::on(|tcp, refusals| Listener::tls(tcp, tls, Protocols::Grpc, refusals).with_bounds(AFAR))
            .await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut one_more = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(one_more.read(&mut [0]).await.unwrap(), 0, "it is closed");
    server.has_refused(Reason::TooMany, 1).await;
    come(&server, &ca, None, Ipv4Addr::new(127, 0, 0, 2)).await.unwrap();
    // Places are free again.
    drop(silent);
    server.refusals_are(&[(Reason::TooMany, 1), (Reason::Closed, 16)]).await;
    come(&server, &ca, None, Ipv4Addr::LOCALHOST).await.unwrap();
}

#[tokio::test]
async fn more_connections_than_may_be_are_closed_and_counted() {
    let ca = Ca::new("hearth");
    let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
    let server = Server::on(|tcp, refusals| {
        Listener::tls(tcp, tls, Protocols::Grpc, refusals)
            .with_bounds(Bounds { connections: 1, ..Bounds::default() })
    })
    .await;
    let first = come(&server, &ca, None, Ipv4Addr::LOCALHOST).await.unwrap();
    come(&server, &ca, None, Ipv4Addr::LOCALHOST).await.unwrap_err();
    server.has_refused(Reason::TooMany, 1).await;
    drop(first);
    let again = async { while come(&server, &ca, None, Ipv4Addr::LOCALHOST).await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("the place is free again");
}

/// Time is the test's, so nothing else may wait for the network here.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let server = Server::start(&ServerTls::new(&Ca::new("hearth").server(NAMES)).unwrap()).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "it is closed");
    server.has_refused(Reason::Timeout, 1).await;
}

#[tokio::test]
async fn what_is_no_tls_is_counted_as_another_protocol() {
    let server = Server::start(&ServerTls::new(&Ca::new("hearth").server(NAMES)).unwrap()).await;
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    server.has_refused(Reason::BadProtocol, 1).await;
}

#[tokio::test]
async fn a_probe_that_only_connects_is_counted_apart() {
    let server = Server::start(&ServerTls::new(&Ca::new("hearth").server(NAMES)).unwrap()).await;
    drop(TcpStream::connect(server.address).await.unwrap());
    server.has_refused(Reason::Closed, 1).await;
}

#[tokio::test]
async fn a_port_without_tls_is_told_by_the_client() {
    let mut server = Server::on(Listener::plain).await;
    // The echo of a ClientHello is no ServerHello.
    Client::trusting(&Ca::new("hearth").pem()).refuses(server.address, "is it a port without TLS?").await;
    assert!(server.peer().await.certificates().is_empty());
}

#[tokio::test]
async fn a_server_that_is_full_is_no_server_without_tls() {
    let ca = Ca::new("hearth");
    let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
    let none = Bounds { connections: 0, ..Bounds::default() };
    let full = |tcp, refusals| Listener::tls(tcp, tls, Protocols::Grpc, refusals).with_bounds(none);
    let server = Server::on(full).await;
    Client::trusting(&ca.pem()).refuses(server.address, "SERVER broke off the TLS handshake").await;
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_only_where_cas_are_trusted() {
    let (ca, front) = (Ca::new("hearth"), Ca::new("front-proxy"));
    let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
    let mut server = Server::start(&tls).await;
    let own = front.client("aggregator");
    come(&server, &ca, Some(&own), Ipv4Addr::LOCALHOST).await.unwrap();
    assert_eq!(server.peer().await.common_name(), None, "none is asked for");

    tls.trust_clients(Some(&front.pem())).unwrap();
    come(&server, &ca, Some(&own), Ipv4Addr::LOCALHOST).await.unwrap();
    let peer = server.peer().await;
    assert_eq!(peer.common_name().as_deref(), Some("aggregator"));
    assert!(tls.trusts(&peer));
    come(&server, &ca, None, Ipv4Addr::LOCALHOST).await.unwrap();
    let nobody = server.peer().await;
    assert_eq!(nobody.common_name(), None);
    assert!(!tls.trusts(&nobody));

    // The connection is open still, and its certificate is good no longer.
    tls.trust_clients(Some(&Ca::new("front-proxy").pem())).unwrap();
    assert!(!tls.trusts(&peer));
    tls.trust_clients(None).unwrap();
    assert!(!tls.trusts(&peer));
}

#[tokio::test]
async fn a_client_certificate_that_is_not_good_is_refused_by_its_reason() {
    let (ca, front) = (Ca::new("hearth"), Ca::new("front-proxy"));
    for (own, reason) in [
        (front.client_valid("aggregator", Valid::Expired), Reason::Expired),
        (front.client_valid("aggregator", Valid::NotYet), Reason::NotYetValid),
        (Ca::new("another").client("aggregator"), Reason::UnknownCa),
        (front.server(&["aggregator"]), Reason::BadCertificate),
    ] {
        let tls = ServerTls::new(&ca.server(NAMES)).unwrap();
        tls.trust_clients(Some(&front.pem())).unwrap();
        let server = Server::start(&tls).await;
        come(&server, &ca, Some(&own), Ipv4Addr::LOCALHOST).await.unwrap_err();
        server.has_refused(reason, 1).await;
    }
}

#[tokio::test]
async fn cas_of_clients_that_cannot_be_used_leave_those_before() {
    let tls = ServerTls::new(&Ca::new("hearth").server(NAMES)).unwrap();
    tls.trust_clients(Some(&Ca::new("front-proxy").pem())).unwrap();
    let error = tls.trust_clients(Some("")).unwrap_err().to_string();
    assert_eq!(error, "there is no CA certificate: give PEM, with -----BEGIN CERTIFICATE-----");
}
