//! `status`.

use serde_json::{Value, json};

use crate::fake::{Fake, condition};
use crate::{check, run};

fn well() -> Fake {
    let fake = Fake::new();
    fake.put(
        "/api/v1/namespaces/hearth/pods/hearth-collector-0",
        json!({
            "metadata": {"name": "hearth-collector-0", "labels": {"app.kubernetes.io/part-of": "hearth"}},
            "spec": {"containers": [{"name": "c", "image": "hearth-collector:v0.3.0"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    fake.policy(
        "web",
        json!({}),
        json!([condition("Ready", "True", "NothingMatched", "no process matches")]),
    );
    total(&fake, json!({}));
    fake
}

fn total(fake: &Fake, lost: Value) {
    let quality = json!({"samples": 1000, "lost": lost});
    fake.answer("flamegraph", &["app_service=Total"], json!({"nodes": [], "quality": quality, "notes": []}));
}

fn certificate(fake: &Fake, annotation: &str, expires: &str) {
    let path = format!("/api/v1/namespaces/hearth/configmaps/{}", annotation.rsplit('/').next().unwrap());
    fake.put(&path, json!({"metadata": {"name": "ca", "annotations": {annotation: expires}}}));
}

#[tokio::test]
async fn all_is_well() {
    let fake = well();
    certificate(&fake, "hearth.dev/ca-expires", "2199-01-01T00:00:00Z");
    let out = run(&fake, "status").await.out;
    let days = out.split("expires in ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    check(
        &fake,
        "status",
        &format!(
            "Agents\n  1 of 1 nodes have an agent that is ready\n  version v0.3.0 on 1\n\n\
             Operator and collector\n  POD                 VERSION  STATE\n  hearth-collector-0  v0.3.0   ready\n\n\
             Policies\n  POLICY    READY  NODES  PROCESSES  REASON\n  \
             shop/web  True          0          NothingMatched: no process matches\n\n\
             Losses of the last 15 minutes\n  none; 1000 samples are stored\n\n\
             Certificates\n  certificate authority: expires in {days} days, on 2199-01-01 00:00:00 UTC\n\n"
        ),
    )
    .await;
}

#[tokio::test]
async fn everything_that_is_wrong_is_said_and_counted() {
    let fake = Fake::new();
    fake.agent("n1", "False");
    fake.put("/api/v1/nodes/n2", json!({"metadata": {"name": "n2"}}));
    fake.policy("web", json!({}), json!([condition("Ready", "False", "NodesFailed", "see failures")]));
    total(&fake, json!({"ring-full": 11}));
    certificate(&fake, "hearth.dev/ca-expires", "2020-01-01T00:00:00Z");
    certificate(&fake, "hearth.dev/collector-certificate-expires", "soon");
    let outcome = run(&fake, "status").await;
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.err, "error: 7 things are wrong: see above\n");
    for line in [
        "  0 of 2 nodes have an agent that is ready\n",
        "  n1: hearth-node-agent-n1 is not ready: running, not ready\n",
        "  n2: no agent: see tolerations and nodeSelector of the DaemonSet\n",
        "  none runs\n",
        "  shop/web  False         0          NodesFailed: see failures\n",
        "  11 samples (ring-full 11); 1000 are stored\n",
        "  certificate authority: expired since TIME\n",
        "  collector's certificate: hearth.dev/collector-certificate-expires is \"soon\", which is no time\n",
    ] {
        assert!(outcome.out.contains(line), "{line}{}", outcome.out);
    }
}

#[tokio::test]
async fn what_may_not_be_seen_is_not_wrong() {
    let fake = well();
    for path in ["/api/v1/nodes", "/api/v1/namespaces/hearth/configmaps", "/apis/query.hearth.dev"] {
        fake.fail(path, 403, "no");
    }
    let outcome = run(&fake, "status").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.out, outcome.err);
    assert!(outcome.out.contains("1 of 1 agents are ready; you may not list nodes"), "{}", outcome.out);
    assert!(outcome.out.contains("Certificates\n  not known: no\n"), "{}", outcome.out);
}

#[tokio::test]
async fn hearth_is_somewhere_else() {
    let fake = Fake::new();
    fake.remove("/api/v1/namespaces/hearth");
    fake.remove("/api/v1/namespaces/hearth/pods/hearth-node-agent-n1");
    let outcome = run(&fake, "status").await;
    assert_eq!(outcome.code, 1);
    assert!(outcome.err.starts_with("error: namespace hearth does not exist"), "{}", outcome.err);
    let outcome = run(&fake, "status --hearth-namespace shop").await;
    assert!(
        outcome
            .out
            .contains("none in the namespace shop: install Hearth, or say where it is by --hearth-namespace")
    );
}

#[tokio::test]
async fn certificates_that_the_operator_does_not_issue_are_brought() {
    let outcome = run(&well(), "status").await;
    assert_eq!(outcome.code, 0, "{}{}", outcome.out, outcome.err);
    let expected = "Certificates\n  the operator issues none in hearth: they are brought, by cert-manager or your Secrets\n";
    assert!(outcome.out.contains(expected), "{}", outcome.out);
}
