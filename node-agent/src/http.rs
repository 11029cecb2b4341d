//! `/metrics`, `/healthz` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use hearth_tls::Refusals;
use hearth_tls::http::serve_machines;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::export::client::Exporter;
use crate::metrics::Metrics;

/// Listens on `address`; where its port is taken (another agent on this machine), on a free one.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let listener = TcpListener::bind(SocketAddr::new(address.ip(), 0)).await?;
            warn!("{address} is taken: metrics are on {}", listener.local_addr()?);
            Ok(listener)
        }
        other => other,
    }
}

/// Serves until the task is dropped.
pub async fn serve(tcp: TcpListener, metrics: Arc<Metrics>, exporter: Arc<Exporter>) {
    let router = Router::new()
        .route("/metrics", get(encode))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state((metrics, exporter));
    serve_machines(tcp, Refusals::default(), router, CancellationToken::new()).await;
}

type Served = State<(Arc<Metrics>, Arc<Exporter>)>;

async fn encode(State((metrics, exporter)): Served) -> String {
    metrics.set_export(&exporter);
    metrics.encode()
}

async fn ready(State((metrics, _)): Served) -> (StatusCode, &'static str) {
    readiness(&metrics)
}

fn readiness(metrics: &Metrics) -> (StatusCode, &'static str) {
    match metrics.node_rate.get() {
        _ if !metrics.is_ready() => (StatusCode::SERVICE_UNAVAILABLE, "the sampler is not attached\n"),
        0 if metrics.is_off() => (StatusCode::OK, "switched off: nothing is sampled\n"),
        0 => (StatusCode::OK, "no enabled policy: nothing is sampled\n"),
        _ => (StatusCode::OK, "sampling\n"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn readiness_says_whether_anything_is_sampled() {
        let metrics = Metrics::default();
        assert_eq!(readiness(&metrics).0, StatusCode::SERVICE_UNAVAILABLE);
        metrics.ready.store(1, Ordering::Relaxed);
        assert_eq!(readiness(&metrics), (StatusCode::OK, "no enabled policy: nothing is sampled\n"));
        metrics.set_detached(Some("off"));
        assert_eq!(readiness(&metrics), (StatusCode::OK, "switched off: nothing is sampled\n"));
        metrics.set_detached(None);
        metrics.node_rate.set(99);
        assert_eq!(readiness(&metrics), (StatusCode::OK, "sampling\n"));
    }

    #[tokio::test]
    async fn a_taken_port_is_replaced() {
        let any_port = SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), 0);
        let first = bind(any_port).await.unwrap();
        let second = bind(first.local_addr().unwrap()).await.unwrap();
        assert_ne!(first.local_addr().unwrap().port(), second.local_addr().unwrap().port());
    }
}
