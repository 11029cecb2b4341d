//! `flame`, `top` and `apps`: what is asked, and what is made of the answer.

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::{check, run};

/// A pod with an app.
fn web() -> Fake {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({"app": "web"}));
    fake.values("app_service", &["filter=pod = 'web-1'"], &[("nginx", 4_000_000)]);
    fake.flame("nginx", &["filter=pod = 'web-1'"]);
    fake
}

#[tokio::test]
async fn a_pods_apps_are_its_flame_graph() {
    let fake = web();
    let expected = "pod/web-1 in shop;nginx;[t] nginx;nginx_main 1000000\n\
                    pod/web-1 in shop;nginx;[t] nginx;nginx_main;nginx_work 3000000\n";
    for line in ["flame pod/web-1", "flame web-1", "flame po/web-1 -n shop -o folded", "flame pod/web-1 -A"] {
        check(&fake, line, expected).await;
    }
    let log = fake.log();
    let asked: Vec<&String> = log.iter().filter(|line| line.contains("query.hearth.dev")).collect();
    assert!(asked.iter().all(|line| line.contains("/namespaces/shop/profiles/")), "{asked:?}");
}

#[tokio::test]
async fn several_apps_of_a_pod_stand_side_by_side() {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({}));
    fake.values("app_service", &[], &[("nginx", 3), ("", 500_000), ("php", 2)]);
    fake.flame("nginx", &[]);
    fake.flame("php", &[]);
    let outcome = run(&fake, "flame web-1").await;
    assert_eq!(outcome.out.lines().count(), 4);
    assert!(
        outcome.out.contains("pod/web-1 in shop;php;[t] php;php_main;php_work 3000000\n"),
        "{}",
        outcome.out
    );
    assert_eq!(
        outcome.err,
        "note: 0.50 s of CPU time more was used by processes that no policy matches, without stacks\n"
    );
}

#[tokio::test]
async fn a_workload_is_asked_for_by_its_tags() {
    let fake = Fake::new();
    fake.put("/apis/apps/v1/namespaces/shop/deployments/web", json!({"metadata": {"name": "web"}}));
    fake.put("/apis/apps/v1/namespaces/shop/statefulsets/db", json!({"metadata": {"name": "db"}}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u"}]);
    fake.put(
        "/apis/apps/v1/namespaces/shop/replicasets/web-5f",
        json!({"metadata": {"name": "web-5f", "ownerReferences": owner, "labels": {"pod-template-hash": "5f"}}}),
    );
    fake.put("/apis/batch/v1/namespaces/shop/jobs/once", json!({"metadata": {"name": "once"}}));
    fake.put("/apis/batch/v1/namespaces/shop/cronjobs/often", json!({"metadata": {"name": "often"}}));
    fake.values("app_service", &[], &[("nginx", 1)]);
    fake.flame("nginx", &[]);
    for (target, filter) in [
        ("deploy/web", "pod_group = 'web' AND pod_group_type = 'Deployment'"),
        ("statefulset/db", "pod_group = 'db' AND pod_group_type = 'StatefulSet'"),
        (
            "rs/web-5f",
            "pod_group = 'web' AND pod_group_type = 'Deployment' AND k8s.label.pod-template-hash = '5f'",
        ),
        ("job/once", "k8s.label.batch.kubernetes.io/job-name = 'once'"),
        ("cj/often", "pod_group = 'often' AND pod_group_type IS NULL"),
    ] {
        assert_eq!(run(&fake, &format!("flame {target}")).await.code, 0, "{target}");
        let asked = fake.log().pop().unwrap();
        assert!(asked.contains(&format!("&filter={filter}&")), "{target}: {asked}");
    }
}

#[tokio::test]
async fn apps_nodes_and_everything_are_asked_for_where_they_are() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    fake.flame("Total", &[]);
    for (line, expected) in [
        ("flame app/redis", "/namespaces/shop/profiles/flamegraph?app_service=redis&event=on-cpu&from="),
        ("flame app/redis -A", "v1alpha1/profiles/flamegraph?app_service=redis&event=on-cpu&from="),
        ("flame total", "v1alpha1/profiles/flamegraph?app_service=Total&event=on-cpu&from="),
        ("flame total -n shop", "/namespaces/shop/profiles/flamegraph?app_service=Total&"),
        (
            "flame node/n1",
            "v1alpha1/profiles/flamegraph?app_service=Total&event=on-cpu&filter=pod_node = 'n1'&",
        ),
        (
            "flame node/n1 --app redis --filter cpu_=_1_OR_cpu_=_2",
            "app_service=redis&event=on-cpu&filter=(pod_node = 'n1') AND (cpu = 1 OR cpu = 2)&",
        ),
        ("flame app/redis --from 1000 --until 2000", "&from=1000&until=2000"),
    ] {
        assert_eq!(run(&fake, line).await.code, 0, "{line}");
        let asked = fake.log().pop().unwrap();
        assert!(asked.contains(expected), "{line}: {asked}");
    }
}

#[tokio::test]
async fn without_kubernetes_the_collector_is_asked_itself() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    fake.flame("Total", &[]);
    for (target, expected) in [
        ("app/redis", "GET /api/v1/flamegraph?app_service=redis&event=on-cpu&from="),
        ("total", "GET /api/v1/flamegraph?app_service=Total&"),
        (
            "node/n1",
            "GET /api/v1/flamegraph?app_service=Total&event=on-cpu&filter=pod_node = 'n1' OR host = 'n1'&",
        ),
        (
            "app/redis -n shop",
            "GET /api/v1/flamegraph?app_service=redis&event=on-cpu&filter=pod_ns = 'shop'&",
        ),
    ] {
        assert_eq!(run(&fake, &format!("flame {target} --server http://c")).await.code, 0, "{target}");
        assert!(fake.log().pop().unwrap().starts_with(expected), "{:?}", fake.log().pop());
    }
}

#[tokio::test]
async fn each_format_is_written() {
    let fake = web();
    for (format, begin, has) in [
        ("svg", "<?xml", "nginx_work"),
        ("html", "<!doctype html>", "nginx_work"),
        ("speedscope", "{", "nginx_work"),
        ("json", "{", "\"samples\":4"),
    ] {
        let out = run(&fake, &format!("flame web-1 -o {format}")).await.out;
        assert!(out.starts_with(begin) && out.contains(has), "{format}: {out}");
    }
    let json: Value = serde_json::from_str(&run(&fake, "flame web-1 -o json").await.out).unwrap();
    assert_eq!(json["nodes"][0]["total"], 4_000_000);
    assert_eq!(json["apps"][0]["name"], "nginx");
}

#[tokio::test]
async fn a_file_says_by_its_name_what_it_shall_be() {
    let fake = web();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flame.svg");
    let outcome = run(&fake, &format!("flame web-1 -f {}", path.display())).await;
    assert_eq!(outcome.err, format!("note: written to {}\n", path.display()));
    assert!(std::fs::read_to_string(&path).unwrap().contains("<svg"));
    let missing = folder.path().join("none").join("x.svg");
    let outcome = run(&fake, &format!("flame web-1 -f {}", missing.display())).await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.contains("none/x.svg: No such file"), "{}", outcome.err);
}

#[tokio::test]
async fn pprof_is_the_collectors_own() {
    let fake = web();
    fake.bytes("flamegraph", &["app_service=redis", "format=pprof"], b"\x1f\x8b");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pb.gz");
    let outcome = run(&fake, &format!("flame app/redis -f {}", path.display())).await;
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(outcome.err.contains("note: of one node\n"), "{}", outcome.err);
    assert_eq!(std::fs::read(&path).unwrap(), b"\x1f\x8b");
    fake.pod("two", "n1", json!({}));
    fake.values("app_service", &["filter=pod = 'two'"], &[("a", 2), ("b", 1)]);
    let outcome = run(&fake, "flame two -o pprof").await;
    assert_eq!(outcome.code, 2);
    assert_eq!(
        outcome.err,
        "error: a pprof file is of one app, and pod/two in shop has a, b: choose one by --app\n"
    );
}

#[tokio::test]
async fn what_the_answer_rests_on_is_said_on_standard_error() {
    let fake = Fake::new();
    let nodes = json!([{"name": "x", "parent": null, "self": 1, "total": 1}]);
    let notes =
        ["25.0 % of the time is in incomplete stacks (…)", "the agents of these nodes lost 3 samples"];
    fake.answer("flamegraph", &[], json!({"nodes": nodes, "quality": {}, "notes": notes}));
    let outcome = run(&fake, "flame app/x").await;
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "x 1\n"));
    assert_eq!(outcome.err, format!("note: {}\nnote: {}\n", notes[0], notes[1]));
}

#[tokio::test]
async fn a_pod_that_is_gone_still_has_what_is_stored() {
    let fake = web();
    fake.remove("/api/v1/namespaces/shop/pods/web-1");
    let outcome = run(&fake, "flame pod/web-1").await;
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.err, "note: pod/web-1 is not there any more: this is what is stored of it\n");
}

#[tokio::test]
async fn only_the_hottest_apps_are_asked_for_and_that_is_said() {
    let fake = Fake::new();
    fake.pod("busy", "n1", json!({}));
    let names: Vec<String> = (0..22).map(|at| format!("app{at}")).collect();
    let values: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 5)).collect();
    fake.values("app_service", &[], &values);
    names.iter().for_each(|name| fake.flame(name, &[]));
    let outcome = run(&fake, "flame busy").await;
    assert_eq!(outcome.out.lines().count(), 40);
    assert_eq!(outcome.err, "note: only the 20 hottest apps are shown: ask for others by --app NAME\n");
}

#[tokio::test]
async fn the_hottest_functions_are_listed() {
    let fake = web();
    check(
        &fake,
        "top web-1",
        " SELF  SELF%  TOTAL  TOTAL%  FUNCTION\n\
         3.00s  75.0%  3.00s   75.0%  nginx_work\n\
         1.00s  25.0%  4.00s  100.0%  nginx_main\n",
    )
    .await;
    check(
        &fake,
        "top web-1 --by total --lines 1",
        " SELF  SELF%  TOTAL  TOTAL%  FUNCTION\n1.00s  25.0%  4.00s  100.0%  nginx_main\n",
    )
    .await;
    let json: Value = serde_json::from_str(&run(&fake, "top web-1 -o json").await.out).unwrap();
    assert_eq!(json["functions"][0], json!({"name": "nginx_work", "self": 3_000_000, "total": 3_000_000}));
}

#[tokio::test]
async fn apps_are_listed() {
    let fake = Fake::new();
    let apps = json!([{"name": "redis", "samples": 9, "value": 90_000_000}, {"name": "a", "samples": 1, "value": 1}]);
    fake.answer("apps", &[], json!({"apps": apps, "notes": ["half of it is from rollups"]}));
    let outcome = run(&fake, "apps --from 1000 --until 1900").await;
    assert_eq!(
        outcome.out,
        "   CPU  CORES  SAMPLES  APP\n90.00s  0.100        9  redis\n 0.00s  0.000        1  a\n"
    );
    assert_eq!(outcome.err, "note: half of it is from rollups\n");
    assert_eq!(
        fake.log().pop().unwrap(),
        "GET /apis/query.hearth.dev/v1alpha1/namespaces/shop/profiles/apps?from=1000&until=1900"
    );
    let json: Value = serde_json::from_str(&run(&fake, "apps -A -o json").await.out).unwrap();
    assert_eq!(json["apps"][1]["name"], "a");
    fake.values("app_service", &["filter=pod_ns = 'shop'"], &[("redis", 1), ("", 1)]);
    let outcome = run(&fake, "apps -n shop --server http://c --since 15m").await;
    assert_eq!(outcome.out, "  CPU  CORES  SAMPLES  APP\n0.00s  0.000        1  redis\n");
}
