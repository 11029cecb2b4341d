//! What the API server and kubectl ask an aggregated API about itself.

use hearth_collector::access::Reason;
use serde_json::json;

use crate::port::{Port, answer};

#[tokio::test]
async fn the_documents_are_for_everybody() {
    let port = Port::start("discovery").await;
    let group = json!({
        "name": "query.hearth.dev",
        "versions": [{ "groupVersion": "query.hearth.dev/v1alpha1", "version": "v1alpha1" }],
        "preferredVersion": { "groupVersion": "query.hearth.dev/v1alpha1", "version": "v1alpha1" }
    });
    let mut one = group.clone();
    one["kind"] = "APIGroup".into();
    one["apiVersion"] = "v1".into();
    for (path, document) in [
        ("/apis", json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group] })),
        ("/apis/query.hearth.dev", one),
        (
            "/apis/query.hearth.dev/v1alpha1",
            json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": "query.hearth.dev/v1alpha1",
                "resources": [{
                    "name": "profiles", "singularName": "profile", "namespaced": true, "kind": "Profile", "verbs": ["get"]
                }]
            }),
        ),
        (
            "/openapi/v2",
            json!({ "swagger": "2.0", "info": { "title": "Hearth", "version": "v1alpha1" }, "paths": {} }),
        ),
        ("/openapi/v3", json!({ "paths": {} })),
    ] {
        let given = port.get(path, &[]).await;
        assert_eq!((given.status, given.json()), (200, document), "{path}");
        assert_eq!(given.header("content-type"), "application/json");
    }
    assert_eq!((port.api.token_reviews(), port.api.access_reviews()), (0, 0));
}

#[tokio::test]
async fn what_there_is_not_is_said_as_kubernetes_does() {
    let port = Port::start("nowhere").await;
    let (status, message) =
        port.get("/apis/query.hearth.dev/v1alpha1/namespaces/a/profiles", &[]).await.refusal();
    assert_eq!(status, 404);
    assert_eq!(
        message,
        "no such path: GET /apis/query.hearth.dev/v1alpha1/namespaces/NAMESPACE/profiles/NAME, or \
         /apis/query.hearth.dev/v1alpha1/profiles/NAME for the whole cluster, where NAME is one of flamegraph, timeline, \
         diff, apps, tags, values"
    );
    // These are for the port of --metrics.
    assert_eq!(port.get("/metrics", &[]).await.status, 404);
}

#[tokio::test]
async fn an_aggregated_path_can_only_be_read() {
    let port = Port::start("read").await;
    let url = port.url("/apis/query.hearth.dev/v1alpha1/profiles/apps");
    for method in [reqwest::Method::POST, reqwest::Method::DELETE, reqwest::Method::PATCH] {
        let refused = answer(port.client(None).request(method.clone(), &url)).await;
        assert_eq!(refused.header("allow"), "GET,HEAD");
        let message = format!("{method} is not answered at this path: it can only be read, by GET");
        assert_eq!(refused.refusal(), (405, message));
    }
    // Whoever may not, may not read its head either.
    assert_eq!(answer(port.client(None).head(&url)).await.status, 401);
    assert_eq!(port.metrics.count(Reason::NoCredentials), 1);
}

#[tokio::test]
async fn health_is_for_everybody() {
    let port = Port::start("health").await;
    for path in ["/healthz", "/livez"] {
        let health = port.get(path, &[]).await;
        assert!(health.status == 200 && health.text.starts_with("ok\n"), "{path}: {}", health.text);
    }
    let ready = port.get("/readyz", &[]).await;
    let expected = "ok\nrequests through the API server are refused: nobody has said so yet\n";
    assert_eq!((ready.status, ready.text.as_str()), (200, expected));
}
