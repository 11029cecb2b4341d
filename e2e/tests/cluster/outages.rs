//! What goes on while parts of it are away: for a moment, or as long as `HEARTH_OUTAGE_SECONDS` says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::{AgentMetrics, Forwarded, delete_agent, operator_log, restarts};
use hearth_e2e::{Cluster, random_letters};
use libtest_mimic::Trial;

use crate::profiles::{Workload, on_hearth, unix_seconds};

const STORED: &str = "hearth_agent_batches_total{outcome=\"stored\"}";
const DROPPED: &str = "hearth_agent_batches_total{outcome=\"dropped\"}";
const ROWS: &str = "hearth_agent_rows_total";
const SAMPLES: &str = "hearth_agent_samples_total";
const QUEUED: &str = "hearth_agent_queued_batches";
const RATE: &str = "hearth_agent_effective_frequency";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_hearth("outages::a_node_goes_on_without_the_operator", a_node_goes_on_without_the_operator),
        on_hearth(
            "outages::sampling_and_storing_go_on_without_the_api_server",
            all_goes_on_without_the_api_server,
        ),
        on_hearth(
            "outages::what_the_collector_missed_is_sent_again",
            what_the_collector_missed_is_sent_again,
        ),
        on_hearth("outages::the_default_policy_stays_deleted", the_default_policy_stays_deleted),
    ]
}

/// What is away stays away for so long.
fn outage() {
    let seconds = std::env::var("HEARTH_OUTAGE_SECONDS").map_or(0, |text| text.parse().unwrap());
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Says how long it took from the end of an outage.
fn say(what: &str, since: Instant) {
    println!("{what} {:.1?} after the outage", since.elapsed());
}

/// No container of pods that there were was started again, and none of pods that came since.
fn assert_no_restarts(cluster: &Cluster, before: &BTreeMap<String, String>) {
    for (pod, count) in restarts(cluster) {
        assert_eq!(&count, before.get(&pod).unwrap_or(&"0".to_owned()), "{pod}");
    }
}

/// Samples of a node in the store beyond those that its agent, since its start, says that it took. It is the
/// same number as long as none is lost or doubled.
fn balance(cluster: &Cluster, agent: &AgentMetrics, node: &str) -> i64 {
    let (_forwarded, engine) = Forwarded::engine(cluster);
    let taken = || (agent.get(QUEUED) == "0").then(|| agent.count(SAMPLES));
    wait_for("a moment in which nothing is on its way", || {
        let before = taken()?;
        let stored = engine.samples(node, "1");
        (taken()? == before).then(|| stored - i64::try_from(before).unwrap())
    })
}

pub(crate) fn scale_operator(cluster: &Cluster, replicas: &str) {
    let scale = ["-n", "hearth", "scale", "deployment/hearth-operator", "--replicas", replicas];
    cluster.kubectl(&scale);
    let all = ["-n", "hearth", "rollout", "status", "deployment/hearth-operator", "--timeout=60s"];
    cluster.kubectl(&all);
}

/// Also an agent that begins meanwhile, by what its node kept.
fn a_node_goes_on_without_the_operator(cluster: &Cluster) {
    let follows = |rate: &str| {
        let agent = AgentMetrics::of(cluster, "node1");
        wait_for(&format!("the rate of {rate} Hz"), || (agent.get(RATE) == rate).then_some(()));
    };
    follows("99");
    // What it knows of a namespace and of a Service, the operator told it.
    let comm = format!("left-{}", random_letters(6));
    Workload::new(cluster, &comm).start(cluster, "default", &comm, "node1");
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {comm}, namespace: default}}\n\
         spec: {{selector: {{app: {comm}}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata: {{name: {comm}}}\n\
         spec: {{regex: ^{comm}, namespaceSelector: {{matchLabels: {{test: {comm}}}}}}}\n"
    ));
    cluster.kubectl(&["label", "namespace", "default", &format!("test={comm}")]);
    let (_forwarded, collector) = Forwarded::collector(cluster);
    let rows_since = |from: i64| {
        wait_for("rows of a pod of that namespace and Service", || {
            let here = format!("pod_service='{comm}'");
            let flame = collector.flame_between(&comm, &here, from, i64::from(u32::MAX)).ok();
            flame.filter(|flame| flame.root().total > 0)
        });
    };
    rows_since(1);
    let stays = AgentMetrics::of(cluster, "node2");
    let (restarted, stored) = (restarts(cluster), balance(cluster, &stays, "node2"));
    scale_operator(cluster, "0");
    outage();
    delete_agent(cluster, "node1", &[]);
    let rollout = ["-n", "hearth", "rollout", "status", "daemonset/hearth-node-agent", "--timeout=60s"];
    cluster.kubectl(&rollout);
    follows("99");
    // In a window that begins later: the agent before had a part of this one.
    rows_since(unix_seconds() + 10);
    scale_operator(cluster, "2");
    let back = Instant::now();
    let edit = r#"{"spec":{"frequency":199}}"#;
    cluster.kubectl(&["patch", "cpp", "hearth-default", "--type=merge", "-p", edit]);
    // Agents that lost the operator come back within half a minute.
    follows("199");
    say("the first node followed an edit", back);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "cpp/hearth-default"]);
    say("the policy was ready", back);
    assert_eq!(balance(cluster, &stays, "node2"), stored);
    assert_no_restarts(cluster, &restarted);
    let left = ["delete", &format!("cpp/{comm}"), &format!("svc/{comm}"), &format!("pod/{comm}")];
    cluster.kubectl(&[&left[..], &["--wait=false"]].concat());
    cluster.kubectl(&["label", "namespace", "default", "test-"]);
}

fn all_goes_on_without_the_api_server(cluster: &Cluster) {
    let agent = AgentMetrics::of(cluster, "node1");
    let (restarted, balanced) = (restarts(cluster), balance(cluster, &agent, "node1"));
    let logged = operator_log(cluster).lines().count();
    cluster.daemon("stop", "kube-apiserver");
    outage();
    // The window that is open, and one that begins without it.
    let before = agent.count(STORED);
    wait_for("windows stored meanwhile", || (agent.count(STORED) >= before + 2).then_some(()));
    cluster.daemon("start", "kube-apiserver");
    wait_for("the API server", || {
        cluster.kubectl_with(&["get", "--raw", "/readyz"], "").status.success().then_some(())
    });
    let back = Instant::now();
    let edit = r#"{"spec":{"frequency":97}}"#;
    cluster.kubectl(&["patch", "cpp", "hearth-default", "--type=merge", "-p", edit]);
    wait_for("the edit on the node", || (agent.get(RATE) == "97").then_some(()));
    say("a node followed an edit", back);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "cpp/hearth-default"]);
    say("the policy was ready", back);
    assert_eq!(balance(cluster, &agent, "node1"), balanced);
    assert_no_restarts(cluster, &restarted);
    // Two operators say of seven watches and of the lease that they fail and work again, each time once.
    let log = operator_log(cluster);
    assert!(log.lines().count() <= logged + 80, "{log}");
}

fn what_the_collector_missed_is_sent_again(cluster: &Cluster) {
    let scale = |replicas: &str| {
        cluster.kubectl(&["-n", "hearth", "scale", "statefulset/hearth-collector", "--replicas", replicas]);
    };
    let agent = AgentMetrics::of(cluster, "node2");
    let (restarted, balanced) = (restarts(cluster), balance(cluster, &agent, "node2"));
    scale("0");
    cluster.kubectl(&["-n", "hearth", "wait", "--for=delete", "pod/hearth-collector-0", "--timeout=60s"]);
    let (stored, closed) = (agent.count(STORED), agent.count(ROWS));
    outage();
    wait_for("a window that nobody takes", || (agent.count(ROWS) > closed).then_some(()));
    assert_eq!(agent.count(STORED), stored);
    scale("1");
    let back = Instant::now();
    wait_for("all that waited, stored", || {
        (agent.count(STORED) > stored && agent.get(QUEUED) == "0").then_some(())
    });
    say("all that waited was stored", back);
    assert_eq!(agent.count(DROPPED), 0);
    assert_eq!(balance(cluster, &agent, "node2"), balanced);
    assert_no_restarts(cluster, &restarted);
}

/// Whoever deleted it does not want it back with the next operator.
fn the_default_policy_stays_deleted(cluster: &Cluster) {
    cluster.kubectl(&["delete", "cpp", "hearth-default"]);
    scale_operator(cluster, "0");
    scale_operator(cluster, "1");
    // It leads once it writes statuses.
    let probe = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
                 metadata: {name: probe}\nspec: {regex: none, frequency: 7}\n";
    cluster.apply(probe);
    cluster.kubectl(&["wait", "--for=condition=Accepted", "--timeout=60s", "cpp/probe"]);
    assert_eq!(
        cluster.kubectl(&["get", "cpp", "-o", "name"]).trim(),
        "clusterprofilingpolicy.profiling.hearth.dev/probe"
    );
    cluster.kubectl(&["delete", "cpp", "probe"]);
    scale_operator(cluster, "2");
}
