//! What a policy's status says, and what its nodes do then.

use std::time::{Duration, Instant};

use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::AgentMetrics;
use hearth_e2e::{Cluster, random_letters};
use libtest_mimic::Trial;

use crate::outages::scale_operator;
use crate::profiles::{Workload, on_hearth};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_hearth("status::a_bad_regex_is_said_and_correcting_it_heals", a_bad_regex_is_said),
        on_hearth(
            "status::a_policy_that_is_invalid_stays_in_force_through_a_restart_of_the_operator",
            an_invalid_policy_stays_in_force,
        ),
        on_hearth("status::the_loser_of_two_policies_names_the_winner", the_loser_names_the_winner),
        on_hearth("status::a_node_that_is_switched_off_stops_within_seconds", a_node_is_switched_off),
    ]
}

/// `STATUS REASON` of a condition of `KIND/NAME` in `default`.
pub(crate) fn condition(cluster: &Cluster, policy: &str, kind: &str) -> String {
    let path = format!(
        "jsonpath={{.status.conditions[?(@.type==\"{kind}\")].status}} \
         {{.status.conditions[?(@.type==\"{kind}\")].reason}}"
    );
    cluster.kubectl(&["get", policy, "-o", &path])
}

/// Waits until a policy is ready on so many nodes of so many.
pub(crate) fn await_ready(cluster: &Cluster, policy: &str, summary: &str) {
    wait_for(&format!("{policy} on {summary}"), || {
        let found = cluster.kubectl(&["get", policy, "-o", "jsonpath={.status.nodes.summary}"]);
        (found == summary && condition(cluster, policy, "Ready") == "True Ready").then_some(())
    });
}

pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
         metadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    )
}

fn a_bad_regex_is_said(cluster: &Cluster) {
    cluster.apply(&policy("bad", "{regex: 'a(b'}"));
    wait_for("the verdict", || (condition(cluster, "pp/bad", "Accepted") == "False Invalid").then_some(()));
    let message = cluster.kubectl(&["get", "pp/bad", "-o", "jsonpath={.status.conditions[0].message}"]);
    assert!(message.contains("spec.regex") && message.contains("unclosed group"), "{message}");
    assert!(condition(cluster, "pp/bad", "Ready").starts_with("False"));
    cluster.apply(&policy("bad", "{regex: 'a(b)'}"));
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pp/bad"]);
    assert_eq!(condition(cluster, "pp/bad", "Accepted"), "True Accepted");
    cluster.kubectl(&["delete", "pp/bad"]);
}

/// No operator knows its last valid version then: only the nodes do.
fn an_invalid_policy_stays_in_force(cluster: &Cluster) {
    let agent = AgentMetrics::of(cluster, "node1");
    let rate = || agent.get("hearth_agent_effective_frequency");
    let follows = |expected: &str| {
        wait_for(&format!("the rate of {expected} Hz"), || (rate() == expected).then_some(()));
    };
    cluster.apply(&policy("kept", "{regex: ^kept, frequency: 151}"));
    follows("151");
    cluster.apply(&policy("kept", "{regex: 'a(b', frequency: 151}"));
    wait_for("the verdict", || (condition(cluster, "pp/kept", "Accepted") == "False Invalid").then_some(()));
    scale_operator(cluster, "0");
    scale_operator(cluster, "2");
    // It speaks of nodes when they have answered it.
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}";
    wait_for("the verdict of an operator that does not know it", || {
        let message = cluster.kubectl(&["get", "pp/kept", "-o", path]);
        (message == "nodes keep the version that they have, if any").then_some(())
    });
    assert_eq!(rate(), "151");
    assert_eq!(condition(cluster, "pp/kept", "Accepted"), "False Invalid");
    cluster.apply(&policy("kept", "{regex: ^kept, frequency: 157}"));
    follows("157");
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pp/kept"]);
    cluster.kubectl(&["delete", "pp/kept"]);
    wait_for("a rate without it", || (rate() != "157").then_some(()));
}

fn the_loser_names_the_winner(cluster: &Cluster) {
    let comm = format!("twice-{}", random_letters(6));
    Workload::new(cluster, &comm).start(cluster, "default", &comm, "node1");
    cluster.apply(&policy("winner", &format!("{{regex: ^{comm}, priority: 7}}")));
    cluster.apply(&policy("loser", &format!("{{regex: ^{comm}}}")));
    wait_for("the loser's verdict", || {
        (condition(cluster, "pp/loser", "Programmed") == "False Overridden").then_some(())
    });
    let by = cluster.kubectl(&["get", "pp/loser", "-o", "jsonpath={.status.overriddenBy}"]);
    assert_eq!(by, r#"["default/winner"]"#);
    assert_eq!(condition(cluster, "pp/winner", "Programmed"), "True Programmed");
    cluster.kubectl(&["delete", "pp/winner"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pp/loser"]);
    cluster.kubectl(&["delete", "pp/loser", &format!("pod/{comm}"), "--wait=false"]);
}

fn a_node_is_switched_off(cluster: &Cluster) {
    let agent = AgentMetrics::of(cluster, "node2");
    let rate = || agent.get("hearth_agent_effective_frequency");
    wait_for("the default policy on the node", || (rate() == "99").then_some(()));
    let asked = Instant::now();
    cluster.kubectl(&["label", "node", "node2", "hearth.dev/profiling=off"]);
    wait_for("the end of the sampling", || (rate() == "0").then_some(()));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    cluster.kubectl(&["label", "node", "node2", "hearth.dev/profiling-"]);
    wait_for("the sampling again", || (rate() == "99").then_some(()));
}
