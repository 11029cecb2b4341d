//! What the builder counts about itself.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::Job;

/// By what a rollup sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Step {
    /// Minutes: an hour was built.
    Minute,
    /// Hours: a day was built.
    Hour,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    step: Step,
}

/// Counters of the builder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RollupMetrics {
    built: Family<Labels, Counter>,
    /// Looks and builds that failed.
    pub(super) failures: Counter,
    /// Hours and days that could be built now.
    pub(super) waiting: Gauge,
    seconds: Histogram,
}

impl Default for RollupMetrics {
    fn default() -> Self {
        Self {
            built: Family::default(),
            failures: Counter::default(),
            waiting: Gauge::default(),
            seconds: Histogram::new(exponential_buckets(0.01, 4.0, 9)),
        }
    }
}

impl RollupMetrics {
    /// Registers them in a registry without prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("hearth_collector");
        registry.register("rollups_built", "Hours and days that were rolled up", metrics.built.clone());
        registry.register(
            "rollup_failures",
            "Attempts to roll up that failed and are made again",
            metrics.failures.clone(),
        );
        registry.register(
            "rollups_waiting",
            "Closed hours and days that are not rolled up",
            metrics.waiting.clone(),
        );
        registry.register_with_unit(
            "rollup",
            "Time of building an hour or a day",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
    }

    /// One was built.
    pub(super) fn built(&self, job: Job, seconds: f64) {
        let step = match job {
            Job::Hour(_) => Step::Minute,
            Job::Day(_) => Step::Hour,
        };
        self.built.get_or_create(&Labels { step }).inc();
        self.seconds.observe(seconds);
    }
}
