//! Counters of the agent, for Prometheus and for its own log line.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use hearth_node_agent_ebpf::record::{EXITS, Exit};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::export::client::Exporter;
use crate::process::ProcessStats;
use crate::symbols::SymbolStats;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExitLabel {
    exit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FactLabel {
    fact: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CapabilityLabel {
    capability: String,
}

/// What the watch of this node's pods brought.
#[derive(Clone, Copy, Debug)]
pub enum PodEvent {
    /// All pods.
    Listed,
    /// A pod, new or changed.
    Changed,
    /// The end of one.
    Deleted,
    /// A pod that cannot be read.
    Malformed,
    /// The watch was too old to go on.
    Expired,
    /// The API server was not reached, or refused.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabel {
    bound: &'static str,
}

/// What the agent counts. Cheap to read from any thread.
pub struct Metrics {
    registry: Mutex<Registry>,
    exits: Family<ExitLabel, Counter>,
    batches: Family<OutcomeLabel, Counter>,
    bytes_sent: Counter,
    queued_batches: Gauge,
    queued_bytes: Gauge,
    frames: Family<KindLabel, Counter>,
    files_unread: Family<ReasonLabel, Counter>,
    facts_unread: Family<FactLabel, Counter>,
    bounds_reached: Family<BoundLabel, Counter>,
    pod_events: Family<EventLabel, Counter>,
    perf_map_noise: Counter,
    processes_forgotten: Counter,
    /// Rows sent to the queue.
    pub rows: Counter,
    /// Samples in those rows.
    pub samples: Counter,
    /// Samples whose stack could not be taken; their time is in rows.
    pub stacks_lost: Counter,
    /// Samples over the budget of rows; their time is in rows.
    pub over_budget: Counter,
    /// Ticks of processes that found the kernel's table of counts full; their time is in rows.
    pub uncounted: Counter,
    /// Side-band records that the kernel dropped.
    pub sideband_lost: Counter,
    /// Records that could not be understood.
    pub bad_records: Counter,
    /// Samples of batches that were given up.
    pub samples_dropped: Counter,
    /// Decisions for which the kernel's table had no room.
    pub decisions_full: Counter,
    /// Configurations that were refused.
    pub configs_refused: Counter,
    /// Starts that found the mark of one that did not end well, by what had happened.
    unclean_starts: Family<KindLabel, Counter>,
    /// 1 for the reason why nothing is sampled although policies want it.
    detached: Family<ReasonLabel, Gauge>,
    /// 1 for each capability that the agent has not and would use.
    missing_capability: Family<CapabilityLabel, Gauge>,
    /// By what the rate is divided, so that the agent stays within its share of the CPUs.
    pub slowdown: Gauge,
    /// Processes that match a policy now.
    pub matched: Gauge,
    /// Pods of this node that are known.
    pub pods: Gauge,
    /// Pods that processes wait for.
    pub pods_awaited: Gauge,
    /// Ticks per second and CPU.
    pub node_rate: Gauge,
    /// Whether the sampler is attached, or is not to be; for `/readyz`.
    pub ready: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hearth_agent");
        let metrics = Self {
            exits: Family::default(),
            batches: Family::default(),
            bytes_sent: Counter::default(),
            samples_dropped: Counter::default(),
            queued_batches: Gauge::default(),
            queued_bytes: Gauge::default(),
            decisions_full: Counter::default(),
            frames: Family::default(),
            files_unread: Family::default(),
            facts_unread: Family::default(),
            bounds_reached: Family::default(),
            pod_events: Family::default(),
            perf_map_noise: Counter::default(),
            processes_forgotten: Counter::default(),
            rows: Counter::default(),
            samples: Counter::default(),
            stacks_lost: Counter::default(),
            over_budget: Counter::default(),
            uncounted: Counter::default(),
            sideband_lost: Counter::default(),
            bad_records: Counter::default(),
            configs_refused: Counter::default(),
            unclean_starts: Family::default(),
            detached: Family::default(),
            missing_capability: Family::default(),
            slowdown: Gauge::default(),
            matched: Gauge::default(),
            pods: Gauge::default(),
            pods_awaited: Gauge::default(),
            node_rate: Gauge::default(),
            ready: AtomicU64::new(0),
            registry: Mutex::new(Registry::default()),
        };
        let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
        counter("rows", "Rows made", &metrics.rows);
        counter("samples", "Samples in rows", &metrics.samples);
        counter(
            "stacks_lost",
            "Samples whose stack could not be taken; their time is kept",
            &metrics.stacks_lost,
        );
        counter("over_budget", "Samples beyond the budget of rows; their time is kept", &metrics.over_budget);
        counter(
            "uncounted",
            "Ticks that found the kernel's table full; their time is kept",
            &metrics.uncounted,
        );
        counter("sideband_lost", "Side-band records that the kernel dropped", &metrics.sideband_lost);
        counter("bad_records", "Records of the kernel that were not understood", &metrics.bad_records);
        counter("configs_refused", "Configurations refused; the one before stayed", &metrics.configs_refused);
        counter("sent_bytes", "Bytes of batches sent to the collector", &metrics.bytes_sent);
        counter("samples_dropped", "Samples of batches that were given up", &metrics.samples_dropped);
        counter(
            "processes_forgotten",
            "Processes forgotten because there were too many; each is read again when it is sampled",
            &metrics.processes_forgotten,
        );
        counter(
            "decisions_full",
            "Decisions without room in the kernel's table; such a process costs a stack each tick",
            &metrics.decisions_full,
        );
        let help =
            "User frames, and kernel frames without a name, of different stacks: each stack once a window";
        registry.register("frames", help, metrics.frames.clone());
        let help = "Batches that wait for the collector's acknowledgement";
        registry.register("queued_batches", help, metrics.queued_batches.clone());
        let help = "Memory of those batches, estimated";
        registry.register("queued_bytes", help, metrics.queued_bytes.clone());
        let help = "Mapped files without symbols for the agent, by reason";
        registry.register("files_unread", help, metrics.files_unread.clone());
        let help = "What could not be read of processes, mostly because they were gone, by what it is";
        registry.register("facts_unread", help, metrics.facts_unread.clone());
        let help = "What was left out, cut or given back to stay within a bound on memory, by the bound";
        registry.register("bounds_reached", help, metrics.bounds_reached.clone());
        let help = "What the watch of this node's pods brought";
        registry.register("pod_events", help, metrics.pod_events.clone());
        let help = "Lines of perf maps that were not understood";
        registry.register("perf_map_noise_lines", help, metrics.perf_map_noise.clone());
        registry.register("batches", "Batches by what became of them", metrics.batches.clone());
        registry.register("ticks", "Ticks of the sampler by how each ended", metrics.exits.clone());
        registry.register("matched_processes", "Processes that match a policy", metrics.matched.clone());
        registry.register("pods", "Pods of this node that are known", metrics.pods.clone());
        let help = "Pods of which something is not known yet that processes wait for, ten seconds at most";
        registry.register("pods_awaited", help, metrics.pods_awaited.clone());
        let help = "Samples per second and CPU that are taken now; 0: none";
        registry.register("effective_frequency", help, metrics.node_rate.clone());
        let help = "By what the rate is divided to stay within --max-cpu-share";
        registry.register("slowdown", help, metrics.slowdown.clone());
        let help = "Starts that found the mark of an agent that did not end well, by what had happened";
        registry.register("unclean_starts", help, metrics.unclean_starts.clone());
        let help = "1 for the reason why nothing is sampled although policies want it";
        registry.register("detached", help, metrics.detached.clone());
        let help = "1 for each capability that is missing; the log says what does not work then";
        registry.register("missing_capability", help, metrics.missing_capability.clone());
        metrics.slowdown.set(1);
        *metrics.registry.lock().expect("nobody else has it yet") = registry;
        metrics
    }
}

impl Metrics {
    /// A sampler begins, and counts from zero what [`Self::set_exits`] and the like take over.
    pub fn begin_sampler(&self) {
        self.exits.clear();
        self.frames.clear();
        self.files_unread.clear();
        self.facts_unread.clear();
        self.bounds_reached.clear();
        for counter in [&self.perf_map_noise, &self.processes_forgotten] {
            counter.inner().store(0, Ordering::Relaxed);
        }
        self.slowdown.set(1);
    }

    /// Counts a start that found a mark, by what had happened: `reboot` or `killed`.
    pub fn count_unclean_start(&self, kind: &'static str) {
        self.unclean_starts.get_or_create(&KindLabel { kind }).inc();
    }

    /// Why nothing is sampled although policies want it; `None`: it is sampled, or nobody wants it.
    pub fn set_detached(&self, reason: Option<&'static str>) {
        self.detached.clear();
        if let Some(reason) = reason {
            self.detached.get_or_create(&ReasonLabel { reason }).set(1);
        }
    }

    /// A capability is missing, by its name: `CAP_SYSLOG`.
    pub fn set_missing(&self, capability: &str) {
        self.missing_capability.get_or_create(&CapabilityLabel { capability: capability.to_owned() }).set(1);
    }

    /// Whether the node's label or the off file keeps it from sampling.
    pub fn is_off(&self) -> bool {
        self.detached.get(&ReasonLabel { reason: "off" }).is_some()
    }

    /// Takes over the kernel's counters, which only grow.
    pub fn set_exits(&self, totals: &[u64; EXITS as usize]) {
        for exit in Exit::ALL {
            let counter = self.exits.get_or_create(&ExitLabel { exit: exit.label() });
            follow(&counter, totals[*exit as usize]);
        }
    }

    /// Takes over what the exporter counted, and the batches and bytes in its queue.
    pub fn set_export(&self, exporter: &Exporter) {
        let counters = exporter.counters();
        let (batches, bytes) = exporter.queued();
        self.queued_batches.set(i64::try_from(batches).unwrap_or(i64::MAX));
        self.queued_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let follow = |counter: &Counter, total: &AtomicU64| follow(counter, total.load(Ordering::Relaxed));
        for (outcome, total) in [
            ("sent", &counters.batches_sent),
            ("stored", &counters.batches_stored),
            ("too_old", &counters.batches_too_old),
            ("dropped", &counters.batches_dropped),
            ("refused", &counters.batches_refused),
        ] {
            follow(&self.batches.get_or_create(&OutcomeLabel { outcome }), total);
        }
        follow(&self.bytes_sent, &counters.bytes_sent);
        follow(&self.samples_dropped, &counters.samples_dropped);
    }

    /// Takes over what naming counted.
    pub fn set_naming(&self, stats: &SymbolStats) {
        for (kind, total) in [
            ("all", stats.frames),
            ("without_symbol", stats.without_symbol),
            ("unresolved_jit", stats.unresolved_jit),
            ("unknown", stats.unknown),
            ("over_unknown_budget", stats.over_unknown_budget),
            ("unknown_kernel", stats.unknown_kernel),
        ] {
            follow(&self.frames.get_or_create(&KindLabel { kind }), total);
        }
        for (reason, total) in [
            ("denied", stats.unreachable.denied),
            ("gone", stats.unreachable.gone),
            ("replaced", stats.unreachable.replaced),
            ("other", stats.unreachable.other),
            ("not_elf", stats.modules.not_elf),
            ("unsupported", stats.modules.unsupported),
            ("damaged", stats.modules.damaged),
            ("read_error", stats.modules.read_errors),
            ("perf_map_refused", stats.perf_maps_refused),
        ] {
            follow(&self.files_unread.get_or_create(&ReasonLabel { reason }), total);
        }
        for (bound, total) in [
            ("perf_map", stats.perf_maps_truncated),
            ("symbols_per_file", stats.modules.tables_truncated),
            ("symbol_tables", stats.modules.tables_dropped),
            ("open_files", stats.modules.modules_dropped),
        ] {
            follow(&self.bounds_reached.get_or_create(&BoundLabel { bound }), total);
        }
        follow(&self.perf_map_noise, stats.perf_map_noise);
    }

    /// Takes over what was counted of processes.
    pub fn set_processes(&self, stats: &ProcessStats) {
        let ProcessStats {
            forgotten,
            mappings_dropped,
            cmdlines_unread,
            exes_unread,
            maps_unread,
            cgroups_unread,
        } = *stats;
        for (fact, total) in [
            ("cmdline", cmdlines_unread),
            ("exe", exes_unread),
            ("maps", maps_unread),
            ("cgroup", cgroups_unread),
        ] {
            follow(&self.facts_unread.get_or_create(&FactLabel { fact }), total);
        }
        follow(&self.bounds_reached.get_or_create(&BoundLabel { bound: "mappings" }), mappings_dropped);
        follow(&self.processes_forgotten, forgotten);
    }

    /// Counts what the watch of pods brought.
    pub fn pod_event(&self, event: PodEvent) {
        let event = match event {
            PodEvent::Listed => "listed",
            PodEvent::Changed => "changed",
            PodEvent::Deleted => "deleted",
            PodEvent::Malformed => "malformed",
            PodEvent::Expired => "expired",
            PodEvent::Failed => "failed",
        };
        self.pod_events.get_or_create(&EventLabel { event }).inc();
    }

    /// Whether the sampler works: attached, or without a policy that asks for it.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) != 0
    }

    /// The text format of Prometheus.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }
}

/// Brings a counter up to a total that is kept elsewhere and only grows, whoever else does so at that moment.
fn follow(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::ModuleStats;

    #[test]
    fn what_naming_could_not_do_is_exported() {
        let metrics = Metrics::default();
        let modules = ModuleStats {
            tables_truncated: 6,
            tables_dropped: 7,
            modules_dropped: 8,
            ..ModuleStats::default()
        };
        let stats = SymbolStats {
            frames: 9,
            unknown: 2,
            perf_maps_refused: 3,
            perf_maps_truncated: 5,
            perf_map_noise: 11,
            modules,
            ..SymbolStats::default()
        };
        let processes = ProcessStats {
            forgotten: 4,
            mappings_dropped: 12,
            cmdlines_unread: 13,
            exes_unread: 14,
            maps_unread: 15,
            cgroups_unread: 16,
        };
        for _ in 0..2 {
            metrics.set_naming(&stats);
            metrics.set_processes(&processes);
        }
        let text = metrics.encode();
        for line in [
            "hearth_agent_frames_total{kind=\"all\"} 9\n",
            "hearth_agent_frames_total{kind=\"unknown\"} 2\n",
            "hearth_agent_files_unread_total{reason=\"perf_map_refused\"} 3\n",
            "hearth_agent_processes_forgotten_total 4\n",
            "hearth_agent_bounds_reached_total{bound=\"perf_map\"} 5\n",
            "hearth_agent_bounds_reached_total{bound=\"symbols_per_file\"} 6\n",
            "hearth_agent_bounds_reached_total{bound=\"symbol_tables\"} 7\n",
            "hearth_agent_bounds_reached_total{bound=\"open_files\"} 8\n",
            "hearth_agent_bounds_reached_total{bound=\"mappings\"} 12\n",
            "hearth_agent_perf_map_noise_lines_total 11\n",
            "hearth_agent_facts_unread_total{fact=\"cmdline\"} 13\n",
            "hearth_agent_facts_unread_total{fact=\"exe\"} 14\n",
            "hearth_agent_facts_unread_total{fact=\"maps\"} 15\n",
            "hearth_agent_facts_unread_total{fact=\"cgroup\"} 16\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_way_a_tick_can_end_is_exported() {
        let metrics = Metrics::default();
        let mut totals = [0; EXITS as usize];
        (1..).zip(&mut totals).for_each(|(value, total)| *total = value);
        metrics.set_exits(&totals);
        metrics.set_exits(&totals);
        let text = metrics.encode();
        for (value, exit) in (1..).zip(Exit::ALL) {
            let line = format!("hearth_agent_ticks_total{{exit=\"{}\"}} {value}\n", exit.label());
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
