//! `/api/v1/tags` and the values of a tag.

use serde_json::{Value, json};

use crate::common::{Collector, insert};

#[tokio::test]
async fn every_tag_is_listed_and_what_nothing_fills_says_so() {
    let answer = Collector::start().await.get("/api/v1/tags").await.json();
    let tags = answer["tags"].as_array().unwrap();
    let tag = |name: &str| tags.iter().find(|tag| tag["name"] == name).unwrap_or(&Value::Null).clone();
    assert_eq!(
        tag("process_id"),
        json!({
            "name": "process_id", "type": "number", "collected": true,
            "description": "Process id, in the host's pid namespace"
        })
    );
    for name in ["trace_id", "span_name"] {
        let tag = tag(name);
        assert_eq!((&tag["type"], &tag["collected"]), (&json!("text"), &json!(false)));
        let description = tag["description"].as_str().unwrap();
        assert!(description.contains("nothing fills it yet"), "{description}");
    }
    let names: Vec<&str> = tags.iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let known: Vec<&str> = hearth_collector::query::filter::TAGS.iter().map(|tag| tag.name).collect();
    assert_eq!(names, known);
}

#[tokio::test]
async fn values_are_listed_hottest_first() {
    insert(
        "1708728010 | val  | 7 | val | x    | main  | complete | 1 | a | main
         1708728010 | val  | 8 | val | it's | other | complete | 5 | b | main
         1708728020 | val2 | 9 | val | x    | main  | complete | 2 | b | main
         1708728020 |      | 9 | sh  | sh   | main  | counted  | 1 |   |",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |tag: &str, more: &str| {
        let range = "from=1708728010&until=1708728029";
        collector.get(&format!("/api/v1/tags/{tag}/values?{range}{more}")).await.json()
    };
    assert_eq!(
        get("pod_ns", "").await,
        json!({
            "tag": "pod_ns", "from": 1708728010, "until": 1708728029, "unit": "microseconds",
            "values": [
                { "name": "b", "samples": 7, "value": 70707 },
                { "name": "", "samples": 1, "value": 10101 },
                { "name": "a", "samples": 1, "value": 10101 }
            ],
            "notes": []
        })
    );
    let names = |answer: Value| -> Vec<String> {
        let values = answer["values"].as_array().unwrap();
        values.iter().map(|value| value["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(get("process_id", "").await), ["8", "9", "7"]);
    assert_eq!(names(get("thread_name", "&filter=app_service='val'").await), ["it's", "x"]);

    let cut = get("thread_name", "&limit=2").await;
    let note = "only the 2 hottest values are listed: narrow with a filter, or raise limit (at most 10000)";
    assert_eq!(cut["notes"], json!([note]));
    assert_eq!(names(cut), ["it's", "x"]);
    assert_eq!(get("thread_name", "&limit=3").await["notes"], json!([]));
}

#[tokio::test]
async fn listed_values_find_their_rows_on_the_same_path() {
    insert(
        "1708810010 | ids | 7 | x | x | main | complete | 1 | a | main
         1708810010 | ids | 8 | x | x | main | complete | 5 | a | main",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |more: &str| {
        let range = "from=1708810010&until=1708810019";
        collector.get(&format!("/api/v1/tags/_id/values?{range}{more}")).await.json()["values"].clone()
    };
    let all = get("").await;
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    for value in all.as_array().unwrap() {
        let id = value["name"].as_str().unwrap();
        assert_eq!(get(&format!("&filter=_id={id}")).await, json!([value]));
    }
}

#[tokio::test]
async fn rows_without_a_value_are_listed_under_the_empty_name() {
    insert("1708813610 | unset | 7 | x | x | main | counted | 2 | |").await;
    let collector = Collector::start().await;
    for (name, tag) in [
        ("", "pod_ns"),
        ("", "k8s.label"),
        ("", "cpu"),
        ("", "pod_group_type"),
        ("", "stack_id"),
        ("", "is_ipv4"),
        ("7", "process_id"),
        ("counted", "stack_end"),
    ] {
        let range = "from=1708813610&until=1708813619";
        let get = async |more: &str| {
            collector.get(&format!("/api/v1/tags/{tag}/values?{range}{more}")).await.json()["values"].clone()
        };
        let expected = json!([{ "name": name, "samples": 2, "value": 20202 }]);
        assert_eq!(get("").await, expected, "{tag}");
        if name.is_empty() {
            assert_eq!(get(&format!("&filter={tag}%20IS%20NULL")).await, expected, "{tag}");
        }
    }
}

#[tokio::test]
async fn no_value_has_its_reason() {
    insert("1708731610 | val3 | 7 | x | x | main | complete | 1 | a | main").await;
    let range = "from=1708731610&until=1708731619";
    let path = format!("/api/v1/tags/pod_ns/values?{range}&filter=pod_ns='nosuch'");
    let answer = Collector::start().await.get(&path).await.json();
    assert_eq!(answer["values"], json!([]));
    let note = answer["notes"][0].as_str().unwrap();
    assert!(note.ends_with("but the filter matches none of them"), "{note}");
}

#[tokio::test]
async fn an_unknown_tag_is_told_the_known_ones() {
    let collector = Collector::start().await;
    let reply = collector.get("/api/v1/tags/no%20such'/values").await;
    assert_eq!(reply.status, 404);
    let error = reply.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("no tag \"no such'\": the tags are "), "{error}");
    assert!(error.contains("pod_ns"), "{error}");
    for (path, field, error) in [
        ("tags?x=1", "query", "query has an unknown parameter \"x\": there are none here"),
        ("tags/pod/values?limit=0", "limit", "limit is 0: give a number of values from 1 to 10000"),
        ("tags/pod/values?limit=10001", "limit", "limit is 10001: give a number of values from 1 to 10000"),
    ] {
        let reply = collector.get(&format!("/api/v1/{path}")).await;
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": error, "field": field })));
    }
}
