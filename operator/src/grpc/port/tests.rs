#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::config::v1::node_configs_client::NodeConfigsClient;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::{Hello, NodeReport, NodeUpdate};
use hearth_tls::Connector;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::*;
use crate::certificates::issue::{authority, leaf};
use crate::certificates::read;
use crate::hub::{Hub, Leadership};
use crate::index::{NodeObject, Resource};
use crate::metrics::Metrics;

/// A CA as operators make it, and a certificate of this operator.
fn made() -> (read::Pair, read::Pair) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap();
    let life = Duration::from_secs(3600);
    let ca = authority("hearth", life, now).unwrap();
    let names = BTreeSet::from(["hearth-operator".to_owned()]);
    let own = leaf(&ca, &names, life, now).unwrap();
    (ca, own)
}

/// What an agent hears that trusts the CAs of a file: a standby's answer, or why there is no connection.
async fn asked(address: SocketAddr, ca: &Path) -> String {
    let connector = Connector::new(ca.to_owned()).with_server_name("hearth-operator").unwrap();
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let mut client = NodeConfigsClient::new(endpoint.connect_with_connector_lazy(connector));
    let refused = client.stream(tokio_stream::empty()).await.unwrap_err();
    let mut causes = format!("{refused:?}");
    let mut error: &dyn std::error::Error = &refused;
    while let Some(cause) = error.source() {
        causes += &format!(" {cause}");
        error = cause;
    }
    causes
}

#[tokio::test]
async fn it_takes_nobody_before_the_first_certificate_and_serves_with_the_last_one() {
    let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.local_addr().unwrap();
    let (serve, first) = serving_first();
    let stop = CancellationToken::new();
    let service = Service::new(Arc::new(Hub::new(|| 0)), Arc::new(Metrics::default()), None);
    let serving = tokio::spawn(port.serve(Tls::First(first), service, Refusals::default(), stop.clone()));
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    let (ca, own) = made();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("ca.crt");
    std::fs::write(&bundle, ca.certificate.pem()).unwrap();
    serve(&own).unwrap();
    let opened = tokio::time::timeout(Duration::from_secs(10), async {
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    opened.await.unwrap();
    let heard = asked(address, &bundle).await;
    assert!(heard.contains("this operator does not lead"), "{heard}");

    let (other_ca, other) = made();
    serve(&other).unwrap();
    let heard = asked(address, &bundle).await;
    assert!(!heard.contains("this operator does not lead"), "{heard}");
    let both = format!("{}{}", ca.certificate.pem(), other_ca.certificate.pem());
    std::fs::write(&bundle, both).unwrap();
    let heard = asked(address, &bundle).await;
    assert!(heard.contains("this operator does not lead"), "{heard}");

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn it_stops_while_it_waits_for_a_certificate() {
    let port = Port::bind("[::1]:0".parse().unwrap()).unwrap();
    let (_serve, first) = serving_first();
    let stop = CancellationToken::new();
    let service = Service::new(Arc::new(Hub::new(|| 0)), Arc::new(Metrics::default()), None);
    stop.cancel();
    port.serve(Tls::First(first), service, Refusals::default(), stop).await.unwrap();
}

/// How long a connection may be without a stream.
const UNHELD: Duration = Duration::from_millis(500);

async fn ends(mut connection: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), connection.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    let _ = end.expect("it ends");
}

/// The first configuration of a stream that is open.
async fn hello(reports: &mpsc::Sender<NodeReport>, updates: &mut Streaming<NodeUpdate>) {
    let hello = Hello { node: "n".to_owned(), instance: vec![0; 16], ..Hello::default() };
    reports.send(NodeReport { report: Some(Report::Hello(hello)) }).await.unwrap();
    let update = tokio::time::timeout(Duration::from_secs(20), updates.message()).await;
    assert!(update.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_connection_without_a_stream_ends_and_agents_come_back() {
    let bounds = Bounds { unheld: Some(UNHELD), ..Bounds::held(10) };
    let port = Port::bind("127.0.0.1:0".parse().unwrap()).unwrap().with_bounds(bounds);
    let (address, hub) = (port.local_addr().unwrap(), Arc::new(Hub::new(|| 0)));
    for resource in Resource::ALL {
        hub.change(|index| index.set_synced(resource));
    }
    hub.change(|index| index.set_node("n", NodeObject::default()));
    hub.set_leadership(Leadership::Leading);
    let service = Service::new(hub, Arc::new(Metrics::default()), None);
    tokio::spawn(port.serve(Tls::None, service, Refusals::default(), CancellationToken::new()));
    let come = || TcpStream::connect(address);

    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut agent = NodeConfigsClient::new(channel);
    let (reports, sent) = mpsc::channel(1);
    let mut updates = agent.stream(ReceiverStream::new(sent)).await.unwrap().into_inner();

    ends(come().await.unwrap()).await;
    let (from, mut to) = come().await.unwrap().into_split();
    let pinging = tokio::spawn(async move {
        to.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        while to.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ends(from).await;
    tokio::time::timeout(Duration::from_secs(20), pinging).await.unwrap().unwrap();

    hello(&reports, &mut updates).await;
    drop((reports, updates));
    // Later than the agent's.
    ends(come().await.unwrap()).await;
    // Its channel may learn of it only now: an agent tries again.
    let again = async {
        loop {
            let (reports, sent) = mpsc::channel(1);
            if let Ok(opened) = agent.stream(ReceiverStream::new(sent)).await {
                return (reports, opened.into_inner());
            }
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(20), again).await;
    let (reports, mut updates) = opened.unwrap();
    hello(&reports, &mut updates).await;
}
