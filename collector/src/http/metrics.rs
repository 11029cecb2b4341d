//! What the HTTP side counts about itself.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::QueryState;

/// Counters of requests and of the time that questions took.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
}

// Both label sets are closed: a route is one of the router's own patterns, or `other`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

impl HttpMetrics {
    /// Registers `hearth_collector_http_requests_total` and
    /// `hearth_collector_http_request_duration_seconds` in a registry without prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Family::default();
        // 1 ms to 32 s: a statement may run 30 s.
        let seconds = Family::<RouteLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 2.0, 16))
        });
        registry.register(
            "hearth_collector_http_requests",
            "Requests answered, by route and class of status",
            requests.clone(),
        );
        registry.register_with_unit(
            "hearth_collector_http_request_duration",
            "Time from a request to its answer",
            Unit::Seconds,
            seconds.clone(),
        );
        Self { requests, seconds }
    }
}

/// Counts every request that passes.
pub(super) async fn count(
    State(state): State<QueryState>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = path.map_or_else(|| "other".to_owned(), |p| p.as_str().to_owned());
    let start = Instant::now();
    let response = next.run(request).await;
    let class = match response.status().as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    state
        .metrics
        .seconds
        .get_or_create(&RouteLabels { route: route.clone() })
        .observe(start.elapsed().as_secs_f64());
    state.metrics.requests.get_or_create(&RequestLabels { route, class }).inc();
    response
}
