#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use hearth_proto::config::v1::DetachedReason;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::index::tests::{id, index_with, object, put};
use crate::nodes::{Counts, Details, PolicyCount};

/// What nodes do about the policy `p`, of which a node called `x` reports `x: words`:
/// `gone` has no stream, `silent` has not answered, `refuses WHY`, `applies` without any count, `wins N` processes
/// (each in a pod of its own), `loses N to OTHER`, `both N to OTHER` wins one and loses N, `sees A B` wins nothing
/// in pods where A and B run, `empty` selects no pod, `unclean`/`off-file`/`unable` sample nothing.
struct World {
    index: Index,
    nodes: Nodes,
    aggregator: Aggregator,
    now: i64,
}

impl World {
    fn new(spec: Value, nodes: &[&str]) -> Self {
        let names: Vec<&str> = nodes.iter().map(|node| node.split_once(": ").unwrap().0).collect();
        let mut index = index_with(&names);
        let _ = put(&mut index, "p", spec);
        let mut world = Self { index, nodes: Nodes::default(), aggregator: Aggregator::default(), now: 2000 };
        nodes.iter().for_each(|node| world.report(node));
        world
    }

    fn report(&mut self, line: &str) {
        let (name, words) = line.split_once(": ").unwrap();
        let name = name.split(' ').next().unwrap();
        let words: Vec<&str> = words.split(' ').collect();
        let config = self.index.config_for(name, self.now).unwrap();
        if words[0] == "gone" {
            if let Some(stream) = self.nodes.stream_of(name) {
                assert!(self.nodes.disconnect(name, stream));
            }
            return;
        }
        if self.nodes.get(name).is_none() {
            self.nodes.connect(Arc::from(name), String::new());
        }
        let node = self.nodes.by_name(name);
        let nonce = node.sent(&config);
        let number = || words[1].parse::<u32>().unwrap();
        let others = || words[3..].iter().map(|other| id(other)).collect();
        let mut count = PolicyCount {
            policy: id("p"),
            pods: 0,
            processes: 0,
            overridden: 0,
            selected_pods: 1,
            details: None,
        };
        let mut details = Details::default();
        let mut detached = None;
        match words[0] {
            "silent" => return,
            "refuses" => return node.verdict(nonce, words[1..].join(" ")).unwrap(),
            "applies" => return node.verdict(nonce, String::new()).unwrap(),
            "wins" => (count.processes, count.pods) = (number(), number()),
            "loses" => (count.overridden, details.overridden_by) = (number(), others()),
            "both" => {
                (count.processes, count.pods) = (1, 1);
                (count.overridden, details.overridden_by) = (number(), others());
            }
            "sees" => details.seen = words[1..].iter().map(|&name| name.into()).collect(),
            "empty" => count.selected_pods = 0,
            "unclean" => detached = Some((DetachedReason::UncleanStart, "went down twice".to_owned())),
            "off-file" => detached = Some((DetachedReason::Off, "/run/hearth/off".to_owned())),
            "unable" => detached = Some((DetachedReason::CannotSample, "needs CAP_PERFMON".to_owned())),
            other => panic!("{other}"),
        }
        count.details = Some(Box::new(details));
        node.verdict(nonce, String::new()).unwrap();
        node.set_counts(Counts { policies: [count].into(), detached });
    }

    /// The status that `p` gets now, as the API server then has it.
    fn status(&mut self) -> PolicyStatus {
        self.write(true);
        self.index.policy(&id("p")).unwrap().status().clone()
    }

    /// The user has changed the spec; the status stays.
    fn edit(&mut self, generation: i64, spec: Value) {
        let status = self.index.policy(&id("p")).map(|policy| policy.status().clone());
        let object = crate::index::PolicyObject { generation, status, ..object(&id("p"), spec) };
        let _ = self.index.set_policy(id("p"), object);
    }

    /// How many statuses were written.
    fn write(&mut self, settled: bool) -> usize {
        let assessment = self.aggregator.assess(&self.index, &self.nodes, self.now, settled);
        for (id, status) in &assessment.differ {
            self.index.set_status(id, "uid", status.clone());
        }
        assessment.differ.len()
    }

    fn again(&mut self) -> Option<i64> {
        self.aggregator.assess(&self.index, &self.nodes, self.now, true).again
    }
}

/// `Accepted Programmed Ready[ Reconciling][ Stalled] | nodes`, a condition as `True/Reason`.
fn text(status: &PolicyStatus) -> String {
    let condition = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        let said = format!("{}/{}", c.status, c.reason);
        match &*c.type_ {
            kind @ ("Reconciling" | "Stalled") => format!("{kind}={said}"),
            _ => said,
        }
    };
    let mut text = status.conditions.iter().map(condition).collect::<Vec<_>>().join(" ");
    if let Some(nodes) = &status.nodes {
        text += &format!(" | {}", nodes.summary);
        for (word, n) in [("pending", nodes.pending), ("failed", nodes.failed), ("stale", nodes.stale)] {
            if n > 0 {
                text += &format!(" {n} {word}");
            }
        }
    }
    text
}

fn message(status: &PolicyStatus, kind: &str) -> String {
    status.conditions.iter().find(|condition| condition.type_ == kind).unwrap().message.clone()
}

#[track_caller]
fn check(spec: Value, nodes: &[&str], expected: &str) {
    let mut world = World::new(spec, nodes);
    assert_eq!(text(&world.status()), expected, "{nodes:?}");
}

#[test]
fn a_status_follows_from_what_nodes_report() {
    for (nodes, expected) in [
        // All is well.
        (&["a: wins 3", "b: wins 1"][..], "True/Accepted True/Programmed True/Ready | 2/2"),
        (&["a: wins 3", "b: sees bash"], "True/Accepted True/Programmed True/Ready | 2/2"),
        // Nodes without a stream do not hold it back, but there must be one.
        (&["a: wins 3", "b: gone"], "True/Accepted True/Programmed True/Ready | 1/2 1 stale"),
        (&["a: gone"], "True/Accepted Unknown/NoNodes Unknown/NoNodes | 0/1 1 stale"),
        (&[], "True/Accepted Unknown/NoNodes Unknown/NoNodes | 0/0"),
        // On the way.
        (
            &["a: silent"],
            "True/Accepted False/Reconciling False/Reconciling Reconciling=True/Reconciling | 0/1 1 pending",
        ),
        (
            &["a: wins 3", "b: silent"],
            "True/Accepted True/Programmed False/Reconciling Reconciling=True/Reconciling | 1/2 1 pending",
        ),
        // Some nodes fail, or all of them.
        (&["a: wins 3", "b: refuses no"], "True/Accepted True/Programmed False/NodesFailed | 1/2 1 failed"),
        (
            &["a: refuses no", "b: unclean"],
            "True/Accepted False/NodesFailed False/NodesFailed Stalled=True/NodesFailed | 0/2 2 failed",
        ),
        (
            &["a: unclean", "b: gone"],
            "True/Accepted False/NodesFailed False/NodesFailed | 0/2 1 failed 1 stale",
        ),
        (
            &["a: refuses no", "b: silent"],
            "True/Accepted False/Reconciling False/NodesFailed Reconciling=True/Reconciling | 0/2 1 pending 1 failed",
        ),
        // Other policies win.
        (&["a: loses 2 to q"], "True/Accepted False/Overridden False/Overridden | 1/1"),
        (&["a: loses 2 to q", "b: sees bash"], "True/Accepted False/Overridden False/Overridden | 2/2"),
        (&["a: both 2 to q"], "True/Accepted True/PartiallyOverridden True/Ready | 1/1"),
        (&["a: loses 2 to q", "b: wins 1"], "True/Accepted True/PartiallyOverridden True/Ready | 2/2"),
    ] {
        check(json!({}), nodes, expected);
    }
}

#[test]
fn a_policy_that_no_node_shall_work_by_waits_only_for_those_that_still_do() {
    let disabled = json!({"disabled": true});
    check(disabled.clone(), &["a: applies"], "True/Accepted False/Disabled True/Disabled | 1/1");
    check(disabled, &["a: gone"], "True/Accepted False/Disabled True/Disabled | 0/1 1 stale");

    let mut world = World::new(json!({"duration": "1h"}), &["a: wins 1"]);
    assert_eq!(text(&world.status()), "True/Accepted True/Programmed True/Ready | 1/1");
    assert_eq!(world.again(), Some(4600));
    world.now = 4600;
    assert_eq!(
        text(&world.status()),
        "True/Accepted False/Completed False/Reconciling Reconciling=True/Reconciling | 0/1 1 pending"
    );
    world.report("a: applies");
    let status = world.status();
    assert_eq!(text(&status), "True/Accepted False/Completed True/Completed | 1/1");
    assert_eq!(status.matched, Some(Matched::default()), "what nodes counted before is of no interest");
}

#[test]
fn an_invalid_policy_says_what_is_wrong_and_that_nodes_keep_what_they_had() {
    let mut world = World::new(json!({"regex": "a(b"}), &["a: applies"]);
    let status = world.status();
    assert_eq!(text(&status), "False/Invalid False/Invalid False/Invalid");
    assert!(message(&status, "Accepted").starts_with("spec.regex does not compile: unclosed group; write"));
    assert_eq!(message(&status, "Ready"), "nodes keep the version that they have, if any");

    let mut world = World::new(json!({}), &["a: wins 1"]);
    world.status();
    world.edit(2, json!({"regex": "a(b"}));
    let status = world.status();
    assert_eq!(text(&status), "False/Invalid False/Invalid False/Invalid | 1/1");
    assert_eq!(message(&status, "Ready"), "nodes keep the last valid version");
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(status.matched, Some(Matched { pods: 1, processes: 1 }));
}

/// By a version that this operator does not know.
#[test]
fn a_policy_that_is_switched_off_waits_for_nodes_that_kept_it() {
    let mut world = World::new(json!({"regex": "a(b"}), &["a: applies"]);
    world.edit(2, json!({"disabled": true}));
    assert_eq!(
        text(&world.status()),
        "True/Accepted False/Disabled False/Reconciling Reconciling=True/Reconciling | 0/1 1 pending"
    );
    world.report("a: applies");
    assert_eq!(text(&world.status()), "True/Accepted False/Disabled True/Disabled | 1/1");
}

#[test]
fn nothing_matched_is_said_after_a_minute_with_the_cause() {
    for (spec, node, expected) in [
        (
            json!({"podSelector": {}, "regex": "^java$"}),
            "a: sees nginx bash sh cat ls zsh",
            "no process matches \"^java$\"; in the pods that it selects run: bash, cat, ls, nginx, sh",
        ),
        (json!({"regex": "x", "hostProcesses": true}), "a: empty", "no process matches \"x\""),
        (json!({}), "a: empty", "no process matches \"^hearth-.*\""),
        (
            json!({"containers": ["app"]}),
            "a: sees sh",
            "no process runs where it selects; in the pods that it selects run: sh",
        ),
        (
            json!({"podSelector": {}}),
            "a: empty",
            "it selects no running pod: see its selectors and the labels of pods and namespaces",
        ),
    ] {
        let mut world = World::new(spec, &[node]);
        assert_eq!(text(&world.status()), "True/Accepted True/Programmed True/Ready | 1/1");
        assert_eq!(world.again(), Some(2060));
        world.now = 2059;
        assert_eq!(world.write(true), 0);
        world.now = 2060;
        let status = world.status();
        assert_eq!(text(&status), "True/Accepted True/Programmed True/NothingMatched | 1/1");
        assert_eq!(message(&status, "Ready"), expected);
        world.report("a: wins 1");
        assert_eq!(text(&world.status()), "True/Accepted True/Programmed True/Ready | 1/1");
    }
}

#[test]
fn the_minute_begins_again_with_another_spec_and_with_a_match_between() {
    let mut world = World::new(json!({"regex": "x"}), &["a: empty"]);
    world.status();
    world.now = 2050;
    world.edit(2, json!({"regex": "y"}));
    world.report("a: empty");
    world.status();
    assert_eq!(world.again(), Some(2110));
    world.now = 2100;
    world.report("a: wins 1");
    world.status();
    world.report("a: empty");
    world.status();
    assert_eq!(world.again(), Some(2160));
}

#[test]
fn failures_name_node_reason_and_message_and_are_ten_at_most() {
    let lines: Vec<String> = (10..25).rev().map(|n| format!("n{n}: refuses {}", "é".repeat(300))).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let status = World::new(json!({}), &lines).status();
    assert_eq!(
        text(&status),
        "True/Accepted False/NodesFailed False/NodesFailed Stalled=True/NodesFailed | 0/15 15 failed"
    );
    let names: Vec<&str> = status.failures.iter().map(|failure| &*failure.node).collect();
    assert_eq!(names, ["n10", "n11", "n12", "n13", "n14", "n15", "n16", "n17", "n18", "n19"]);
    assert_eq!(status.failures[0].message, "é".repeat(256));

    let status = World::new(json!({}), &["a: unclean", "b: off-file", "c: unable", "d: refuses no"]).status();
    let failures: Vec<_> =
        status.failures.iter().map(|f| format!("{} {}: {}", f.node, f.reason, f.message)).collect();
    assert_eq!(
        failures,
        [
            "a UncleanStart: went down twice",
            "b SwitchedOff: /run/hearth/off",
            "c CannotSample: needs CAP_PERFMON",
            "d Refused: no",
        ]
    );
}

#[test]
fn overriders_are_ten_at_most_whichever_node_names_them_first() {
    let lines =
        ["a: loses 1 to q9 q8 q7 q6 q5", "b: loses 1 to q4 q3 q2 q1 q0", "c: loses 1 to p9 shop/q q9"];
    let status = World::new(json!({}), &lines).status();
    assert_eq!(status.overridden_by, ["p9", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8"]);
}

#[test]
fn a_node_that_is_switched_off_by_its_label_is_not_selected() {
    let mut world = World::new(json!({}), &["a: wins 1", "b hearth.dev/profiling=off: silent"]);
    assert_eq!(text(&world.status()), "True/Accepted True/Programmed True/Ready | 1/1");
}

#[test]
fn a_change_of_one_policy_leaves_the_status_of_the_others() {
    let mut world = World::new(json!({}), &["a: wins 1"]);
    world.status();
    let _ = put(&mut world.index, "other", json!({"regex": "x"}));
    let config = world.index.config_for("a", world.now).unwrap();
    world.nodes.by_name("a").sent(&config);
    let assessment = world.aggregator.assess(&world.index, &world.nodes, world.now, true);
    let differ: Vec<&str> = assessment.differ.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(differ, ["other"]);
}

#[test]
fn a_refusal_is_held_against_what_was_new_in_the_refused_configuration() {
    let mut world = World::new(json!({}), &["a: wins 1"]);
    let _ = put(&mut world.index, "other", json!({"regex": "x"}));
    let config = world.index.config_for("a", world.now).unwrap();
    let node = world.nodes.by_name("a");
    let nonce = node.sent(&config);
    node.verdict(nonce, "too much".to_owned()).unwrap();
    world.write(true);
    let text_of = |name: &str| text(world.index.policy(&id(name)).unwrap().status());
    assert_eq!(text_of("p"), "True/Accepted True/Programmed True/Ready | 1/1");
    assert!(text_of("other").contains("False/NodesFailed"), "{}", text_of("other"));
}

#[test]
fn times_move_only_with_the_status_of_a_condition() {
    let mut world = World::new(json!({}), &["a: wins 1"]);
    let first = world.status();
    world.now += 10;
    world.report("a: loses 2 to q");
    let second = world.status();
    let times = |status: &PolicyStatus| -> Vec<i64> {
        status.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect()
    };
    assert_eq!((times(&first), times(&second)), (vec![2000; 3], vec![2000, 2010, 2010]));
    world.now += 10;
    // Another reason for the same.
    world.report("a: unclean");
    let other = world.status();
    assert!(
        text(&other).starts_with("True/Accepted False/NodesFailed False/NodesFailed"),
        "{}",
        text(&other)
    );
    assert_eq!(times(&other)[..3], [2000, 2010, 2010]);
    world.report("a: loses 2 to q");
    world.edit(2, json!({}));
    let third = world.status();
    assert_eq!((times(&third), third.observed_generation), (vec![2000, 2010, 2010], Some(2)));
    assert!(third.conditions.iter().all(|c| c.observed_generation == Some(2)));
}

#[test]
fn a_new_leader_says_nothing_of_nodes_before_they_reported() {
    let mut world = World::new(json!({}), &["a: wins 1", "b: gone"]);
    let written = world.status();
    // Restarted: no stream yet.
    world.nodes = Nodes::default();
    world.aggregator = Aggregator::default();
    assert_eq!(world.write(false), 0);
    assert_eq!(*world.index.policy(&id("p")).unwrap().status(), written);
    // What does not depend on nodes is said at once; counts are those from before.
    world.edit(2, json!({"regex": "x"}));
    assert_eq!((world.write(false), world.write(false)), (1, 0));
    let status = world.index.policy(&id("p")).unwrap().status().clone();
    assert_eq!(
        text(&status),
        "True/Accepted Unknown/Reconciling Unknown/Reconciling Reconciling=True/Reconciling | 1/2 1 stale"
    );
    world.edit(3, json!({"regex": "a(b"}));
    assert_eq!((world.write(false), world.write(false)), (1, 0));
    let status = world.index.policy(&id("p")).unwrap().status().clone();
    assert_eq!(text(&status), "False/Invalid False/Invalid False/Invalid | 1/2 1 stale");
}

#[test]
fn a_restart_writes_nothing_where_nothing_changed() {
    for node in ["wins 1", "empty", "loses 1 to q", "refuses no", "unclean"] {
        let mut world = World::new(json!({"regex": "x"}), &[&format!("a: {node}")]);
        world.write(true);
        world.now += 100;
        world.write(true);
        world.aggregator = Aggregator::default();
        world.now += 100;
        assert_eq!(world.write(true), 0, "{node}");
    }
}

#[test]
fn an_event_is_told_once_when_trouble_begins() {
    let mut world = World::new(json!({}), &["a: wins 1"]);
    let mut before = PolicyStatus::default();
    let mut told = |world: &mut World| {
        let after = world.status();
        let told = transitions(&before, &after).iter().map(|t| t.reason).collect::<Vec<_>>().join(" ");
        before = after;
        told
    };
    assert_eq!(told(&mut world), "");
    world.report("a: loses 1 to q");
    assert_eq!((&*told(&mut world), &*told(&mut world)), ("Overridden", ""));
    world.report("a: refuses no");
    world.report("a: unclean");
    assert_eq!((&*told(&mut world), &*told(&mut world)), ("NodesFailed", ""));
    for generation in [2, 3] {
        world.edit(generation, json!({"regex": "a(b"}));
        assert_eq!((&*told(&mut world), &*told(&mut world)), ("Invalid", ""));
    }
    world.edit(4, json!({"duration": "10s"}));
    world.report("a: applies");
    assert_eq!((&*told(&mut world), &*told(&mut world)), ("Completed", ""));
}

#[test]
fn amounts_are_told_from_everything_else() {
    let status = |line: &str| World::new(json!({}), &[line]).status();
    assert!(differ_in_amount_only(&status("a: wins 1"), &status("a: wins 2")));
    assert!(!differ_in_amount_only(&status("a: wins 1"), &status("a: empty")));
    assert!(!differ_in_amount_only(&status("a: wins 1"), &status("a: both 2 to q")));
}

proptest! {
    /// Nodes report in any order, and more than once.
    #[test]
    fn a_status_does_not_depend_on_the_order_of_reports(
        lines in prop::collection::vec(
            prop::sample::select(vec![
                "gone", "silent", "refuses no", "wins 2", "loses 1 to q", "both 1 to r", "sees x y z", "unclean",
            ]),
            1..12,
        ),
        shuffle in any::<u64>(),
    ) {
        let lines: Vec<String> = lines.iter().enumerate().map(|(i, line)| format!("n{i}: {line}")).collect();
        let straight: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut turned = straight.clone();
        turned.sort_by_key(|line| blake3::hash(format!("{shuffle}{line}").as_bytes()).as_bytes()[0]);
        let mut a = World::new(json!({}), &straight);
        let mut b = World::new(json!({}), &turned);
        prop_assert_eq!(a.status(), b.status());
        prop_assert_eq!(a.write(true), 0, "a second look at the same state writes nothing");
        let nodes = a.index.policy(&id("p")).unwrap().status().nodes.clone().unwrap();
        prop_assert_eq!(nodes.selected, nodes.applied + nodes.pending + nodes.failed + nodes.stale);
    }
}
