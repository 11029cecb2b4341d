//! The connections of the HTTPS port.

use axum::body::Body;
use axum::http::Request;
use hearth_tls::http::{self, Limits};
use hearth_tls::{Bounds, Listener};
use tokio_util::sync::CancellationToken;

use super::Access;

/// Connections of the port: the API server, which shows a certificate, finds a place also when others take all they can.
pub const BOUNDS: Bounds =
    Bounds { connections: 512, unproven: 448, unproven_per_address: 32, ..Bounds::USUAL };

/// Answers until `stop`; then ends each connection after its last answer, and returns.
pub async fn serve(listener: Listener, access: Access, limits: Limits, stop: CancellationToken) {
    let connections = access.metrics().connections.clone();
    let answer = move |asked, request: Request<_>| {
        let access = access.clone();
        async move { access.answer(&asked, request.map(Body::new)).await }
    };
    http::serve(listener, limits, connections, answer, stop).await;
}
