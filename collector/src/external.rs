//! The way to a ClickHouse that is not ours.

use std::path::Path;
use std::time::Duration;

use axum::http::Uri;
use clickhouse::Client;
use hearth_program::is_loopback;
use hearth_tls::TlsError;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// As of the client's own connections.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// ClickHouse ends idle connections after 3 s (before 23.11) or 10 s.
const POOL_IDLE: Duration = Duration::from_secs(2);

/// A client of the ClickHouse at `url`: by TLS to whoever has a certificate of a CA in this file, or in clear text.
///
/// # Errors
/// The CAs cannot be used.
pub async fn client(url: &str, ca: Option<&Path>) -> Result<Client, TlsError> {
    let Some(ca) = ca else { return Ok(Client::default().with_url(url)) };
    let mut tcp = HttpConnector::new();
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.enforce_http(false);
    let config = hearth_tls::client_config(ca).await?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().wrap_connector(tcp);
    let http = legacy::Client::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE).build(connector);
    Ok(Client::with_http_client(http).with_url(url))
}

/// Whether what goes to `url` can be read on a network.
pub fn in_clear_text(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return true };
    url.scheme_str() != Some("https") && !url.host().is_some_and(is_loopback)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clickhouse::Compression;
    use futures::StreamExt as _;
    use hearth_tls::testing::Ca;
    use hearth_tls::{Listener, Protocols, Refusals, ServerTls};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What a store with a certificate of `theirs` is asked, and answers 7 to, by a client that trusts `ours`.
    async fn asked(theirs: &Ca, ours: &Ca) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.crt");
        std::fs::write(&file, ours.pem()).unwrap();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
        let tls = ServerTls::new(&theirs.server(&["localhost"])).unwrap();
        let mut connections = Listener::tls(tcp, tls, Protocols::Https, Refusals::default());
        let store = tokio::spawn(async move {
            let mut connection = connections.next().await.unwrap().unwrap();
            let mut request = vec![0; 4096];
            let read = connection.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n\x07";
            connection.write_all(answer).await.unwrap();
            connection.shutdown().await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = client(&url, Some(&file)).await.unwrap().with_password("hush");
        let client = client.with_validation(false).with_compression(Compression::None);
        match client.query("SELECT 7").fetch_one::<u8>().await {
            Ok(7) => Ok(store.await.unwrap()),
            Ok(other) => panic!("{other}"),
            Err(error) => {
                store.abort();
                Err(format!("{error:?}"))
            }
        }
    }

    #[tokio::test]
    async fn a_store_is_asked_by_tls_if_its_certificate_is_of_the_ca_and_not_otherwise() {
        let (ours, other) = (Ca::new("ours"), Ca::new("other"));
        let request = asked(&ours, &ours).await.unwrap();
        assert!(request.contains("hush"), "{request}");
        let refused = asked(&other, &ours).await.unwrap_err();
        assert!(refused.contains("UnknownIssuer"), "{refused}");
    }

    #[tokio::test]
    async fn a_file_without_a_ca_is_refused() {
        let error = client("https://c:8443", Some(Path::new("/dev/null"))).await.unwrap_err();
        assert!(error.to_string().starts_with("there is no CA certificate"), "{error}");
    }

    #[test]
    fn what_leaves_the_host_without_tls_can_be_read() {
        for url in ["http://c:8123", "http://10.0.0.1:8123", "http://[fd00::1]:8123"] {
            assert!(in_clear_text(url), "{url}");
        }
        for url in ["https://c:8443", "http://localhost:8123", "http://127.0.0.1:8123", "http://[::1]:8123"] {
            assert!(!in_clear_text(url), "{url}");
        }
    }
}
