//! Bearer tokens: Grafana, scripts, whoever does not come through the API server.

use hearth_collector::access::Reason;
use hearth_identity::fake::Mood;
use hearth_tls::testing::Ca;
use serde_json::json;

use crate::common::sql;
use crate::port::{Port, RANGE, answer, get, stored};

fn apps() -> String {
    format!("/api/v1/apps?{RANGE}")
}

#[tokio::test]
async fn a_token_shows_the_namespaces_of_its_user_or_the_cluster() {
    stored("tokens").await;
    let port = Port::start("tokens").await;
    port.api.grant("of-b", Some("b"), None);
    port.api.grant("of-ac", Some("a"), None);
    port.api.grant("of-ac", Some("c"), None);
    port.api.grant("of-ac", Some("nothing-is-stored"), None);
    port.api.grant("tags-of-a", Some("a"), Some("tags"));
    port.api.grant("of-all", None, None);
    for (user, seen) in
        [("of-b", "b"), ("of-ac", "a c"), ("of-all", "a b c host"), ("tags-of-a", "403"), ("nobody", "403")]
    {
        let (name, value) = port.user(user);
        assert_eq!(port.get(&apps(), &[(name, &value)]).await.seen(), seen, "{user}");
    }
    // By an aggregated path, too.
    let (name, value) = port.user("of-b");
    for (namespace, seen) in [("a", "403"), ("b", "b")] {
        let path = format!("/apis/query.hearth.dev/v1alpha1/namespaces/{namespace}/profiles/apps?{RANGE}");
        assert_eq!(port.get(&path, &[(name, &value)]).await.seen(), seen, "{namespace}");
    }
}

#[tokio::test]
async fn whoever_sees_nothing_is_told_what_they_lack() {
    stored("lack").await;
    let port = Port::start("lack").await;
    let (name, value) = port.user("jane");
    let refused = port.get(&apps(), &[(name, &value)]).await;
    let error = "profiles.query.hearth.dev \"apps\" is forbidden: User \"jane\" cannot get resource \"profiles\" in API group \
                 \"query.hearth.dev\" at the cluster scope, nor in any namespace that has profiles: a RoleBinding in a \
                 namespace, to a role with get on profiles, allows it";
    assert_eq!((refused.status, refused.json()), (403, json!({ "error": error })));
    // DeepFlow's users expect its shape.
    let url = port.url("/v1/profile/ProfileTracing");
    let refused = answer(port.client(None).post(url).header(name, &value).body("{}")).await;
    assert_eq!((refused.status, &refused.json()["OPT_STATUS"]), (403, &"FAIL".into()));
    assert_eq!(port.metrics.count(Reason::Forbidden), 2);
}

#[tokio::test]
async fn each_question_is_answered_to_a_token() {
    stored("questions").await;
    let port = Port::start("questions").await;
    port.api.grant("jane", Some("b"), None);
    let (name, value) = port.user("jane");
    let body = json!({
        "app_service": "shop", "profile_language_type": "eBPF", "profile_event_type": "on-cpu", "tag_filter": "",
        "time_start": 1_708_700_010, "time_end": 1_708_700_019,
    });
    let url = port.url("/v1/profile/ProfileTracing");
    let tracing = answer(port.client(None).post(url).header(name, &value).body(body.to_string())).await;
    assert_eq!((tracing.status, &tracing.json()["result"][0]["total_value"]), (200, &(2 * 10_101).into()));
    for (path, part) in [
        (format!("/api/v1/flamegraph?app_service=shop&format=folded&{RANGE}"), "shop;[t] shop 20202"),
        (format!("/api/v1/tags/pod_ns/values?{RANGE}"), "{\"name\":\"b\",\"samples\":2,\"value\":20202}"),
        (format!("/api/v1/timeline?app_service=shop&{RANGE}"), "\"value\":20202"),
        ("/api/v1/tags".to_owned(), "\"pod_ns\""),
        ("/".to_owned(), "<h1>Hearth</h1>"),
        ("/style.css".to_owned(), "table"),
    ] {
        let answer = port.get(&path, &[(name, &value)]).await;
        assert!(
            answer.status == 200 && answer.text.contains(part),
            "{path}: {} {}",
            answer.status,
            answer.text
        );
    }
    let nowhere = port.get("/api/v1/nowhere", &[(name, &value)]).await;
    assert_eq!(nowhere.status, 404, "{}", nowhere.text);
}

#[tokio::test]
async fn without_a_token_or_with_a_bad_one_nothing_is_answered() {
    let port = Port::start("bad-token").await;
    let path = apps();
    let no_credentials = "nothing says who asks: send Authorization: Bearer TOKEN, with a token that the API server takes, or \
                          ask through the API server, as kubectl get --raw does";
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[], no_credentials),
        (&[("authorization", "Basic amFuZTpwdw==")], no_credentials),
        (
            &[("authorization", "Bearer wrong")],
            "the bearer token is refused: the API server does not take the token: invalid bearer token",
        ),
        (
            &[("authorization", "Bearer a b")],
            "the bearer token is refused: the token is empty, longer than 8192 bytes, or has characters that no token has",
        ),
    ];
    for (headers, error) in cases {
        let refused = port.get(&path, headers).await;
        assert_eq!((refused.status, refused.json()), (401, json!({ "error": error })));
        assert_eq!(refused.header("www-authenticate"), "Bearer");
    }
    assert_eq!((port.metrics.count(Reason::NoCredentials), port.metrics.count(Reason::BadToken)), (2, 2));
    assert_eq!(port.get("/style.css", &[]).await.status, 401);
}

#[tokio::test]
async fn what_a_front_proxy_might_say_changes_nothing_for_a_token() {
    stored("smuggled").await;
    let (port, ca) = (Port::start("smuggled").await, Ca::new("front-proxy-ca"));
    port.api.grant("admin", None, None);
    port.api.grant("jane", Some("a"), None);
    let (name, value) = port.user("jane");
    let headers = [(name, value.as_str()), ("x-remote-user", "admin"), ("x-remote-group", "system:masters")];
    assert_eq!(port.get(&apps(), &headers).await.seen(), "a");
    port.trust(&ca);
    assert_eq!(port.get(&apps(), &headers).await.seen(), "a");
    let kubelet = port.client(Some(&ca.client("kubelet")));
    assert_eq!(get(&kubelet, &port.url(&apps()), &headers).await.seen(), "a");
}

#[tokio::test]
async fn the_api_server_is_asked_once_a_minute_whatever_a_dashboard_asks() {
    stored("dashboard").await;
    let port = Port::start("dashboard").await;
    port.api.grant("jane", Some("a"), None);
    let (name, value) = port.user("jane");
    for _ in 0..3 {
        assert_eq!(port.get(&apps(), &[(name, &value)]).await.seen(), "a");
    }
    // The cluster, and each of its three namespaces.
    assert_eq!((port.api.token_reviews(), port.api.access_reviews()), (1, 1 + 3));
}

/// Rows of a node in so many namespaces, whose names are an expression of `number`.
async fn stored_in(cluster: &str, node: &str, name: &str, number: u32) {
    sql(&format!(
        "INSERT INTO profile.in_process_local (time, pod_cluster, pod_node, pod_ns, app_service, sample_count) SELECT \
         toDateTime(1708700010, 'UTC'), '{cluster}', '{node}', {name}, 'x', 1 FROM numbers({number})"
    ))
    .await;
}

#[tokio::test]
async fn of_more_namespaces_than_can_be_asked_for_an_answer_says_so() {
    stored_in("many", "n1", "'n' || toString(number)", 1000).await;
    let port = Port::start("many").await;
    let (name, value) = port.user("jane");
    assert_eq!(port.get(&apps(), &[(name, &value)]).await.status, 403);
    assert_eq!(port.api.access_reviews(), 1 + 1000);

    stored_in("many", "n2", "'first'", 1).await;
    let port = Port::start("many").await;
    let (name, value) = port.user("jane");
    let refused = port.get(&apps(), &[(name, &value)]).await;
    let error = "more than 1000 namespaces have profiles, too many to ask for your right in each, and you have none in \
                 those that were asked for: ask for one, \
                 /apis/query.hearth.dev/v1alpha1/namespaces/NAMESPACE/profiles/NAME";
    assert_eq!((refused.status, refused.json()), (422, json!({ "error": error })));
    // Whoever sees the cluster is not asked for each.
    port.api.grant("admin", None, None);
    let (name, value) = port.user("admin");
    let all = port.get(&apps(), &[(name, &value)]).await.json();
    assert_eq!(
        (&all["apps"][0]["samples"], all.to_string().contains("more namespaces")),
        (&1001.into(), false)
    );
}

#[tokio::test]
async fn an_agent_that_makes_up_namespaces_hides_no_other() {
    // Those that no namespace can be called do not count at all.
    stored_in("flood", "evil", "'Not a name ' || toString(number)", 2000).await;
    stored_in("flood", "n1", "'z' || toString(number)", 30).await;
    stored_in("flood", "n2", "'zz' || toString(number)", 30).await;
    let see = async |port: &Port| {
        port.api.grant("jane", Some("z29"), None);
        port.api.grant("jane", Some("zz29"), None);
        let (name, value) = port.user("jane");
        let seen = port.get(&apps(), &[(name, &value)]).await;
        let json = seen.json();
        (
            json["apps"][0]["samples"].clone(),
            json.to_string().contains("some that you may see can be missing"),
        )
    };
    let port = Port::start("flood").await;
    assert_eq!(see(&port).await, (2.into(), false));
    assert_eq!(port.api.access_reviews(), 1 + 60);

    stored_in("flood", "evil", "'a' || toString(number)", 20_000).await;
    let port = Port::start("flood").await;
    assert_eq!(see(&port).await, (2.into(), true));
    assert_eq!(port.api.access_reviews(), 1 + 1000);
    // An answer without rows says it, too.
    let (name, value) = port.user("jane");
    let path = format!("/api/v1/flamegraph?app_service=none&{RANGE}");
    let empty = port.get(&path, &[(name, &value)]).await;
    assert!(
        format!("{:?} {}", empty.headers, empty.text).contains("some that you may see can be missing"),
        "{}",
        empty.text
    );
}

#[tokio::test]
async fn while_the_api_server_is_away_no_token_is_good_or_bad() {
    let port = Port::start("token-away").await;
    port.api.set_mood(Mood::Away);
    let (name, value) = port.user("jane");
    let away = port.get(&apps(), &[(name, &value)]).await;
    let error = "the API server does not say who you are, or what you may see: try again";
    assert_eq!((away.status, away.json()), (503, json!({ "error": error })));
    assert_eq!((away.header("retry-after"), port.metrics.count(Reason::ApiServerAway)), ("5", 1));
}
