#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// Flags such as `--ca f`, and an address.
fn remote(flags: &str, url: &str) -> Result<Remote, RemoteError> {
    let file = |flag: &str| flags.contains(flag).then(|| PathBuf::from("/etc/hearth/file"));
    Remote::new("--operator", url, &Credentials { ca: file("--ca"), token_file: file("--token-file") })
}

fn text(remote: Result<Remote, RemoteError>) -> String {
    remote.map_or_else(|error| error.to_string(), |remote| format!("ok {}", remote.url()))
}

fn check(flags: &str, url: &str, expected: &str) {
    let text = text(remote(flags, url));
    assert!(text.contains(expected), "{flags} {url}: {text}");
}

#[test]
fn an_address_is_a_url_of_one_of_two_schemes() {
    check("", "http://operator:1", "ok");
    check("--ca", "HTTPS://operator:1", "ok");
    check("", "operator:1", "--operator \"operator:1\" must begin with https:// or http://");
    check("", "unix:///run/x", "must begin with");
    check("", "http://", "--operator \"http://\" is no URL");
    check("--ca", "https://a_b!:1", "--operator \"https://a_b!:1\" ");
}

#[test]
fn tls_needs_cas_to_trust() {
    check("", "https://operator:1", "--operator https://operator:1 needs --ca FILE");
    check("--token-file", "https://operator:1", "needs --ca FILE");
    check("--ca --token-file", "https://operator:1", "ok");
}

#[test]
fn a_token_leaves_the_host_by_tls_alone() {
    for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
        check("--token-file", url, "ok");
    }
    for url in ["http://operator:1", "http://10.0.0.7:1", "http://localhost.evil:1"] {
        check("--token-file", url, "--token-file is not sent in the clear to another host");
        check("--token-file --ca", url, "use https:// with --ca, or leave out --token-file");
    }
}

#[test]
fn a_leader_is_reached_as_its_standby_is() {
    let check = |flags: &str, operator: &str, leader: &str, expected: &str| {
        let text = text(remote(flags, operator).unwrap().at_leader(leader));
        assert!(text.starts_with(expected), "{operator} {leader}: {text}");
    };
    check("", "http://operator:1", "10.0.0.7:2", "ok http://10.0.0.7:2");
    check("--ca", "https://operator:1", "10.0.0.7:2", "ok https://10.0.0.7:2");
    check("--ca", "https://operator:1", "https://10.0.0.7:2", "ok https://10.0.0.7:2");
    check("--ca", "https://operator:1", "http://10.0.0.7:2", "the leader \"http://10.0.0.7:2\" has another");
    check("--ca", "http://operator:1", "https://10.0.0.7:2", "the leader \"https://10.0.0.7:2\" has another");
    check("--token-file", "http://127.0.0.1:1", "10.0.0.7:2", "--token-file is not sent in the clear");
    check("", "http://operator:1", "no address", "--operator \"http://no address\" is no URL");
}

#[tokio::test]
async fn each_call_has_the_token_that_the_file_has_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let credentials = Credentials { ca: None, token_file: Some(path.clone()) };
    let remote = Remote::new("--collector", "http://127.0.0.1:1", &credentials).unwrap();
    let sent = async || match remote.request(()).await {
        Ok(request) => request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned(),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    };
    let prefix = format!("Unavailable: --token-file {}: ", path.display());
    let refused = async || sent().await.strip_prefix(&prefix).unwrap().to_owned();

    assert!(refused().await.starts_with("cannot be read: No such file"));
    std::fs::write(&path, "one\n").unwrap();
    assert_eq!(sent().await, "Bearer one");
    std::fs::write(&path, "two").unwrap();
    assert_eq!(sent().await, "Bearer two");
    std::fs::write(&path, " \n").unwrap();
    assert_eq!(refused().await, "is empty");
    std::fs::write(&path, "secret\nsecret").unwrap();
    assert_eq!(refused().await, "has characters that no token has");
    std::fs::write(&path, "s".repeat(16385)).unwrap();
    assert_eq!(refused().await, "is over 16384 bytes, which no token is");
}

#[tokio::test]
async fn a_token_is_not_in_what_is_logged_of_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "secret").unwrap();
    let credentials = Credentials { ca: None, token_file: Some(path) };
    let remote = Remote::new("--collector", "http://127.0.0.1:1", &credentials).unwrap();
    let request = remote.request(()).await.unwrap();
    assert!(!format!("{request:?} {remote:?}").contains("secret"));
}

#[tokio::test]
async fn why_a_server_is_not_trusted_is_in_the_status_of_the_call() {
    let (ca, foreign) = (hearth_tls::testing::Ca::new("hearth"), hearth_tls::testing::Ca::new("foreign"));
    let tls = hearth_tls::ServerTls::new(&foreign.server(&["127.0.0.1"])).unwrap();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let mut listener = hearth_tls::Listener::grpc(tcp, Some(tls), hearth_tls::Refusals::default());
    let _accepting = tokio::spawn(async move { drop(listener.accept().await) });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, ca.pem()).unwrap();
    let credentials = Credentials { ca: Some(path), token_file: None };
    let remote = Remote::new("--collector", &format!("https://{address}"), &credentials).unwrap();

    let mut client = hearth_proto::collector::v1::collector_client::CollectorClient::new(remote.channel());
    let status = client.export(tokio_stream::empty()).await.unwrap_err();
    let text = crate::export::client::reason(&status);
    assert!(
        text.contains(&format!("the certificate of {address} is of a CA that is not in --ca ")),
        "{text}"
    );
}

#[test]
fn an_expired_token_is_told_from_one_that_is_refused() {
    assert!(is_token_expired(&Status::unauthenticated("token expired")));
    assert!(is_token_expired(&Status::unauthenticated("token expired at 12:00")));
    assert!(!is_token_expired(&Status::unauthenticated("no token")));
    assert!(!is_token_expired(&Status::unavailable("token expired")));
}
