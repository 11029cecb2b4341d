//! Whatever the retention took and whatever came late, an answer has every row of the range that it names.

use serde_json::Value;

use crate::days::{DAY, Days, FIRST_DAY, HOUR};

/// App, filter, and the same as SQL.
const SUBJECTS: [(&str, &str, &str); 4] = [
    ("shop", "", "app_service = 'shop'"),
    ("cart", "pod_ns%3D'a'", "app_service = 'cart' AND pod_ns = 'a'"),
    ("Total", "", "1"),
    ("Total", "pod_node%3D'n1'", "pod_node = 'n1'"),
];
/// Seconds; the first is for whatever the collector chooses.
const STEPS: [u32; 6] = [0, 10, 60, 90, HOUR, DAY];
/// What ends of ranges are multiples of.
const UNITS: [u32; 5] = [1, 10, 60, HOUR, DAY];

/// Numbers that have nothing to do with each other, the same in every run.
struct Any(u64);

impl Any {
    fn below(&mut self, most: u32) -> u32 {
        // Knuth's.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % most
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }

    /// In one of the hours that have rows, or at its end.
    fn time(&mut self) -> u32 {
        FIRST_DAY + self.below(3) * DAY + self.of(&[0, 1, 5, 6, 19]) * HOUR + self.below(HOUR + 1)
    }

    /// In half of all cases up to the last second of its unit.
    fn range(&mut self) -> (u32, u32) {
        let unit = self.of(&UNITS);
        let mut ends = [self.time(), self.time()].map(|at| at - at % unit);
        ends.sort_unstable();
        let [from, until] = ends;
        (from, if until > from { until - self.below(2) } else { until })
    }
}

fn sum(points: &Value) -> i64 {
    points.as_array().unwrap().iter().map(|point| point["value"].as_i64().unwrap()).sum()
}

impl Days {
    /// Asks eight questions.
    async fn check(&self, any: &mut Any, state: &str) {
        for _ in 0..8 {
            let ((from, until), (app, filter, condition)) = (any.range(), any.of(&SUBJECTS));
            let step = match any.of(&STEPS) {
                step if step == 0 || (until - from) / step > 1500 => String::new(),
                step => format!("&step={step}"),
            };
            let question = format!("app_service={app}&filter={filter}&from={from}&until={until}");
            let get =
                async |path: &str| self.collector.get(&format!("/api/v1/{path}?{question}")).await.json();
            let flame = get("flamegraph").await["nodes"][0]["total"].as_i64().unwrap_or(0);
            let timeline = self.collector.get(&format!("/api/v1/timeline?{question}{step}")).await.json();
            let (from, until) = (&timeline["from"], &timeline["until"]);
            let rows = format!(
                "SELECT toUInt64(sum(profile_value)) FROM profile.every_row \
                 WHERE {condition} AND time >= {from} AND time <= {until}"
            );
            let expected = self.number(&rows).await as i64;
            let answers = [flame, sum(&timeline["points"])];
            assert_eq!(answers, [expected; 2], "{state}: {question}{step}, answered for {from}..{until}");
        }
    }

    /// Keeps what there is of raw rows: nothing takes it from there.
    async fn keep_every_row(&self) {
        self.execute(
            "CREATE OR REPLACE TABLE profile.every_row ENGINE = MergeTree ORDER BY time \
             AS SELECT * FROM profile.in_process_local",
        )
        .await;
    }

    async fn drop_minutes(&self, from: u32, end: u32) {
        for hour in (from..end).step_by(HOUR as usize) {
            self.execute(&format!("ALTER TABLE profile.in_process_1m DROP PARTITION ID '{hour}-1-1'")).await;
        }
    }
}

#[tokio::test]
async fn an_answer_has_every_row_of_the_range_that_it_names() {
    let days = Days::full().await;
    let mut any = Any(7);
    days.keep_every_row().await;
    days.build().await;
    days.check(&mut any, "all is built").await;

    let late: Vec<String> = (0..12)
        .map(|_| {
            let time = any.time();
            format!("{} | shop | 7 | p | t | main | complete | 3 | a | main;late", time - time % 10)
        })
        .collect();
    crate::common::insert(&late.join("\n")).await;
    days.keep_every_row().await;
    days.check(&mut any, "some is late").await;
    days.builder().look(FIRST_DAY + DAY + 7 * HOUR).await.unwrap();
    days.check(&mut any, "some that is late is built").await;

    days.build().await;
    days.drop_raw_before(FIRST_DAY + DAY + 6 * HOUR).await;
    days.check(&mut any, "raw rows are gone").await;
    let (hour, half) = (FIRST_DAY + DAY + 6 * HOUR, HOUR / 2);
    let delete = format!("DELETE WHERE time < {} SETTINGS mutations_sync = 2", hour + half);
    days.execute(&format!("ALTER TABLE profile.in_process_local {delete}")).await;
    days.check(&mut any, "raw rows of half an hour are gone").await;
    days.drop_minutes(FIRST_DAY, FIRST_DAY + 7 * HOUR).await;
    days.check(&mut any, "minutes of some hours are gone").await;
    days.drop_minutes(FIRST_DAY + 7 * HOUR, FIRST_DAY + DAY).await;
    days.check(&mut any, "minutes of a day are gone").await;
    days.execute("DROP TABLE profile.every_row SYNC").await;
}
