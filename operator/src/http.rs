//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::error;

use crate::certificates::Readiness;
use crate::hub::Hub;
use crate::metrics::Metrics;

type Served = State<(Arc<Metrics>, Arc<Hub>, Readiness)>;

/// The three; ready when the hub and the certificates are.
pub fn router(metrics: Arc<Metrics>, hub: Arc<Hub>, certificates: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(encode))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state((metrics, hub, certificates))
}

async fn encode(State((metrics, hub, _)): Served) -> Response {
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
async fn ready(State((_, hub, certificates)): Served) -> (StatusCode, String) {
    let unlisted: Vec<&str> = hub.lock().index.unsynced().map(|resource| resource.as_str()).collect();
    let unlisted = (!unlisted.is_empty()).then(|| format!("not listed yet: {}", unlisted.join(", ")));
    let missing: Vec<String> = unlisted.into_iter().chain(certificates.why_not()).collect();
    match &*missing {
        [] => (StatusCode::OK, "ok\n".to_owned()),
        missing => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("; "))),
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
        let ready = || ready(State((Arc::default(), Arc::clone(&hub), Readiness::default())));
        assert_eq!(ready().await, (StatusCode::SERVICE_UNAVAILABLE, "not listed yet: jobs\n".to_owned()));
        hub.change(|index| index.set_synced(Resource::Jobs));
        assert_eq!(ready().await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn it_is_not_ready_before_it_has_a_certificate() {
        let hub = Arc::new(Hub::new(|| 0));
        let certificates = Readiness::waiting();
        let ready = || ready(State((Arc::default(), Arc::clone(&hub), certificates.clone())));
        let (code, said) = ready().await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(said.ends_with("; this operator has no certificate to serve with yet\n"), "{said}");
        Resource::ALL.into_iter().for_each(|resource| hub.change(|index| index.set_synced(resource)));
        assert_eq!(ready().await.1, "this operator has no certificate to serve with yet\n");
    }

    #[tokio::test]
    async fn metrics_have_the_prefix() {
        let text = Metrics::default().encode(&Hub::new(|| 0)).unwrap_or_default();
        assert!(text.contains("hearth_operator_leading 0"), "{text}");
    }
}
