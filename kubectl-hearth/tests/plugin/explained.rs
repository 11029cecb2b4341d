//! `explain`.

use serde_json::json;

use crate::fake::{Fake, condition};
use crate::{check, check_fails, run};

fn web() -> Fake {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({"app": "web", "pod-template-hash": "5f"}));
    fake
}

#[tokio::test]
async fn the_policy_that_decides_is_named_with_its_reason() {
    let fake = web();
    let ready = json!([condition("Ready", "True", "Ready", "")]);
    fake.policy("all", json!({"podSelector": {}}), ready.clone());
    fake.policy(
        "web",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "priority": 10, "frequency": 199}),
        ready,
    );
    fake.policy("db", json!({"podSelector": {"matchLabels": {"app": "db"}}}), json!([]));
    fake.values("process_name", &["container = 'main'"], &[("nginx", 9)]);
    fake.values("policy", &[], &[("shop/web", 2_000_000)]);
    check(
        &fake,
        "explain web-1",
        "pod/web-1 in shop, on node n1\n\n\
         PROCESS  CONTAINER  POLICY    WHY\n\
         nginx    main       shop/web  priority 10, shop/all has 0\n\n\
         Stored of pod/web-1 in shop, TIME to TIME: shop/web 2.00 s of CPU time\n\n\
         What agents say of them:\n  shop/web (199 samples/s, priority 10): Ready=True (Ready)\n\n\
         Policies that do not match:\n  shop/db: its podSelector {\"matchLabels\":{\"app\":\"db\"}} does not select the pod's \
         labels {\"app\":\"web\",\"pod-template-hash\":\"5f\"}\n",
    )
    .await;
}

#[tokio::test]
async fn where_nothing_decides_it_is_said_what_to_change() {
    let fake = web();
    fake.policy("java", json!({"podSelector": {}, "regex": "^java$"}), json!([]));
    fake.policy("bad", json!({"regex": "a(b"}), json!([]));
    check(
        &fake,
        "explain web-1 --process nginx",
        "pod/web-1 in shop, on node n1\n\n\
         PROCESS  CONTAINER  POLICY  WHY\n\
         nginx    main       -       none matches\n\n\
         Stored of pod/web-1 in shop, TIME to TIME: nothing is stored\n\n\
         Policies that do not match:\n  shop/java: its regex \"^java$\" is not found in the name \"nginx\"\n  \
         shop/bad: it is invalid: spec.regex does not compile: unclosed group; write a regular expression as \
         https://docs.rs/regex describes them\n\n\
         To profile it for a while:\n  kubectl hearth record pod/web-1 -n shop --for 30s\n\
         From now on, with all pods that have its labels:\n  kubectl apply -f - <<'EOF'\n  \
         apiVersion: profiling.hearth.dev/v1alpha1\n  kind: ProfilingPolicy\n  metadata: {name: profiled, namespace: shop}\n  \
         spec: {podSelector: {matchLabels: {\"app\":\"web\"}}}\n  EOF\n",
    )
    .await;
}

#[tokio::test]
async fn what_the_agent_says_of_this_node_is_shown() {
    let fake = web();
    fake.policy(
        "web",
        json!({"podSelector": {}}),
        json!([condition("Ready", "False", "NodesFailed", "see failures")]),
    );
    let path = "/apis/profiling.hearth.dev/v1alpha1/namespaces/shop/profilingpolicies/web";
    fake.put(
        path,
        json!({
            "apiVersion": "profiling.hearth.dev/v1alpha1", "kind": "ProfilingPolicy",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"podSelector": {}},
            "status": {
                "conditions": [condition("Ready", "False", "NodesFailed", "see failures")],
                "failures": [
                    {"node": "n2", "reason": "Refused", "message": "not mine"},
                    {"node": "n1", "reason": "UncleanStart", "message": "went down twice"},
                ],
            },
        }),
    );
    let out = run(&fake, "explain web-1 --process x").await.out;
    let expected = "  shop/web (99 samples/s, priority 0): Ready=False (NodesFailed): see failures\n    \
                    on this node: UncleanStart: went down twice\n";
    assert!(out.contains(expected) && !out.contains("not mine"), "{out}");
}

#[tokio::test]
async fn a_node_without_an_agent_is_the_first_thing_said() {
    let fake = web();
    fake.remove("/api/v1/namespaces/hearth/pods/hearth-node-agent-n1");
    fake.policy("web", json!({"podSelector": {}}), json!([]));
    let out = run(&fake, "explain web-1 --process x").await.out;
    assert!(
        out.contains("\nNothing is sampled here: its node n1 has no agent in the namespace hearth: "),
        "{out}"
    );
}

#[tokio::test]
async fn what_may_not_be_read_is_said() {
    let fake = web();
    fake.policy("web", json!({"regex": "nginx"}), json!([]));
    let forbid = [
        "/apis/profiling.hearth.dev/v1alpha1/clusterprofilingpolicies",
        "/api/v1/nodes",
        "/apis/query.hearth.dev",
    ];
    forbid.iter().for_each(|path| fake.fail(path, 403, "no"));
    let outcome = run(&fake, "explain web-1").await;
    assert_eq!(outcome.code, 0);
    assert!(
        outcome.out.contains(
            "?        main       -       shop/web too, if \"nginx\" is found in the name (--process)\n"
        ),
        "{}",
        outcome.out
    );
    for note in [
        "note: you may not list clusterprofilingpolicies",
        "note: the node's labels",
        "note: the names of processes",
    ] {
        assert!(outcome.err.contains(note), "{}", outcome.err);
    }
    fake.fail("/apis/profiling.hearth.dev", 403, "policies are secret");
    check_fails(
        &fake,
        "explain web-1",
        1,
        "error: you may not do this: policies are secret; ask for the right to list profilingpolicies in this namespace",
    )
    .await;
    fake.fail("/api/v1/namespaces/shop/pods", 403, "pods are secret");
    check_fails(
        &fake,
        "explain web-1",
        1,
        "error: you may not do this: pods are secret; ask for the right to get pods in this namespace",
    )
    .await;
}
