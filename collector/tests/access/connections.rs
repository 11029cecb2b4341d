//! What a connection may take.

use std::time::Duration;

use clickhouse::Client;
use hearth_collector::access::port::BOUNDS;
use hearth_identity::fake::Mood;
use hearth_tls::Bounds;
use hearth_tls::http::Limits;
use hearth_tls::testing::Ca;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::common::client;
use crate::port::{PATIENCE, Port, get, until};

const SHORT: Duration = Duration::from_millis(200);

async fn port(limits: Limits) -> Port {
    Port::start_with("connections", limits, BOUNDS, client()).await
}

/// Whether the other side ends a connection: with an answer before, or without.
async fn ends(mut connection: impl tokio::io::AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await;
    // A reset is an end as well.
    let _ = end.expect("it ends");
}

#[tokio::test]
async fn who_says_nothing_or_half_a_thing_is_not_waited_for() {
    let port = port(Limits { head: SHORT, ..Limits::default() }).await;
    for part in ["", "G", "GET /apis HTTP/1.1\r\nx: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut connection = port.connect().await;
        connection.write_all(part.as_bytes()).await.unwrap();
        ends(connection).await;
    }
}

#[tokio::test]
async fn who_sends_a_head_byte_by_byte_is_not_waited_for() {
    let port = port(Limits { head: SHORT, ..Limits::default() }).await;
    let (from, mut to) = tokio::io::split(port.connect().await);
    let drip = tokio::spawn(async move {
        to.write_all(b"GET /apis HTTP/1.1\r\n").await.unwrap();
        while to.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    ends(from).await;
    tokio::time::timeout(PATIENCE, drip).await.unwrap().unwrap();
}

/// Asks, and waits until its connection has ended.
async fn is_not_waited_for(port: &Port, headers: &[(&str, &str)]) {
    let client = port.http2_client(None);
    get(&client, &port.url("/api/v1/tags"), headers).await;
    until("it has ended", async || port.metrics.connections.get() == 0).await;
    // And another begins.
    get(&client, &port.url("/api/v1/tags"), headers).await;
}

#[tokio::test]
async fn a_connection_that_is_not_used_ends() {
    let port = port(Limits { idle: SHORT, ..Limits::default() }).await;
    let (name, value) = port.user("jane");
    is_not_waited_for(&port, &[(name, &value)]).await;
}

#[tokio::test]
async fn a_connection_on_which_nobody_proves_anything_ends_sooner() {
    let port = port(Limits { head: SHORT, ..Limits::default() }).await;
    is_not_waited_for(&port, &[]).await;
    is_not_waited_for(&port, &[("authorization", "Bearer of-nobody")]).await;
}

#[tokio::test]
async fn who_shows_a_certificate_finds_a_place_when_others_have_all_they_can() {
    let bounds = Bounds { connections: 3, unproven: 2, ..BOUNDS };
    let port = Port::start_with("connections", Limits::default(), bounds, client()).await;
    let ca = Ca::new("front-proxy");
    port.trust(&ca);
    let (_first, _second) = (port.connect().await, port.connect().await);
    until("both are open", async || port.metrics.connections.get() == 2).await;
    port.client(None).get(port.url("/apis")).send().await.unwrap_err();
    let proxy = port.client(Some(&ca.client(crate::port::PROXY)));
    assert_eq!(get(&proxy, &port.url("/apis"), &[]).await.status, 200);
}

#[tokio::test]
async fn a_request_that_takes_for_ever_takes_its_connection_along() {
    // A ClickHouse that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = Client::default().with_url(format!("http://{}", silent.local_addr().unwrap()));
    let limits = Limits { request: SHORT, ..Limits::default() };
    let port = Port::start_with("silent", limits, BOUNDS, store).await;
    port.api.grant("jane", None, None);
    let (name, value) = port.user("jane");
    let request = port.http2_client(None).get(port.url("/api/v1/apps")).header(name, value);
    let error = request.send().await.unwrap_err();
    assert!(!error.is_timeout(), "{error:?}");
    assert_eq!(port.metrics.connections.get(), 0);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let bounds = Bounds { connections: 2, ..BOUNDS };
    let port = Port::start_with("connections", Limits::default(), bounds, client()).await;
    let (first, _second) = (port.connect().await, port.connect().await);
    until("both are open", async || port.metrics.connections.get() == 2).await;
    port.client(None).get(port.url("/apis")).send().await.unwrap_err();
    assert_eq!(port.refusals.of(hearth_tls::Reason::TooMany), 1);
    drop(first);
    until("there is a place", async || port.client(None).get(port.url("/apis")).send().await.is_ok()).await;
}

#[tokio::test]
async fn at_the_stop_what_was_asked_is_still_answered() {
    let port = port(Limits::default()).await;
    port.api.grant("jane", None, None);
    let (name, value) = port.user("jane");
    port.api.set_mood(Mood::Hangs);
    let (client, url) = (port.http2_client(None), port.url("/api/v1/tags"));
    let asked = tokio::spawn(async move { get(&client, &url, &[(name, &value)]).await.status });
    until("it is asked", async || port.api.token_reviews() == 1).await;
    port.stop.cancel();
    until("nobody else is let in", async || TcpStream::connect(port.address).await.is_err()).await;
    assert!(!port.served.is_finished());
    port.api.set_mood(Mood::Answers);
    assert_eq!(asked.await.unwrap(), 200);
    tokio::time::timeout(PATIENCE, port.served).await.unwrap().unwrap();
}
