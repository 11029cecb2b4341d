#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proptest::prelude::*;

use super::*;
use crate::effective::tests::{namespaced, policy};
use crate::facts::PodFacts;

fn compiled(policies: &[EffectivePolicy]) -> Vec<CompiledPolicy> {
    let aged = (0..).zip(policies.iter().cloned());
    aged.map(|(age, policy)| CompiledPolicy::compile(EffectivePolicy { age, ..policy }).unwrap()).collect()
}

fn cluster_node() -> Environment {
    Environment::Kubernetes { node_labels: labels("disk=ssd") }
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn host(comm: &str) -> ProcessFacts {
    let (cmdline, exe) = (format!("/usr/bin/{comm} --serve"), format!("/usr/bin/{comm}"));
    ProcessFacts { comm: comm.to_owned(), cmdline, exe, home: Home::Host }
}

fn in_pod(comm: &str, namespace: &str, pod_labels: &str, container: &str) -> ProcessFacts {
    let pod = PodFacts {
        namespace: namespace.to_owned(),
        namespace_labels: labels(&format!("kubernetes.io/metadata.name={namespace}")),
        name: "pod-0".to_owned(),
        labels: labels(pod_labels),
        container: container.to_owned(),
        workload: "shop".to_owned(),
    };
    ProcessFacts { home: Home::Pod(pod), ..host(comm) }
}

/// `expected`: the ids in their order, winner first, or a word.
fn check(policies: &[EffectivePolicy], environment: &Environment, facts: &ProcessFacts, expected: &str) {
    let policies = compiled(policies);
    assert_eq!(show(&policies, &decide(&policies, environment, facts)), expected, "{facts:?}");
}

fn show(policies: &[CompiledPolicy], decision: &Decision) -> String {
    match decision {
        Decision::Unmatched => "unmatched".to_owned(),
        Decision::Undecided => "undecided".to_owned(),
        Decision::Matched { winner, overridden } => {
            let all = std::iter::once(winner).chain(overridden);
            all.map(|&i| policies[i].policy().id()).collect::<Vec<_>>().join(" > ")
        }
    }
}

#[test]
fn without_kubernetes_both_kinds_reach_every_process() {
    let policies = [policy("java", "regex: ^java$"), namespaced("redis", "regex: ^redis")];
    let here = Environment::Standalone;
    check(&policies, &here, &host("java"), "java");
    check(&policies, &here, &host("redis-server"), "default/redis");
    check(&policies, &here, &host("bash"), "unmatched");
}

#[test]
fn without_kubernetes_selectors_of_pods_match_nothing() {
    let policies = [
        policy("pods", "podSelector: {}"),
        policy("containers", "containers: [app]"),
        policy("namespaces", "namespaceSelector: {}"),
        policy("labelled", "nodeSelector: {matchLabels: {disk: ssd}}"),
    ];
    check(&policies, &Environment::Standalone, &host("java"), "unmatched");
    check(&[policy("any", "nodeSelector: {}")], &Environment::Standalone, &host("java"), "any");
}

#[test]
fn the_default_regex_is_hearth_itself() {
    check(&[policy("p", "{}")], &Environment::Standalone, &host("hearth-collecto"), "p");
    check(&[policy("p", "{}")], &Environment::Standalone, &host("my-hearth-x"), "unmatched");
}

#[test]
fn the_regex_is_searched_where_match_says() {
    let here = Environment::Standalone;
    check(&[policy("p", "regex: edi")], &here, &host("redis"), "p");
    check(&[policy("p", "regex: serve")], &here, &host("redis"), "unmatched");
    check(&[policy("p", "{regex: serve, match: cmdline}")], &here, &host("redis"), "p");
    check(&[policy("p", "{regex: ^/usr/bin/redis$, match: exe}")], &here, &host("redis"), "p");
}

#[test]
fn a_namespaced_policy_reaches_its_own_namespace_only() {
    let policies = [namespaced("p", "podSelector: {}")];
    check(&policies, &cluster_node(), &in_pod("java", "default", "", "app"), "default/p");
    check(&policies, &cluster_node(), &in_pod("java", "other", "", "app"), "unmatched");
    check(&policies, &cluster_node(), &host("java"), "unmatched");
}

#[test]
fn host_processes_are_reached_only_when_asked_for() {
    let pods_only = [policy("p", "regex: .*")];
    let both = [policy("p", "{regex: .*, hostProcesses: true}")];
    let pod = in_pod("java", "shop", "", "app");
    check(&pods_only, &cluster_node(), &host("sshd"), "unmatched");
    check(&both, &cluster_node(), &host("sshd"), "p");
    check(&pods_only, &cluster_node(), &pod, "p");
    check(&both, &cluster_node(), &pod, "p");
}

#[test]
fn a_process_of_a_pod_still_unknown_waits_only_for_policies_that_could_match() {
    let pending = ProcessFacts { home: Home::PodPending, ..host("java") };
    let waiting = policy("p", "{regex: java, hostProcesses: true}");
    check(std::slice::from_ref(&waiting), &cluster_node(), &pending, "undecided");
    check(&[policy("p", "regex: redis")], &cluster_node(), &pending, "unmatched");
    check(&[policy("p", "{regex: java, disabled: true}")], &cluster_node(), &pending, "unmatched");
}

#[test]
fn every_reason_not_to_match_has_its_name() {
    let pod = in_pod("java", "default", "app=web", "app");
    for (policy, facts, reason) in [
        (namespaced("p", "disabled: true"), &pod, NoMatch::Disabled),
        (EffectivePolicy { completed: true, ..namespaced("p", "podSelector: {}") }, &pod, NoMatch::Completed),
        (policy("p", "nodeSelector: {matchLabels: {disk: hdd}}"), &pod, NoMatch::Node),
        (policy("p", "regex: redis"), &pod, NoMatch::Regex),
        (policy("p", "regex: java"), &host("java"), NoMatch::HostProcess),
        (
            policy("p", "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}"),
            &pod,
            NoMatch::Namespace,
        ),
        (namespaced("p", "podSelector: {matchLabels: {app: db}}"), &pod, NoMatch::Pod),
        (namespaced("p", "containers: [sidecar]"), &pod, NoMatch::Container),
    ] {
        let policy = CompiledPolicy::compile(policy).unwrap();
        assert_eq!(policy.verdict(&cluster_node(), facts), Verdict::No(reason), "{policy:?}");
    }
}

#[test]
fn a_pod_is_selected_whatever_runs_in_it() {
    let Home::Pod(pod) = in_pod("java", "default", "app=shop", "app").home else { panic!("it is in a pod") };
    for (policy, expected) in [
        (namespaced("p", "{podSelector: {matchLabels: {app: shop}}, regex: ^nobody$}"), true),
        (namespaced("p", "{podSelector: {}, containers: [other]}"), true),
        (namespaced("p", "podSelector: {matchLabels: {app: other}}"), false),
        (policy("p", "regex: ^nobody$"), true),
        (policy("p", "namespaceSelector: {matchLabels: {team: a}}"), false),
        (policy("p", "{podSelector: {}, nodeSelector: {matchLabels: {disk: hdd}}}"), false),
        (policy("p", "{podSelector: {}, disabled: true}"), false),
    ] {
        let compiled = CompiledPolicy::compile(policy).unwrap();
        assert_eq!(compiled.selects_pod(&cluster_node(), &pod), expected, "{compiled:?}");
        assert!(!compiled.selects_pod(&Environment::Standalone, &pod), "there are no pods");
    }
}

#[test]
fn priority_then_specificity_then_age_then_name() {
    let pod = in_pod("java", "default", "app=web", "app");
    let node = cluster_node();
    let by_priority = [namespaced("narrow", "podSelector: {}"), policy("high", "{regex: .*, priority: 1}")];
    check(&by_priority, &node, &pod, "high > default/narrow");

    let by_target = [
        policy("all", "regex: .*"),
        policy("node", "nodeSelector: {}"),
        namespaced("ns", "regex: .*"),
        policy("nss", "{namespaceSelector: {}, nodeSelector: {}}"),
        namespaced("containers", "containers: [app]"),
        policy("pods", "{podSelector: {}, namespaceSelector: {}}"),
    ];
    check(&by_target, &node, &pod, "default/containers > pods > default/ns > nss > node > all");

    let by_age = [policy("b", "regex: .*"), policy("a", "regex: .*")];
    check(&by_age, &node, &pod, "b > a");

    let same_age = ["b", "a"].map(|name| CompiledPolicy::compile(policy(name, "regex: .*")).unwrap());
    assert_eq!(show(&same_age, &decide(&same_age, &node, &pod)), "a > b");
}

/// Policies that differ in what the order looks at, and match often.
fn policies() -> impl Strategy<Value = Vec<EffectivePolicy>> {
    let specs = vec![
        "{regex: .*, hostProcesses: true}",
        "{regex: java, priority: 3}",
        "{nodeSelector: {}}",
        "{namespaceSelector: {}, priority: 3}",
        "{podSelector: {matchLabels: {app: web}}}",
        "{containers: [app]}",
        "{regex: nothing-at-all}",
        "{regex: .*, disabled: true}",
    ];
    let one = (proptest::sample::select(specs), 0i64..3);
    proptest::collection::vec(one, 0..7).prop_map(|list| {
        let make = |(i, (spec, age)): (usize, (&str, i64))| EffectivePolicy {
            age,
            ..policy(&format!("p{i}"), spec)
        };
        list.into_iter().enumerate().map(make).collect()
    })
}

fn processes() -> impl Strategy<Value = ProcessFacts> {
    proptest::sample::select(vec![
        host("java"),
        host("sshd"),
        in_pod("java", "default", "app=web", "app"),
        in_pod("node", "other", "app=db", "sidecar"),
        ProcessFacts { home: Home::PodPending, ..host("java") },
    ])
}

fn outcome(policies: &[EffectivePolicy], facts: &ProcessFacts) -> String {
    let policies: Vec<_> = policies.iter().map(|p| CompiledPolicy::compile(p.clone()).unwrap()).collect();
    show(&policies, &decide(&policies, &cluster_node(), facts))
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (list, shuffled) in policies().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        facts in processes(),
    ) {
        prop_assert_eq!(outcome(&list, &facts), outcome(&shuffled, &facts));
    }

    #[test]
    fn a_policy_that_matches_nothing_changes_nothing(list in policies(), at in any::<proptest::sample::Index>(), facts in processes()) {
        let mut more = list.clone();
        let stranger = policy("stranger", "{regex: nothing-at-all, priority: 1000000, podSelector: {}}");
        more.insert(at.index(list.len() + 1), stranger);
        prop_assert_eq!(outcome(&list, &facts), outcome(&more, &facts));
    }

    #[test]
    fn without_the_winner_the_runner_up_wins(list in policies(), facts in processes()) {
        let before = outcome(&list, &facts);
        if before != "undecided" && before != "unmatched" {
            let (winner, rest) = before.split_once(" > ").unwrap_or((&before, "unmatched"));
            let without: Vec<_> = list.iter().filter(|p| p.id() != winner).cloned().collect();
            prop_assert_eq!(outcome(&without, &facts), rest);
        }
    }
}

#[test]
fn the_step_that_decided_is_named() {
    let check = |first: &EffectivePolicy, second: &EffectivePolicy, expected| {
        let pair = compiled(&[first.clone(), second.clone()]);
        assert_eq!(goes_before(pair[0].policy(), pair[1].policy()), expected);
        check(&[first.clone(), second.clone()], &cluster_node(), &in_pod("a", "default", "x=y", "c"), &{
            [first.id(), second.id()].join(" > ")
        });
    };
    let all = policy("all", "regex: a");
    check(&policy("b", "{regex: a, priority: 1}"), &namespaced("p", "podSelector: {}"), Before::Priority);
    check(&namespaced("p", "podSelector: {}"), &all, Before::Target);
    check(&policy("b", "regex: a"), &all, Before::Age);
    let same = |name| EffectivePolicy { age: 0, ..policy(name, "regex: a") };
    assert_eq!(goes_before(&same("a"), &same("b")), Before::Name);
}
