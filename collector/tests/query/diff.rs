//! `/api/v1/diff`: two profiles compared.

use serde_json::json;

use crate::common::{Collector, insert};

#[tokio::test]
async fn two_times_are_compared_in_each_format() {
    insert(
        "1708710010 | cmp | 7 | cmp | cmp | main | complete | 4 | a | main;slow
         1708710010 | cmp | 7 | cmp | cmp | main | complete | 1 | a | main;a<b
         1708710070 | cmp | 7 | cmp | cmp | main | complete | 1 | a | main;slow
         1708710070 | cmp | 7 | cmp | cmp | main | complete | 1 | a | main;a<b",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |more: &str| {
        let ranges = "from=1708710070&until=1708710079&base_from=1708710010&base_until=1708710019";
        collector.get(&format!("/api/v1/diff?app_service=cmp&{ranges}{more}")).await
    };
    let quality = |samples: u32| {
        json!({
            "value": samples * 10_101,
            "samples": samples,
            "incomplete": { "truncated": 0, "no-unwind-info": 0, "jit": 0, "lost": 0, "counted": 0 },
            "unresolved": 0,
            "missing_stacks": 0,
            "thinned": 0,
            "rolled_up": 0,
            "lost": {}
        })
    };
    let plain = get("").await;
    assert_eq!(plain.header("hearth-quality"), "");
    assert_eq!(
        plain.json(),
        json!({
            "unit": "microseconds",
            "normalized": false,
            "base": { "app_service": "cmp", "filter": "", "from": 1708710010, "until": 1708710019,
                      "quality": quality(5) },
            "new": { "app_service": "cmp", "filter": "", "from": 1708710070, "until": 1708710079,
                     "quality": quality(2) },
            "nodes": [
                { "level": 0, "name": "cmp",
                  "base_self": 0, "base_total": 50505, "new_self": 0, "new_total": 20202 },
                { "level": 1, "name": "[t] cmp",
                  "base_self": 0, "base_total": 50505, "new_self": 0, "new_total": 20202 },
                { "level": 2, "name": "main",
                  "base_self": 0, "base_total": 50505, "new_self": 0, "new_total": 20202 },
                { "level": 3, "name": "slow",
                  "base_self": 40404, "base_total": 40404, "new_self": 10101, "new_total": 10101 },
                { "level": 3, "name": "a<b",
                  "base_self": 10101, "base_total": 10101, "new_self": 10101, "new_total": 10101 }
            ],
            "notes": []
        })
    );
    let folded = get("&format=folded").await;
    assert_eq!(folded.text, "cmp;[t] cmp;main;slow 40404 10101\ncmp;[t] cmp;main;a<b 10101 10101\n");
    // Shares: what was a fifth is a half.
    let normalized = get("&format=folded&normalize=true").await;
    assert_eq!(normalized.text, "cmp;[t] cmp;main;slow 16161 10101\ncmp;[t] cmp;main;a<b 4041 10101\n");
    let html = get("&format=html").await;
    assert_eq!(html.header("content-security-policy"), hearth_profile::write::html::POLICY);
    assert!(html.text.contains(r#""self":[0,0,0,10101,10101],"base":[0,0,0,40404,10101]"#), "{}", html.text);
    for other in [&folded, &html] {
        let both: serde_json::Value = serde_json::from_str(other.header("hearth-quality")).unwrap();
        assert_eq!(both, json!({ "base": quality(5), "new": quality(2) }));
    }
}

#[tokio::test]
async fn two_filters_and_two_apps_are_compared_over_the_same_time() {
    insert(
        "1708713610 | two | 7 | two | x | main | complete | 1 | a | main
         1708713610 | two | 7 | two | x | main | complete | 3 | b | main
         1708713610 | three | 7 | three | x | main | complete | 9 | b | main",
    )
    .await;
    let collector = Collector::start().await;
    let ask = async |more: &str| {
        let range = "from=1708713610&until=1708713619";
        collector.get(&format!("/api/v1/diff?app_service=two&{range}{more}")).await
    };
    let get = async |more: &str| ask(&format!("&format=folded{more}")).await.text;
    assert_eq!(get("&filter=pod_ns='a'&base_filter=pod_ns='b'").await, "two;[t] x;main 30303 10101\n");
    assert_eq!(get("&filter=pod_ns='a'&base_filter=").await, "two;[t] x;main 40404 10101\n");
    assert_eq!(get("&base_app_service=three").await, "two;[t] x;main 90909 40404\n");
    // Each side says what it was narrowed to.
    let filters = "&filter=pod_ns='a'&base_filter=pod_ns!='<a>'";
    let json = ask(filters).await.json();
    assert_eq!(
        (&json["new"]["filter"], &json["base"]["filter"]),
        (&json!("pod_ns='a'"), &json!("pod_ns!='<a>'"))
    );
    let html = ask(&format!("{filters}&format=html")).await.text;
    let range = "2024-02-23 18:40:10 UTC to 2024-02-23 18:40:19 UTC";
    let title =
        format!("two, {range}, where pod_ns='a' compared with two, {range}, where pod_ns!='&lt;a&gt;'")
            .replace('\'', "&#39;");
    assert!(html.contains(&format!("<title>{title}</title>")), "{html}");
}

#[tokio::test]
async fn what_one_side_lacks_is_said() {
    insert("1708717210 | once | 7 | once | x | main | complete | 1 | a | main").await;
    let collector = Collector::start().await;
    let get =
        async |ranges: &str| collector.get(&format!("/api/v1/diff?app_service=once&{ranges}")).await.json();
    let ranges = "from=1708717210&until=1708717219&base_from=1708717110&base_until=1708717119";
    let answer = get(ranges).await;
    assert_eq!(answer["nodes"][2]["new_self"], 10101);
    let notes = json!([
        "base: app_service \"once\" has no samples between 2024-02-23 19:38:30 UTC and 2024-02-23 19:38:39 UTC; \
         the first is of 2024-02-23 19:40:10 UTC, the last of 2024-02-23 19:40:10 UTC"
    ]);
    assert_eq!(answer["notes"], notes);
    assert_eq!((&answer["base"]["quality"], &answer["new"]["quality"]["samples"]), (&json!(null), &json!(1)));
    let answer = get("from=1708717110&until=1708717119&base_from=1708717120&base_until=1708717129").await;
    assert_eq!((&answer["nodes"], answer["notes"].as_array().unwrap().len()), (&json!([]), 2));
}

/// It would be erased: equal to nothing.
#[tokio::test]
async fn a_base_is_not_scaled_to_a_side_without_time() {
    insert("1708714810 | gone | 7 | gone | x | main | complete | 2 | a | main").await;
    let collector = Collector::start().await;
    let (then, later) = ("from=1708714810&BASEuntil=1708714819", "from=1708714910&BASEuntil=1708714919");
    let get = async |new: &str, base: &str| {
        let ranges = format!("{}&base_{}", new.replace("BASE", ""), base.replace("BASE", "base_"));
        collector.get(&format!("/api/v1/diff?app_service=gone&normalize=true&{ranges}")).await.json()
    };
    let note = "the base is not scaled to equal totals: one of both has no time";
    for (new, base, values) in [(later, then, (20202, 0)), (then, later, (0, 20202))] {
        let answer = get(new, base).await;
        let root = &answer["nodes"][0];
        assert_eq!((&root["base_total"], &root["new_total"]), (&json!(values.0), &json!(values.1)));
        assert_eq!(answer["normalized"], false);
        assert_eq!(answer["notes"].as_array().unwrap().last(), Some(&json!(note)));
    }
    let answer = get(then, then).await;
    assert_eq!((&answer["normalized"], &answer["notes"]), (&json!(true), &json!([])));
}
