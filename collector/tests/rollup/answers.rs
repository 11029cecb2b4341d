//! A question over a long range gets the answer that raw rows would give.

use serde_json::json;

use crate::common::insert;
use crate::days::{DAY, Days, FIRST_DAY, HOUR, NOW, notes};

/// Long ranges, with ends in the middle of hours.
const RANGES: [(u32, u32); 4] = [
    (FIRST_DAY, NOW),
    (FIRST_DAY + 1000, FIRST_DAY + 2 * DAY - 500),
    (FIRST_DAY + DAY - 2 * HOUR, FIRST_DAY + DAY + 9 * HOUR + 10),
    (FIRST_DAY + 20, FIRST_DAY + 6 * HOUR - 1),
];
const SUBJECTS: [(&str, &str); 5] = [
    ("shop", ""),
    ("cart", "pod_ns = 'a' OR thread_name = 't1'"),
    ("Total", ""),
    ("Total", "pod_node = 'n1'"),
    ("shop", "pod = 'pod1'"),
];

impl Days {
    /// The folded answers to all of these, and the lists of apps.
    async fn answers(&self) -> Vec<String> {
        let mut answers = Vec::new();
        for (from, until) in RANGES {
            for (app, filter) in SUBJECTS {
                let folded = self.folded(app, filter, from, until).await;
                let sum: i64 =
                    folded.text.lines().map(|l| l.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap()).sum();
                let json = self.flame(app, filter, from, until, "json").await.json();
                assert_eq!(json["nodes"][0]["total"], json!(sum), "{app} {filter}");
                answers.push(folded.text);
            }
            let apps = self.collector.get(&format!("/api/v1/apps?from={from}&until={until}")).await.json();
            answers.push(apps["apps"].to_string());
            for path in [
                "timeline?app_service=shop&",
                "timeline?app_service=Total&step=3600&",
                "tags/pod_node/values?",
            ] {
                let answer =
                    self.collector.get(&format!("/api/v1/{path}from={from}&until={until}")).await.json();
                answers.push(answer["points"].to_string() + &answer["values"].to_string());
            }
        }
        answers
    }
}

#[tokio::test]
async fn an_answer_by_rollups_is_the_answer_by_raw_rows() {
    let days = Days::full().await;
    let by_raw = days.answers().await;
    assert_eq!(by_raw.iter().position(|answer| answer.len() < 60), None);
    days.build().await;
    let by_rollups = days.answers().await;
    assert_eq!(by_rollups.iter().zip(&by_raw).find(|(rolled_up, raw)| rolled_up != raw), None);
    // And it is by rollups.
    let (from, until) = RANGES[0];
    let note = " of the time is from rollups, by minute or hour and without process ids";
    for app in ["shop", "Total"] {
        assert!(notes(&days.folded(app, "", from, until).await).contains(note), "{app}");
    }
    let apps = days.collector.get(&format!("/api/v1/apps?from={from}&until={until}")).await.json();
    assert!(apps["notes"][0].as_str().unwrap().contains(note), "{apps}");
    for path in ["timeline?app_service=shop&", "tags/pod_node/values?"] {
        let answer = days.collector.get(&format!("/api/v1/{path}from={from}&until={until}")).await.json();
        assert!(answer["notes"].to_string().contains(note), "{answer}");
    }
    // A filter on what they lack is not, nor a short range.
    assert!(!notes(&days.folded("shop", "pod = 'pod1'", from, until).await).contains(note));
    assert!(!notes(&days.folded("shop", "", from, from + 5 * HOUR).await).contains(note));
}

/// Whichever table has its column.
#[tokio::test]
async fn every_tag_has_the_values_that_raw_rows_have() {
    let days = Days::full().await;
    let tags = days.collector.get("/api/v1/tags").await.json();
    let values = async || {
        let mut all = Vec::new();
        for tag in tags["tags"].as_array().unwrap() {
            let path = format!("/api/v1/tags/{}/values", tag["name"].as_str().unwrap());
            let answer = days.collector.get(&format!("{path}?from={FIRST_DAY}&until={NOW}")).await.json();
            all.push((path, answer["values"].clone(), answer["notes"].to_string()));
        }
        all
    };
    let by_raw = values().await;
    days.build().await;
    let by_rollups = values().await;
    for ((path, by_raw, _), (_, by_rollups, _)) in by_raw.iter().zip(&by_rollups) {
        assert!(by_raw[0]["value"].as_i64() > Some(0), "{path}");
        assert_eq!(by_rollups, by_raw, "{path}");
    }
    let of_rollups = by_rollups.iter().filter(|(.., notes)| notes.contains("from rollups")).count();
    // With the two names of one column.
    assert_eq!(of_rollups, 16);
}

#[tokio::test]
async fn what_the_retention_took_is_answered_as_before() {
    let days = Days::full().await;
    let folded = async |app: &str, from: u32, until: u32| days.folded(app, "", from, until).await.text;
    let whole = [folded("shop", FIRST_DAY, NOW).await, folded("Total", FIRST_DAY, NOW).await];
    let by_minute = folded("shop", FIRST_DAY + 5 * 60, FIRST_DAY + 100 * 60 - 1).await;
    let by_hour = folded("shop", FIRST_DAY, FIRST_DAY + 2 * HOUR - 1).await;
    days.build().await;
    days.drop_raw_before(FIRST_DAY + DAY + 6 * HOUR).await;
    assert_eq!([folded("shop", FIRST_DAY, NOW).await, folded("Total", FIRST_DAY, NOW).await], whole);
    let (until, tag) = (FIRST_DAY + 2 * HOUR - 1, "tags/pod/values?");
    for (path, note) in [("timeline?app_service=shop&step=10&", "a value stands at"), (tag, "about pod, and")]
    {
        let answer =
            days.collector.get(&format!("/api/v1/{path}from={FIRST_DAY}&until={until}")).await.json();
        assert!(answer["notes"].to_string().contains(note), "{answer}");
    }

    // Ends inside an hour are those of minutes now, also of a short range.
    let reply = days.folded("shop", "", FIRST_DAY + 5 * 60 + 11, FIRST_DAY + 100 * 60 - 10).await;
    assert_eq!(reply.text, by_minute);
    let why = "of that time only rollups are stored";
    let moved = format!(
        "the start, 1708301111, was moved to 1708301100 (2024-02-19 00:05:00 UTC): {why}; \
         the end, 1708306790, was moved to 1708306799 (2024-02-19 01:39:59 UTC): {why}; "
    );
    assert!(notes(&reply).starts_with(&moved), "{}", notes(&reply));

    // And of hours, when the minutes are gone too.
    for hour in [FIRST_DAY, FIRST_DAY + HOUR] {
        days.execute(&format!("ALTER TABLE profile.in_process_1m DROP PARTITION ID '{hour}-1-1'")).await;
    }
    let reply = days.folded("shop", "", FIRST_DAY + 5 * 60, FIRST_DAY + 100 * 60).await;
    assert_eq!(reply.text, by_hour);
    assert!(notes(&reply).contains("was moved to 1708300800 (2024-02-19 00:00:00 UTC)"), "{}", notes(&reply));
    assert!(notes(&reply).contains("100.0 % of the time is from rollups"), "{}", notes(&reply));
}

#[tokio::test]
async fn a_late_batch_is_in_the_next_answer_and_stays() {
    let days = Days::full().await;
    days.build().await;
    let late = FIRST_DAY + 5 * HOUR;
    insert(&format!("{late} | shop | 7 | p | t | main | complete | 100 | a | main;late")).await;
    let before = days.folded("shop", "", FIRST_DAY, NOW).await.text;
    assert!(before.contains("main;late 1010100"), "{before}");
    assert_eq!(days.build().await, "1 hours, 1 days");
    assert_eq!(days.folded("shop", "", FIRST_DAY, NOW).await.text, before);
}

#[tokio::test]
async fn rows_of_two_builds_are_not_counted_twice() {
    let days = Days::full().await;
    days.build().await;
    let before = days.folded("shop", "", FIRST_DAY, NOW).await.text;
    for table in ["in_process_1m", "in_process_1h"] {
        let doubled =
            format!("INSERT INTO profile.{table} SELECT * REPLACE (build + 1 AS build) FROM profile.{table}");
        days.execute(&doubled).await;
    }
    assert_eq!(days.folded("shop", "", FIRST_DAY, NOW).await.text, before);
}

#[tokio::test]
async fn a_filter_on_a_pod_says_which_hours_are_missing() {
    let days = Days::full().await;
    days.build().await;
    days.drop_raw_before(FIRST_DAY + 6 * HOUR).await;
    let left = days.folded("shop", "pod = 'pod1'", FIRST_DAY + 6 * HOUR, NOW).await;
    let reply = days.folded("shop", "pod = 'pod1'", FIRST_DAY, NOW).await;
    assert_eq!(reply.text, left.text);
    let note = "samples are missing from 2024-02-19 00:00:00 UTC until 2024-02-19 05:59:59 UTC: \
                the question is about pod, and of that time only rollups are stored, which lack it";
    assert!(!notes(&left).contains("missing"), "{}", notes(&left));
    assert!(notes(&reply).contains(note), "{}", notes(&reply));
    // Also where nothing else is found.
    let reply = days.folded("shop", "pod = 'pod1'", FIRST_DAY, FIRST_DAY + 600).await;
    assert!(
        reply.text.is_empty() && notes(&reply).contains("samples are missing from 2024-02-19 00:00:00 UTC")
    );
}

#[tokio::test]
async fn a_jvms_unnamed_frame_of_a_rollup_has_no_process() {
    let days = Days::empty().await;
    let rows: Vec<String> = [(0, 41), (0, 42), (HOUR, 41), (9 * HOUR, 41), (9 * HOUR, 42)]
        .map(|(time, pid)| {
            let time = FIRST_DAY + 2 * DAY + 12 * HOUR + time;
            format!("{time} | jvm | {pid} | java | C2 | other | complete | 1 | a | run;[/tmp/perf-PID.map]")
        })
        .into();
    insert(&rows.join("\n")).await;
    assert_eq!(days.build().await, "2 hours, 0 days");
    assert_eq!(
        days.folded("jvm", "", FIRST_DAY, NOW + DAY).await.text,
        "jvm;[t] C2;run;[/tmp/perf-PID.map] 30303\n\
         jvm;[t] C2;run;[/tmp/perf-41.map] 10101\n\
         jvm;[t] C2;run;[/tmp/perf-42.map] 10101\n"
    );
}

#[tokio::test]
async fn an_app_that_only_rollups_know_says_when_it_was() {
    let days = Days::empty().await;
    insert(&format!("{} | gone | 7 | p | t | main | complete | 1 | a | main", FIRST_DAY + 100)).await;
    days.build().await;
    days.drop_raw_before(FIRST_DAY + DAY).await;
    let reply = days.folded("gone", "", NOW, NOW + 60).await;
    assert_eq!(
        notes(&reply),
        "app_service \"gone\" has no samples between 2024-02-21 20:30:00 UTC and 2024-02-21 20:31:00 UTC; \
         the first is of 2024-02-19 00:00:00 UTC, the last of 2024-02-19 00:01:00 UTC"
    );
}

#[tokio::test]
async fn whole_days_are_answered_from_the_projection() {
    let days = Days::full().await;
    days.build().await;
    let question = format!(
        "SELECT count() FROM (SELECT stack_id, toInt64(period) AS period, sum(toUInt64(sample_count)), \
         sum(profile_value) FROM profile.in_process_1h WHERE app_service = 'shop' AND pod_ns = 'a' \
         AND toStartOfDay(time) >= toDateTime({FIRST_DAY}, 'UTC') GROUP BY stack_id, period) \
         SETTINGS force_optimize_projection_name = 'by_day'"
    );
    assert_ne!(days.number(&question).await, 0);
}
