//! What a user does: installs Hearth, applies a policy, looks at a flame graph of the pods it names.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hearth_e2e::cluster::text;
use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::{AgentMetrics, Forwarded, install, program_image, restarts};
use hearth_e2e::{Cluster, Program, random_letters};
use libtest_mimic::Trial;

use crate::on_cluster;

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/overlay");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/profilingpolicy.yaml");

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_hearth(
            "profiles::a_policy_profiles_exactly_the_pods_that_it_names",
            the_example_profiles_its_pods_and_no_others,
        ),
        on_hearth(
            "profiles::a_static_pods_process_appears_under_its_pod_name",
            a_static_pods_process_appears_under_its_pod_name,
        ),
        on_hearth("profiles::each_agent_reports_the_pods_of_its_own_node", each_agent_reports_its_own_pods),
    ]
}

/// A test on a cluster with Hearth, which the first of them installs.
pub(crate) fn on_hearth(name: &str, test: impl FnOnce(&Cluster) + Send + 'static) -> Trial {
    static INSTALLED: Once = Once::new();
    on_cluster(name, move |cluster| {
        INSTALLED.call_once(|| install(cluster, OVERLAY));
        test(cluster);
    })
}

/// A program in an image of its own, with functions whose names were drawn a moment ago, and with code of its own: a
/// build id is of the code alone, so two that differ in names would be named by the one that is seen first.
pub(crate) struct Workload {
    pub(crate) image: String,
    outer: String,
    /// The function that takes the time.
    pub(crate) inner: String,
}

impl Workload {
    /// `comm` is what its process is called.
    pub(crate) fn new(cluster: &Cluster, comm: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (outer, inner) = (format!("o_{}", random_letters(10)), format!("i_{}", random_letters(10)));
        let rounds = 200_000 + COUNT.fetch_add(1, Ordering::Relaxed);
        let program = Program::compile(
            comm,
            &format!(
                "FUNCTION void {inner}(void) {{ BURN({rounds}); }}
                FUNCTION void {outer}(void) {{ for (;;) {{ {inner}(); usleep(500); }} }}
                int main(void) {{ {outer}(); }}"
            ),
        );
        let image = format!("kc.local/{comm}:1");
        program_image(cluster, &image, &program.path(), &[]);
        Self { image, outer, inner }
    }

    pub(crate) fn start(&self, cluster: &Cluster, namespace: &str, name: &str, node: &str) {
        start_pod(cluster, &self.image, namespace, name, node);
    }
}

/// Starts a pod with one container, `main`, and the label `app`, which is its name.
pub(crate) fn start_pod(cluster: &Cluster, image: &str, namespace: &str, name: &str, node: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: main, image: \"{image}\"}}\n"
    ));
    let pod = format!("pod/{name}");
    cluster.kubectl(&["-n", namespace, "wait", "--for=condition=Ready", "--timeout=60s", &pod]);
}

fn the_example_profiles_its_pods_and_no_others(cluster: &Cluster) {
    let (comm, other_comm) = (format!("nginx-{}", random_letters(6)), format!("other-{}", random_letters(6)));
    let (chosen, by_name) = (Workload::new(cluster, &comm), Workload::new(cluster, &other_comm));
    let elsewhere = format!("elsewhere-{}", random_letters(6));
    cluster.kubectl(&["create", "namespace", &elsewhere]);
    wait_for("the namespace's service account", || {
        let account = ["-n", &elsewhere, "get", "serviceaccount", "default"];
        cluster.kubectl_with(&account, "").status.success().then_some(())
    });
    chosen.start(cluster, "default", "chosen", "node1");
    by_name.start(cluster, "default", "of-another-name", "node1");
    chosen.start(cluster, &elsewhere, "of-another-namespace", "node2");

    cluster.kubectl(&["apply", "-f", EXAMPLE]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "profilingpolicy/first"]);
    let shown = cluster.kubectl(&["get", "pp", "-A"]);
    println!("{shown}");
    let cells: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[..5], ["default", "first", "True", "2/2", "99"], "{shown}");

    let uid = cluster.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    let (_forwarded, collector) = Forwarded::collector(cluster);
    let here = format!("pod_cluster='{uid}' AND pod_ns='default'");
    let flame = wait_for("a profile of the chosen pod", || {
        collector
            .flame_between(&comm, &here, 1, i64::from(u32::MAX))
            .ok()
            .filter(|flame| flame.root().total > 0)
    });
    // What is between the thread and main is the C library's, which may have no symbol for it.
    let inner = flame.nodes.iter().find(|node| node.name == chosen.inner);
    let path = inner.map(|node| flame.path_of(node)).unwrap_or_default();
    assert!(path.ends_with(&["main", &chosen.outer, &chosen.inner]), "{flame:?}");
    assert_eq!(path[0], format!("[t] {comm}"));
    let tags = collector.get(&format!("/api/v1/tags/pod/values?filter=app_service%3D%27{comm}%27")).json();
    assert!(tags.to_string().contains("chosen"), "{tags}");
    assert!(!tags.to_string().contains("of-another-namespace"), "{tags}");
    let apps = collector.get("/api/v1/apps").json().to_string();
    assert!(apps.contains(&comm) && !apps.contains(&other_comm), "{apps}");

    an_edit_of_the_rate_is_followed_within_seconds(cluster, &comm);
    cluster.kubectl(&["delete", "-f", EXAMPLE]);
    cluster.kubectl(&["delete", "namespace", &elsewhere, "--wait=false"]);
}

/// No agent restarts: the pods are the same.
fn an_edit_of_the_rate_is_followed_within_seconds(cluster: &Cluster, comm: &str) {
    let before = restarts(cluster);
    let agent = AgentMetrics::of(cluster, "node1");
    let rate = || agent.get("hearth_agent_effective_frequency");
    assert_eq!(rate(), "99");
    let (edited, edited_at) = (Instant::now(), unix_seconds());
    let edit = r#"{"spec":{"frequency":199}}"#;
    cluster.kubectl(&["patch", "pp", "first", "--type=merge", "-p", edit]);
    wait_for("the new rate", || (rate() == "199").then_some(()));
    let took = edited.elapsed();
    println!("an edit took {took:.1?} to reach the agent");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let output = cluster.kubectl_with(&["wait", "--for=condition=Ready", "--timeout=60s", "pp/first"], "");
    assert!(output.status.success(), "{}", text(&output));
    rows_are_of_the_new_rate_from_the_edit_on(cluster, comm, edited_at);
    assert_eq!(restarts(cluster), before);
}

/// From 99 to 199 samples per second. The window that was open ends there, so that each has one rate.
fn rows_are_of_the_new_rate_from_the_edit_on(cluster: &Cluster, comm: &str, edited_at: i64) {
    const OLD: &str = "10101";
    const NEW: &str = "5025";
    let (_forwarded, engine) = Forwarded::engine(cluster);
    let rows = wait_for("rows of the new rate", || {
        let rows = engine.sql(&format!(
            "SELECT toUnixTimestamp(time) AS start, intDiv(profile_value, sample_count) AS period \
             FROM profile.in_process WHERE app_service = '{comm}' GROUP BY ALL ORDER BY start, period DESC"
        ));
        rows.last()?.ends_with(NEW).then_some(rows)
    });
    let windows: Vec<(i64, &str)> = rows
        .iter()
        .map(|row| row.split_once('\t').unwrap())
        .map(|(start, period)| (start.parse().unwrap(), period))
        .collect();
    let (old, new) = windows.split_at(windows.partition_point(|(_, period)| *period == OLD));
    assert!(new.iter().all(|(_, period)| *period == NEW), "{windows:?}");
    assert!(old.last().is_some_and(|(start, _)| *start <= edited_at), "{edited_at}: {windows:?}");
    let after = new[0].0 - edited_at;
    assert!((0..=3).contains(&after), "{after} s after the edit at {edited_at}: {windows:?}");
}

fn a_static_pods_process_appears_under_its_pod_name(cluster: &Cluster) {
    let comm = format!("python-{}", random_letters(6));
    let workload = Workload::new(cluster, &comm);
    let manifest = cluster.state().join("node2/manifests/static.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: static, namespace: default}}\n\
         spec:\n  containers:\n  - {{name: main, image: \"{}\"}}\n",
        workload.image
    );
    std::fs::write(&manifest, text).unwrap();
    cluster.kubectl(&["apply", "-f", EXAMPLE]);
    let (_forwarded, collector) = Forwarded::collector(cluster);
    wait_for("rows of the static pod", || {
        let here = "pod_ns='default' AND pod='static-node2' AND container='main'";
        collector.flame_between(&comm, here, 1, i64::from(u32::MAX)).ok()
    });
    std::fs::remove_file(manifest).unwrap();
    cluster.kubectl(&["delete", "-f", EXAMPLE]);
}

/// Both see every process of the machine, as they share its process ids.
fn each_agent_reports_its_own_pods(cluster: &Cluster) {
    // Hearth profiles itself: the collector runs on the first node.
    let (_forwarded, collector) = Forwarded::collector(cluster);
    let of_collector = "app_service = 'hearth-collect' OR app_service LIKE 'hearth-collecto%'";
    let nodes = wait_for("rows of the collector itself", || {
        let query = format!("/api/v1/tags/pod_node/values?filter={}", encoded(of_collector));
        let nodes = collector.get(&query).json().to_string();
        nodes.contains("node1").then_some(nodes)
    });
    assert!(!nodes.contains("node2"), "{nodes}");
    let agents =
        collector.get(&format!("/api/v1/tags/pod_node/values?filter={}", encoded("pod_ns = 'hearth'")));
    let agents = agents.json().to_string();
    assert!(agents.contains("node1") && agents.contains("node2"), "{agents}");
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// As it stands in a URL.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
