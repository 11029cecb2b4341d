//! `/api/v1/timeline`: CPU time by step.

use serde_json::{Value, json};

use crate::common::{Collector, insert};

#[tokio::test]
async fn each_step_has_its_time_and_a_gap_is_zero() {
    insert(
        "1708720810 | line | 7 | line | x | main  | complete | 1 | a | main
         1708720810 | line | 7 | line | y | other | complete | 2 | b | main
         1708720820 | line | 7 | line | x | main  | complete | 4 | a | other
         1708720850 | line | 7 | line | x | main  | complete | 8 | a | main
         1708720850 |      | 9 | sh   | sh | main | counted  | 1 | b |
         1708720860 | line | 7 | line | x | main  | complete | 9 | a | main",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |more: &str| {
        let range = "from=1708720815&until=1708720855";
        collector.get(&format!("/api/v1/timeline?{range}&{more}")).await.json()
    };
    let answer = get("app_service=line").await;
    assert_eq!(
        answer,
        json!({
            "from": 1708720810, "until": 1708720855, "step": 10, "unit": "microseconds",
            "points": [
                { "time": 1708720810, "samples": 3, "value": 30303 },
                { "time": 1708720820, "samples": 4, "value": 40404 },
                { "time": 1708720830, "samples": 0, "value": 0 },
                { "time": 1708720840, "samples": 0, "value": 0 },
                { "time": 1708720850, "samples": 8, "value": 80808 }
            ],
            "notes": [
                "the start, 1708720815, was moved to 1708720810 (2024-02-23 20:40:10 UTC): \
                 samples are stored by windows of 10 s"
            ]
        })
    );
    let values = |answer: &Value| -> Vec<i64> {
        answer["points"].as_array().unwrap().iter().map(|p| p["value"].as_i64().unwrap()).collect()
    };
    assert_eq!(values(&get("app_service=line&step=20").await), [30303, 40404, 80808]);
    assert_eq!(values(&get("app_service=line&step=20&filter=pod_ns='b'").await), [20202, 0, 0]);
    assert_eq!(values(&get("app_service=Total&step=30").await), [70707, 90909]);

    // The same rows as the flame graph's.
    let flame = "/api/v1/flamegraph?app_service=line&from=1708720815&until=1708720855";
    let total = collector.get(flame).await.json()["nodes"][0]["total"].as_i64().unwrap();
    assert_eq!(values(&answer).iter().sum::<i64>(), total);
}

#[tokio::test]
async fn steps_that_are_partly_in_the_range_are_said() {
    insert(
        "1708800000 | part | 7 | x | x | main | complete | 1 | a | main
         1708800010 | part | 7 | x | x | main | complete | 1 | a | main
         1708800090 | part | 7 | x | x | main | complete | 1 | a | main",
    )
    .await;
    let collector = Collector::start().await;
    let get = async |range: &str| {
        let answer =
            collector.get(&format!("/api/v1/timeline?app_service=part&step=30&{range}")).await.json();
        let first = &answer["points"][0];
        format!(
            "{} {} {} {} {}",
            answer["from"], answer["until"], first["time"], first["value"], answer["notes"]
        )
    };
    // The windows that the range names are whole steps.
    assert_eq!(get("from=1708800000&until=1708800089").await, "1708800000 1708800089 1708800000 20202 []");
    assert_eq!(get("from=1708800000&until=1708800080").await, "1708800000 1708800080 1708800000 20202 []");
    assert_eq!(
        get("from=1708800010&until=1708800089").await,
        "1708800010 1708800089 1708800000 10101 [\"the first step is only partly in the range: it begins at 1708800000\"]"
    );
    assert_eq!(
        get("from=1708800000&until=1708800090").await,
        "1708800000 1708800090 1708800000 20202 [\"the last step is only partly in the range: it ends before 1708800120\"]"
    );
    assert_eq!(
        get("from=1708800010&until=1708800019").await,
        "1708800010 1708800019 1708800000 10101 \
         [\"the first step is only partly in the range: it begins at 1708800000\",\
         \"the last step is only partly in the range: it ends before 1708800030\"]"
    );
}

#[tokio::test]
async fn nothing_is_zero_everywhere_with_its_reason() {
    insert("1708724410 | line2 | 7 | x | x | main | complete | 1 | a | main").await;
    let collector = Collector::start().await;
    let answer =
        collector.get("/api/v1/timeline?app_service=line2&from=1708724420&until=1708724439").await.json();
    assert_eq!(answer["points"].as_array().unwrap().len(), 2);
    let note = answer["notes"][0].as_str().unwrap();
    assert!(note.starts_with("app_service \"line2\" has no samples between"), "{note}");
}

#[tokio::test]
async fn a_step_that_cannot_be_is_refused() {
    let collector = Collector::start().await;
    for (more, field, error) in [
        ("step=15", "step", "step is 15: give a multiple of 10, the seconds of a window"),
        ("step=x", "step", "step is \"x\", not an integer: give seconds"),
        (
            "from=1&until=20010&step=10",
            "step",
            "step is 10, which makes 2002 points of at most 2000: give 20 or more, or a shorter range",
        ),
        (
            "format=json",
            "query",
            "query has an unknown parameter \"format\": use app_service, event, filter, from, until, step",
        ),
    ] {
        let reply = collector.get(&format!("/api/v1/timeline?app_service=a&{more}")).await;
        assert_eq!((reply.status, reply.json()), (400, json!({ "error": error, "field": field })));
    }
}
