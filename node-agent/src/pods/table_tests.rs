//! What is known of the pods of a node, as changes and time go on.

use hearth_policy::Labels;

use super::*;
use crate::pods::{Namespace, Object, Owner, Service};

fn at(seconds: u64) -> Monotonic {
    Monotonic(seconds * 1_000_000_000)
}

fn pod(uid: &str, name: &str) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: "shop".into(),
        name: name.into(),
        labels: Labels::from([("app".into(), "web".into())]),
        owner: Some(Owner { kind: "ReplicaSet".into(), name: "web-1".into() }),
        ip: String::new(),
        containers: vec![("aa".into(), "app".into())],
    }
}

fn cgroups(of: &[(&str, Option<&str>)]) -> Vec<InPod> {
    let one = |(uid, container): &(&str, Option<&str>)| InPod {
        uid: (*uid).into(),
        container: container.map(Into::into),
    };
    of.iter().map(one).collect()
}

fn pods() -> Pods {
    Pods::new(PodOptions::default())
}

/// `host`, `pending`, `pod NAMESPACE/NAME CONTAINER`, each with `waits` and what rows say.
fn found(pods: &mut Pods, of: &[(&str, Option<&str>)], now: Monotonic) -> String {
    let Found { home, inside, may_wait } = pods.find(&cgroups(of), true, now);
    let home = match home {
        Home::Host => "host".to_owned(),
        Home::PodPending => "pending".to_owned(),
        Home::Pod(facts) => format!("pod {}/{} {}", facts.namespace, facts.name, facts.container),
    };
    let inside = inside.map_or("-".to_owned(), |inside| format!("{} {}", inside.pod.name, inside.container));
    format!("{home}{}; {inside}", if may_wait { " waits" } else { "" })
}

fn knows_shop(pods: &mut Pods) -> HashSet<Arc<str>> {
    let namespaces = [("shop".into(), Namespace::default())].into();
    pods.set_directory(Directory { namespaces, ..Directory::default() })
}

fn names(uids: HashSet<Arc<str>>) -> Vec<String> {
    let mut names: Vec<_> = uids.iter().map(|uid| uid.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_process_outside_pods_is_the_hosts() {
    assert_eq!(found(&mut pods(), &[], at(0)), "host; -");
}

#[test]
fn a_pod_that_nobody_told_of_is_waited_for_and_never_the_host() {
    let mut pods = pods();
    knows_shop(&mut pods);
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(0)), "pending waits; -");
    assert_eq!(names(pods.end_round(at(9))), [""; 0]);
    assert_eq!(names(pods.end_round(at(10))), ["u1"]);
    assert_eq!(names(pods.end_round(at(11))), [""; 0], "told once");
    // Another process of it does not wait again.
    assert_eq!(found(&mut pods, &[("u1", None)], at(12)), "pending; -");
    assert_eq!(pods.counts(), (0, 0));
    assert_eq!(names(pods.change(Change::Changed(pod("u1", "web-1-a")), at(20))), ["u1"]);
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(20)), "pod shop/web-1-a app; web-1-a app");
    assert_eq!(pods.counts(), (1, 0));
}

#[test]
fn a_container_without_a_status_has_no_name_until_it_has_one() {
    let mut pods = pods();
    knows_shop(&mut pods);
    let starting = Pod { containers: Vec::new(), ..pod("u1", "web") };
    pods.change(Change::Changed(starting), at(0));
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(0)), "pod shop/web ; web ");
    assert_eq!(names(pods.change(Change::Changed(pod("u1", "web")), at(1))), ["u1"]);
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(1)), "pod shop/web app; web app");
    assert_eq!(found(&mut pods, &[("u1", None)], at(1)), "pod shop/web ; web ", "the runtime's own");
}

#[test]
fn only_what_changed_is_decided_again() {
    let mut pods = pods();
    let all = || Change::All(vec![pod("u1", "a"), pod("u2", "b")]);
    assert_eq!(names(pods.change(all(), at(0))), ["u1", "u2"]);
    assert_eq!(names(pods.change(all(), at(1))), [""; 0]);
    let moved = Pod { ip: "10.0.0.1".into(), ..pod("u2", "b") };
    assert_eq!(names(pods.change(Change::Changed(moved), at(2))), ["u2"]);
}

#[test]
fn a_deleted_pod_keeps_its_names_for_a_minute() {
    let mut pods = pods();
    knows_shop(&mut pods);
    pods.change(Change::All(vec![pod("u1", "a"), pod("u2", "b")]), at(0));
    pods.change(Change::Deleted("u1".into()), at(0));
    // Not in the next list either, which does not begin the minute anew.
    pods.change(Change::All(vec![pod("u2", "b")]), at(30));
    pods.end_round(at(59));
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(59)), "pod shop/a app; a app");
    assert_eq!(pods.counts(), (1, 0));
    pods.end_round(at(60));
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(60)), "pending waits; -");
    assert_eq!(found(&mut pods, &[("u2", Some("aa"))], at(60)), "pod shop/b app; b app");
}

#[test]
fn a_pod_that_a_list_lacked_and_the_next_has_is_not_forgotten() {
    let mut pods = pods();
    knows_shop(&mut pods);
    pods.change(Change::All(vec![pod("u1", "a")]), at(0));
    pods.change(Change::All(vec![]), at(1));
    pods.change(Change::All(vec![pod("u1", "a")]), at(2));
    pods.end_round(at(100));
    assert_eq!(found(&mut pods, &[("u1", None)], at(100)), "pod shop/a ; a ");
}

#[test]
fn a_process_is_in_the_outermost_pod_of_this_node() {
    let mut pods = pods();
    knows_shop(&mut pods);
    pods.change(Change::All(vec![pod("outer", "a"), pod("inner", "b")]), at(0));
    assert_eq!(
        found(&mut pods, &[("outer", Some("aa")), ("inner", Some("aa"))], at(0)),
        "pod shop/a app; a app"
    );
    // A cluster within a container that is no pod of ours.
    assert_eq!(found(&mut pods, &[("theirs", None), ("inner", Some("aa"))], at(0)), "pod shop/b app; b app");
}

#[test]
fn labels_of_a_namespace_are_waited_for_where_policies_look_at_them() {
    let mut pods = pods();
    pods.change(Change::Changed(pod("u1", "a")), at(0));
    let without = pods.find(&cgroups(&[("u1", None)]), false, at(0));
    assert!(matches!(without.home, Home::Pod(_)), "{without:?}");
    assert_eq!(
        found(&mut pods, &[("u1", Some("aa"))], at(0)),
        "pending waits; a app",
        "rows have what is known"
    );
    assert_eq!(names(knows_shop(&mut pods)), ["u1"]);
    assert_eq!(names(knows_shop(&mut pods)), [""; 0]);
    let Home::Pod(facts) = pods.find(&cgroups(&[("u1", None)]), true, at(1)).home else { panic!("known") };
    assert_eq!(facts.namespace_labels["kubernetes.io/metadata.name"], "shop");
    assert_eq!(names(pods.end_round(at(20))), [""; 0]);
}

#[test]
fn a_namespace_that_nobody_tells_of_is_waited_for_once() {
    let mut pods = pods();
    pods.change(Change::Changed(pod("u1", "a")), at(0));
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(0)), "pending waits; a app");
    assert_eq!(names(pods.end_round(at(10))), ["u1"]);
    pods.change(Change::Changed(Pod { ip: "10.0.0.1".into(), ..pod("u1", "a") }), at(11));
    assert_eq!(found(&mut pods, &[("u1", Some("aa"))], at(11)), "pending; a app");
}

#[test]
fn the_directory_changes_what_rows_say() {
    let mut pods = pods();
    pods.change(
        Change::All(vec![pod("u1", "a"), Pod { namespace: "other".into(), ..pod("u2", "b") }]),
        at(0),
    );
    let selector = Labels::from([("app".into(), "web".into())]);
    let services = vec![Service { name: "web".into(), selector }];
    let object = Object { namespace: "shop".into(), kind: "ReplicaSet".into(), name: "web-1".into() };
    let directory = Directory {
        namespaces: [("shop".into(), Namespace { services, ..Namespace::default() })].into(),
        workloads: [(object, Owner { kind: "Deployment".into(), name: "web".into() })].into(),
    };
    assert_eq!(names(pods.set_directory(directory)), ["u1"]);
    let inside = pods.find(&cgroups(&[("u1", None)]), false, at(1)).inside.expect("known");
    let Tags { service, workload_kind, workload, .. } = &*inside.pod;
    assert_eq!((&**service, &**workload_kind, &**workload), ("web", "Deployment", "web"));
}

#[test]
fn however_many_pods_are_made_up_few_are_waited_for() {
    let mut pods = pods();
    for n in 0..MAX_AWAITED + 10 {
        let uid = n.to_string();
        let Found { home, may_wait, .. } = pods.find(&cgroups(&[(&uid, None)]), false, at(0));
        assert_eq!((home, may_wait), (Home::PodPending, n < MAX_AWAITED));
    }
    pods.end_round(at(10));
    assert_eq!(pods.awaited.len(), MAX_AWAITED, "not waited for again");
    pods.end_round(at(3600));
    assert_eq!(pods.awaited.len(), 0);
}
