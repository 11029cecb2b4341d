//! The cluster itself: what the other tests take for granted.

use hearth_e2e::{Cluster, random_letters};
use libtest_mimic::Trial;

use crate::on_cluster;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_cluster("nodes::pods_run_on_both_nodes_and_reach_each_other", pods_run_and_reach_each_other),
        on_cluster(
            "nodes::a_node_without_its_kubelet_keeps_its_pods",
            a_node_without_its_kubelet_keeps_its_pods,
        ),
    ]
}

/// A Deployment with a pod on each node, and a Service before them, in a namespace of its own.
fn web(cluster: &Cluster) -> String {
    let namespace = format!("web-{}", random_letters(6));
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: web}}}}
      containers:
      - name: web
        image: kc.local/busybox:1
        command: [sh, -c, "hostname > /tmp/name && httpd -f -p 80 -h /tmp"]
        readinessProbe: {{httpGet: {{path: /name, port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}
"#
    ));
    cluster.kubectl(&["-n", &namespace, "rollout", "status", "deployment/web", "--timeout=60s"]);
    namespace
}

/// Each node has one of the two pods; both answer through the Service's name.
fn pods_run_and_reach_each_other(cluster: &Cluster) {
    let namespace = web(cluster);
    let pods = |field: &str| {
        let path = format!("jsonpath={{range .items[*]}}{{{field}}} {{end}}");
        let text = cluster.kubectl(&["-n", &namespace, "get", "pods", "-l", "app=web", "-o", &path]);
        let mut found: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(pods(".spec.nodeName"), ["node1", "node2"]);
    let names = pods(".metadata.name");
    // A node's proxy learns of an endpoint a moment after the pod is ready.
    let ask =
        "until [ $(sort -u /tmp/seen | wc -l) = 2 ]; do wget -q -O - http://web/name >> /tmp/seen; done";
    let ask = format!("touch /tmp/seen; {ask}; sort -u /tmp/seen");
    let asker = format!("pod/{}", names[0]);
    let answered =
        cluster.kubectl(&["-n", &namespace, "exec", &asker, "--", "timeout", "20", "sh", "-c", &ask]);
    assert_eq!(answered.split_whitespace().collect::<Vec<_>>(), names);
    cluster.kubectl(&["delete", "namespace", &namespace, "--wait=false"]);
}

fn a_node_without_its_kubelet_keeps_its_pods(cluster: &Cluster) {
    let namespace = web(cluster);
    let restarts = || {
        let path = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        cluster.kubectl(&["-n", &namespace, "get", "pods", "-o", path])
    };
    for action in ["stop", "start"] {
        cluster.daemon(action, "node1-kubelet");
    }
    // A pod that only a kubelet can start shows that it is back.
    cluster.kubectl(&["-n", &namespace, "scale", "deployment/web", "--replicas=4"]);
    cluster.kubectl(&["-n", &namespace, "rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(restarts(), "0 0 0 0");
    cluster.kubectl(&["delete", "namespace", &namespace, "--wait=false"]);
}
