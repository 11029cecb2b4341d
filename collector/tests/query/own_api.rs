//! `/api/v1`, the page, and what machines ask.

use serde_json::json;

use crate::common::{Collector, insert, sql};

#[tokio::test]
async fn a_flame_graph_in_each_format() {
    insert("1708700010 | fmt | 7 | fmt | worker 1 | other | complete | 3 | a | main;a<b>&c").await;
    let collector = Collector::start().await;
    let get = async |format: &str| {
        let range = "from=1708700010&until=1708700019";
        collector.get(&format!("/api/v1/flamegraph?app_service=fmt&{range}&format={format}")).await
    };

    let json = get("json").await;
    assert_eq!(
        json.json(),
        json!({
            "unit": "microseconds",
            "nodes": [
                { "name": "fmt", "parent": null, "self": 0, "total": 30303 },
                { "name": "[t] worker 1", "parent": 0, "self": 0, "total": 30303 },
                { "name": "main", "parent": 1, "self": 0, "total": 30303 },
                { "name": "a<b>&c", "parent": 2, "self": 30303, "total": 30303 }
            ],
            "quality": {
                "value": 30303,
                "samples": 3,
                "incomplete": { "truncated": 0, "no-unwind-info": 0, "jit": 0, "lost": 0, "counted": 0 },
                "unresolved": 0,
                "missing_stacks": 0,
                "thinned": 0,
                "rolled_up": 0,
                "lost": {}
            },
            "notes": []
        })
    );
    assert_eq!(json.header("content-type"), "application/json");

    let folded = get("folded").await;
    assert_eq!(folded.text, "fmt;[t] worker 1;main;a<b>&c 30303\n");
    assert_eq!(folded.header("content-type"), "text/plain; charset=utf-8");

    let svg = get("svg").await;
    assert_eq!(svg.header("content-type"), "image/svg+xml");
    assert!(svg.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(svg.text.contains("fmt, 2024-02-23 14:53:30 UTC to 2024-02-23 14:53:39 UTC"));
    assert!(svg.text.contains("<title>a&lt;b&gt;&amp;c (30,303 microseconds, 100.00%)</title>"));

    let html = get("html").await;
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(html.header("content-security-policy"), hearth_profile::write::html::POLICY);
    assert!(html.text.contains("<title>fmt, 2024-02-23 14:53:30 UTC to 2024-02-23 14:53:39 UTC</title>"));
    assert!(html.text.contains(r#""names":["fmt","[t] worker 1","main","a\u003cb>&c"]"#));

    let nested = get("nested-set").await;
    assert_eq!(
        nested.json(),
        json!([
            { "level": 0, "value": 30303, "self": 0, "label": "fmt" },
            { "level": 1, "value": 30303, "self": 0, "label": "[t] worker 1" },
            { "level": 2, "value": 30303, "self": 0, "label": "main" },
            { "level": 3, "value": 30303, "self": 30303, "label": "a<b>&c" }
        ])
    );

    let speedscope = get("speedscope").await.json();
    assert_eq!(speedscope["name"], "fmt, 2024-02-23 14:53:30 UTC to 2024-02-23 14:53:39 UTC");
    assert_eq!(speedscope["profiles"][0]["weights"], json!([30303]));

    let pprof = get("pprof").await;
    assert_eq!(pprof.header("content-disposition"), "attachment; filename=\"profile.pb.gz\"");
}

#[tokio::test]
async fn nothing_comes_with_its_reason_in_each_format() {
    let collector = Collector::start().await;
    let get = async |format: &str| {
        let range = "from=1400000001&until=1400000009";
        collector.get(&format!("/api/v1/flamegraph?app_service=Total&{range}&format={format}")).await
    };
    let reason = "no samples between 2014-05-13 16:53:20 UTC and 2014-05-13 16:53:29 UTC";
    insert("1708700110 | some | 7 | some | some | main | complete | 3 | a | main").await;

    let json = get("json").await;
    assert_eq!(json.json()["nodes"], json!([]));
    assert!(json.json()["notes"][0].as_str().unwrap().starts_with(reason));
    let folded = get("folded").await;
    assert_eq!((folded.status, folded.text.as_str()), (200, ""));
    assert!(folded.header("hearth-note").starts_with(reason));
    let svg = get("svg").await;
    assert!(svg.text.starts_with("<svg ") && svg.text.contains(reason));
    let html = get("html").await;
    assert!(html.text.contains(&format!("\"notes\":[\"{reason}")), "{}", html.text);
    assert_eq!(get("nested-set").await.json(), json!([]));
    let speedscope = get("speedscope").await.json();
    assert!(speedscope["name"].as_str().unwrap().contains(reason));
    assert_eq!(speedscope["profiles"][0]["samples"], json!([]));
    // go tool pprof shows the text of an error, and nothing of an empty profile.
    let pprof = get("pprof").await;
    assert_eq!((pprof.status, pprof.header("x-go-pprof")), (404, "1"));
    assert!(pprof.text.starts_with(reason));
}

#[tokio::test]
async fn apps_are_listed_hottest_first() {
    insert(
        "1708704010 | warm | 7 | x | x | main  | complete | 3 | a | main
         1708704010 | hot  | 7 | x | x | main  | complete | 4 | a | main
         1708704020 | hot  | 7 | x | y | other | complete | 1 | a | main
         1708704010 | Total | 7 | Total | Total | main | complete | 9 | a | main
         1708704010 |      | 7 | x | x | main  | counted  | 9 | a |",
    )
    .await;
    let collector = Collector::start().await;
    assert_eq!(
        collector.get("/api/v1/apps?from=1708704015&until=1708704020").await.json(),
        json!({
            "from": 1708704015, "until": 1708704020, "unit": "microseconds",
            "apps": [
                { "name": "hot", "samples": 5, "value": 50505 },
                { "name": "warm", "samples": 3, "value": 30303 }
            ],
            "notes": [
                "the start, 1708704015, was moved to 1708704010 (2024-02-23 16:00:10 UTC): \
                 samples are stored by windows of 10 s"
            ]
        })
    );
}

#[tokio::test]
async fn a_list_without_apps_says_why() {
    insert("1708707610 |  | 7 | x | x | main  | counted  | 9 | a |").await;
    let collector = Collector::start().await;
    let list = async |range: &str| collector.get(&format!("/api/v1/apps?{range}")).await.json();
    let answer = list("from=1708707610&until=1708707619").await;
    let unmatched = "only processes that no policy matches are stored: see them under Total";
    assert_eq!((&answer["apps"], &answer["notes"]), (&json!([]), &json!([unmatched])));
    let in_the_future = list("from=4000000000&until=4000000009").await;
    let note = in_the_future["notes"][0].as_str().unwrap();
    let between = "between 2096-10-02 07:06:40 UTC and 2096-10-02 07:06:49 UTC";
    assert!(note.starts_with(&format!("no samples {between}; the latest is of ")), "{note}");
}

#[tokio::test]
async fn a_list_that_holds_every_app_does_not_claim_to_be_cut() {
    let collector = Collector::start().await;
    let list = async |from: u32, to: u32| {
        // Before all others: what is stored last is what an empty answer names.
        sql(&format!(
            "INSERT INTO profile.in_process_local (time, app_service, sample_count, profile_value, \
             profile_event_type, profile_language_type) SELECT toDateTime(1600000020, 'UTC'), \
             'app' || toString(number), 1, 20000 - number, 'on-cpu', 'eBPF' FROM numbers({from}, {to} - {from})"
        ))
        .await;
        let answer = collector.get("/api/v1/apps?from=1600000020&until=1600000029").await.json();
        format!("{} {}", answer["apps"].as_array().unwrap().len(), answer["notes"])
    };
    assert_eq!(list(0, 10_000).await, "10000 []");
    assert_eq!(list(10_000, 10_001).await, "10000 [\"only the 10000 hottest are listed\"]");
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let collector = Collector::start().await;
    for (path, field, error) in [
        (
            "flamegraph",
            "app_service",
            "app_service is missing: give a process name, or Total for all of them",
        ),
        ("flamegraph?app_service=a&from=x", "from", "from is \"x\", not an integer: give Unix seconds"),
        ("apps?since=5", "query", "query has an unknown parameter \"since\": use from, until"),
    ] {
        let reply = collector.get(&format!("/api/v1/{path}")).await;
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": error, "field": field })));
    }
}

#[tokio::test]
async fn the_page_links_to_the_hottest_apps() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    insert(&format!("{} | <b>&\"' | 7 | x | x | main | complete | 99 | a | main", now - now % 10)).await;
    let page = Collector::start().await.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; style-src 'self'"));
    let link = "<a href=\"/api/v1/flamegraph?app_service=%3Cb%3E%26%22%27&amp;format=html\">&lt;b&gt;&amp;&quot;&#39;</a>";
    assert!(page.text.contains(link), "{}", page.text);
    assert!(page.text.contains("<a href=\"/api/v1/flamegraph?app_service=Total&amp;format=html\">Total</a>"));
}

#[tokio::test]
async fn requests_are_counted_by_route_and_class() {
    let collector = Collector::start().await;
    assert_eq!(collector.get("/readyz").await.status, 200);
    assert_eq!(collector.get("/api/v1/flamegraph").await.status, 400);
    let missing = collector.get("/nosuch/path").await;
    assert_eq!(missing.status, 404);
    assert_eq!(
        missing.json()["error"],
        "no such path: see / for a page, GET /api/v1/apps, /api/v1/flamegraph, /api/v1/diff, /api/v1/timeline, \
         /api/v1/tags and /api/v1/tags/{tag}/values, or POST /v1/profile/ProfileTracing"
    );

    let metrics = collector.get("/metrics").await;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "hearth_collector_http_requests_total{route=\"/readyz\",class=\"2xx\"} 1",
        "hearth_collector_http_requests_total{route=\"/api/v1/flamegraph\",class=\"4xx\"} 1",
        "hearth_collector_http_requests_total{route=\"other\",class=\"4xx\"} 1",
        "hearth_collector_http_request_duration_seconds_count{route=\"/readyz\"} 1",
    ] {
        assert!(metrics.text.contains(line), "{line} is not in {}", metrics.text);
    }
}

#[tokio::test]
async fn a_graph_says_its_filter_where_it_has_a_title() {
    insert("1708700210 | narrowed | 7 | x | x | main | complete | 3 | a | main").await;
    let collector = Collector::start().await;
    let range = "2024-02-23 14:56:50 UTC to 2024-02-23 14:56:59 UTC";
    for pod_ns in ["a", "nowhere"] {
        let filter = format!("pod_ns='{pod_ns}' AND thread_name!='<y>'");
        let get = async |format: &str| {
            let range = "from=1708700210&until=1708700219";
            let path = format!("app_service=narrowed&{range}&filter={filter}&format={format}");
            collector.get(&format!("/api/v1/flamegraph?{path}")).await
        };
        let title = format!("narrowed, {range}, where {filter}");
        assert!(get("speedscope").await.json()["name"].as_str().unwrap().starts_with(&title));
        let title = title.replace('<', "&lt;").replace('>', "&gt;");
        let html = get("html").await.text;
        assert!(html.contains(&format!("<title>{}</title>", title.replace('\'', "&#39;"))), "{html}");
        // In a drawing it is too long for its place: it stands whole below.
        let svg = get("svg").await.text;
        assert!(svg.replace("&apos;", "'").replace("&#39;", "'").contains(&format!(">{title}</t")), "{svg}");
    }
}

#[tokio::test]
async fn a_drawing_says_what_it_leaves_out() {
    insert(
        "1708700310 | wide | 7 | x | x | main | complete | 19999 | a | main
         1708700310 | wide | 7 | x | x | main | complete | 1 | a | main;narrow",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |format: &str| {
        let range = "from=1708700310&until=1708700319";
        collector.get(&format!("/api/v1/flamegraph?app_service=wide&{range}&format={format}")).await
    };
    let note = "1 frame, less than 0.1 % of the time, is too narrow to be drawn; html and json have all";
    let svg = get("svg").await;
    assert!(svg.text.contains(&format!(">{note}</text>")) && !svg.text.contains("narrow ("), "{}", svg.text);
    assert_eq!(svg.header("hearth-note"), note);
    for format in ["html", "json"] {
        let other = get(format).await;
        assert!(other.text.contains("\"narrow\"") && other.header("hearth-note").is_empty(), "{format}");
    }
}

#[tokio::test]
async fn what_a_path_cannot_answer_is_said_in_json() {
    let collector = Collector::start().await;
    let wrong = [
        ("apps", reqwest::Method::POST, "GET,HEAD"),
        ("tags/pod/values", reqwest::Method::DELETE, "GET,HEAD"),
    ];
    for (path, method, allowed) in wrong {
        let request =
            reqwest::Client::new().request(method.clone(), collector.url(&format!("/api/v1/{path}")));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], allowed);
        let error = format!("{method} is not answered at this path: the header Allow says what is");
        assert_eq!(response.json::<serde_json::Value>().await.unwrap(), json!({ "error": error }));
    }
    let tracing = collector.get("/v1/profile/ProfileTracing").await;
    let description = "GET is not answered at this path: the header Allow says what is";
    let refused = json!({ "OPT_STATUS": "FAIL", "DESCRIPTION": description, "result": null, "debug": null });
    assert_eq!((tracing.status, tracing.header("allow"), tracing.json()), (405, "POST", refused));
    let tag = collector.get("/api/v1/tags/%ff/values").await;
    let error = json!({ "error": "tag is not percent-encoded UTF-8", "field": "tag" });
    assert_eq!((tag.status, tag.json()), (400, error));
}
