//! What the tables of one stream make of its batches.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const DAY: i64 = 86_400;

/// Stacks that a batch with one row of `stack` brings to the store, each as `app: text`.
fn handed_over(tables: &mut StreamTables, day: i64, app: u32, stack: u32) -> Vec<String> {
    let is_first = tables.agent().is_none();
    let first = SampleBatch {
        agent: Some(AgentIdentity { instance: vec![0; 16], node: "n".into(), ..Default::default() }),
        strings: ["main", "a", "b", "nginx", "redis"].map(str::to_owned).to_vec(),
        stacks: vec![Stack { frames: vec![1, 2] }, Stack { frames: vec![1, 3] }],
        processes: [4, 5]
            .map(|app_service| Process {
                pid: app_service,
                name: 1,
                app_service,
                period_micros: 10_101,
                ..Default::default()
            })
            .to_vec(),
        threads: [1, 2].map(|process| Thread { process, name: 1, main: true }).to_vec(),
        ..Default::default()
    };
    let batch = SampleBatch {
        sequence: tables.sequence + 1,
        window_start: day * DAY,
        window_seconds: 10,
        sent_at_micros: (day * DAY + 10) * 1_000_000,
        rows: Some(Rows {
            thread: vec![app],
            stack: vec![stack],
            samples: vec![1],
            end: vec![0],
            cpu: vec![],
        }),
        ..if is_first { first } else { SampleBatch::default() }
    };
    let batch = tables.accept(batch).unwrap();
    batch.stacks.iter().map(|stack| format!("{}: {}", stack.app_service, stack.text)).collect()
}

#[test]
fn a_stack_is_handed_over_once_a_day_and_app() {
    let mut tables = StreamTables::default();
    assert_eq!(handed_over(&mut tables, 100, 1, 1), ["nginx: main;a"]);
    assert_eq!(handed_over(&mut tables, 100, 1, 1), [""; 0]);
    assert_eq!(handed_over(&mut tables, 100, 1, 2), ["nginx: main;b"]);
    assert_eq!(handed_over(&mut tables, 100, 2, 1), ["redis: main;a"]);
    assert_eq!(handed_over(&mut tables, 100, 2, 1), [""; 0]);
    let before = tables.bytes;
    assert_eq!(handed_over(&mut tables, 101, 1, 1), ["nginx: main;a"]);
    assert_eq!(handed_over(&mut tables, 101, 1, 1), [""; 0]);
    assert!(tables.bytes < before, "what was handed over is no burden the next day");
}

#[test]
fn a_stack_of_a_batch_that_was_dropped_comes_again() {
    let mut tables = StreamTables::default();
    assert_eq!(handed_over(&mut tables, 100, 1, 1), ["nginx: main;a"]);
    tables.not_stored();
    assert_eq!(handed_over(&mut tables, 100, 1, 1), ["nginx: main;a"]);
}
