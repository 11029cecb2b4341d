//! What the HTTPS port counts about itself.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a request was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Reason {
    /// It says nothing of who asks.
    NoCredentials,
    /// The API server does not take its token.
    BadToken,
    /// It has the headers of a front proxy and is none.
    ProxyUntrusted,
    /// Who asks has no right.
    Forbidden,
    /// The API server does not say who asks, or what they may.
    ApiServerAway,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

/// Counters of the HTTPS port. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AccessMetrics {
    refused: Family<Labels, Counter>,
    /// Connections that are open.
    pub connections: Gauge,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NoCredentials, Self::BadToken, Self::ProxyUntrusted, Self::Forbidden, Self::ApiServerAway];
}

impl AccessMetrics {
    /// Registers them in a registry without prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in Reason::ALL {
            metrics.count(reason);
        }
        let registry = registry.sub_registry_with_prefix("hearth_collector_https");
        registry.register("refused", "Requests not let through, by reason", metrics.refused.clone());
        registry.register("connections", "Connections that are open", metrics.connections.clone());
        metrics
    }

    /// A request was not let through.
    pub fn refused(&self, reason: Reason) {
        self.refused.get_or_create(&Labels { reason }).inc();
    }

    /// How many were not, for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.refused.get_or_create(&Labels { reason }).get()
    }
}
