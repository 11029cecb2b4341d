//! The HTTP surfaces, thin over one query core ([`crate::query`]).
//!
//! | path | what |
//! | --- | --- |
//! | `POST /v1/profile/ProfileTracing` | DeepFlow's API ([`deepflow`]) |
//! | `GET /api/v1/flamegraph`, `apps`, `diff`, `timeline`, `tags`, `tags/{tag}/values` | our own ([`api`]) |
//! | `GET /` | a page with the hottest apps ([`page`]) |
//! | `GET /healthz`, `/readyz`, `/metrics` | for machines ([`health`]) |

pub mod api;
pub mod browser;
pub mod deepflow;
pub mod health;
mod metrics;
pub mod page;
mod parameters;
mod permits;
mod reader;
mod ready;
mod reply;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::middleware;
use axum::routing::{get, post};
use axum::{Extension, Router};
use clickhouse::Client;
use prometheus_client::registry::Registry;

use crate::query::{Limits, QueryError, Store};
use permits::{Permit, Permits};
use ready::Readiness;

pub use metrics::HttpMetrics;
pub(crate) use parameters::{decode, encode};
pub use reader::Reader;
pub(crate) use reply::{invalid, not_answered, refused};

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct QueryState {
    pub(crate) store: Store,
    pub(crate) metrics: HttpMetrics,
    registry: Arc<Registry>,
    readiness: Readiness,
    permits: Arc<Permits>,
}

impl QueryState {
    /// Answers through `client` within `limits`; `/metrics` shows `registry`,
    /// in which `metrics` was registered by [`HttpMetrics::register`].
    pub fn new(client: Client, limits: Limits, metrics: HttpMetrics, registry: Arc<Registry>) -> Self {
        Self {
            store: Store::new(client, limits),
            metrics,
            registry,
            readiness: Readiness::default(),
            permits: Arc::new(Permits::new(&limits)),
        }
    }

    /// The right to ask one question: at once, or after a short wait.
    async fn permit(&self, reader: &Reader) -> Result<Permit<'_>, QueryError> {
        self.permits.of(reader.caller.as_ref()).await
    }
}

/// What machines ask for, alone.
pub fn for_machines(state: QueryState) -> Router {
    machines()
        .method_not_allowed_fallback(reply::no_such_method)
        .fallback(reply::no_such_path)
        .with_state(state)
}

fn machines() -> Router<QueryState> {
    health().route("/metrics", get(health::metrics))
}

fn health() -> Router<QueryState> {
    Router::new().route("/healthz", get(health::healthz)).route("/readyz", get(health::readyz))
}

/// What is asked of the store. Whoever serves it says for whom: by a [`Reader`] among the extensions of each request.
fn questions() -> Router<QueryState> {
    Router::new()
        .route(deepflow::PATH, post(deepflow::profile_tracing))
        .route("/api/v1/flamegraph", get(api::flamegraph::flamegraph))
        .route("/api/v1/apps", get(api::apps::apps))
        .route("/api/v1/diff", get(api::diff::diff))
        .route("/api/v1/timeline", get(api::timeline::timeline))
        .route("/api/v1/tags", get(api::tags::tags))
        .route("/api/v1/tags/{tag}/values", get(api::tags::values))
}

/// All routes, for readers who may see the same.
pub fn router(state: QueryState, reader: Reader) -> Router {
    finished(with_page().layer(Extension(reader)).merge(machines()), state)
}

/// All but `/metrics`, for readers who may see different rows: a [`Reader`] comes with each request.
pub fn for_readers(state: QueryState) -> Router {
    finished(with_page().merge(health()), state)
}

fn with_page() -> Router<QueryState> {
    Router::new().route("/", get(page::index)).route("/style.css", get(page::style)).merge(questions())
}

fn finished(router: Router<QueryState>, state: QueryState) -> Router {
    router
        .method_not_allowed_fallback(reply::no_such_method)
        .fallback(reply::no_such_path)
        .layer(middleware::from_fn_with_state(state.clone(), metrics::count))
        .with_state(state)
}

/// Now, in Unix seconds.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
