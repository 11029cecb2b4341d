//! `record`. Its end by a signal is in `binary`.

use serde_json::json;

use crate::fake::{Fake, condition};
use crate::run;

fn web() -> Fake {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({"app": "web"}));
    fake.values("app_service", &[], &[("nginx", 1)]);
    fake.flame("nginx", &["policy = 'shop/record-"]);
    fake
}

#[tokio::test]
async fn a_policy_is_made_its_samples_are_shown_and_it_is_deleted() {
    let fake = web();
    fake.pod("web-2", "n1", json!({"app": "web"}));
    let outcome = run(&fake, "record pod/web-1 --for 1s --frequency 499").await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!(
        outcome.err,
        "note: 1 other pod of shop with the same labels will be sampled meanwhile as well, and not shown\n"
    );
    assert!(
        outcome.out.starts_with("pod/web-1 in shop;nginx;[t] nginx;nginx_main 1000000\n"),
        "{}",
        outcome.out
    );
    assert_eq!(fake.paths("profilingpolicies"), [""; 0]);
    let log = fake.log();
    let asked = log.last().unwrap();
    assert!(asked.contains("filter=(pod = 'web-1') AND (policy = 'shop/record-"), "{asked}");
    let of_policies = |line: &&String| line.contains("/profilingpolicies");
    let verbs: Vec<&str> = log.iter().filter(of_policies).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(verbs, ["POST", "GET", "DELETE"]);
}

/// How many seconds a recording of a second takes, and whether the length of windows was asked for.
async fn takes(fake: &Fake) -> (u64, bool) {
    let begin = tokio::time::Instant::now();
    let outcome = run(fake, "record pod/web-1 --for 1s").await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    (begin.elapsed().as_secs(), fake.log().iter().any(|line| line.contains("/profiles/timeline?")))
}

#[tokio::test(start_paused = true)]
async fn the_last_window_is_waited_for_no_longer_than_it_may_take() {
    assert_eq!(takes(&web()).await, (1, false), "it is stored");
    for (answer, seconds) in [
        (json!({"step": 10}), 1 + 20),
        (json!({"step": 60}), 1 + 70),
        (json!({"step": 3600}), 1 + 75),
        (json!({"error": "no"}), 1 + 75),
    ] {
        let fake = Fake::new();
        fake.pod("web-1", "n1", json!({"app": "web"}));
        // Of the last second there is nothing, of the whole time there is.
        fake.values("app_service", &["limit=22"], &[("nginx", 1)]);
        fake.flame("nginx", &[]);
        fake.answer("timeline", &["app_service=Total"], answer.clone());
        assert_eq!(takes(&fake).await, (seconds, true), "{answer}");
    }
}

#[tokio::test]
async fn the_policy_says_what_was_asked_for() {
    let fake = web();
    fake.make_policies(json!([condition(
        "Programmed",
        "Unknown",
        "NoNodes",
        "no selected node has an agent"
    )]));
    fake.fail("/apis/profiling.hearth.dev/v1alpha1/namespaces/shop/profilingpolicies/record-", 500, "broken");
    let outcome = run(&fake, "record pod/web-1 --for 30s --frequency 199").await;
    assert_eq!(outcome.code, 1);
    // It could not be deleted, so it is still there to be looked at.
    let paths = fake.paths("profilingpolicies");
    let name = paths[0].rsplit('/').next().unwrap();
    let policy = fake.object(&paths[0]);
    assert_eq!(policy["spec"]["frequency"], 199);
    assert_eq!(policy["spec"]["priority"], 1000);
    assert_eq!(policy["spec"]["podSelector"], json!({"matchLabels": {"app": "web"}}));
    assert_eq!(policy["spec"]["duration"], "150s");
    assert!(policy["metadata"]["labels"]["hearth.dev/recorded-by"].is_string());
    let expected = format!(
        "error: the policy could not be deleted (the API server says: broken (500)); it ends by itself, or by kubectl delete \
         pp {name} -n shop\n"
    );
    assert_eq!(outcome.err, expected);
}

#[tokio::test]
async fn a_workload_is_recorded_by_its_selector() {
    let fake = web();
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "web2"]}]});
    fake.put(
        "/apis/apps/v1/namespaces/shop/deployments/web",
        json!({"metadata": {"name": "web"}, "spec": {"selector": selector}}),
    );
    let outcome = run(&fake, "record deploy/web --for 1s").await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(outcome.out.starts_with("deploy/web in shop;nginx;"), "{}", outcome.out);
    assert_eq!(fake.paths("profilingpolicies"), [""; 0]);
}

#[tokio::test]
async fn a_policy_that_does_not_come_into_force_is_deleted_with_the_reason() {
    for (conditions, expected) in [
        (
            json!([condition("Programmed", "Unknown", "NoNodes", "no selected node has an agent")]),
            "error: no node works by the policy after 1 s: NoNodes: no selected node has an agent; wait longer by --wait, or \
             see kubectl hearth explain\n",
        ),
        (
            json!([]),
            "error: no node works by the policy after 1 s: the operator has not looked at it: kubectl hearth status; wait \
             longer by --wait, or see kubectl hearth explain\n",
        ),
        (
            json!([condition("Accepted", "False", "Invalid", "spec.podSelector is odd")]),
            "error: the policy is refused: Invalid: spec.podSelector is odd\n",
        ),
    ] {
        let fake = web();
        fake.make_policies(conditions);
        let outcome = run(&fake, "record pod/web-1 --for 30s --wait 1s").await;
        assert_eq!((outcome.code, outcome.err.as_str()), (1, expected));
        assert_eq!(fake.paths("profilingpolicies"), [""; 0]);
    }
}

#[tokio::test]
async fn a_pod_that_no_selector_could_tell_from_others_is_not_recorded() {
    let fake = web();
    fake.pod("bare", "node1", json!({}));
    let outcome = run(&fake, "record bare").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.ends_with(": kubectl label pod bare hearth-record=bare\n"), "{}", outcome.err);
    assert!(!fake.log().iter().any(|line| line.starts_with("POST")), "{:?}", fake.log());
}

#[tokio::test]
async fn who_may_not_see_samples_takes_none() {
    let fake = web();
    fake.fail("/apis/query.hearth.dev", 403, "eve cannot get profiles");
    let outcome = run(&fake, "record web-1").await;
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.err.starts_with("error: you may not do this: eve cannot get profiles; "),
        "{}",
        outcome.err
    );
    assert!(!fake.log().iter().any(|line| line.starts_with("POST")), "{:?}", fake.log());
}

#[tokio::test]
async fn who_may_not_make_policies_is_told_what_to_ask_for() {
    let fake = web();
    fake.fail("/apis/profiling.hearth.dev", 403, "eve cannot create profilingpolicies");
    let outcome = run(&fake, "record web-1").await;
    assert_eq!(outcome.code, 1);
    assert_eq!(
        outcome.err,
        "error: you may not do this: eve cannot create profilingpolicies; recording makes a policy: ask for the right to \
         create, get and delete profilingpolicies in this namespace, as the ClusterRole edit gives it\n"
    );
    let fake = web();
    fake.fail("/apis/profiling.hearth.dev", 404, "not found");
    let outcome = run(&fake, "record web-1").await;
    assert!(
        outcome.err.starts_with("error: this cluster has no API profiling.hearth.dev/v1alpha1: "),
        "{}",
        outcome.err
    );
}
