//! What is built when, and that nothing that dies or comes between is kept.

use std::time::Duration;

use hearth_collector::rollup::Job;

use crate::days::{DAY, Days, FIRST_DAY, HOUR, NOW};

const STAGING: &str = "SELECT count() FROM system.tables WHERE database = 'profile' AND name LIKE 'rollup%'";

impl Days {
    /// Value and samples of a rollup, and of the raw rows that it should be made of.
    async fn check_sums(&self) {
        for (table, end) in
            [("in_process_1m", FIRST_DAY + 2 * DAY + 20 * HOUR), ("in_process_1h", FIRST_DAY + 2 * DAY)]
        {
            let sums = "SELECT toUInt64(sum(profile_value)) + 1000000 * sum(toUInt64(sample_count))";
            let rolled_up = self.number(&format!("{sums} FROM profile.{table}")).await;
            let raw = self.number(&format!("{sums} FROM profile.in_process_local WHERE time < {end}")).await;
            assert_eq!(rolled_up, raw, "{table}");
            assert!(raw > 0);
        }
    }
}

#[tokio::test]
async fn closed_hours_and_days_are_built_once() {
    let days = Days::full().await;
    assert_eq!(days.build().await, "15 hours, 2 days");
    days.check_sums().await;
    assert_eq!(days.build().await, "0 hours, 0 days");
    assert_eq!(days.number(STAGING).await, 0);
    // Fewer rows than raw has: minutes hold what the windows of several processes had.
    let minutes = days.number("SELECT count() FROM profile.in_process_1m").await;
    let hours = days.number("SELECT count() FROM profile.in_process_1h").await;
    assert!(hours < minutes && minutes <= 6000, "{hours} {minutes}");
}

/// What is renamed part by part could be half there after a crash.
#[tokio::test]
async fn an_hour_of_many_blocks_becomes_one_part() {
    let mut days = Days::full().await;
    for setting in ["max_block_size", "min_insert_block_size_rows"] {
        days.client = days.client.with_setting(setting, "50");
    }
    days.build().await;
    days.check_sums().await;
    for (table, partitions) in [("in_process_1m", 15), ("in_process_1h", 2)] {
        let parts = format!("SELECT uniqExact(_part) FROM profile.{table}");
        assert_eq!(days.number(&parts).await, partitions, "{table}");
    }
}

#[tokio::test]
async fn a_late_batch_has_its_hour_and_its_day_built_again() {
    let days = Days::full().await;
    days.build().await;
    let late = FIRST_DAY + DAY + 5 * HOUR;
    let rows = format!("{late} | shop | 7 | p | t | main | complete | 100 | a | main;late");
    crate::common::insert(&rows).await;
    let built = days.builder().look(NOW).await.unwrap();
    assert_eq!(built, [Job::Hour(late), Job::Day(FIRST_DAY + DAY)]);
    days.check_sums().await;
}

/// Late rows come as a stream: an hour is not built for each of them.
#[tokio::test]
async fn what_was_just_built_waits() {
    let days = Days::full().await;
    let mut builder = days.builder_with(Duration::from_secs(60), Duration::from_secs(3600));
    assert_eq!(builder.look(NOW).await.unwrap().len(), 17);
    crate::common::insert(&format!("{FIRST_DAY} | shop | 7 | p | t | main | complete | 1 | a | main")).await;
    assert_eq!(builder.look(NOW).await.unwrap(), []);
    assert_eq!(days.build().await, "1 hours, 1 days");
}

#[tokio::test]
async fn two_builders_at_once_come_to_the_same() {
    let days = Days::full().await;
    for round in 0..3 {
        let (mut one, mut other) = (days.builder(), days.builder());
        let (one, other) = tokio::join!(one.look(NOW), other.look(NOW));
        // What another has changed meanwhile is not used, and said.
        for error in [one, other].into_iter().filter_map(Result::err) {
            assert!(error.to_string().contains("its source changed"), "{error}");
        }
        days.build().await;
        days.check_sums().await;
        assert_eq!(days.build().await, "0 hours, 0 days");
        let rows: Vec<String> = (0..3)
            .map(|n| {
                let time = FIRST_DAY + n * DAY + 5 * HOUR;
                format!("{time} | shop | 7 | p{round} | t | main | complete | 3 | a | main;late")
            })
            .collect();
        crate::common::insert(&rows.join("\n")).await;
    }
    assert_eq!(days.number(STAGING).await, 0);
}

#[tokio::test]
async fn what_a_killed_builder_left_is_dropped_after_a_while() {
    let days = Days::full().await;
    days.execute("CREATE TABLE profile.rollup_staging_1 AS profile.in_process_1m").await;
    days.execute("INSERT INTO profile.rollup_staging_1 (built_from, build) VALUES (1, 1)").await;
    assert_eq!(days.build().await, "15 hours, 2 days");
    assert_eq!(days.number(STAGING).await, 1);
    days.builder_with(Duration::ZERO, Duration::ZERO).look(NOW).await.unwrap();
    assert_eq!(days.number(STAGING).await, 0);
    days.check_sums().await;
}

/// As ClickHouse leaves it when it dies between swapping and dropping what was replaced.
#[tokio::test]
async fn rows_of_two_builds_are_built_again() {
    let days = Days::full().await;
    days.build().await;
    for (table, end) in [("in_process_1m", FIRST_DAY + HOUR), ("in_process_1h", FIRST_DAY + DAY)] {
        let doubled = format!(
            "INSERT INTO profile.{table} SELECT * REPLACE (build + 1 AS build) FROM profile.{table} WHERE time < {end}"
        );
        days.execute(&doubled).await;
        // Nor does a merge hide it.
        days.execute(&format!("OPTIMIZE TABLE profile.{table} FINAL")).await;
    }
    assert_eq!(days.build().await, "1 hours, 1 days");
    days.check_sums().await;
}

#[tokio::test]
async fn what_the_retention_took_is_not_built_again() {
    let days = Days::full().await;
    days.build().await;
    let built = days.number("SELECT toUInt64(sum(profile_value)) FROM profile.in_process_1m").await;
    days.drop_raw_before(FIRST_DAY + DAY).await;
    // Part of an hour, too.
    let some = format!(
        "ALTER TABLE profile.in_process_local DELETE WHERE time < {} SETTINGS mutations_sync = 2",
        FIRST_DAY + DAY + 1800
    );
    days.execute(&some).await;
    assert_eq!(days.build().await, "0 hours, 0 days");
    assert_eq!(days.number("SELECT toUInt64(sum(profile_value)) FROM profile.in_process_1m").await, built);
}
