//! Whether the rollups say what the raw rows do.

use std::collections::{BTreeMap, BTreeSet};

use hearth_e2e::Collector;
use serde_json::Value;

use crate::ledger::{Ledger, Outcome, Stacks, compare_sums};
use crate::sender::PERIOD_MICROS;

/// A table of rollups: its name, what its times are rounded to, and its partitions.
const TABLES: [[&str; 3]; 2] = [
    ["in_process_1m", "toStartOfMinute", "toStartOfHour"],
    ["in_process_1h", "toStartOfHour", "toStartOfDay"],
];

/// Whether they have all that there is, once.
pub(crate) fn are_right(collector: &Collector) -> bool {
    mixed(collector).is_empty() && compare_with_source(collector) == Outcome::default()
}

/// Partitions that have rows of two builds.
pub(crate) fn mixed(collector: &Collector) -> Vec<String> {
    let of_table = |[table, _, partition]: [&str; 3]| {
        collector.sql(&format!(
            "SELECT '{table}', {partition}(time) AS start FROM profile.{table} \
             GROUP BY start HAVING min(build) != max(build)"
        ))
    };
    TABLES.map(of_table).concat()
}

/// How the samples of each step, app, node and stack differ from those of the raw rows.
pub(crate) fn compare_with_source(collector: &Collector) -> Outcome {
    let of_table = |[table, step, _]: [&str; 3]| {
        let sums = |table: &str| {
            let key = format!("{step}(time) AS step, app_service, pod_node, lower(hex(stack_id))");
            let lines = collector.sql(&format!(
                "SELECT {key}, sum(sample_count) FROM profile.{table} GROUP BY ALL FORMAT TSVRaw"
            ));
            let split = |line: &String| {
                let (key, samples) = line.rsplit_once('\t').unwrap();
                (key.to_owned(), samples.parse::<u64>().unwrap())
            };
            lines.iter().map(split).collect::<BTreeMap<String, u64>>()
        };
        compare_sums(&sums("in_process_local"), &sums(table))
    };
    TABLES.map(of_table).into_iter().fold(Outcome::default(), Outcome::and)
}

/// How what the collector answers from the rollups differs from what was sent.
///
/// # Panics
/// If any of it is from raw rows.
pub(crate) fn compare_answers(collector: &Collector, sent: &Ledger) -> Outcome {
    let sent = sent.stacks(|_, _| true);
    let mut found = Stacks::new();
    let places: BTreeSet<_> = sent.keys().map(|[node, app, _]| (node, app)).collect();
    for (node, app) in places {
        let path = format!(
            "/api/v1/flamegraph?app_service={app}&format=folded&from=1&until={}&filter=pod_node%3D'{node}'",
            u32::MAX
        );
        let answer = collector.get(&path);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let quality = answer.headers.lines().find_map(|line| line.strip_prefix("hearth-quality: "));
        let quality: Value = serde_json::from_str(quality.unwrap()).unwrap();
        assert_eq!(quality["rolled_up"], quality["value"], "{path} is answered from raw rows: {quality}");
        for line in answer.body.lines() {
            let (stack, micros) = line.rsplit_once(' ').unwrap();
            let (_, stack) = stack.split_once(';').unwrap();
            let samples = micros.parse::<u64>().unwrap() / u64::from(PERIOD_MICROS);
            found.insert([node.clone(), app.clone(), stack.to_owned()], samples);
        }
    }
    compare_sums(&sent, &found)
}
