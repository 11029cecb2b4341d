//! What a user waits for: from `helm install` to a flame graph, and what an installation costs that nobody asks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hearth_e2e::Program;
use hearth_e2e::cluster::{Cluster, Turn, text};
use hearth_e2e::hearth::{IMAGES, build_images_of, image_sizes, program_image};
use hearth_e2e::helm::{CHART, Helm};

use crate::Bench;
use crate::table::{Table, median, range};

const NAMESPACE: &str = "hearth";
const IMAGE: &str = "kc.local/bench:1";
/// The function that a flame graph is waited for.
const HOT: &str = "serve_requests";
/// One core is busy with it.
const SOURCE: &str = "FUNCTION void serve_requests(void) { BURN(200000); }
    int main(void) { for (;;) serve_requests(); }";
const POLICY: &str = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
    metadata: {name: web, namespace: default}\nspec: {podSelector: {matchLabels: {app: web}}}\n";
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let turn = Turn::wait();
    let cluster = Cluster::up(&turn, 1);
    let engine = bench.libchdb.as_deref().context("--libchdb is needed for the images")?;
    let programs = without_line_tables(bench)?;
    build_images_of(&cluster, &programs, engine, "kc.local", "bench");
    program_image(&cluster, IMAGE, &Program::compile("web", SOURCE).path(), &[]);
    let rounds: Vec<Round> =
        (0..bench.rounds.min(3)).map(|number| install(bench, &cluster, number)).collect::<Result<_, _>>()?;
    report(table, &rounds);
    idle(bench, &cluster, table)?;
    let sizes = image_sizes(&programs, engine).map(|(name, bytes)| format!("{name} {:.1} MiB", mib(bytes)));
    table.row("what is in an image, without its base", "–", &sizes.join(", "), "–", "–", 1);
    Ok(())
}

/// The programs as `make images` has them.
fn without_line_tables(bench: &Bench) -> anyhow::Result<PathBuf> {
    let folder = bench.dir.path().join("images");
    std::fs::create_dir_all(&folder)?;
    for program in IMAGES.iter().flat_map(|(_, programs)| *programs) {
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").args([&folder.join(program), &bench.bin.join(program)]);
        let status = strip.status().context("strip, of binutils, does not run")?;
        anyhow::ensure!(status.success(), "strip {program}: {status}");
    }
    Ok(folder)
}

/// Seconds since `helm install`.
struct Round {
    /// Every pod is ready.
    ready: f64,
    /// The node works by the policy.
    programmed: f64,
    /// The plugin has printed the function.
    flame: f64,
    /// Milliseconds of the plugin after that, the store being warm.
    warm: Vec<f64>,
}

/// One installation, on a cluster without any trace of the one before.
fn install(bench: &Bench, cluster: &Cluster, number: usize) -> anyhow::Result<Round> {
    let helm = Helm::of(cluster);
    if number > 0 {
        helm.run(&["uninstall", "hearth", "-n", NAMESPACE, "--wait", "--timeout=120s"]);
        let kinds =
            ["profilingpolicies.profiling.hearth.dev", "clusterprofilingpolicies.profiling.hearth.dev"];
        cluster.kubectl(&["delete", "crd", kinds[0], kinds[1]]);
        cluster.kubectl(&[
            "delete",
            "deployment/web",
            "namespace/hearth",
            &format!("pv/bench-{}", number - 1),
        ]);
    }
    volume(cluster, number)?;
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
         spec: {{containers: [{{name: main, image: \"{IMAGE}\"}}]}}\n"
    ));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    let began = Instant::now();
    let values = ["--set", "registry=kc.local", "--set", "tag=bench"];
    helm.run(&[&["install", "hearth", CHART, "-n", NAMESPACE, "--create-namespace"], &values[..]].concat());
    cluster.apply(POLICY);
    for workload in
        ["deployment/hearth-operator", "statefulset/hearth-collector", "daemonset/hearth-node-agent"]
    {
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s"]);
    }
    let ready = began.elapsed().as_secs_f64();
    let condition = ["-n", "default", "wait", "--for=condition=Programmed", "--timeout=60s"];
    cluster.kubectl(&[&condition[..], &["profilingpolicy/web"]].concat());
    let programmed = began.elapsed().as_secs_f64();
    let plugin = bench.bin.join("kubectl-hearth");
    while !flame(&plugin, cluster)?.contains(HOT) {
        anyhow::ensure!(began.elapsed() < PATIENCE, "no flame graph: {}", flame(&plugin, cluster)?);
        std::thread::sleep(LOOK);
    }
    let flame_at = began.elapsed().as_secs_f64();
    let warm = (0..bench.rounds).map(|_| {
        let asked = Instant::now();
        let shown = flame(&plugin, cluster)?;
        anyhow::ensure!(shown.contains(HOT), "{shown}");
        Ok(asked.elapsed().as_secs_f64() * 1e3)
    });
    Ok(Round { ready, programmed, flame: flame_at, warm: warm.collect::<anyhow::Result<_>>()? })
}

/// What `kubectl hearth flame deploy/web` prints, an error too.
fn flame(plugin: &Path, cluster: &Cluster) -> anyhow::Result<String> {
    let mut command = Command::new(plugin);
    command.args(["flame", "deploy/web", "-n", "default"]).env("KUBECONFIG", cluster.kubeconfig());
    Ok(text(&command.output().context("the plugin does not run")?))
}

/// A volume, as a cluster that makes them would.
fn volume(cluster: &Cluster, number: usize) -> anyhow::Result<()> {
    let folder = cluster.state().join(format!("bench-{number}"));
    std::fs::create_dir_all(&folder)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: bench-{number}}}\n\
         spec:\n  capacity: {{storage: 20Gi}}\n  accessModes: [ReadWriteOnce]\n  local: {{path: {}}}\n  \
         nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions:\n    \
         [{{key: kubernetes.io/hostname, operator: In, values: [node1]}}]}}]}}}}\n",
        folder.display()
    ));
    Ok(())
}

fn report(table: &mut Table, rounds: &[Round]) {
    let of = |value: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(value).collect() };
    let flame = of(|round| round.flame);
    let (least, most) = range(&flame);
    table.row(
        "from helm install on an empty cluster of one node to the first flame graph of a pod by kubectl hearth",
        "≤ 60 s",
        &format!(
            "{:.1} s ({least:.1}–{most:.1}): all pods are ready after {:.1} s, the policy's status says \
             that the node works by it after {:.1} s",
            median(&flame),
            median(&of(|round| round.ready)),
            median(&of(|round| round.programmed)),
        ),
        "–",
        "–",
        rounds.len(),
    );
    let warm: Vec<f64> = rounds.iter().flat_map(|round| &round.warm).copied().collect();
    let (least, most) = range(&warm);
    table.row(
        "kubectl hearth flame of a Deployment, through the API server, warm",
        "≤ 2 s",
        &format!("{:.0} ms ({least:.0}–{most:.0})", median(&warm)),
        "–",
        "–",
        warm.len(),
    );
}

/// Nobody asks, and one policy profiles one busy pod: the least that there is to do.
fn idle(bench: &Bench, cluster: &Cluster, table: &mut Table) -> anyhow::Result<()> {
    // The first windows read symbols.
    std::thread::sleep(Duration::from_secs(20));
    let before = usage(cluster)?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(bench.seconds.max(60)));
    let after = usage(cluster)?;
    let seconds = began.elapsed().as_secs_f64();
    let each = before.iter().zip(&after).map(|((name, cpu, _), (_, later, memory))| {
        let share = 100.0 * later.saturating_sub(*cpu) as f64 / 1e9 / seconds;
        format!("{name} {share:.2} % of a core, {:.0} MiB", mib(*memory))
    });
    table.row(
        "an installation that nobody asks, with one busy pod profiled: CPU and working set of each pod, by the kubelet",
        "–",
        &each.collect::<Vec<_>>().join("; "),
        "–",
        "–",
        1,
    );
    Ok(())
}

/// Name, nanoseconds of CPU so far and bytes of memory of each of Hearth's pods, as the kubelet has them.
fn usage(cluster: &Cluster) -> anyhow::Result<Vec<(String, u64, u64)>> {
    let summary = cluster.kubectl(&[
        "get",
        "--raw",
        "/api/v1/nodes/node1/proxy/stats/summary?only_cpu_and_memory=true",
    ]);
    let summary: serde_json::Value = serde_json::from_str(&summary)?;
    let pods = summary["pods"].as_array().context("the kubelet knows pods")?;
    let mut usage: Vec<_> = pods
        .iter()
        .filter(|pod| pod["podRef"]["namespace"] == NAMESPACE)
        .map(|pod| {
            let name = pod["podRef"]["name"].as_str().unwrap_or_default().to_owned();
            let number = |object: &str, field: &str| pod[object][field].as_u64().unwrap_or(0);
            (name, number("cpu", "usageCoreNanoSeconds"), number("memory", "workingSetBytes"))
        })
        .collect();
    usage.sort();
    Ok(usage)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
