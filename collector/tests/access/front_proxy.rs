//! The aggregated API, as the API server's front proxy asks it.

use std::time::{Duration, SystemTime};

use hearth_collector::access::Reason;
use hearth_collector::http::{HttpMetrics, QueryState, Reader, router};
use hearth_collector::query::{Limits, Scope};
use hearth_identity::fake::Mood;
use hearth_tls::testing::{Ca, Valid};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::common::client;
use crate::port::{Answer, PROXY, Port, RANGE, get, stored, until};

const API: &str = "/apis/query.hearth.dev/v1alpha1";
const JANE: [(&str, &str); 1] = [("x-remote-user", "jane")];

/// `apps` of a namespace, or with `*` of the cluster.
fn apps(namespace: &str) -> String {
    match namespace {
        "*" => format!("{API}/profiles/apps?{RANGE}"),
        namespace => format!("{API}/namespaces/{namespace}/profiles/apps?{RANGE}"),
    }
}

#[tokio::test]
async fn each_user_sees_what_they_have_a_right_to() {
    stored("rights").await;
    let (port, ca) = (Port::start("rights").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    port.api.grant("of-a", Some("a"), None);
    port.api.grant("of-ab", Some("a"), None);
    port.api.grant("of-ab", Some("b"), None);
    port.api.grant("apps-of-a", Some("a"), Some("apps"));
    port.api.grant("tags-of-a", Some("a"), Some("tags"));
    port.api.grant("of-all", None, None);
    let proxy = port.client(Some(&ca.client(PROXY)));
    for (user, a, b, nothing, all) in [
        ("nobody", "403", "403", "403", "403"),
        ("of-a", "a", "403", "403", "403"),
        ("of-ab", "a", "b", "403", "403"),
        ("apps-of-a", "a", "403", "403", "403"),
        ("tags-of-a", "403", "403", "403", "403"),
        ("of-all", "a", "b", "", "a b c host"),
    ] {
        for (namespace, expected) in [("a", a), ("b", b), ("nothing", nothing), ("*", all)] {
            let answer = get(&proxy, &port.url(&apps(namespace)), &[("x-remote-user", user)]).await;
            assert_eq!(answer.seen(), expected, "{user} in {namespace}: {}", answer.text);
        }
    }
    assert_eq!(port.metrics.count(Reason::Forbidden), 4 + 3 + 2 + 3 + 4);
}

#[tokio::test]
async fn whoever_has_no_right_is_told_which() {
    let (port, ca) = (Port::start("forbidden").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    let proxy = port.client(Some(&ca.client(PROXY)));
    let refused = get(&proxy, &port.url(&apps("a")), &JANE).await;
    let details = serde_json::json!({ "name": "apps", "group": "query.hearth.dev", "kind": "profiles" });
    assert_eq!((&refused.json()["reason"], &refused.json()["details"]), (&"Forbidden".into(), &details));
    let message = "profiles.query.hearth.dev \"apps\" is forbidden: User \"jane\" cannot get resource \"profiles\" in API \
                   group \"query.hearth.dev\" in the namespace \"a\": a RoleBinding there, to a role with get on \
                   profiles, allows it";
    assert_eq!(refused.refusal(), (403, message.to_owned()));
    let (_, message) = get(&proxy, &port.url(&apps("*")), &JANE).await.refusal();
    assert!(
        message.ends_with(
            "at the cluster scope: a ClusterRoleBinding, to a role with get on profiles, allows it"
        )
    );
}

#[tokio::test]
async fn groups_and_all_else_of_a_user_come_to_the_review() {
    let (port, ca) = (Port::start("groups").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    port.api.grant("jane", Some("a"), None);
    let proxy = port.http2_client(Some(&ca.client(PROXY)));
    let url = port.url(&apps("a"));
    let reviews = async |headers: &[(&str, &str)]| {
        let before = port.api.access_reviews();
        assert_eq!(get(&proxy, &url, headers).await.status, 200);
        port.api.access_reviews() - before
    };
    assert_eq!(reviews(&JANE).await, 1);
    assert_eq!(reviews(&JANE).await, 0);
    // As another user, whose rights may be others.
    assert_eq!(reviews(&[JANE[0], ("x-remote-group", "dev")]).await, 1);
    assert_eq!(reviews(&[JANE[0], ("x-remote-extra-scopes", "some")]).await, 1);
    assert_eq!(reviews(&[JANE[0], ("x-remote-uid", "7")]).await, 1);
    let many: Vec<(&str, String)> = (0..1000)
        .map(|n| ("x-remote-group", format!("a-group-with-a-long-name-in-a-directory-{n}")))
        .collect();
    let mut headers: Vec<(&str, &str)> = many.iter().map(|(name, value)| (*name, value.as_str())).collect();
    headers.push(JANE[0]);
    assert_eq!(reviews(&headers).await, 1);
}

#[tokio::test]
async fn answers_are_those_of_our_own_api_byte_for_byte() {
    stored("same").await;
    let (port, ca) = (Port::start("same").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    port.api.grant("jane", None, None);
    let proxy = port.client(Some(&ca.client(PROXY)));
    for (aggregated, own) in [
        ("flamegraph?app_service=shop", "flamegraph?app_service=shop"),
        ("flamegraph?app_service=Total&format=folded", "flamegraph?app_service=Total&format=folded"),
        ("flamegraph?app_service=nothing&format=pprof", "flamegraph?app_service=nothing&format=pprof"),
        ("flamegraph?app_service=shop&format=pdf", "flamegraph?app_service=shop&format=pdf"),
        ("timeline?app_service=shop", "timeline?app_service=shop"),
        ("diff?app_service=shop&base_app_service=Total", "diff?app_service=shop&base_app_service=Total"),
        ("apps?x=1", "apps?x=1"),
        ("apps?filter=1", "apps?filter=1"),
        ("values?tag=pod_ns&limit=2", "tags/pod_ns/values?limit=2"),
        ("values?tag=x%2Fy", "tags/x%2Fy/values?"),
    ] {
        for namespace in ["", "namespaces/a/"] {
            let url = port.url(&format!("{API}/{namespace}profiles/{aggregated}&{RANGE}"));
            let given = get(&proxy, &url, &JANE).await;
            let expected = from_within("same", namespace, &format!("/api/v1/{own}&{RANGE}")).await;
            assert_eq!(given.status, expected.status, "{namespace}{aggregated}");
            if expected.status == 200 || !expected.header("x-go-pprof").is_empty() {
                assert_eq!(given.text, expected.text, "{namespace}{aggregated}");
            } else {
                is_status_with(&given.json(), expected.status, &expected.json());
            }
            for header in
                ["content-type", "hearth-note", "hearth-quality", "content-disposition", "x-go-pprof"]
            {
                assert_eq!(
                    given.header(header),
                    expected.header(header),
                    "{namespace}{aggregated}: {header}"
                );
            }
        }
    }
    let tags = get(&proxy, &port.url(&format!("{API}/profiles/tags")), &JANE).await;
    assert_eq!(tags.text, from_within("same", "", "/api/v1/tags").await.text);
    let missing = get(&proxy, &port.url(&format!("{API}/profiles/values?{RANGE}")), &JANE).await;
    let error = "tag is missing: give the name of a tag, as …/profiles/tags lists them";
    assert_eq!(missing.status, 400);
    is_status_with(&missing.json(), 400, &serde_json::json!({ "error": error, "field": "tag" }));
}

/// What kubectl shows of an error, and what our own API says beside it.
fn is_status_with(given: &Value, code: u16, own: &Value) {
    let reason = match code {
        400 => "BadRequest",
        404 => "NotFound",
        422 => "Invalid",
        other => panic!("{other}: {given}"),
    };
    let mut expected = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": own["error"], "reason": reason, "code": code,
    });
    expected.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    assert_eq!(given, &expected);
}

/// What the router answers to whoever sees the cluster, or the namespace a.
async fn from_within(cluster: &str, namespace: &str, path: &str) -> Answer {
    let mut registry = Registry::default();
    let metrics = HttpMetrics::register(&mut registry);
    let state = QueryState::new(client(), Limits::default(), metrics, std::sync::Arc::new(registry));
    let cluster = cluster.into();
    let scope = match namespace {
        "" => Scope::Cluster(cluster),
        _ => Scope::Namespaces { cluster, namespaces: ["a".to_owned()].into(), left_out: false },
    };
    let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let (parts, body) = router(state, Reader::anybody(scope)).oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    Answer { status: parts.status.as_u16(), headers: parts.headers, text }
}

#[tokio::test]
async fn headers_are_believed_of_the_front_proxy_alone() {
    let (port, ca) = (Port::start("untrusted").await, Ca::new("front-proxy-ca"));
    port.api.grant("jane", None, None);
    let refused = port.get(&apps("*"), &JANE).await;
    let unknown = "the API server's front proxy is not known: nobody has said so yet";
    assert_eq!(refused.refusal(), (401, unknown.to_owned()));
    assert_eq!(refused.header("www-authenticate"), "Bearer");

    port.trust(&ca);
    let refused = port.get(&apps("*"), &JANE).await;
    let message =
        "only the API server's front proxy may say who asks: this connection has no client certificate";
    assert_eq!(refused.refusal(), (401, message.to_owned()));
    let other_name = port.client(Some(&ca.client("kubelet")));
    let refused = get(&other_name, &port.url(&apps("*")), &JANE).await;
    let message = "only the API server's front proxy may say who asks: this connection's client certificate is of \
                   \"kubelet\", which is no name of the front proxy";
    assert_eq!(refused.refusal(), (401, message.to_owned()));
    assert_eq!(port.metrics.count(Reason::ProxyUntrusted), 3);
    assert_eq!(port.api.access_reviews(), 0);
    // Whoever is the front proxy and names nobody is nobody.
    let proxy = port.client(Some(&ca.client(PROXY)));
    assert_eq!(get(&proxy, &port.url(&apps("*")), &[("x-remote-group", "system:masters")]).await.status, 401);
    assert_eq!(port.metrics.count(Reason::NoCredentials), 1);
    assert_eq!(get(&proxy, &port.url(&apps("*")), &JANE).await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_is_bad_from_the_start_makes_no_connection() {
    let (port, ca) = (Port::start("bad").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    let other = Ca::new("front-proxy-ca");
    for (certificate, reason) in [
        (ca.client_valid(PROXY, Valid::Expired), hearth_tls::Reason::Expired),
        (ca.client_valid(PROXY, Valid::NotYet), hearth_tls::Reason::NotYetValid),
        (other.client(PROXY), hearth_tls::Reason::UnknownCa),
        (ca.server(&[PROXY]), hearth_tls::Reason::BadCertificate),
    ] {
        let request = port.client(Some(&certificate)).get(port.url(&apps("*"))).header(JANE[0].0, JANE[0].1);
        request.send().await.unwrap_err();
        until("it is counted", async || port.refusals.of(reason) == 1).await;
    }
}

#[tokio::test]
async fn a_ca_that_was_replaced_is_not_believed_on_connections_from_before() {
    let (port, old, new) = (Port::start("replaced").await, Ca::new("ca"), Ca::new("ca"));
    port.api.grant("jane", None, None);
    port.trust(&old);
    let proxy = port.client(Some(&old.client(PROXY)));
    let http2 = port.http2_client(Some(&old.client(PROXY)));
    for client in [&proxy, &http2] {
        assert_eq!(get(client, &port.url(&apps("*")), &JANE).await.status, 200);
    }
    port.trust(&new);
    for client in [&proxy, &http2] {
        let refused = get(client, &port.url(&apps("*")), &JANE).await;
        let message = "only the API server's front proxy may say who asks: this connection's client certificate is not \
                       signed by the front proxy's CA";
        assert_eq!(refused.refusal(), (401, message.to_owned()));
    }
    // The front proxy is to connect anew, with the certificate that it has now.
    until("both connections have ended", async || port.metrics.connections.get() == 0).await;
    let proxy = port.client(Some(&new.client(PROXY)));
    assert_eq!(get(&proxy, &port.url(&apps("*")), &JANE).await.status, 200);
}

#[tokio::test]
async fn a_connection_from_before_the_front_proxy_was_known_ends_when_it_is_needed() {
    let (port, ca) = (Port::start("before").await, Ca::new("front-proxy-ca"));
    port.api.grant("jane", None, None);
    let proxy = port.client(Some(&ca.client(PROXY)));
    // It is not asked for its certificate.
    assert_eq!(get(&proxy, &port.url("/apis"), &[]).await.status, 200);
    port.trust(&ca);
    assert_eq!(get(&proxy, &port.url(&apps("*")), &JANE).await.status, 401);
    assert_eq!(get(&proxy, &port.url(&apps("*")), &JANE).await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_runs_out_on_an_open_connection_is_not_believed_any_more() {
    let (port, ca) = (Port::start("expired").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    port.api.grant("jane", None, None);
    let now = SystemTime::now();
    let short =
        ca.client_valid(PROXY, Valid::Between(now - Duration::from_secs(60), now + Duration::from_secs(2)));
    let proxy = port.client(Some(&short));
    let url = port.url(&apps("*"));
    let mut last = get(&proxy, &url, &JANE).await;
    assert_eq!(last.status, 200);
    until("it is refused", async || {
        last = get(&proxy, &url, &JANE).await;
        last.status != 200
    })
    .await;
    let message =
        "only the API server's front proxy may say who asks: this connection's client certificate is expired";
    assert_eq!(last.refusal(), (401, message.to_owned()));
}

#[tokio::test]
async fn while_the_api_server_is_away_nobody_is_denied_or_let_in() {
    let (port, ca) = (Port::start("away").await, Ca::new("front-proxy-ca"));
    port.trust(&ca);
    port.api.grant("jane", None, None);
    port.api.set_mood(Mood::Away);
    let proxy = port.client(Some(&ca.client(PROXY)));
    let away = get(&proxy, &port.url(&apps("*")), &JANE).await;
    let message = "the API server does not say who you are, or what you may see: try again";
    assert_eq!((away.refusal(), away.header("retry-after")), ((503, message.to_owned()), "5"));
    assert_eq!(port.metrics.count(Reason::ApiServerAway), 1);
    port.api.set_mood(Mood::Answers);
    assert_eq!(get(&proxy, &port.url(&apps("*")), &JANE).await.status, 200);
}
