//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::error;

use crate::hub::Hub;
use crate::metrics::Metrics;

type Served = State<(Arc<Metrics>, Arc<Hub>)>;

/// The three.
pub fn router(metrics: Arc<Metrics>, hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/metrics", get(encode))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state((metrics, hub))
}

async fn encode(State((metrics, hub)): Served) -> Response {
    match metrics.encode(&hub) {
        Ok(text) => {
            let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, format)], text).into_response()
        }
        Err(error) => {
            error!("metrics cannot be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A standby is ready too: it answers agents, and can lead at once.
async fn ready(State((_, hub)): Served) -> (StatusCode, String) {
    let missing: Vec<&str> = hub.lock().index.unsynced().map(|resource| resource.as_str()).collect();
    match &*missing {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("not listed yet: {}\n", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Resource;

    #[tokio::test]
    async fn it_is_ready_when_all_is_listed() {
        let hub = Arc::new(Hub::new(|| 0));
        for resource in Resource::ALL.into_iter().filter(|resource| *resource != Resource::Jobs) {
            hub.change(|index| index.set_synced(resource));
        }
        let ready = || ready(State((Arc::default(), Arc::clone(&hub))));
        assert_eq!(ready().await, (StatusCode::SERVICE_UNAVAILABLE, "not listed yet: jobs\n".to_owned()));
        hub.change(|index| index.set_synced(Resource::Jobs));
        assert_eq!(ready().await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_have_the_prefix() {
        let text = Metrics::default().encode(&Hub::new(|| 0)).unwrap_or_default();
        assert!(text.contains("hearth_operator_leading 0"), "{text}");
    }
}
