#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use prost::Message as _;

use super::*;

/// A window of rows written `process;thread;frame;... samples`; a thread with `*` is a main thread, a row
/// without frames a count. `process@pod/container` is in a pod, which has a label and no Service.
pub(crate) fn window(start_unix: i64, rows: &[&str]) -> Window {
    let mut processes = HashMap::new();
    let mut row = |text: &&str| {
        let (path, samples) = text.rsplit_once(' ').unwrap();
        let mut parts = path.split(';');
        let process = parts.next().unwrap();
        let process = processes.entry(process.to_owned()).or_insert_with(|| entry(1, process)).clone();
        let thread = parts.next().unwrap();
        let frames: Vec<Arc<str>> = parts.map(Arc::from).collect();
        let stack = (!frames.is_empty()).then(|| frames.into());
        Row {
            process,
            thread_name: thread.trim_end_matches('*').into(),
            main_thread: thread.ends_with('*'),
            end: if stack.is_some() { StackEnd::Complete } else { StackEnd::Counted },
            stack,
            cpu: None,
            samples: samples.parse().unwrap(),
        }
    };
    Window { start_unix, seconds: 10, rows: rows.iter().map(&mut row).collect(), losses: Vec::new() }
}

fn entry(pid: u32, name: &str) -> Arc<ProcessEntry> {
    Arc::new(ProcessEntry {
        pid,
        start_time_millis: 1_700_000_000_000,
        name: name.into(),
        app_service: name.into(),
        policy: "local".into(),
        period_micros: 10_101,
        inside: inside(name),
    })
}

fn inside(name: &str) -> Option<Inside> {
    let (pod, container) = name.split_once('@')?.1.split_once('/').unwrap();
    let tags = Tags {
        namespace: "shop".into(),
        name: pod.into(),
        ip: "10.0.0.1".into(),
        workload_kind: "Deployment".into(),
        workload: "web".into(),
        labels: vec![("app".into(), "web".into())],
        ..Tags::default()
    };
    Some(Inside { pod: Arc::new(tags), container: container.into() })
}

pub(crate) fn identity() -> AgentIdentity {
    AgentIdentity { instance: vec![7; 16], node: "n".into(), version: "0".into(), ..Default::default() }
}

fn encoder() -> StreamEncoder {
    StreamEncoder::new(identity(), Limits::default())
}

/// The receiving side of a stream's tables: rows back as the text that [`window`] takes.
#[derive(Default)]
pub(crate) struct Decoder {
    strings: Vec<String>,
    stacks: Vec<Stack>,
    pods: Vec<Pod>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
}

impl Decoder {
    pub(crate) fn rows(&mut self, batch: &SampleBatch) -> Vec<String> {
        self.strings.extend(batch.strings.iter().cloned());
        self.stacks.extend(batch.stacks.iter().cloned());
        self.pods.extend(batch.pods.iter().cloned());
        self.processes.extend(batch.processes.iter().copied());
        self.threads.extend(batch.threads.iter().copied());
        let string = |index: u32| if index == 0 { "" } else { self.strings[index as usize - 1].as_str() };
        let rows = batch.rows.as_ref().unwrap();
        let row = |i: usize| {
            let thread = &self.threads[rows.thread[i] as usize - 1];
            let process = &self.processes[thread.process as usize - 1];
            let main = if thread.main { "*" } else { "" };
            let mut text = format!("{};{}{main}", string(process.name), string(thread.name));
            if rows.stack[i] != 0 {
                for &frame in &self.stacks[rows.stack[i] as usize - 1].frames {
                    text = format!("{text};{}", string(frame));
                }
            }
            format!("{text} {}", rows.samples[i])
        };
        (0..rows.thread.len()).map(row).collect()
    }
}

#[test]
fn what_is_encoded_reads_back() {
    let first = ["a;a*;main;f 3", "a;w;main;f 1", "a;a*;main;g 2", "b;b* 9"];
    let second = ["a;w;main;g 4", "c;c*;main 1", "a;a*;main;f 3"];
    let (mut encoder, mut decoder) = (encoder(), Decoder::default());
    for (sequence, rows) in [(1, &first[..]), (2, &second[..]), (3, &first[..])] {
        let batch = encoder.encode(sequence, &window(60, rows));
        assert_eq!(decoder.rows(&batch), rows);
        assert_eq!((batch.sequence, batch.window_start, batch.window_seconds), (sequence, 60, 10));
    }
}

#[test]
fn a_pod_is_sent_once_and_then_by_its_index() {
    let (mut encoder, mut decoder) = (encoder(), Decoder::default());
    let rows = ["a@web-1/app;a*;main 1", "b@web-1/side;b*;main 1", "c@web-2/app;c*;main 1", "d;d*;main 1"];
    let window = window(0, &rows);
    let batch = encoder.encode(1, &window);
    assert_eq!(decoder.rows(&batch), rows);
    let string = |index: u32| if index == 0 { "" } else { decoder.strings[index as usize - 1].as_str() };
    let of = |process: &Process| (process.pod, string(process.container));
    assert_eq!(
        decoder.processes.iter().map(of).collect::<Vec<_>>(),
        [(1, "app"), (1, "side"), (2, "app"), (0, "")]
    );
    let Pod { namespace, name, ip, service, workload_kind, workload, labels } = &decoder.pods[1];
    assert_eq!(
        [namespace, name, ip, service, workload_kind, workload].map(|text| string(*text)),
        ["shop", "web-2", "10.0.0.1", "", "Deployment", "web"]
    );
    let labels: Vec<_> = labels.iter().map(|label| (string(label.key), string(label.value))).collect();
    assert_eq!(labels, [("app", "web")]);
    assert_eq!(encoder.encode(2, &window).pods, []);
}

#[test]
fn a_pod_of_which_another_thing_is_said_is_a_new_entry() {
    let (mut encoder, mut rows) = (encoder(), window(0, &["a@web-1/app;a*;main 1"]));
    encoder.encode(1, &rows);
    let Some(Inside { pod, container }) = rows.rows[0].process.inside.clone() else { panic!("in a pod") };
    let tags = Tags { service: "storefront".into(), ..(*pod).clone() };
    let inside = Some(Inside { pod: Arc::new(tags), container });
    rows.rows[0].process = Arc::new(ProcessEntry { inside, ..(*rows.rows[0].process).clone() });
    let batch = encoder.encode(2, &rows);
    assert_eq!((batch.pods.len(), batch.processes.len(), batch.strings.len()), (1, 1, 1));
}

#[test]
fn the_identity_and_each_entry_are_sent_once() {
    let (mut encoder, rows) = (encoder(), ["a;a*;main;f 3", "a;w;main;f 1"]);
    let first = encoder.encode(1, &window(0, &rows));
    assert_eq!(first.agent, Some(identity()));
    // a, local, main, f, w
    assert_eq!(
        (first.strings.len(), first.stacks.len(), first.processes.len(), first.threads.len()),
        (5, 1, 1, 2)
    );
    let second = encoder.encode(2, &window(10, &rows));
    assert_eq!(second.agent, None);
    assert_eq!(
        (second.strings.len(), second.stacks.len(), second.processes.len(), second.threads.len()),
        (0, 0, 0, 0)
    );
    assert_eq!(second.rows, first.rows);
}

#[test]
fn a_new_decision_is_a_new_process() {
    let mut encoder = encoder();
    let mut rows = window(0, &["a;a*;f 1"]);
    encoder.encode(1, &rows);
    let entry = ProcessEntry { period_micros: 2_004, ..(*rows.rows[0].process).clone() };
    rows.rows[0].process = Arc::new(entry);
    let batch = encoder.encode(2, &rows);
    assert_eq!((batch.processes.len(), batch.threads.len(), batch.stacks.len()), (1, 1, 0));
}

#[test]
fn the_cpu_column_is_there_only_where_a_policy_keeps_it() {
    let mut encoder = encoder();
    let mut rows = window(0, &["a;a*;f 1", "a;a*;f 1"]);
    assert!(encoder.encode(1, &rows).rows.unwrap().cpu.is_empty());
    rows.rows[1].cpu = Some(0);
    assert_eq!(encoder.encode(2, &rows).rows.unwrap().cpu, [0, 1]);
}

#[test]
fn losses_and_ends_arrive() {
    let mut rows = window(0, &["a;a*;f 1", "a;a* 1"]);
    rows.losses = vec![(LossReason::RingFull, 7)];
    let batch = encoder().encode(1, &rows);
    assert_eq!(batch.losses, [Loss { reason: LossReason::RingFull.into(), samples: 7 }]);
    assert_eq!(batch.rows.unwrap().end, [StackEnd::Complete as i32, StackEnd::Counted as i32]);
}

#[test]
fn a_stream_is_full_past_either_limit() {
    let rows = window(0, &["a;a*;f 1"]);
    // Strings a, local, f; one stack, process and thread.
    for (limits, full) in [
        (Limits { entries: 6, bytes: usize::MAX }, false),
        (Limits { entries: 5, bytes: usize::MAX }, true),
        (Limits { entries: usize::MAX, bytes: 50 }, true),
        (Limits::default(), false),
    ] {
        let mut encoder = StreamEncoder::new(identity(), limits);
        assert!(!encoder.is_full());
        encoder.encode(1, &rows);
        assert_eq!(encoder.is_full(), full, "{limits:?}");
    }
}

/// 2,000 rows: 100 processes, up to 4 threads each, 1,200 stacks of 10 to 40 frames of 3,000 functions.
fn realistic() -> Window {
    let functions: Vec<Arc<str>> =
        (0..3000).map(|i| format!("crate{}::module::Type{i}::method", i % 40).into()).collect();
    let stacks: Vec<Arc<[Arc<str>]>> = (0..1200usize)
        .map(|i| (0..10 + i % 31).map(|depth| functions[(i * 7 + depth * 131) % 3000].clone()).collect())
        .collect();
    let processes: Vec<_> =
        (0..100).map(|i| entry(1000 + i, &format!("service-{i}@pod-{}/container-{i}", i / 3))).collect();
    let row = |i: usize| Row {
        process: processes[i / 20].clone(),
        thread_name: format!("worker-{}", i % 4).into(),
        main_thread: i.is_multiple_of(4),
        stack: Some(stacks[i * 11 % 1200].clone()),
        end: StackEnd::Complete,
        cpu: Some((i % 64) as u16),
        samples: 1 + (i % 200) as u32,
    };
    Window { start_unix: 1_700_000_000, seconds: 10, rows: (0..2000).map(row).collect(), losses: Vec::new() }
}

#[test]
fn a_repeated_row_costs_at_most_10_bytes() {
    let (mut encoder, window) = (encoder(), realistic());
    let first = encoder.encode(1, &window).encoded_len();
    let second = encoder.encode(2, &window).encoded_len();
    let per_row = second as f64 / window.rows.len() as f64;
    assert!(per_row <= 10.0, "{per_row} bytes per repeated row, {first} bytes the first time");
}

#[test]
fn the_estimate_of_a_split_is_never_below_the_wire() {
    let window = realistic();
    let rows = window.rows.len();
    let parts = window.split(64 << 10);
    assert!(parts.len() > 1);
    assert_eq!(parts.iter().map(|(part, _)| part.rows.len()).sum::<usize>(), rows);
    for (part, _) in &parts {
        let bytes = encoder().encode(1, part).encoded_len();
        assert!(bytes <= 64 << 10, "{bytes}");
    }
}

#[test]
fn losses_stay_with_the_first_part_and_an_empty_window_is_one_part() {
    let mut rows = window(0, &["a;a*;f 1", "a;a*;g 1"]);
    rows.losses = vec![(LossReason::RingFull, 7)];
    let losses: Vec<usize> = rows.split(1).iter().map(|(part, _)| part.losses.len()).collect();
    assert_eq!(losses, [1, 0]);
    assert_eq!(window(0, &[]).split(1).len(), 1);
}

#[test]
fn no_part_has_more_text_than_a_collector_takes() {
    // One long name over and over: short on the wire.
    let name: Arc<str> = "x".repeat(4000).into();
    let row = window(0, &["app;app*;main 1"]).rows.remove(0);
    let stack = |number: usize| {
        let frames = std::iter::once(number.to_string().into()).chain(std::iter::repeat_n(name.clone(), 30));
        Some(frames.collect())
    };
    let rows = (0..1000).map(|number| Row { stack: stack(number), ..row.clone() }).collect();
    let parts = Window { rows, ..window(0, &[]) }.split(usize::MAX);
    assert_eq!(parts.iter().map(|(part, _)| part.rows.len()).sum::<usize>(), 1000);
    for (part, _) in &parts {
        let frames = part.rows.iter().flat_map(|row| row.stack.iter().flat_map(|stack| stack.iter()));
        let text: usize = frames.map(|frame| frame.len() + 1).sum();
        assert!(text < hearth_proto::limits::MAX_BATCH_BYTES, "{text} bytes of text");
    }
    assert!(parts.len() < 6, "{} parts of 120 MB", parts.len());
}
