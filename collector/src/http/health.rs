//! What machines ask: are you there, can you answer, what did you count.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{QueryState, reply};

/// `GET /healthz`: the process runs.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: ClickHouse answers; 503 if not. It is asked once a second at most.
pub async fn readyz(State(state): State<QueryState>) -> Response {
    match state.readiness.of(&state.store).await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => {
            let (_, headers) = reply::status_and_headers(&error);
            (StatusCode::SERVICE_UNAVAILABLE, headers, format!("{}\n", error.advice())).into_response()
        }
    }
}

/// `GET /metrics`: OpenMetrics text.
pub async fn metrics(State(state): State<QueryState>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) => {
            let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, format)], text).into_response()
        }
        Err(error) => {
            tracing::error!("metrics cannot be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
