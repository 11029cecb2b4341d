//! What the operator counts. Labels are from closed sets.

use std::sync::Mutex;
use std::sync::PoisonError;

use hearth_identity::Reason;
use hearth_tls::Refusals;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::hub::{Hub, Leadership};
use crate::index::Resource;

/// Why a stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another operator leads.
    NotLeading,
    /// Too many streams are open.
    TooMany,
    /// A report breaks the contract.
    Invalid,
    /// Whoever opened it is not proven to be the node's agent.
    Identity(Reason),
}

/// How a write to the API server went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Refused, or the server could not be reached.
    Error,
    /// No answer in time.
    Timeout,
}

/// What is written to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The status of a policy.
    Status,
    /// An Event.
    Event,
    /// The lease, read and written.
    Lease,
    /// The first policy.
    Install,
    /// CA and certificates, read and written.
    Certificates,
}

/// Which certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The CA that signs.
    Ca,
    /// That of this operator.
    Operator,
    /// That of the collector.
    Collector,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhichLabel {
    which: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    write: &'static str,
    outcome: &'static str,
}

/// Counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    streams_refused: Family<ReasonLabel, Counter>,
    watch_errors: Family<ResourceLabel, Counter>,
    objects_malformed: Family<ResourceLabel, Counter>,
    writes: Family<WriteLabels, Counter>,
    certificate_expires: Family<WhichLabel, Gauge>,
    certificate_failures: Counter,
    /// Configurations that were sent to nodes.
    pub configs_sent: Counter,
    /// Those that a node refused.
    pub configs_refused: Counter,
    /// Connections that were refused before any request.
    pub tls_refused: Refusals,
    leading: Gauge,
    streams: Gauge,
    nodes: Gauge,
    policies: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hearth_operator");
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            streams_refused: Family::default(),
            watch_errors: Family::default(),
            objects_malformed: Family::default(),
            writes: Family::default(),
            certificate_expires: Family::default(),
            certificate_failures: Counter::default(),
            configs_sent: Counter::default(),
            configs_refused: Counter::default(),
            tls_refused: Refusals::default(),
            leading: Gauge::default(),
            streams: Gauge::default(),
            nodes: Gauge::default(),
            policies: Gauge::default(),
        };
        registry.register("streams_refused", "Streams refused, by reason", metrics.streams_refused.clone());
        registry.register(
            "watch_errors",
            "Watches that failed and began again",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "objects_malformed",
            "Objects of the API server that could not be read, each time they came",
            metrics.objects_malformed.clone(),
        );
        registry.register("api_writes", "Writes to the API server, by outcome", metrics.writes.clone());
        registry.register(
            "certificate_expires_timestamp_seconds",
            "When certificates expire that operators make, in seconds since 1970",
            metrics.certificate_expires.clone(),
        );
        registry.register(
            "certificate_failures",
            "Looks after certificates that ended with an error",
            metrics.certificate_failures.clone(),
        );
        registry.register("configs_sent", "Configurations sent to nodes", metrics.configs_sent.clone());
        registry.register(
            "configs_refused",
            "Configurations that nodes refused",
            metrics.configs_refused.clone(),
        );
        metrics.tls_refused.register(&mut registry);
        registry.register("leading", "1: this operator leads", metrics.leading.clone());
        registry.register("streams", "Nodes with a stream", metrics.streams.clone());
        registry.register("nodes", "Nodes of the cluster", metrics.nodes.clone());
        registry.register("policies", "Policies of both kinds", metrics.policies.clone());
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl Metrics {
    /// A stream was refused.
    pub fn refused(&self, refusal: Refusal) {
        let reason = match refusal {
            Refusal::NotLeading => "not_leading",
            Refusal::TooMany => "too_many",
            Refusal::Invalid => "invalid",
            Refusal::Identity(Reason::NoToken) => "no_token",
            Refusal::Identity(Reason::BadToken) => "bad_token",
            Refusal::Identity(Reason::Expired) => "token_expired",
            Refusal::Identity(Reason::OtherAudience) => "other_audience",
            Refusal::Identity(Reason::OtherAccount) => "other_account",
            Refusal::Identity(Reason::NoNode) => "no_node",
            Refusal::Identity(Reason::OtherNode) => "other_node",
            Refusal::Identity(Reason::Unavailable) => "api_server_away",
        };
        self.streams_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A watch failed; it begins again.
    pub fn watch_failed(&self, resource: Resource) {
        self.watch_errors.get_or_create(&ResourceLabel { resource: resource.as_str() }).inc();
    }

    /// An object could not be read.
    pub fn malformed(&self, resource: Resource) {
        self.objects_malformed.get_or_create(&ResourceLabel { resource: resource.as_str() }).inc();
    }

    /// Something was written, or not.
    pub fn wrote(&self, write: Write, outcome: Outcome) {
        let write = match write {
            Write::Status => "status",
            Write::Event => "event",
            Write::Lease => "lease",
            Write::Install => "install",
            Write::Certificates => "certificates",
        };
        let outcome = match outcome {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Timeout => "timeout",
        };
        self.writes.get_or_create(&WriteLabels { write, outcome }).inc();
    }

    /// A certificate is valid until then, in seconds since 1970.
    pub fn certificate_expires(&self, which: Which, until: i64) {
        let which = match which {
            Which::Ca => "ca",
            Which::Operator => "operator",
            Which::Collector => "collector",
        };
        self.certificate_expires.get_or_create(&WhichLabel { which }).set(until);
    }

    /// Certificates could not be looked after.
    pub fn certificates_failed(&self) {
        self.certificate_failures.inc();
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn encode(&self, hub: &Hub) -> Result<String, std::fmt::Error> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let leading = hub.leadership() == Leadership::Leading;
        {
            let state = hub.lock();
            self.leading.set(i64::from(leading));
            self.streams.set(count(state.nodes.len()));
            self.nodes.set(count(state.index.nodes().count()));
            self.policies.set(count(state.index.policies().count()));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }
}
