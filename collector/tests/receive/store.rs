//! Acknowledged means stored, once, whatever dies in between.

use std::process::Command;
use std::time::Duration;

use clickhouse::Client;
use clickhouse::error::Error;
use hearth_collector::embedded::{Embedded, EmbeddedConfig};
use hearth_collector::ingest::Ingest;
use hearth_collector::ingest::limits::MAX_BATCH_BYTES;
use hearth_collector::metrics::Metrics;
use hearth_collector::schema::{self, SchemaError};
use hearth_collector::store::Queue;
use hearth_collector::store_check::{self, StoreError};
use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_proto::collector::v1::{AckResult, Loss, LossReason, SampleBatch};

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::harness::{
    Collector, RETENTION, Store, Stream, engine, first_batch, metric, next_batch, now_micros, resolved, serve,
};

const COUNT: &str = "SELECT count() FROM in_process_local";

/// Every acknowledgement comes after its rows can be seen.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_visible() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    stream.send(first_batch(1, 1)).await;
    for sequence in 2..=5 {
        stream.send(next_batch(sequence)).await;
    }
    for sequence in 1..=5 {
        assert_eq!(stream.ack().await.unwrap(), (sequence, AckResult::Stored));
        let key = hearth_collector::store::Batch::key(&[1; 16], sequence);
        let found = collector.ask(&format!("{COUNT} WHERE batch = {key}")).await;
        assert_eq!(found, if sequence == 1 { "4\n" } else { "1\n" });
    }
}

/// An agent that lost its stream sends again what it has no answer for.
#[tokio::test(flavor = "multi_thread")]
async fn a_resent_batch_is_stored_once() {
    let collector = Collector::start().await;
    let mut first = collector.open().await;
    let losses = vec![Loss { reason: LossReason::QueueFull.into(), samples: 9 }];
    let batch = SampleBatch { losses, ..first_batch(1, 1) };
    first.send(batch.clone()).await;
    assert_eq!(first.ack().await.unwrap(), (1, AckResult::Stored));
    drop(first);
    let mut second = collector.open().await;
    second.send(batch).await;
    assert_eq!(second.ack().await.unwrap(), (1, AckResult::Stored));
    second.send(next_batch(2)).await;
    assert_eq!(second.ack().await.unwrap(), (2, AckResult::Stored));
    assert_eq!(collector.ask(COUNT).await, "5\n");
    // Another instance's batch 1 is another batch.
    let mut other = collector.open().await;
    other.send(first_batch(2, 1)).await;
    assert_eq!(other.ack().await.unwrap(), (1, AckResult::Stored));
    assert_eq!(collector.ask(COUNT).await, "9\n");
    assert_eq!(collector.metric("hearth_collector_batches_dropped_total{reason=\"Duplicate\"}"), 1);
    // And what the agent lost is counted once.
    assert_eq!(collector.metric("hearth_collector_samples_lost_total{reason=\"QueueFull\"}"), 9);
}

/// What many agents sent while the writer was busy is one INSERT.
#[tokio::test(flavor = "multi_thread")]
async fn agents_share_an_insert() {
    let mut store = Store::start().await;
    for instance in 1..=5 {
        store.put(resolved(first_batch(instance, u64::from(instance))), false).await;
        // The writer has it, and waits for more.
        tokio::time::timeout(Duration::from_millis(50), store.answers.recv()).await.unwrap_err();
    }
    for sequence in 1..=5 {
        assert_eq!(store.ack().await, (sequence, AckResult::Stored));
    }
    assert_eq!(store.metric("hearth_collector_insert_seconds_count"), 1);
    assert_eq!(store.metric("hearth_collector_batches_total"), 5);
    let question =
        "SELECT groupArray(n) FROM (SELECT count() AS n FROM profile.in_process_local GROUP BY batch)";
    assert_eq!(store.client.query(question).fetch_one::<Vec<u64>>().await.unwrap(), [4; 5]);
    // The queue's end is the writer's.
    drop(store.queue);
    assert_eq!(store.writer.await.unwrap(), 0);
    store.embedded.stop().await;
}

/// While nothing is stored, no more is read than fits the queue: a batch is not
/// even resolved before there is room for the largest.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_stops_reading() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (queue, mut receiver) = Queue::with_room(MAX_BATCH_BYTES + 50_000);
    let stop = CancellationToken::new();
    let ingest = Ingest::new(queue, metrics, RETENTION.raw, stop.clone());
    let grpc = CollectorClient::new(serve(ingest, stop.clone()).await);
    let (batches, outgoing) = tokio::sync::mpsc::channel(16);
    batches.send(first_batch(1, 1)).await.unwrap();
    for sequence in 2..=16 {
        batches.send(next_batch(sequence)).await.unwrap();
    }
    let _stream = Stream::open(&grpc, batches, outgoing).await;
    let received = || metric(&registry, "hearth_collector_batches_received_total");
    // With three of some 20 kB the largest would not fit any more.
    for expected in 3..=16 {
        while received() < expected {
            tokio::task::yield_now().await;
        }
        while receiver.len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!((received(), receiver.len()), (expected, 3));
        drop(receiver.recv().await.unwrap());
    }
    stop.cancel();
}

/// What waits until there is room in the queue is not late by its agent's clock.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_room_is_no_wrong_clock() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (queue, mut receiver) = Queue::with_room(MAX_BATCH_BYTES);
    let stop = CancellationToken::new();
    let ingest = Ingest::new(queue.clone(), metrics, RETENTION.raw, stop.clone());
    let grpc = CollectorClient::new(serve(ingest, stop.clone()).await);
    let taken = queue.room().await.unwrap();
    let (batches, outgoing) = tokio::sync::mpsc::channel(1);
    // Its clock is as wrong as it may be without a correction, less 3 s for the way.
    let sent_at_micros = now_micros() - 27_500_000;
    batches.send(SampleBatch { sent_at_micros, ..first_batch(1, 1) }).await.unwrap();
    let _stream = Stream::open(&grpc, batches, outgoing).await;
    while now_micros() < sent_at_micros + 31_000_000 {
        tokio::task::yield_now().await;
    }
    drop(taken);
    receiver.recv().await.unwrap();
    assert_eq!(metric(&registry, "hearth_collector_clock_corrections_total"), 0);
    stop.cancel();
}

/// However many agents there are, only so many are heard at once; the others are
/// told so, and come in when one goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_streams_is_bounded() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (queue, _receiver) = Queue::new();
    let stop = CancellationToken::new();
    let ingest = Ingest::new(queue, metrics, RETENTION.raw, stop.clone()).with_max_streams(2);
    let grpc = CollectorClient::new(serve(ingest, stop.clone()).await);
    let open = || async {
        let (batches, outgoing) = tokio::sync::mpsc::channel(16);
        let answer = grpc.clone().export(tokio_stream::wrappers::ReceiverStream::new(outgoing)).await?;
        Ok::<_, tonic::Status>(Stream { batches, acks: answer.into_inner() })
    };
    let _first = open().await.unwrap();
    let second = open().await.unwrap();
    let status = open().await.map(drop).unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("2 streams are open"), "{status}");
    assert_eq!(metric(&registry, "hearth_collector_streams_rejected_total{reason=\"TooManyStreams\"}"), 1);
    drop(second);
    while metric(&registry, "hearth_collector_streams") > 1 {
        tokio::task::yield_now().await;
    }
    while open().await.is_err() {
        tokio::task::yield_now().await;
    }
    stop.cancel();
}

/// The engine is killed, restarted by its watcher, and what had no
/// acknowledgement is stored, what had one is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_comes_back() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    stream.send(first_batch(1, 1)).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));

    for round in 0..4 {
        let before = loop {
            match collector.embedded.pid() {
                Some(pid) => break pid,
                None => tokio::task::yield_now().await,
            }
        };
        let killed = Command::new("kill").args(["-KILL", &before.to_string()]).status().unwrap();
        assert!(killed.success());
        for sequence in [2 * round + 2, 2 * round + 3] {
            stream.send(next_batch(sequence)).await;
            assert_eq!(stream.ack().await.unwrap(), (sequence, AckResult::Stored));
        }
        assert_ne!(collector.embedded.pid().unwrap(), before);
    }
    assert_eq!(collector.ask(COUNT).await, "12\n");
}

/// At a stop the streams end after what they have sent was stored and acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stores_what_is_queued() {
    let collector = Collector::start().await;
    let mut stream = collector.open().await;
    stream.send(first_batch(1, 1)).await;
    assert_eq!(stream.ack().await.unwrap(), (1, AckResult::Stored));
    // The writer waits a second for more.
    stream.send(next_batch(2)).await;
    while collector.metric("hearth_collector_batches_received_total") < 2 {
        tokio::task::yield_now().await;
    }
    collector.stop.cancel();
    assert_eq!(stream.ack().await.unwrap(), (2, AckResult::Stored));
    assert!(stream.acks.message().await.unwrap().is_none());
    assert_eq!(collector.writer.await.unwrap(), 0);
    collector.embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_applied_once_and_never_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::start(engine(dir.path().join("data"))).await.unwrap();
    let client = Client::default().with_url(embedded.url());
    schema::apply(&client, RETENTION).await.unwrap();
    schema::apply(&client, RETENTION).await.unwrap();
    let versions = "SELECT version FROM profile.schema_version ORDER BY version";
    let all: Vec<u32> = (1..=schema::LATEST).collect();
    assert_eq!(client.query(versions).fetch_all::<u32>().await.unwrap(), all);

    let longer = schema::Retention { raw: Duration::from_secs(96 * 3600), ..RETENTION };
    schema::apply(&client, longer).await.unwrap();
    let tables = "SELECT create_table_query FROM system.tables WHERE database = 'profile' AND name = 'in_process_local'";
    let ddl = client.query(tables).fetch_one::<String>().await.unwrap();
    assert!(ddl.contains("TTL time + toIntervalSecond(345600)"), "{ddl}");

    let future = "INSERT INTO profile.schema_version (version) VALUES (1000)";
    client.query(future).execute().await.unwrap();
    let error = schema::apply(&client, RETENTION).await.unwrap_err();
    assert!(matches!(error, SchemaError::Newer { found: 1000 }), "{error}");
    embedded.stop().await;
}

/// What a user that may only read is told, before it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::start(engine(dir.path().join("data"))).await.unwrap();
    let client = Client::default().with_url(embedded.url());
    store_check::check(&client).await.unwrap();
    for read_only in ["1", "2"] {
        let client = client.clone().with_setting("readonly", read_only);
        let error = store_check::check(&client).await.unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly), "{error}");
        let error = schema::apply(&client, RETENTION).await.unwrap_err();
        let SchemaError::Statement { source: Error::BadResponse(answer), .. } = error else {
            panic!("{error}")
        };
        assert!(store_check::remedy(&answer).unwrap().contains("may only read"), "{answer}");
    }
    embedded.stop().await;
}

/// A collector that was killed has left an engine behind, which is on its way
/// out: the next one waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_engine_of_a_killed_collector_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = engine(dir.path().join("data"));
    let first = Embedded::start(config.clone()).await.unwrap();
    let client = Client::default().with_url(first.url());
    let query = tokio::spawn(async move { client.query("SELECT sleep(2)").execute().await });
    let seen =
        "SELECT count() FROM system.processes WHERE query LIKE '%sleep(2)%' AND query NOT LIKE '%processes%'";
    let client = Client::default().with_url(first.url());
    while client.query(seen).fetch_one::<u64>().await.unwrap() == 0 {}
    let stopping = tokio::spawn(first.stop());
    let second = Embedded::start(config).await.unwrap();
    query.await.unwrap().unwrap();
    stopping.await.unwrap();
    second.stop().await;
}

/// Somebody else's ClickHouse on our port is not taken for ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_on_the_port_is_not_ours() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stranger = Embedded::start(engine(theirs.path().join("data"))).await.unwrap();
    let address = stranger.url().trim_start_matches("http://").parse().unwrap();
    let config = EmbeddedConfig { http: address, ..engine(ours.path().join("data")) };
    let mut starting = tokio::spawn(Embedded::start(config));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut starting).await;
    assert!(early.is_err(), "the stranger was taken for ours");
    stranger.stop().await;
    let ours = starting.await.unwrap().unwrap();
    assert_eq!(ours.url(), format!("http://{address}"));
    ours.stop().await;
}

/// An engine that answers nobody is an error, and not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_refuses_us() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut config = engine(dir.path().join("data"));
    let (password, program) = (dir.path().join("password"), dir.path().join("hearth-clickhouse"));
    std::fs::write(&password, "secret").unwrap();
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --password-file {}\n",
        config.program.display(),
        password.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    config.program = program;
    let error = Embedded::start(config).await.unwrap_err().to_string();
    assert!(error.contains("refuses to answer: Code: 516."), "{error}");
}

/// An engine that cannot start is an error with its own words.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = engine(dir.path().join("data"));
    config.libchdb = Some("/nonexistent.so".into());
    let error = Embedded::start(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("run scripts/setup-chdb.sh"), "{error}");
    config.program = "/nonexistent/hearth-clickhouse".into();
    let error = Embedded::start(config).await.unwrap_err().to_string();
    assert!(error.contains("cannot start /nonexistent/hearth-clickhouse"), "{error}");
}
