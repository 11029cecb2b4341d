//! Hearth, bpftrace and perf, started alike: each in a cgroup of its own, measured from its exec.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;

use crate::Bench;
use crate::bpf::{Runs, programs_of};
use crate::cgroup::Cgroup;
use crate::child::{Running, wait_until};
use crate::sink::Sink;

/// Which profiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hearth,
    Bpftrace,
    Perf,
}

/// What it is to profile, at 99 Hz.
pub(crate) enum Target<'a> {
    Everything,
    Process {
        comm: &'a str,
        pid: u32,
    },
    /// What an operator says of this node; Hearth's alone.
    Node {
        name: &'a str,
        operator: &'a str,
        kubeconfig: &'a Path,
    },
}

/// A profiler at work.
pub(crate) struct Profiler {
    kind: Kind,
    running: Running,
    /// After `running`: a cgroup can only be removed when it is empty.
    pub(crate) group: Cgroup,
    programs: BTreeSet<u32>,
    /// CPU time from its exec until it sampled.
    pub(crate) start_cpu: Duration,
    metrics: String,
    log: PathBuf,
}

impl Profiler {
    /// Starts it and waits until it samples. Hearth sends its windows of `window` to `sink`.
    pub(crate) fn start(
        bench: &Bench,
        kind: Kind,
        target: &Target<'_>,
        sink: &Sink,
        window: &str,
    ) -> anyhow::Result<Self> {
        let group = Cgroup::create()?;
        let dir = bench.dir.path();
        let log = dir.join(format!("{kind:?}.log"));
        let metrics = format!("127.0.0.1:{}", free_port()?);
        let command = match kind {
            Kind::Hearth => {
                let mut command = group.command(&bench.bin.join("hearth-node-agent"));
                if let Target::Node { name, operator, kubeconfig } = target {
                    command.args(["--node", name, "--operator", operator]).env("KUBECONFIG", kubeconfig);
                } else {
                    // In a folder of its own: the agent looks at what changes beside it.
                    let folder = dir.join("policy");
                    std::fs::create_dir_all(&folder)?;
                    let policy = folder.join("policy.yaml");
                    std::fs::write(&policy, policy_for(target))?;
                    command.arg("--policy").arg(policy);
                }
                command.args(["--collector", sink.url(), "--window", window, "--metrics", &metrics]);
                // What it takes is measured here, not limited.
                command.args(["--max-cpu-share", "100"]).arg("--state-dir").arg(dir.join("state"));
                command
            }
            Kind::Bpftrace => bpftrace(&group, target),
            Kind::Perf => perf(&group, &dir.join("perf.data")),
        };
        let mut running = Running::start(command, &format!("{kind:?}"), &log)?;
        let pid = running.pid();
        wait_until(&format!("{kind:?}"), || {
            running.check_alive(&log)?;
            samples(kind, pid, &log)
        })?;
        let start_cpu = group.cpu()?;
        let programs = programs_of(pid)?;
        anyhow::ensure!(
            kind == Kind::Perf || !programs.is_empty(),
            "{kind:?} holds no BPF program open: its time cannot be measured"
        );
        Ok(Self { kind, running, group, programs, start_cpu, metrics, log })
    }

    /// Runs of its BPF programs so far.
    pub(crate) fn runs(&self) -> anyhow::Result<Runs> {
        Runs::of(&self.programs)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The agent's counters of how ticks ended, by label.
    pub(crate) fn exits(&self, bench: &Bench) -> anyhow::Result<BTreeMap<String, u64>> {
        let url = format!("http://{}/metrics", self.metrics);
        let text = bench.runtime.block_on(async { bench.http.get(&url).send().await?.text().await })?;
        let exits = text.lines().filter_map(|line| {
            let (label, value) = line.strip_prefix("hearth_agent_ticks_total{exit=\"")?.split_once("\"} ")?;
            Some((label.to_owned(), value.parse().ok()?))
        });
        Ok(exits.collect())
    }

    /// Ends it in its ordinary way; answers what it wrote.
    pub(crate) fn stop(self) -> anyhow::Result<String> {
        self.running.stop(if self.kind == Kind::Hearth { Signal::TERM } else { Signal::INT })?;
        std::fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }
}

fn policy_for(target: &Target<'_>) -> String {
    let regex = match target {
        Target::Everything | Target::Node { .. } => ".*".to_owned(),
        Target::Process { comm, .. } => format!("^{comm}$"),
    };
    format!(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata:\n  name: bench\n\
         spec:\n  regex: '{regex}'\n  hostProcesses: true\n  frequency: 99\n"
    )
}

fn bpftrace(group: &Cgroup, target: &Target<'_>) -> Command {
    let filter = match target {
        Target::Everything | Target::Node { .. } => String::new(),
        Target::Process { pid, .. } => format!("/pid == {pid}/ "),
    };
    let mut command = group.command(Path::new("bpftrace"));
    command.args(["-e", &format!("profile:hz:99 {filter}{{ @[ustack, kstack] = count(); }}")]);
    // The map of stacks is sized for a minute of different ones, as the default is.
    command
}

fn perf(group: &Cgroup, output: &Path) -> Command {
    let mut command = group.command(Path::new("perf"));
    command.args(["record", "-q", "-F", "99", "-a", "-g", "-o"]).arg(output);
    command
}

/// Whether the profiler takes samples by now.
fn samples(kind: Kind, pid: u32, log: &Path) -> anyhow::Result<bool> {
    match kind {
        Kind::Hearth => {
            let log = std::fs::read_to_string(log)?;
            Ok(log.lines().any(|line| line.contains("sampling ") && line.contains(" CPUs at ")))
        }
        // One event per CPU, made when the programs are loaded. Before its exec it is a shell without.
        Kind::Bpftrace | Kind::Perf => {
            let events = std::fs::read_dir(format!("/proc/{pid}/fd"))?
                .flatten()
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .filter(|link| link.as_os_str() == "anon_inode:[perf_event]");
            let enough = events.count() >= std::thread::available_parallelism()?.get();
            Ok(enough && (kind == Kind::Perf || !programs_of(pid)?.is_empty()))
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
