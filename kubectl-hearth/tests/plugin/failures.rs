//! Every way to get nothing has a sentence of its own, with what to do next.

use serde_json::json;

use crate::check_fails;
use crate::fake::Fake;

#[tokio::test]
async fn a_namespace_that_does_not_exist() {
    let expected = "error: namespace none does not exist: kubectl get namespaces lists them, -n chooses one";
    for line in [
        "flame pod/x -n none",
        "flame deploy/x -n none",
        "flame app/x -n none",
        "apps -n none",
        "explain x -n none",
    ] {
        check_fails(&Fake::new(), line, 1, expected).await;
    }
}

#[tokio::test]
async fn a_pod_that_does_not_exist() {
    let fake = Fake::new();
    let none = "error: there is no pod x in the namespace shop, and nothing is stored of one in that time: \
                kubectl get pods -n shop lists those that run; -n chooses another namespace, --since or --from another time";
    check_fails(&fake, "flame pod/x", 1, none).await;
    let here = none.replace(", and nothing is stored of one in that time", "");
    check_fails(&fake, "explain x", 1, &here).await;
    check_fails(&fake, "record x", 1, &here).await;
    fake.pod("web-1", "n1", json!({}));
    check_fails(&fake, "flame web", 1, "error: there is no pod web in the namespace shop: is it pod/web-1?")
        .await;
    fake.pod("web-2", "n1", json!({}));
    check_fails(
        &fake,
        "flame web",
        1,
        "error: several pods of the namespace shop begin with web: web-1, web-2; name one, or ask about all of them by \
         deploy/NAME, sts/NAME and so on",
    )
    .await;
    check_fails(
        &fake,
        "flame pod/x -A",
        1,
        "error: there is no pod x in any namespace, and nothing is stored of one in that time: kubectl get pods -A lists \
         those that run",
    )
    .await;
}

#[tokio::test]
async fn a_name_that_several_pods_have() {
    let fake = Fake::new();
    fake.pod("db-0", "n1", json!({}));
    fake.pod_in("other", "db-0", "n1", json!({}));
    let expected = "error: several pods are called db-0, in the namespaces other, shop: choose one by -n";
    check_fails(&fake, "flame db-0 -A", 1, expected).await;
}

#[tokio::test]
async fn a_workload_or_node_that_does_not_exist() {
    let fake = Fake::new();
    check_fails(
        &fake,
        "top deploy/web",
        1,
        "error: there is no deploy/web in the namespace shop, and nothing is stored of one in that time: kubectl get deploy \
         -n shop lists what there is; -n chooses another namespace, --since or --from another time",
    )
    .await;
    check_fails(
        &fake,
        "top node/n9",
        1,
        "error: there is no node n9, and nothing is stored of one in that time: kubectl get nodes lists them",
    )
    .await;
}

#[tokio::test]
async fn no_data_is_explained_in_the_apis_own_words() {
    let fake = Fake::new();
    let reason = "no app_service \"redi\" is stored; like it: redis";
    fake.answer(
        "flamegraph",
        &["app_service=redi"],
        json!({"nodes": [], "quality": null, "notes": [reason]}),
    );
    let expected = format!("error: nothing to show for app/redi in shop, TIME to TIME: {reason}");
    check_fails(&fake, "flame app/redi", 1, &expected).await;
    check_fails(&fake, "top app/redi", 1, &expected).await;
    check_fails(
        &fake,
        "apps",
        1,
        "error: nothing to show for TIME to TIME: nothing is stored; -A asks for all namespaces, kubectl get pp,cpp -A lists \
         the policies",
    )
    .await;
    check_fails(
        &fake,
        "apps --server http://c",
        1,
        "error: nothing to show for TIME to TIME: nothing is stored",
    )
    .await;
}

#[tokio::test]
async fn a_pod_that_no_policy_profiles() {
    let fake = Fake::new();
    fake.pod("web-1", "n1", json!({}));
    fake.values("app_service", &[], &[("", 1_500_000)]);
    check_fails(
        &fake,
        "flame web-1",
        1,
        "error: nothing to show for pod/web-1 in shop, TIME to TIME: no policy matches its processes, which used 1.50 s of \
         CPU time; kubectl hearth explain pod/web-1 -n shop says why, kubectl hearth record pod/web-1 -n shop --for 30s \
         profiles it for a while",
    )
    .await;
}

#[tokio::test]
async fn a_pod_on_a_node_without_an_agent() {
    let fake = Fake::new();
    fake.pod("web-1", "n2", json!({}));
    check_fails(
        &fake,
        "flame web-1",
        1,
        "error: nothing to show for pod/web-1 in shop, TIME to TIME: nothing is stored; its node n2 has no agent in the \
         namespace hearth: see kubectl get pods -n hearth -o wide, and tolerations and nodeSelector of the DaemonSet (Hearth \
         is elsewhere? --hearth-namespace)",
    )
    .await;
    fake.agent("n2", "False");
    check_fails(
        &fake,
        "flame web-1",
        1,
        "error: nothing to show for pod/web-1 in shop, TIME to TIME: nothing is stored; the agent of its node n2 does not work \
         (running, not ready): kubectl logs -n hearth hearth-node-agent-n2",
    )
    .await;
}

#[tokio::test]
async fn no_rights() {
    let fake = Fake::new();
    let said =
        "profiles.query.hearth.dev \"apps\" is forbidden: User \"eve\" cannot get resource \"profiles\"";
    fake.fail("/apis/query.hearth.dev", 403, said);
    check_fails(
        &fake,
        "apps",
        1,
        &format!(
            "error: you may not do this: {said}; ask for a RoleBinding in the namespace shop to a role that may get \
             profiles.query.hearth.dev, such as the ClusterRole view"
        ),
    )
    .await;
    check_fails(
        &fake,
        "flame total",
        1,
        &format!(
            "error: you may not do this: {said}; this is about the whole cluster: ask for a ClusterRoleBinding to a role that \
             may get profiles.query.hearth.dev, or stay in a namespace by -n"
        ),
    )
    .await;
}

#[tokio::test]
async fn no_right_to_ask_as_somebody_else() {
    let fake = Fake::new();
    let said = "users \"bob\" is forbidden: User \"eve\" cannot impersonate resource \"users\"";
    fake.fail("/apis/query.hearth.dev", 403, said);
    let expected =
        format!("error: you may not do this: {said}; leave --as and --as-group out, or ask for that right");
    check_fails(&fake, "apps", 1, &expected).await;
}

#[tokio::test]
async fn credentials_that_are_not_taken() {
    let fake = Fake::new();
    fake.fail("/", 401, "Unauthorized");
    let expected = "error: the API server does not accept your credentials (Unauthorized); log in again, or choose another \
                    user by --user or --context";
    check_fails(&fake, "apps", 1, expected).await;
    check_fails(&fake, "flame pod/x", 1, expected).await;
    let server = Fake::new();
    server.refuse("apps", 401, "a token is needed");
    let expected = "error: http://c does not accept your credentials (a token is needed); give a token that it takes by \
                    --token-file";
    check_fails(&server, "apps --server http://c", 1, expected).await;
}

#[tokio::test]
async fn hearth_is_not_installed_or_its_collector_is_away() {
    let fake = Fake::new();
    fake.fail("/apis/query.hearth.dev", 404, "the server could not find the requested resource");
    check_fails(
        &fake,
        "apps",
        1,
        "error: this cluster has no API query.hearth.dev/v1alpha1: install Hearth in it, or choose another cluster by \
         --context (kubectl get apiservices shows which APIs there are)",
    )
    .await;
    let fake = Fake::new();
    fake.fail("/apis/query.hearth.dev", 503, "service unavailable");
    check_fails(
        &fake,
        "apps",
        1,
        "error: the collector does not answer (service unavailable): see kubectl get apiservice v1alpha1.query.hearth.dev, \
         and whether the collector's pod runs: kubectl hearth status",
    )
    .await;
}

#[tokio::test]
async fn what_the_collector_refuses_is_said_in_its_words() {
    let fake = Fake::new();
    let said = "filter is not understood at position 7: expected text in quotes, as pod is text, found 5";
    fake.refuse("flamegraph", 400, said);
    check_fails(&fake, "flame app/x --filter pod_=_5", 1, &format!("error: {said}")).await;
    let fake = Fake::new();
    fake.refuse("apps", 503, "the store is not there");
    check_fails(&fake, "apps", 1, "error: the store is not there").await;
}

#[tokio::test]
async fn something_else_than_hearth() {
    let fake = Fake::new();
    fake.answer("apps", &[], json!([1]));
    let outcome = crate::run(&fake, "apps --server http://c").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.starts_with("error: http://c/api/v1/apps?from="), "{}", outcome.err);
    assert!(outcome.err.contains("answers something else than expected"), "{}", outcome.err);
}

#[tokio::test]
async fn targets_that_need_kubernetes_do_without_only_by_another_target() {
    let needs = |what: &str| {
        format!(
            "error: {what} needs Kubernetes, and --server asks a collector alone: use app/NAME, node/NAME or total, with \
             --filter where less is meant"
        )
    };
    let fake = Fake::new();
    check_fails(&fake, "flame x --server http://c", 2, &needs("pod/x")).await;
    check_fails(&fake, "top deploy/x --server http://c", 2, &needs("deploy/x")).await;
    check_fails(&fake, "status --server http://c", 2, &needs("status")).await;
    check_fails(&fake, "record pod/x --server http://c", 2, &needs("record")).await;
    check_fails(&fake, "explain pod/x --server http://c", 2, &needs("explain")).await;
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense() {
    let fake = Fake::new();
    for (line, expected) in [
        ("flame", "required arguments were not provided"),
        ("flame secret/x", "is of no kind that can be asked about: use pod/, deploy/"),
        ("flame x --since yesterday", "write a number and s, m, h or d, such as 15m"),
        ("flame x --from 15m", "or as so long ago: -15m"),
        ("flame x --since 5m --from -5m", "cannot be used with"),
        ("flame x --from -1m --until -1h", "before --from"),
        ("flame x -o tui", "-o tui needs a terminal"),
        ("flame x -n A/B", "\"A/B\" is no name of a namespace"),
        ("flame x -n a -A", "cannot be used with"),
        ("flame x --token-file t", "--server"),
        (
            "diff app/x",
            "what is it compared with? Give another target, --before 1d, or --base-from and --base-until",
        ),
        ("explain app/x", "explain takes a pod, as pod/NAME, not app/x"),
        ("record app/x", "record takes a pod or a workload, not app/x"),
        ("record x --for 24h", "--for is more than 23h"),
        ("record x --frequency 1001", "1001 is not in 1..=1000"),
        ("open --server http://c -n shop", "leave -n out"),
    ] {
        let outcome = crate::run(&fake, line).await;
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{line}: {}", outcome.err);
        assert!(outcome.err.contains(expected), "{line}: {}", outcome.err);
    }
}
