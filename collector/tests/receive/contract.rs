//! What an agent may send, and what happens to it when it sends something else.

use hearth_proto::collector::v1::{AckResult, Loss, LossReason, SampleBatch, Stack, StackEnd};
use http_body_util::{BodyExt as _, Full};
use tonic::Code;
use tonic::codegen::{Bytes, Service as _, http};
use tonic::transport::Channel;

use crate::harness::{Collector, Stream, first_batch, last_window, next_batch, now_micros};

const ROWS: &str = "SELECT toUnixTimestamp(time), app_service, app_instance, policy, process_id, \
    toUnixTimestamp64Milli(process_start_time), process_name, thread_name, main_thread, \
    (SELECT any(frames) FROM stacks WHERE stacks.stack_id = r.stack_id), stack_end, cpu, sample_count, \
    profile_value, profile_value_unit, profile_event_type, profile_language_type, pod_cluster, pod_node, \
    host, agent, trace_id \
    FROM in_process_local AS r ORDER BY process_id DESC, main_thread DESC, sample_count DESC";

#[tokio::test(flavor = "multi_thread")]
async fn rows_arrive_exactly() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    let mut batch = first_batch(1, 1);
    batch.losses = vec![Loss { reason: LossReason::RingFull.into(), samples: 9 }];
    let time = batch.window_start;
    stream.send(batch).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));

    let common = "microseconds\ton-cpu\teBPF\thome\tnode-1\tnode-1\tnode-1\t";
    let redis = "redis-server\tredis-server\tns/p\t4711\t1700000000123\tredis-server";
    let expected = [
        format!("{time}\t{redis}\tredis-server\t1\tmain;work\tcomplete\t4095\t7\t70707\t{common}\n"),
        format!(
            "{time}\t{redis}\tredis-server\t1\tmain;[l] f;[k] asm\tno-unwind-info\t3\t1\t10101\t{common}\n"
        ),
        format!("{time}\t{redis}\tbio_close_file\t0\tmain;[l] f;[k] asm\tcomplete\t0\t2\t20202\t{common}\n"),
        format!(
            "{time}\t\t\t\t2\t1700000000123\tkthreadd\tkthreadd\t1\t\\N\tcounted\t4095\t40\t80160\t{common}\n"
        ),
    ];
    assert_eq!(collector.ask(ROWS).await, expected.concat());
    // Ids are the profile crate's; the key is xxh3-64 over instance and sequence.
    let id = hearth_profile::stack::stack_id(["main", "work"]);
    let found = collector.ask("SELECT hex(stack_id) FROM stacks WHERE frames = 'main;work'").await;
    assert_eq!(found.trim().to_lowercase(), id.to_string());
    let key = hearth_collector::store::Batch::key(&[1; 16], 1);
    assert_eq!(collector.ask("SELECT DISTINCT batch FROM in_process_local").await, format!("{key}\n"));

    // Later batches use what was sent before.
    stream.send(next_batch(2)).await;
    assert_eq!(stream.ack().await.unwrap(), (2, AckResult::Stored));
    let later = collector.ask("SELECT thread_name, frames FROM in_process_local AS r ANY LEFT JOIN stacks AS s USING stack_id WHERE sample_count = 3").await;
    assert_eq!(later, "bio_close_file\tmain;work\n");

    // The view shows each row of a matched process twice: as its app's and as Total's.
    let view = "SELECT app_service, profile_location_str, sum(profile_value) FROM in_process GROUP BY ALL ORDER BY ALL";
    assert_eq!(
        collector.ask(view).await,
        "Total\t[p] kthreadd\t80160\n\
         Total\t[p] redis-server\t80808\n\
         Total\t[p] redis-server;[t] bio_close_file\t50505\n\
         redis-server\t[t] bio_close_file;main;[l] f;[k] asm\t20202\n\
         redis-server\t[t] bio_close_file;main;work\t30303\n\
         redis-server\t[t] redis-server;main;[l] f;[k] asm\t10101\n\
         redis-server\t[t] redis-server;main;work\t70707\n"
    );

    assert_eq!(collector.metric("hearth_collector_rows_total"), 5);
    assert_eq!(collector.metric("hearth_collector_batches_total"), 2);
    assert_eq!(collector.metric("hearth_collector_stacks_total"), 2);
    assert_eq!(collector.metric("hearth_collector_streams"), 1);
    assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"RingFull\"}"), 9);
}

/// Each case breaks one rule in a good first batch; the stream ends with
/// INVALID_ARGUMENT and a reason that holds the text. Another stream, opened
/// before them all, lives on.
#[tokio::test(flavor = "multi_thread")]
async fn violations_end_their_stream_only() {
    let collector = Collector::start().await;
    let mut good = collector.open().await;
    good.send(first_batch(1, 1)).await;
    assert_eq!(good.ack().await.unwrap(), (1, AckResult::Stored));

    let hour = last_window() - last_window() % 3600;
    type Break = Box<dyn Fn(&mut SampleBatch)>;
    let rows = |change: fn(&mut hearth_proto::collector::v1::Rows)| -> Break {
        Box::new(move |batch| change(batch.rows.as_mut().unwrap()))
    };
    let cases: Vec<(&str, Break)> = vec![
        ("must say who the agent is", Box::new(|b| b.agent = None)),
        ("instance has 3 bytes", Box::new(|b| b.agent.as_mut().unwrap().instance = vec![1; 3])),
        ("node has no name", Box::new(|b| b.agent.as_mut().unwrap().node.clear())),
        ("node is longer than", Box::new(|b| b.agent.as_mut().unwrap().node = "n".repeat(254))),
        ("cluster is longer than", Box::new(|b| b.agent.as_mut().unwrap().cluster = "n".repeat(254))),
        ("sequence 0", Box::new(|b| b.sequence = 0)),
        ("window starts at -1", Box::new(|b| b.window_start = -1)),
        ("window of 0 s", Box::new(|b| b.window_seconds = 0)),
        ("window of 3601 s", Box::new(|b| b.window_seconds = 3601)),
        ("crosses an hour", Box::new(move |b| b.window_start = hour - 5)),
        ("sent before it began", Box::new(move |b| b.window_start = hour + 7200)),
        ("string 9 has 4097 bytes", Box::new(|b| b.strings.push("x".repeat(4097)))),
        (
            "string 9 has 15728640 bytes, over the limit of 4096",
            Box::new(|b| b.strings.push("x".repeat(15 << 20))),
        ),
        ("100001 new strings", Box::new(|b| b.strings = vec![String::new(); 100_001])),
        ("stack 3 has 0 frames", Box::new(|b| b.stacks.push(Stack { frames: vec![] }))),
        ("stack 3 has 1025 frames", Box::new(|b| b.stacks.push(Stack { frames: vec![4; 1025] }))),
        (
            "stack 3 has 1000000 frames; allowed are 1 to 1024",
            Box::new(|b| b.stacks.push(Stack { frames: vec![4; 1_000_000] })),
        ),
        ("string 9 was never sent (8 were)", Box::new(|b| b.stacks.push(Stack { frames: vec![9] }))),
        ("a frame without text", Box::new(|b| b.stacks.push(Stack { frames: vec![4, 0] }))),
        ("empty, or with a ;", Box::new(|b| b.strings[3] = "ma;in".into())),
        (
            "of text, over the limit",
            Box::new(|b| {
                b.strings.push("x".repeat(4096));
                b.stacks.push(Stack { frames: vec![9; 1000] });
            }),
        ),
        ("string 99 was never sent", Box::new(|b| b.processes[0].policy = 99)),
        ("period of 999 µs", Box::new(|b| b.processes[0].period_micros = 999)),
        ("period of 1000001 µs", Box::new(|b| b.processes[0].period_micros = 1_000_001)),
        ("started at -1 ms", Box::new(|b| b.processes[0].start_time_millis = -1)),
        ("process 0 was never sent", Box::new(|b| b.threads[0].process = 0)),
        ("process 3 was never sent", Box::new(|b| b.threads[0].process = 3)),
        ("columns differ in length", rows(|r| r.samples.truncate(3))),
        ("columns differ in length", rows(|r| r.cpu.truncate(3))),
        ("row 3: thread 4 was never sent", rows(|r| r.thread[3] = 4)),
        ("row 0: stack 3 was never sent", rows(|r| r.stack[0] = 3)),
        ("row 0: stack 0 with the end STACK_END_COMPLETE", rows(|r| r.stack[0] = 0)),
        ("row 0: stack 1 with the end STACK_END_COUNTED", rows(|r| r.end[0] = StackEnd::Counted.into())),
        ("row 1: unknown end of a stack 77", rows(|r| r.end[1] = 77)),
        ("row 2: 0 samples", rows(|r| r.samples[2] = 0)),
        // 81,920 s of CPU time are 8,110,286 samples of 10,101 µs; the others are 50.
        (
            "row 2: with its 8110287 samples more CPU time than 10 s on 8192",
            rows(|r| r.samples[2] = 8_110_287),
        ),
        ("row 1: with its 4999999 samples", rows(|r| r.samples[..2].fill(4_999_999))),
        ("row 2: CPU 4095", rows(|r| r.cpu[2] = 4096)),
        ("100001 rows", rows(|r| r.thread = vec![1; 100_001])),
        (
            "281474976710657 lost samples, over the limit of 281474976710656",
            Box::new(|b| b.losses = [1 << 48, 1].map(|samples| Loss { reason: 0, samples }).to_vec()),
        ),
        ("1001 losses", Box::new(|b| b.losses = vec![Loss { reason: 0, samples: 1 }; 1001])),
        // 17 kB that are 74 MB of text.
        ("600 new stacks), over the limit of 67108864", Box::new(long_stacks)),
        // 4 KiB of app service in each row.
        ("(20000 rows, 1 new stacks), over the limit of 67108864", Box::new(long_names)),
        ("message length too large", Box::new(|b| b.strings = vec!["x".repeat(4000); 5000])),
        ("the limit is: 16777216 bytes", Box::new(|b| b.strings.push("x".repeat(16 << 20)))),
    ];
    for (number, (reason, change)) in cases.iter().enumerate() {
        let mut stream = collector.open().await;
        let mut batch = first_batch(2, 1);
        change(&mut batch);
        stream.send(batch).await;
        let status = stream.ack().await.expect_err(reason);
        assert_eq!(status.code(), Code::InvalidArgument, "case {number}: {status}");
        assert!(status.message().contains(reason), "case {number}: {reason:?} in {status}");
    }
    let rejected = collector.metric("hearth_collector_streams_rejected_total{reason=\"InvalidArgument\"}")
        + collector.metric("hearth_collector_streams_rejected_total{reason=\"BadMessage\"}");
    assert_eq!(rejected, cases.len() as u64);

    // A later batch that says it is somebody else.
    let mut stream = collector.open().await;
    stream.send(first_batch(3, 1)).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
    stream.send(SampleBatch { agent: first_batch(4, 1).agent, ..next_batch(2) }).await;
    assert!(stream.ack().await.unwrap_err().message().contains("identity changed"));

    // One that goes back: what is sent again goes on another stream.
    for sequence in [1, 2] {
        let mut stream = collector.open().await;
        stream.send(first_batch(3, 2)).await;
        assert_eq!(stream.ack().await.unwrap(), (2, AckResult::Stored));
        stream.send(next_batch(sequence)).await;
        let status = stream.ack().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with(&format!("sequence {sequence} after 2: they count up")),
            "{status}"
        );
    }

    good.send(next_batch(2)).await;
    assert_eq!(good.ack().await.unwrap(), (2, AckResult::Stored));
    assert_eq!(
        collector.ask("SELECT pod_node, count() FROM in_process_local GROUP BY ALL ORDER BY ALL").await,
        "node-1\t5\nnode-3\t8\n"
    );
}

/// Bytes that are no messages end their stream with a reason too.
#[tokio::test(flavor = "multi_thread")]
async fn noise_ends_its_stream_only() {
    let collector = Collector::start().await;
    let mut good = collector.open().await;
    good.send(first_batch(1, 1)).await;
    assert_eq!(good.ack().await.unwrap(), (1, AckResult::Stored));
    let framed = |message: &[u8]| [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        // A string that is longer than its message.
        ("SampleBatch", framed(&[0x32, 0x7f, b'x'])),
        ("invalid varint", framed(&[0xff; 9])),
        ("UTF-8", framed(&[0x32, 0x02, 0xff, 0xfe])),
        ("compression flag", vec![0xaa; 64]),
        ("compressed-flag", vec![1, 0, 0, 0, 1, 0]),
        ("the limit is: 16777216 bytes", vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("EOF", vec![0, 0, 0, 0, 100, 1, 2, 3]),
    ];
    for (number, (reason, bytes)) in cases.into_iter().enumerate() {
        let status = raw(&collector.channel, bytes).await;
        assert_eq!(status.code(), Code::InvalidArgument, "case {number}: {status}");
        assert!(status.message().contains(reason), "case {number}: {reason:?} in {status}");
        let rejected = "hearth_collector_streams_rejected_total{reason=\"BadMessage\"}";
        assert_eq!(collector.metric(rejected), number as u64 + 1);
    }
    good.send(next_batch(2)).await;
    assert_eq!(good.ack().await.unwrap(), (2, AckResult::Stored));
}

/// How a stream of these bytes ends.
async fn raw(channel: &Channel, bytes: Vec<u8>) -> tonic::Status {
    let request = http::Request::post("/hearth.collector.v1.Collector/Export")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(bytes))))
        .unwrap();
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answer = channel.call(request).await.unwrap().into_body().collect().await.unwrap();
    tonic::Status::from_header_map(answer.trailers().unwrap()).unwrap()
}

/// Many stacks that repeat one long frame.
fn long_stacks(batch: &mut SampleBatch) {
    const STACKS: u32 = 600;
    batch.strings.push("x".repeat(4000));
    batch.stacks.extend(vec![Stack { frames: vec![9; 31] }; STACKS as usize]);
    let rows = batch.rows.as_mut().unwrap();
    let count = STACKS as usize;
    (rows.thread, rows.samples, rows.end) = (vec![1; count], vec![1; count], vec![0; count]);
    (rows.stack, rows.cpu) = ((3..3 + STACKS).collect(), vec![]);
}

/// Many rows of one process with a long name.
fn long_names(batch: &mut SampleBatch) {
    batch.strings.push("x".repeat(4000));
    batch.processes[0].app_service = 9;
    let rows = batch.rows.as_mut().unwrap();
    const ROWS: usize = 20_000;
    (rows.thread, rows.stack, rows.samples) = (vec![1; ROWS], vec![1; ROWS], vec![1; ROWS]);
    (rows.end, rows.cpu) = (vec![0; ROWS], vec![]);
}

/// An agent that fills its tables is told to open another stream.
#[tokio::test(flavor = "multi_thread")]
async fn tables_are_bounded() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    let big = || vec!["x".repeat(4000); 4000];
    stream
        .send(SampleBatch { strings: [first_batch(1, 1).strings, big()].concat(), ..first_batch(1, 1) })
        .await;
    for sequence in 2..6 {
        stream.send(SampleBatch { strings: big(), ..next_batch(sequence) }).await;
    }
    let mut acknowledged = 0;
    let status = loop {
        match stream.ack().await {
            Ok(_) => acknowledged += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(acknowledged <= 4, "{acknowledged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clocks_and_old_batches() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    // An agent that lives an hour ahead.
    let ahead = 3600;
    let mut batch = first_batch(1, 1);
    let time = batch.window_start;
    batch.window_start += ahead;
    batch.sent_at_micros += ahead * 1_000_000;
    stream.send(batch).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
    let found: i64 = collector
        .ask("SELECT DISTINCT toUnixTimestamp(time) FROM in_process_local")
        .await
        .trim()
        .parse()
        .unwrap();
    assert!((found - time).abs() <= 10, "{found} instead of {time}");
    assert_eq!(collector.metric("hearth_collector_clock_corrections_total"), 1);

    // The raw retention is 72 h; what is older than 70 h is not taken any more.
    let batch = SampleBatch {
        window_start: last_window() - 71 * 3600,
        sent_at_micros: now_micros(),
        ..next_batch(2)
    };
    stream.send(batch).await;
    assert_eq!(stream.ack().await.unwrap(), (2, AckResult::TooOld));
    assert_eq!(collector.ask("SELECT count() FROM in_process_local").await, "4\n");
    assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"TooOld\"}"), 3);
}

/// While the store is away streams are not read, and what they sent gets old on
/// the way: that is no wrong clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waited_to_be_read_keeps_its_window() {
    let collector = Collector::start().await;
    let time = last_window();
    let (batches, outgoing) = tokio::sync::mpsc::channel(2);
    let waited = SampleBatch { sent_at_micros: now_micros() - 95_000_000, ..next_batch(2) };
    // Both are there before anybody reads, so that neither is waited for.
    batches.send(SampleBatch { window_start: time, ..first_batch(1, 1) }).await.unwrap();
    batches.send(SampleBatch { window_start: time - 100, ..waited }).await.unwrap();
    let mut stream = Stream::open(&collector.grpc, batches, outgoing).await;
    for sequence in 1..=2 {
        assert_eq!(stream.ack().await.unwrap(), (sequence, AckResult::Stored));
    }
    let times =
        collector.ask("SELECT DISTINCT toUnixTimestamp(time) AS t FROM in_process_local ORDER BY t").await;
    assert_eq!(times, format!("{}\n{time}\n", time - 100));
    assert_eq!(collector.metric("hearth_collector_clock_corrections_total"), 0);
}
