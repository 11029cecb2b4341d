//! What the agent needs of the machine, said in one clear line each.

use std::path::Path;

use caps::{CapSet, Capability};

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Types of the running kernel, from which the verifier knows what a task is.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The agent cannot work: each line says what is missing and what to do.
    pub fatal: Vec<String>,
    /// It works without: each line says what is missing and what does not work then.
    pub lacking: Vec<String>,
    /// Other profilers need these; each line says how this one does without.
    pub harmless: Vec<String>,
    /// The capabilities among what is missing.
    pub capabilities: Vec<Capability>,
}

/// The machine as far as the agent depends on it; read by [`Machine::read`].
#[derive(Debug)]
pub struct Machine {
    has: Vec<Capability>,
    kernel_btf: bool,
    pid_namespace: String,
    modules: bool,
    tracefs: bool,
    hardware_events: bool,
}

impl Machine {
    /// Looks at this process's capabilities and at the kernel.
    pub fn read() -> Self {
        let has =
            caps::read(None, CapSet::Effective).map(|set| set.into_iter().collect()).unwrap_or_default();
        let pid_namespace = std::fs::read_link("/proc/self/ns/pid")
            .map_or_else(|error| error.to_string(), |link| link.to_string_lossy().into_owned());
        Self {
            has,
            kernel_btf: Path::new(KERNEL_BTF).exists(),
            pid_namespace,
            modules: Path::new("/proc/modules").exists(),
            tracefs: Path::new("/sys/kernel/tracing/events").exists(),
            hardware_events: Path::new("/sys/bus/event_source/devices/cpu").exists(),
        }
    }

    /// What follows from it.
    pub fn check(&self) -> Findings {
        let mut findings = Findings::default();
        for (capability, purpose) in NEEDED {
            if !self.has(*capability) && !self.has(Capability::CAP_SYS_ADMIN) {
                findings.fatal.push(format!("needs {capability}: {purpose}; run as root or grant it"));
                findings.capabilities.push(*capability);
            }
        }
        for (capability, without) in WANTED {
            let covered =
                *capability == Capability::CAP_CHECKPOINT_RESTORE && self.has(Capability::CAP_SYS_ADMIN);
            if !self.has(*capability) && !covered {
                findings.lacking.push(format!("{capability} is missing: {without}"));
                findings.capabilities.push(*capability);
            }
        }
        if !self.kernel_btf {
            findings.fatal.push(format!(
                "needs a kernel with BTF: {KERNEL_BTF} is missing; use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
            ));
        }
        if self.pid_namespace != INITIAL_PID_NAMESPACE {
            findings.fatal.push(format!(
                "needs the host's pid namespace: this one is {}; in a container, set hostPID: true",
                self.pid_namespace
            ));
        }
        if !self.has(Capability::CAP_SYS_RESOURCE) {
            let line = "no CAP_SYS_RESOURCE: the limit of locked memory stays; kernels from 5.11 on do not count maps by it";
            findings.harmless.push(line.into());
        }
        if !self.modules {
            findings
                .harmless
                .push("no /proc/modules: functions of modules are named from /proc/kallsyms".into());
        }
        if !self.tracefs {
            findings.harmless.push("no tracefs: raw tracepoints do without it".into());
        }
        if !self.hardware_events {
            findings.harmless.push("no hardware counters: samples are taken by cpu-clock".into());
        }
        findings
    }

    fn has(&self, capability: Capability) -> bool {
        self.has.contains(&capability)
    }
}

const NEEDED: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "to load BPF programs"),
    (Capability::CAP_PERFMON, "to sample every CPU and to read stacks"),
];

const WANTED: &[(Capability, &str)] = &[
    (
        Capability::CAP_SYS_PTRACE,
        "functions of other users' processes, and of those with more capabilities, have no names",
    ),
    (Capability::CAP_DAC_READ_SEARCH, "files that only other users may read cannot be named"),
    (Capability::CAP_SYSLOG, "kernel functions show as [k] [unknown]"),
    (Capability::CAP_CHECKPOINT_RESTORE, "deleted binaries cannot be named"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Machine {
        Machine {
            has: NEEDED
                .iter()
                .chain(WANTED)
                .map(|(capability, _)| *capability)
                .chain([Capability::CAP_SYS_RESOURCE])
                .collect(),
            kernel_btf: true,
            pid_namespace: INITIAL_PID_NAMESPACE.into(),
            modules: true,
            tracefs: true,
            hardware_events: true,
        }
    }

    #[test]
    fn a_good_machine_gives_nothing_to_say() {
        assert_eq!(good().check(), Findings::default());
    }

    #[test]
    fn each_capability_is_named_with_what_it_is_for() {
        for (capability, _) in NEEDED.iter().chain(WANTED) {
            let mut machine = good();
            machine.has.retain(|has| has != capability);
            let findings = machine.check();
            let lines: Vec<_> = findings.fatal.iter().chain(&findings.lacking).collect();
            assert_eq!(lines.len(), 1, "one line for {capability}");
            assert!(lines[0].contains(&capability.to_string()), "{lines:?}");
            assert_eq!(findings.capabilities, [*capability]);
        }
    }

    #[test]
    fn sys_admin_stands_for_the_finer_ones() {
        let machine = Machine { has: vec![Capability::CAP_SYS_ADMIN], ..good() };
        assert_eq!(machine.check().fatal, Vec::<String>::new());
    }

    #[test]
    fn no_btf_and_a_foreign_pid_namespace_are_fatal() {
        let machine = Machine { kernel_btf: false, pid_namespace: "pid:[1]".into(), ..good() };
        let fatal = machine.check().fatal;
        assert!(fatal[0].contains("BTF") && fatal[1].contains("hostPID"), "{fatal:?}");
    }

    #[test]
    fn the_limit_of_locked_memory_stays_where_nobody_may_raise_it() {
        let mut machine = good();
        machine.has.retain(|has| *has != Capability::CAP_SYS_RESOURCE);
        let Findings { fatal, lacking, harmless, capabilities } = machine.check();
        assert!(fatal.is_empty() && lacking.is_empty() && capabilities.is_empty());
        assert!(harmless.len() == 1 && harmless[0].starts_with("no CAP_SYS_RESOURCE: "), "{harmless:?}");
    }

    #[test]
    fn what_is_missing_without_harm_is_said_too() {
        let machine = Machine { modules: false, tracefs: false, hardware_events: false, ..good() };
        assert_eq!(machine.check().harmless.len(), 3);
    }
}
