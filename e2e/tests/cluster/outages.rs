//! What goes on while parts of it are away.

use std::time::{SystemTime, UNIX_EPOCH};

use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::{AgentMetrics, Forwarded};
use hearth_e2e::{Cluster, random_letters};
use libtest_mimic::Trial;

use crate::profiles::{Workload, on_hearth};

const STORED: &str = "hearth_agent_batches_total{outcome=\"stored\"}";
const DROPPED: &str = "hearth_agent_batches_total{outcome=\"dropped\"}";
const ROWS: &str = "hearth_agent_rows_total";

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
        let what = format!("the rate of {rate} Hz");
        wait_for(&what, || (agent.get("hearth_agent_effective_frequency") == rate).then_some(()));
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
    scale_operator(cluster, "0");
    let of_node = ["-l", "app.kubernetes.io/name=hearth-node-agent", "--field-selector=spec.nodeName=node1"];
    cluster.kubectl(&[&["-n", "hearth", "delete", "pods"][..], &of_node].concat());
    let rollout = ["-n", "hearth", "rollout", "status", "daemonset/hearth-node-agent", "--timeout=60s"];
    cluster.kubectl(&rollout);
    follows("99");
    // In a window that begins later: the agent before had a part of this one.
    rows_since(unix_seconds() + 10);
    scale_operator(cluster, "2");
    let edit = r#"{"spec":{"frequency":199}}"#;
    cluster.kubectl(&["patch", "cpp", "hearth-default", "--type=merge", "-p", edit]);
    // Agents that lost the operator come back within half a minute.
    follows("199");
    let left = ["delete", &format!("cpp/{comm}"), &format!("svc/{comm}"), &format!("pod/{comm}")];
    cluster.kubectl(&[&left[..], &["--wait=false"]].concat());
    cluster.kubectl(&["label", "namespace", "default", "test-"]);
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn all_goes_on_without_the_api_server(cluster: &Cluster) {
    let agent = AgentMetrics::of(cluster, "node1");
    cluster.daemon("stop", "kube-apiserver");
    // The window that is open, and one that begins without it.
    let before = agent.count(STORED);
    wait_for("windows stored meanwhile", || (agent.count(STORED) >= before + 2).then_some(()));
    cluster.daemon("start", "kube-apiserver");
    wait_for("the API server", || {
        cluster.kubectl_with(&["get", "--raw", "/readyz"], "").status.success().then_some(())
    });
    let edit = r#"{"spec":{"frequency":97}}"#;
    cluster.kubectl(&["patch", "cpp", "hearth-default", "--type=merge", "-p", edit]);
    wait_for("the edit on the node", || {
        (agent.get("hearth_agent_effective_frequency") == "97").then_some(())
    });
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "cpp/hearth-default"]);
}

fn what_the_collector_missed_is_sent_again(cluster: &Cluster) {
    let scale = |replicas: &str| {
        cluster.kubectl(&["-n", "hearth", "scale", "statefulset/hearth-collector", "--replicas", replicas]);
    };
    scale("0");
    cluster.kubectl(&["-n", "hearth", "wait", "--for=delete", "pod/hearth-collector-0", "--timeout=60s"]);
    let agent = AgentMetrics::of(cluster, "node2");
    let (stored, closed) = (agent.count(STORED), agent.count(ROWS));
    wait_for("a window that nobody takes", || (agent.count(ROWS) > closed).then_some(()));
    assert_eq!(agent.count(STORED), stored);
    scale("1");
    wait_for("all that waited, stored", || (agent.count(STORED) > stored).then_some(()));
    assert_eq!(agent.count(DROPPED), 0);
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
