//! What becomes of processes in pods as pods come, change and go.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::time::Duration;

use hearth_policy::{EffectivePolicy, Environment, Labels, parse_policy_file};

use super::*;
use crate::kernel::sideband::Event;
use crate::pods::{Namespace, Pod, PodOptions};

/// No process has a pid this high: `pid_max` ends at 2^22.
const PID: u32 = 1 << 23;

/// Those of the class `gold` at 49, in namespaces that are not off; processes of the machine at 19.
const POLICIES: &str = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
    metadata: {name: gold}\nspec: {regex: ^web, frequency: 49, podSelector: {matchLabels: {class: gold}},\n  \
    namespaceSelector: {matchExpressions: [{key: profile, operator: NotIn, values: [\"off\"]}]}}\n---\n\
    apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
    metadata: {name: host}\nspec: {regex: ., frequency: 19, hostProcesses: true, nodeSelector: {},\n  \
    namespaceSelector: {matchLabels: {no: such}}}\n";

fn policies() -> PolicySet {
    let policies = EffectivePolicy::from_file(parse_policy_file(POLICIES).unwrap().0);
    PolicySet::new(policies, Environment::Kubernetes { node_labels: Labels::new() }, 1000).unwrap()
}

/// A node whose namespace `shop` is known.
struct Node {
    processes: Processes,
    policies: PolicySet,
    tell: Vec<Tell>,
}

impl Node {
    fn new() -> Self {
        let pods = Pods::new(PodOptions::default());
        let mut node = Self {
            processes: Processes::none().with_pods(Some(pods)),
            policies: policies(),
            tell: Vec::new(),
        };
        node.namespace(&[]);
        node
    }

    fn namespace(&mut self, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let namespaces = [("shop".into(), Namespace { labels, ..Namespace::default() })].into();
        let directory = Directory { namespaces, ..Directory::default() };
        self.processes.set_directory(directory, &self.policies, &mut self.tell);
    }

    /// A process begins a program in the cgroup of a pod's container.
    fn exec_in(&mut self, pid: u32, comm: &str, uid: &str) {
        let inside = InPod { uid: uid.into(), container: Some("aa".into()) };
        self.processes.get(PID + pid).place = Place { pods: Some([inside].into()), is_old: true };
        self.exec(pid, comm);
    }

    fn exec(&mut self, pid: u32, comm: &str) {
        self.apply(&Event::Exec { tgid: PID + pid, comm: comm.as_bytes().to_vec() });
    }

    fn apply(&mut self, event: &Event) {
        self.processes.apply(Monotonic::now(), event, &self.policies, &mut self.tell);
    }

    fn pods(&mut self, change: Change) {
        self.processes.change_pods(change, &self.policies, &mut self.tell);
    }

    fn ten_seconds_pass(&mut self) {
        let later = Monotonic(Monotonic::now().0 + Duration::from_secs(10).as_nanos() as u64);
        let over = self.processes.pods.as_mut().unwrap().end_round(later);
        self.processes.decide_in(&over, &self.policies, &mut self.tell);
    }

    /// What the kernel was told since it was asked last.
    fn told(&mut self) -> String {
        let mut out = String::new();
        for tell in self.tell.drain(..) {
            match tell {
                Tell::Decide(tgid, rate) => write!(out, "decide {} {rate}, ", tgid - PID).unwrap(),
                Tell::Forget(tgid) => write!(out, "forget {}, ", tgid - PID).unwrap(),
            }
        }
        out.trim_end_matches(", ").to_owned()
    }

    /// What its rows say: pod and container.
    fn inside(&mut self, pid: u32) -> String {
        let entry = self.processes.get(PID + pid).entry(None, 49);
        entry.inside.as_ref().map_or("-".into(), |inside| format!("{}/{}", inside.pod.name, inside.container))
    }
}

fn pod(uid: &str, class: &str) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: "shop".into(),
        name: format!("pod-{uid}"),
        labels: Labels::from([("class".into(), class.into())]),
        containers: vec![("aa".into(), "app".into())],
        ..Pod::default()
    }
}

#[test]
fn a_process_waits_for_its_pod_and_is_decided_when_it_comes() {
    let mut node = Node::new();
    node.exec_in(1, "web", "u1");
    assert_eq!(node.told(), "forget 1");
    // Its samples do not ask again and again.
    let waiting = node.processes.decide(PID + 1, &node.policies, &mut node.tell);
    assert!(waiting.standing == Standing::Undecided && waiting.waits);
    assert_eq!((node.told(), node.inside(1)), (String::new(), "-".into()));
    node.pods(Change::All(vec![pod("u2", "gold"), pod("u1", "gold")]));
    assert_eq!((node.told(), node.inside(1)), ("decide 1 49".into(), "pod-u1/app".into()));
}

#[test]
fn after_ten_seconds_it_is_unmatched_and_no_process_of_the_host_and_still_decided_when_the_pod_comes() {
    let mut node = Node::new();
    node.exec_in(1, "web", "u1");
    node.told();
    node.ten_seconds_pass();
    assert_eq!(node.told(), "decide 1 0");
    // Those that begin later in a pod of another node do not wait again.
    node.exec_in(2, "web", "u1");
    assert_eq!(node.told(), "forget 2, decide 2 0");
    node.pods(Change::Changed(pod("u1", "gold")));
    assert!(matches!(node.told().as_str(), "decide 1 49, decide 2 49" | "decide 2 49, decide 1 49"));
}

#[test]
fn a_process_outside_pods_is_the_hosts() {
    let mut node = Node::new();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let found = node.processes.decide(child.id(), &node.policies, &mut node.tell);
    assert!(matches!(&found.standing, Standing::Matched(matched) if &*matched.policy == "host"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_program_that_is_gone_before_its_cgroup_is_read_is_not_the_hosts() {
    let mut node = Node::new();
    // What a runtime on the host makes of itself.
    node.processes.get(PID + 1).place = Place { pods: Some([].into()), is_old: false };
    node.exec(1, "probe");
    assert_eq!(node.told(), "forget 1, decide 1 0");
    assert_eq!(node.processes.stats().cgroups_unread, 1);
}

#[test]
fn whoever_is_in_a_pod_stays_in_it_as_do_its_children() {
    let mut node = Node::new();
    node.pods(Change::Changed(pod("u1", "gold")));
    node.exec_in(1, "web", "u1");
    node.apply(&Event::Fork { tgid: PID + 2, parent: PID + 1 });
    assert_eq!(node.inside(2), "pod-u1/app");
    node.told();
    node.exec(2, "web-worker");
    assert_eq!((node.told(), node.inside(2)), ("forget 2, decide 2 49".into(), "pod-u1/app".into()));
}

#[test]
fn a_fork_of_a_process_that_waits_waits() {
    let mut node = Node::new();
    node.exec_in(1, "web", "u1");
    node.apply(&Event::Fork { tgid: PID + 2, parent: PID + 1 });
    node.told();
    node.pods(Change::Changed(pod("u1", "gold")));
    assert!(matches!(node.told().as_str(), "decide 1 49, decide 2 49" | "decide 2 49, decide 1 49"));
}

#[test]
fn a_change_of_labels_decides_the_processes_of_that_pod_again_and_no_others() {
    let mut node = Node::new();
    node.pods(Change::All(vec![pod("u1", "gold"), pod("u2", "gold")]));
    node.exec_in(1, "web", "u1");
    node.exec_in(2, "web", "u2");
    assert_eq!(node.told(), "forget 1, decide 1 49, forget 2, decide 2 49");
    node.pods(Change::Changed(pod("u2", "tin")));
    assert_eq!(node.told(), "decide 2 0");
    node.pods(Change::All(vec![pod("u1", "tin"), pod("u2", "tin")]));
    assert_eq!(node.told(), "decide 1 0");
}

#[test]
fn a_change_of_a_namespaces_labels_decides_again() {
    let mut node = Node::new();
    node.pods(Change::Changed(pod("u1", "gold")));
    node.exec_in(1, "web", "u1");
    node.told();
    node.namespace(&[("profile", "off")]);
    assert_eq!(node.told(), "decide 1 0");
}

#[test]
fn a_pod_of_a_namespace_that_is_not_known_waits_for_it() {
    let mut node = Node::new();
    node.pods(Change::Changed(Pod { namespace: "later".into(), ..pod("u1", "gold") }));
    node.exec_in(1, "web", "u1");
    assert_eq!((node.told(), node.inside(1)), ("forget 1".into(), "pod-u1/app".into()));
    let namespaces = [("later".into(), Namespace::default())].into();
    let directory = Directory { namespaces, ..Directory::default() };
    node.processes.set_directory(directory, &node.policies, &mut node.tell);
    assert_eq!(node.told(), "decide 1 49");
}

#[test]
fn a_container_gets_its_name_when_its_status_has_it() {
    let mut node = Node::new();
    node.pods(Change::Changed(Pod { containers: Vec::new(), ..pod("u1", "gold") }));
    node.exec_in(1, "web", "u1");
    assert_eq!(node.inside(1), "pod-u1/");
    node.pods(Change::Changed(pod("u1", "gold")));
    assert_eq!(node.inside(1), "pod-u1/app");
}

#[test]
fn rows_of_a_deleted_pod_keep_its_names() {
    let mut node = Node::new();
    node.pods(Change::Changed(pod("u1", "gold")));
    node.exec_in(1, "web", "u1");
    node.pods(Change::Deleted("u1".into()));
    assert_eq!(node.inside(1), "pod-u1/app");
    node.exec_in(2, "web", "u1");
    assert_eq!(node.inside(2), "pod-u1/app", "what begins while it ends");
}

#[test]
fn a_waiting_process_that_was_decided_before_is_undecided_in_the_kernel_too() {
    let mut node = Node::new();
    node.exec_in(1, "sh", "u1");
    node.ten_seconds_pass();
    node.told();
    // As if nobody had waited for it yet.
    node.processes.pods = Some(Pods::new(PodOptions::default()));
    node.processes.decide_all(&node.policies, &mut node.tell);
    assert_eq!(node.told(), "forget 1");
}

#[test]
fn without_kubernetes_nobody_looks_where_a_process_is() {
    let mut node = Node::new();
    node.processes.pods = None;
    node.pods(Change::Changed(pod("u1", "gold")));
    node.exec(1, "web");
    assert_eq!((node.inside(1), node.processes.stats().cgroups_unread), ("-".into(), 0));
    assert_eq!(node.processes.pod_counts(), (0, 0));
}

/// A kubelet in a container: its pods are within one of the machine's, whose agent is another.
#[test]
fn a_process_in_nested_pods_counts_for_the_one_that_is_known() {
    let mut node = Node::new();
    node.pods(Change::All(vec![pod("inner", "gold")]));
    let within = |uid: &str| InPod { uid: uid.into(), container: Some("aa".into()) };
    let place = Place { pods: Some([within("outer"), within("inner")].into()), is_old: false };
    node.processes.get(PID + 1).place = place;
    node.exec(1, "web");
    assert_eq!(node.inside(1), "pod-inner/app");
    let known = node.processes.pod_facts();
    assert_eq!(node.processes.get(PID + 1).pod(&known), Some("inner"));
}
