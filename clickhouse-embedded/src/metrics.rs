//! What `/metrics` shows.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum QueryEnd {
    /// It was answered.
    Ok,
    /// It failed, here or in the engine.
    Error,
    /// Its client went away before its end.
    Cancelled,
}

/// Labels of `hearth_clickhouse_queries_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryEndLabels {
    /// How it ended.
    pub outcome: QueryEnd,
}

/// The server's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Queries by how they ended.
    pub queries: Family<QueryEndLabels, Counter>,
    /// Queries that wait or run.
    pub in_flight: Gauge,
    /// Seconds from a request's head to its answer's end.
    pub seconds: Histogram,
    /// Bytes of statements and inserted data, decompressed.
    pub request_bytes: Counter,
    /// Bytes of results, before compression.
    pub result_bytes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hearth_clickhouse");
        let queries = Family::default();
        registry.register("queries", "Queries by how they ended", queries.clone());
        let in_flight = Gauge::default();
        registry.register("queries_in_flight", "Queries that wait or run", in_flight.clone());
        let seconds = Histogram::new(exponential_buckets(0.001, 4.0, 9));
        registry.register("query_seconds", "Time of a query in seconds", seconds.clone());
        let request_bytes = Counter::default();
        registry.register("request_bytes", "Bytes of statements and inserted data", request_bytes.clone());
        let result_bytes = Counter::default();
        registry.register("result_bytes", "Bytes of results before compression", result_bytes.clone());
        Self { registry, queries, in_flight, seconds, request_bytes, result_bytes }
    }
}

impl Metrics {
    /// The OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String cannot fail");
        text
    }
}
