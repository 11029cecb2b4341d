//! `diff`.

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::{check, check_fails, run};

/// An app that was slower an hour ago.
fn redis() -> Fake {
    let fake = Fake::new();
    let answer = |work: i64, other: i64| {
        let all = work + other;
        let nodes = json!([
            {"name": "redis", "parent": null, "self": 0, "total": all},
            {"name": "[t] redis", "parent": 0, "self": 0, "total": all},
            {"name": "work", "parent": 1, "self": work, "total": work},
            {"name": "other", "parent": 1, "self": other, "total": other},
        ]);
        json!({"nodes": nodes, "quality": {"samples": 1}, "notes": ["noted"]})
    };
    fake.answer("flamegraph", &["from=1000&until=2000"], answer(3_000_000, 1_000_000));
    fake.answer("flamegraph", &["from=100&until=200"], answer(1_000_000, 1_000_000));
    fake
}

#[tokio::test]
async fn shares_of_two_times_are_compared() {
    let fake = redis();
    let line = "diff app/redis --from 1000 --until 2000 --base-from 100 --base-until 200";
    let table = "CHANGE   BASE    NEW  FUNCTION\n-25.0%  50.0%  25.0%  other\n+25.0%  50.0%  75.0%  work\n";
    check(&fake, line, table).await;
    let outcome = run(&fake, line).await;
    assert!(outcome.err.ends_with("note: noted\nnote: base: noted\n"), "{}", outcome.err);
    let times = "CHANGE   BASE    NEW  FUNCTION\n+2.00s  1.00s  3.00s  work\n";
    check(&fake, &format!("{line} --absolute"), times).await;
    check(
        &fake,
        &format!("{line} --absolute -o folded"),
        "redis;[t] redis;work 1000000 3000000\nredis;[t] redis;other 1000000 1000000\n",
    )
    .await;
    let json: Value = serde_json::from_str(&run(&fake, &format!("{line} -o json")).await.out).unwrap();
    assert_eq!((&json["normalized"], &json["nodes"][0]["base_total"]), (&json!(true), &json!(4_000_000)));
    assert!(run(&fake, &format!("{line} -o html")).await.out.starts_with("<!doctype html>"));
}

#[tokio::test]
async fn the_same_time_of_before_is_asked_for() {
    let fake = redis();
    run(&fake, "diff app/redis --from 100000 --until 100900 --before 1d").await;
    let outcome = run(&fake, "diff app/redis --from 1000 --until 2000 --before 15m").await;
    assert_eq!(outcome.code, 1);
    assert!(fake.log().iter().any(|line| line.ends_with("&from=100&until=1100")), "{:?}", fake.log());
    let begin = "error: nothing to show for the base, app/redis in shop, 1970-01-01 00:01:40 UTC to 1970-01-01 00:18:20 UTC: \
                 nothing is stored; choose another base by --before, or by --base-from and --base-until";
    assert_eq!(outcome.err.trim_end(), begin);
}

#[tokio::test]
async fn two_targets_are_compared_in_one_time() {
    let fake = Fake::new();
    for name in ["a", "b"] {
        fake.pod(name, "n1", json!({}));
        fake.values("app_service", &[&format!("filter=pod = '{name}'")], &[("nginx", 1)]);
    }
    fake.flame("nginx", &[]);
    check(&fake, "diff pod/a pod/b", "CHANGE  BASE  NEW  FUNCTION\n").await;
    fake.flame("redis", &[]);
    check_fails(
        &fake,
        "diff pod/a app/redis",
        2,
        "error: pod/a in shop and app/redis in shop are of different kinds: compare pods and workloads with each other, or \
         apps, nodes and total; --app NAME takes one app of each",
    )
    .await;
}

fn replica_set(fake: &Fake, name: &str, revision: &str, created: &str) {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u"}]);
    fake.put(
        &format!("/apis/apps/v1/namespaces/shop/replicasets/web-{name}"),
        json!({"metadata": {
            "name": format!("web-{name}"), "ownerReferences": owner, "labels": {"pod-template-hash": name},
            "annotations": {"deployment.kubernetes.io/revision": revision}, "creationTimestamp": created,
        }}),
    );
}

#[tokio::test]
async fn a_deployments_newest_replica_set_is_compared_with_the_one_before() {
    let fake = Fake::new();
    fake.put("/apis/apps/v1/namespaces/shop/deployments/web", json!({"metadata": {"name": "web"}}));
    replica_set(&fake, "ccc", "10", "2026-01-01T00:10:00Z");
    check_fails(
        &fake,
        "diff deploy/web",
        1,
        "error: deploy/web has no ReplicaSet before its newest: compare times by --before 1h, or give a second target",
    )
    .await;
    replica_set(&fake, "aaa", "1", "2025-12-01T00:00:00Z");
    replica_set(&fake, "bbb", "9", "2025-12-02T00:00:00Z");
    fake.values("app_service", &[], &[("nginx", 1)]);
    fake.flame("nginx", &[]);
    let outcome = run(&fake, "diff deploy/web").await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!(outcome.err, "note: rs/web-ccc, TIME to TIME compared with rs/web-bbb, TIME to TIME\n");
    let log = fake.log();
    let asked: Vec<&String> = log.iter().filter(|line| line.contains("profiles/flamegraph")).collect();
    assert!(asked[0].contains("k8s.label.pod-template-hash = 'ccc'"), "{asked:?}");
    assert!(asked[1].contains("k8s.label.pod-template-hash = 'bbb'"), "{asked:?}");
    // A quarter of an hour before the newest was made, and five minutes after that: pods of both ran then.
    assert!(asked[1].ends_with("&until=1767226500"), "{asked:?}");
}
