//! An agent with many pods on its node.

use std::time::{Duration, Instant};

use hearth_e2e::Program;
use hearth_e2e::cluster::{Cluster, Turn};
use hearth_e2e::hearth::{install_kinds, program_image};
use hearth_e2e::operator::Identity;

use crate::Bench;
use crate::bpf::measure_runs;
use crate::child::Running;
use crate::profiler::{Kind, Profiler, Target};
use crate::sink::Sink;
use crate::table::{Table, median};

/// Deployments of ten pods that sleep; two more pods are busy.
const IDLE: usize = 25;
const PODS: usize = IDLE * 10;
const NODE: &str = "node1";
const IMAGE: &str = "kc.local/bench:1";

/// An image of one small program: with an argument it computes, without it wakes up once in a while.
const SOURCE: &str = "FUNCTION void work(void) { BURN(200000); }
    FUNCTION void serve(void) { for (;;) work(); }
    int main(int argc, char **argv) { if (argc > 1) serve(); for (;;) sleep(1); }";

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let turn = Turn::wait();
    let cluster = Cluster::up(&turn, 1);
    install_kinds(&cluster);
    program_image(&cluster, IMAGE, &Program::compile("benchpod", SOURCE).path(), &[]);
    cluster.kubectl(&["create", "namespace", "hearth"]);
    let identity = Identity::new("operator");
    let mut operator = std::process::Command::new(bench.bin.join("hearth-operator"));
    operator.args(identity.arguments("hearth")).env("KUBECONFIG", cluster.kubeconfig());
    let _operator = Running::start(operator, "operator", &bench.dir.path().join("operator.log"))?;
    cluster.apply(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata: {name: all-pods}\n\
         spec: {podSelector: {}, frequency: 99, appService: workload}\n",
    );
    for number in 0..IDLE {
        cluster.apply(&deployment(&format!("idle-{number}"), 10, "[/benchpod]"));
    }
    wait_until_ready(&cluster, PODS)?;

    let _measuring = measure_runs()?;
    let idle = rounds(bench, &cluster, &identity)?;
    cluster.apply(&deployment("busy", 2, "[/benchpod, work]"));
    wait_until_ready(&cluster, PODS + 2)?;
    let busy = rounds(bench, &cluster, &identity)?;
    for (what, costs) in [("all asleep", idle), ("and two of 252 that keep both cores busy", busy)] {
        let Costs { user, bpf, start, memory } = costs;
        table.row(
            &format!("agent with {PODS} pods on its node, all profiled at 99 Hz, {what}"),
            "≤ 0.3 % of a core per core, ≤ 64 MiB",
            &format!(
                "{:.3} % ({:.3} its process, {:.3} its BPF programs), {:.1} MiB, {:.2} s of CPU until it samples",
                median(&user) + median(&bpf),
                median(&user),
                median(&bpf),
                median(&memory),
                median(&start)
            ),
            "–",
            "–",
            user.len(),
        );
    }
    Ok(())
}

#[derive(Default)]
struct Costs {
    /// Percent of a core per core.
    user: Vec<f64>,
    bpf: Vec<f64>,
    /// Seconds of CPU from exec until it samples.
    start: Vec<f64>,
    /// MiB that are charged to its cgroup.
    memory: Vec<f64>,
}

fn rounds(bench: &Bench, cluster: &Cluster, operator: &Identity) -> anyhow::Result<Costs> {
    let mut costs = Costs::default();
    for _ in 0..bench.rounds.min(3) {
        let sink = Sink::start(&bench.runtime)?;
        let kubeconfig = cluster.kubeconfig();
        let target = Target::Node { name: NODE, operator: &operator.url(), kubeconfig: &kubeconfig };
        let agent = Profiler::start(bench, Kind::Hearth, &target, &sink, "10s")?;
        costs.start.push(agent.start_cpu.as_secs_f64());
        // The first windows read the symbols of everything that runs; that is start-up, not the steady state.
        std::thread::sleep(Duration::from_secs(15));
        let (from, cpu, runs) = (Instant::now(), agent.group.cpu()?, agent.runs()?);
        std::thread::sleep(Duration::from_secs(bench.seconds.max(20)));
        let core_seconds = from.elapsed().as_secs_f64() * std::thread::available_parallelism()?.get() as f64;
        let used = agent.group.cpu()? - cpu;
        costs.user.push(100.0 * used.as_secs_f64() / core_seconds);
        costs.bpf.push(100.0 * agent.runs()?.since(runs).time.as_secs_f64() / core_seconds);
        costs.memory.push(agent.group.charge()?.total as f64 / f64::from(1 << 20));
        agent.stop()?;
    }
    Ok(costs)
}

fn deployment(name: &str, replicas: u32, command: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app.kubernetes.io/name: {name}}}}}\n  template:\n    metadata:\n      \
         labels: {{app.kubernetes.io/name: {name}, app.kubernetes.io/part-of: bench, team: a}}\n    spec:\n      \
         automountServiceAccountToken: false\n      terminationGracePeriodSeconds: 0\n      containers:\n        \
         - {{name: main, image: \"{IMAGE}\", command: {command}}}\n"
    )
}

fn wait_until_ready(cluster: &Cluster, pods: usize) -> anyhow::Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let ready =
            cluster.kubectl(&["get", "deployments", "-o", "jsonpath={.items[*].status.readyReplicas}"]);
        let ready: usize = ready.split_whitespace().filter_map(|count| count.parse::<usize>().ok()).sum();
        if ready == pods {
            return Ok(());
        }
        if ready > last.0 {
            last = (ready, Instant::now());
        }
        anyhow::ensure!(
            last.1.elapsed() < Duration::from_secs(120),
            "{ready} of {pods} pods are ready, and no other becomes so"
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}
