#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_proto::config::v1::node_configs_client::NodeConfigsClient;
use hearth_tls::Connector;
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::*;
use crate::certificates::issue::{authority, leaf};
use crate::certificates::read;
use crate::hub::Hub;
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
