#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use hearth_policy::{ClusterProfilingPolicySpec, Kind, ProfilingPolicySpec, Spec};
use hearth_proto::config::v1;
use hearth_proto::config_limits::MAX_KEPT;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use prost::Message as _;
use serde_json::json;

use super::*;

pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// An object of the kind that the id says, created at 1000, generation 1.
pub(crate) fn object(id: &PolicyId, spec: serde_json::Value) -> PolicyObject {
    let spec = match id.kind() {
        Kind::ProfilingPolicy => serde_json::from_value::<ProfilingPolicySpec>(spec).map(Spec::Namespaced),
        Kind::ClusterProfilingPolicy => {
            serde_json::from_value::<ClusterProfilingPolicySpec>(spec).map(Spec::Cluster)
        }
    };
    let spec = spec.map_err(|error| error.to_string());
    PolicyObject { uid: "uid".to_owned(), generation: 1, created: 1000, spec, status: None }
}

pub(crate) fn id(text: &str) -> PolicyId {
    match text.split_once('/') {
        Some((namespace, name)) => PolicyId::new(Some(namespace), name),
        None => PolicyId::new(None, text),
    }
}

/// An index that has listed everything: these nodes (`name label=value …`).
pub(crate) fn index_with(nodes: &[&str]) -> Index {
    let mut index = Index::default();
    for resource in Resource::ALL {
        let _ = index.set_synced(resource);
    }
    for node in nodes {
        let (name, rest) = node.split_once(' ').unwrap_or((node, ""));
        let _ = index.set_node(name, NodeObject::new(labels(rest), &Labels::new()));
    }
    index
}

pub(crate) fn put(index: &mut Index, name: &str, spec: serde_json::Value) -> Change {
    put_generation(index, name, 1, spec)
}

pub(crate) fn put_generation(
    index: &mut Index,
    name: &str,
    generation: i64,
    spec: serde_json::Value,
) -> Change {
    let id = id(name);
    let object = PolicyObject { generation, ..object(&id, spec) };
    index.set_policy(id, object)
}

/// A configuration as a node reads it.
fn message(config: &NodeConfig, nonce: u64) -> v1::Config {
    let update = config.update(nonce).concat();
    match v1::NodeUpdate::decode(&*update).unwrap().update {
        Some(v1::node_update::Update::Config(config)) => config,
        other => panic!("{other:?}"),
    }
}

/// The policies that a node gets at 1000.
fn policies(index: &mut Index, node: &str) -> String {
    let config = index.config_for(node, 1000).unwrap();
    config.policies.iter().map(|policy| policy.id().as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_node_gets_the_policies_that_select_it() {
    let mut index = index_with(&["a disk=ssd", "b disk=hdd"]);
    let _ = put(&mut index, "all", json!({}));
    let _ = put(&mut index, "ssd", json!({"nodeSelector": {"matchLabels": {"disk": "ssd"}}}));
    let _ = put(&mut index, "shop/web", json!({"podSelector": {}}));
    assert_eq!(policies(&mut index, "a"), "all shop/web ssd");
    assert_eq!(policies(&mut index, "b"), "all shop/web");
}

#[test]
fn a_disabled_policy_and_one_whose_duration_is_over_reach_no_node() {
    let mut index = index_with(&["a"]);
    let _ = put(&mut index, "off", json!({"disabled": true}));
    let _ = put(&mut index, "short", json!({"duration": "60s"}));
    assert_eq!(policies(&mut index, "a"), "short");
    assert_eq!(index.next_end(1000), Some(1060));
    let mut at = |now| index.config_for("a", now).unwrap().policies.iter().count();
    assert_eq!((at(1059), at(1060)), (1, 0));
    assert_eq!(index.next_end(1060), None);
}

#[test]
fn an_invalid_version_leaves_the_last_valid_one_in_force() {
    let mut index = index_with(&["a"]);
    assert_eq!(put_generation(&mut index, "p", 1, json!({"regex": "a"})), Change::EveryNode);
    let before = index.config_for("a", 1000).unwrap().hash;
    assert_eq!(put_generation(&mut index, "p", 2, json!({"regex": "a(b"})), Change::Statuses);
    assert_eq!(index.config_for("a", 1000).unwrap().hash, before);
    let problem = index.policy(&id("p")).unwrap().invalid().unwrap();
    assert!(problem.starts_with("spec.regex does not compile: unclosed group"), "{problem}");
    assert_eq!(put_generation(&mut index, "p", 3, json!({"regex": "b"})), Change::EveryNode);
    assert_ne!(index.config_for("a", 1000).unwrap().hash, before);
    assert_eq!(index.policy(&id("p")).unwrap().invalid(), None);
}

/// The policies of which a node keeps the version that it has.
fn kept(index: &mut Index, node: &str) -> String {
    let config = index.config_for(node, 1000).unwrap();
    let id = |kept: v1::PolicyReference| match &*kept.namespace {
        "" => kept.name,
        namespace => format!("{namespace}/{}", kept.name),
    };
    message(&config, 1).kept.into_iter().map(id).collect::<Vec<_>>().join(" ")
}

#[test]
fn of_an_invalid_policy_whose_valid_version_is_not_known_nodes_keep_what_they_have() {
    let mut index = index_with(&["a"]);
    let before = index.config_for("a", 1000).unwrap().hash;
    assert_eq!(put(&mut index, "shop/p", json!({"regex": "a(b", "podSelector": {}})), Change::EveryNode);
    assert_eq!((&*policies(&mut index, "a"), &*kept(&mut index, "a")), ("", "shop/p"));
    let config = index.config_for("a", 1000).unwrap();
    assert_ne!(config.hash, before);
    assert_eq!(message(&config, 1).kept[0].created, 1000);
    assert!(config.policies.keeps(&id("shop/p")) && !config.policies.keeps(&id("p")));

    let still = put_generation(&mut index, "shop/p", 2, json!({"frequency": "often"}));
    assert_eq!(still, Change::Statuses, "nodes are told nothing new");
    assert_eq!(put_generation(&mut index, "shop/p", 3, json!({"regex": "b"})), Change::EveryNode);
    assert_eq!((&*policies(&mut index, "a"), &*kept(&mut index, "a")), ("shop/p", ""));
    assert_eq!(put_generation(&mut index, "shop/p", 4, json!({"regex": "a(b"})), Change::Statuses);
    assert_eq!((&*policies(&mut index, "a"), &*kept(&mut index, "a")), ("shop/p", ""));
}

#[test]
fn an_operator_that_missed_versions_does_not_send_nodes_back_to_an_older_one() {
    let mut index = index_with(&["a"]);
    let _ = put_generation(&mut index, "p", 1, json!({"regex": "a"}));
    // Its watch was away while another operator gave nodes the second.
    assert_eq!(put_generation(&mut index, "p", 3, json!({"regex": "a(b"})), Change::EveryNode);
    assert_eq!((&*policies(&mut index, "a"), &*kept(&mut index, "a")), ("", "p"));
}

#[test]
fn a_disabled_policy_is_off_whatever_else_is_wrong_with_it() {
    let mut index = index_with(&["a"]);
    let _ = put_generation(&mut index, "p", 1, json!({"regex": "a"}));
    let off = put_generation(&mut index, "p", 2, json!({"regex": "a(b", "disabled": true}));
    assert_eq!(off, Change::EveryNode);
    assert_eq!((&*policies(&mut index, "a"), &*kept(&mut index, "a")), ("", ""));
    // Nor by an operator that never saw a valid version.
    let mut later = index_with(&["a"]);
    let of_another_version = json!({"podSelector": {"newer": 1}, "disabled": true});
    let _ = put_generation(&mut later, "p", 2, of_another_version);
    assert_eq!((&*policies(&mut later, "a"), &*kept(&mut later, "a")), ("", ""));
    // Not off any more, and still invalid: nodes may have a version from before.
    assert_eq!(put_generation(&mut later, "p", 3, json!({"regex": "a(b"})), Change::EveryNode);
    assert_eq!(&*kept(&mut later, "a"), "p");
}

#[test]
fn of_too_many_invalid_policies_the_oldest_are_kept() {
    let mut index = index_with(&["a"]);
    let bad = json!({"regex": "a(b"});
    for i in 0..MAX_KEPT {
        let _ = put(&mut index, &format!("b{i:04}"), bad.clone());
    }
    let old = PolicyObject { created: 999, ..object(&id("old"), bad.clone()) };
    let _ = index.set_policy(id("old"), old);
    let new = PolicyObject { created: 1001, ..object(&id("a"), bad) };
    let _ = index.set_policy(id("a"), new);
    let kept = kept(&mut index, "a");
    let kept: Vec<&str> = kept.split(' ').collect();
    assert_eq!((kept.len(), kept[0], kept[998], kept[999]), (MAX_KEPT, "b0000", "b0998", "old"));
}

#[test]
fn a_policy_that_cannot_be_read_is_invalid_and_keeps_what_is_known_of_its_status() {
    let mut index = index_with(&["a"]);
    let _ = put(&mut index, "p", json!({}));
    let written = PolicyStatus { observed_generation: Some(7), ..PolicyStatus::default() };
    index.set_status(&id("p"), "uid", written.clone());
    assert_eq!(put(&mut index, "p", json!({"frequency": "often"})), Change::Statuses);
    let policy = index.policy(&id("p")).unwrap();
    assert!(policy.invalid().unwrap().contains("often"), "{:?}", policy.invalid());
    assert_eq!(policy.status(), &written);
    assert_eq!(policies(&mut index, "a"), "p");
}

#[test]
fn the_last_valid_version_of_a_deleted_policy_is_not_that_of_its_namesake() {
    let mut index = index_with(&["a"]);
    let _ = put(&mut index, "p", json!({"regex": "a"}));
    let namesake = PolicyObject { uid: "other".to_owned(), ..object(&id("p"), json!({"regex": "a(b"})) };
    let namesake = PolicyObject { created: 1001, ..namesake };
    assert_eq!(index.set_policy(id("p"), namesake), Change::EveryNode);
    assert_eq!(policies(&mut index, "a"), "");
    let config = index.config_for("a", 1000).unwrap();
    assert_eq!(message(&config, 1).kept[0].created, 1001, "nor is what nodes have");
    let _ = put(&mut index, "p", json!({"regex": "a"}));
    assert_eq!(index.remove_policy(&id("p")), Change::EveryNode);
    assert_eq!(index.remove_policy(&id("p")), Change::Nothing);
}

#[test]
fn no_configuration_before_all_that_decides_it_is_listed() {
    let mut index = Index::default();
    let _ = index.set_node("a", NodeObject::default());
    for resource in [Resource::Policies, Resource::ClusterPolicies] {
        assert_eq!(index.set_synced(resource), Change::Nothing);
        assert!(index.config_for("a", 1000).is_none());
    }
    assert_eq!(index.set_synced(Resource::Nodes), Change::EveryNode);
    assert!(index.config_for("a", 1000).is_some());
    assert!(index.config_for("nobody", 1000).is_none());
    assert_eq!(index.directory_for(["default"], []), None);
    for resource in Resource::ALL {
        let _ = index.set_synced(resource);
    }
    assert!(index.directory_for(["default"], []).is_some());
}

#[test]
fn the_hash_follows_the_content_and_nothing_else() {
    let mut index = index_with(&["a", "b"]);
    let hash = |index: &mut Index, node: &str| index.config_for(node, 1000).unwrap().hash.to_string();
    let _ = put(&mut index, "p", json!({"regex": "a"}));
    let first = hash(&mut index, "a");
    assert_eq!((first.len(), hash(&mut index, "b")), (32, first.clone()));
    // Only the status or an annotation of the policy changed.
    assert_eq!(put_generation(&mut index, "p", 1, json!({"regex": "a"})), Change::Statuses);
    assert_eq!(hash(&mut index, "a"), first);
    let mut seen = vec![first];
    let mut differs = |index: &mut Index, what: &str| {
        let now = hash(index, "a");
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    let resume = labels("hearth.dev/resume=1");
    let _ = index.set_node("a", NodeObject::new(Labels::new(), &resume));
    differs(&mut index, "resume");
    let _ = index.set_node("a", NodeObject::new(labels("x=y"), &resume));
    differs(&mut index, "labels");
    let _ = index.set_node("a", NodeObject::new(labels("hearth.dev/profiling=off"), &resume));
    differs(&mut index, "off");
    let _ = put(&mut index, "p", json!({"regex": "b"}));
    differs(&mut index, "spec");
    let _ = put(&mut index, "q", json!({"regex": "b"}));
    differs(&mut index, "another policy");
}

#[test]
fn a_message_has_what_the_node_needs() {
    let mut index = index_with(&[]);
    let off = labels("hearth.dev/profiling=off zone=z");
    let _ = index.set_node("a", NodeObject::new(off, &labels("hearth.dev/resume=3")));
    let _ = put(&mut index, "shop/web", json!({"podSelector": {}, "frequency": 19}));
    let config = index.config_for("a", 1000).unwrap();
    let message = message(&config, 4);
    assert_eq!((message.nonce, message.off, &*message.resume), (4, true, "3"));
    assert!(config.hash.is(&message.hash) && !config.hash.is(""));
    assert_eq!(message.node_labels["zone"], "z");
    let [policy] = &*message.policies else { panic!("{message:?}") };
    assert_eq!((&*policy.namespace, &*policy.name, policy.created), ("shop", "web", 1000));
    let spec: ProfilingPolicySpec = serde_json::from_str(&policy.spec).unwrap();
    assert_eq!(spec.core.frequency, 19);
}

#[test]
fn nodes_share_the_memory_of_their_policies() {
    let mut index = index_with(&["a x=y", "b"]);
    let _ = put(&mut index, "p", json!({}));
    let mut config = |node: &str| index.config_for(node, 1000).unwrap();
    let (a, b) = (config("a"), config("b"));
    assert!(Arc::ptr_eq(&a.policies, &b.policies));
    let (a, b) = (a.update(1), b.update(1));
    assert_ne!(a[0], b[0]);
    assert_eq!(a[1].as_ptr(), b[1].as_ptr());
}

#[test]
fn a_heartbeat_of_a_node_touches_nobody() {
    let mut index = index_with(&["a zone=z"]);
    assert_eq!(index.set_node("a", NodeObject::new(labels("zone=z"), &labels("other=1"))), Change::Nothing);
    assert_eq!(
        index.set_node("a", NodeObject::new(labels("zone=y"), &Labels::new())),
        Change::Node("a".into())
    );
    assert_eq!(index.remove_node("a"), Change::Node("a".into()));
    assert_eq!(index.remove_node("a"), Change::Nothing);
}

#[test]
fn a_directory_has_what_was_asked_for_and_exists() {
    let mut index = index_with(&[]);
    let _ = index.set_namespace("shop", Some(labels("team=a")));
    let _ = index.set_namespace("other", Some(Labels::new()));
    let _ = index.set_service("shop", "web", Some(labels("app=web")));
    let _ = index.set_service("shop", "headless", Some(Labels::new()));
    let owner = Owner { kind: "Deployment".into(), name: "web".into() };
    let changed = index.set_owner("shop", OwnerKind::ReplicaSet, "web-1", Some(owner.clone()));
    let key =
        |name: &str| OwnerKey { namespace: "shop".into(), kind: OwnerKind::ReplicaSet, name: name.into() };
    assert_eq!(changed, Change::Owner(key("web-1")));
    let again = index.set_owner("shop", OwnerKind::ReplicaSet, "web-1", Some(owner));
    assert_eq!(again, Change::Nothing);

    let directory = index.directory_for(["shop", "gone"], &[key("web-1"), key("gone")]).unwrap();
    let [namespace] = &*directory.namespaces else { panic!("{directory:?}") };
    assert_eq!((&*namespace.name, &*namespace.labels["team"]), ("shop", "a"));
    let [service] = &*namespace.services else { panic!("{directory:?}") };
    assert_eq!((&*service.name, &*service.selector["app"]), ("web", "web"));
    let [workload] = &*directory.workloads else { panic!("{directory:?}") };
    assert_eq!((&*workload.kind, &*workload.name), ("Deployment", "web"));
    assert_eq!(workload.object.as_ref().unwrap().name, "web-1");

    assert_eq!(index.set_service("shop", "web", Some(labels("app=web"))), Change::Nothing);
    assert_eq!(index.set_service("shop", "web", None), Change::Namespace("shop".into()));
    assert_eq!(index.set_owner("shop", OwnerKind::ReplicaSet, "web-1", None), Change::Owner(key("web-1")));
    assert_eq!(index.set_namespace("shop", None), Change::Namespace("shop".into()));
    assert_eq!(index.directory_for(["shop"], []).unwrap().namespaces, []);
    assert_eq!(index.namespaces.len(), 1, "what is empty is forgotten");
}

#[test]
fn a_long_resume_is_cut_where_a_character_ends() {
    let node = NodeObject::new(Labels::new(), &[(RESUME_ANNOTATION.to_owned(), "é".repeat(200))].into());
    assert_eq!(node.resume, "é".repeat(126));
}

proptest! {
    /// Whatever the order in which watches bring it.
    #[test]
    fn equal_content_gives_equal_configurations(order in prop::collection::vec(any::<Pick>(), 12)) {
        type Step = Box<dyn Fn(&mut Index) -> Change>;
        let steps: [Step; 6] = [
            Box::new(|index| put(index, "all", json!({}))),
            Box::new(|index| put(index, "ns/web", json!({"podSelector": {}}))),
            Box::new(|index| put(index, "bad", json!({"frequency": 0}))),
            Box::new(|index| put(index, "ssd", json!({"nodeSelector": {"matchLabels": {"disk": "ssd"}}}))),
            Box::new(|index| index.set_node("a", NodeObject::new(labels("disk=ssd"), &Labels::new()))),
            Box::new(|index| index.set_node("b", NodeObject::default())),
        ];
        let mut expected = index_with(&[]);
        let mut index = index_with(&[]);
        for step in &steps {
            let _ = step(&mut expected);
        }
        for pick in order {
            let _ = pick.get(&steps)(&mut index);
        }
        for step in steps.iter().rev() {
            let _ = step(&mut index);
        }
        for node in ["a", "b"] {
            prop_assert_eq!(
                message(&index.config_for(node, 1000).unwrap(), 1),
                message(&expected.config_for(node, 1000).unwrap(), 1)
            );
        }
    }
}
