//! The `clickhouse` crate, unchanged, against the real engine.

use crate::common::Server;
use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Line {
    id: u64,
    name: String,
    tag: String,
}

fn line(id: u64) -> Line {
    Line { id, name: format!("name\n'{id}'\\;\0"), tag: format!("tag-{}", id % 3) }
}

/// Creates, inserts 1,000 rows, counts, selects with bind and with a server-side
/// parameter, and meets an error.
async fn conversation(client: Client, database: &str) {
    client.query(&format!("CREATE DATABASE {database}")).execute().await.unwrap();
    let client = client.with_database(database);
    client
        .query("CREATE TABLE t (id UInt64, name String, tag LowCardinality(String)) ENGINE = MergeTree ORDER BY id")
        .execute()
        .await
        .unwrap();

    let lines: Vec<Line> = (0..1000).map(line).collect();
    let mut insert = client.insert::<Line>("t").await.unwrap();
    for line in &lines {
        insert.write(line).await.unwrap();
    }
    insert.end().await.unwrap();

    let count: u64 = client.query("SELECT count() FROM t").fetch_one().await.unwrap();
    assert_eq!(count, 1000);
    let all: Vec<Line> = client.query("SELECT ?fields FROM t ORDER BY id").fetch_all().await.unwrap();
    assert_eq!(all, lines);
    let bound: Vec<Line> = client
        .query("SELECT ?fields FROM t WHERE name = ? OR id IN ? ORDER BY id")
        .bind(&lines[7].name)
        .bind([3, 5])
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(bound, [line(3), line(5), line(7)]);
    let by_param: Line = client
        .query("SELECT ?fields FROM t WHERE name = {name:String}")
        .param("name", &lines[11].name)
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(by_param, line(11));

    let error = client.query("SELECT nosuch FROM t").fetch_all::<u64>().await.unwrap_err();
    assert!(error.to_string().contains("Code: 47. DB::Exception"), "{error}");
    let error = client.query("SELECT 1").with_setting("nosuch", "1").execute().await.unwrap_err();
    assert!(error.to_string().contains("Code: 115. DB::Exception"), "{error}");
}

#[tokio::test]
async fn crate_with_and_without_validation_and_compression() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for (number, (validation, compression)) in [
        (true, Compression::Lz4),
        (true, Compression::None),
        (false, Compression::Lz4),
        (false, Compression::None),
    ]
    .into_iter()
    .enumerate()
    {
        let client = server.client().with_validation(validation).with_compression(compression);
        conversation(client, &format!("d{number}")).await;
    }
}

/// What one request sets, the next does not see, though connections are reused.
#[tokio::test]
async fn settings_and_databases_do_not_leak() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = server.client();
    let threads = |client: Client| async move {
        client.query("SELECT toString(getSetting('max_threads'))").fetch_one::<String>().await.unwrap()
    };
    let before = threads(client.clone()).await;
    assert_eq!(threads(client.clone().with_setting("max_threads", "17")).await, "17");
    client.query("SET max_threads = 18").execute().await.unwrap();
    client.query("USE system").execute().await.unwrap();
    assert_eq!(threads(client.clone()).await, before);
    let database: String = client.query("SELECT currentDatabase()").fetch_one().await.unwrap();
    assert_eq!(database, "default");
}

/// A slow query does not hold up a quick one.
#[tokio::test]
async fn queries_run_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = server.client();
    let slow = tokio::spawn(client.query("SELECT sleep(3)").execute());
    let seen =
        "SELECT count() FROM system.processes WHERE query LIKE '%sleep(3)%' AND query NOT LIKE '%processes%'";
    while client.query(seen).fetch_one::<u64>().await.unwrap() == 0 {}
    assert!(!slow.is_finished());
    slow.await.unwrap().unwrap();
}

/// Every insert that was acknowledged before a kill -9 is found after it.
#[tokio::test]
async fn acknowledged_inserts_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = server.client();
    client.query("CREATE TABLE k (n UInt64) ENGINE = MergeTree ORDER BY n").execute().await.unwrap();

    #[derive(Row, Serialize)]
    struct Number {
        n: u64,
    }
    let (progress, mut watched) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        for batch in 0u64.. {
            let mut insert = client.insert::<Number>("k").await?;
            for n in batch * 100..(batch + 1) * 100 {
                insert.write(&Number { n }).await?;
            }
            insert.end().await?;
            progress.send_replace(batch + 1);
        }
        Ok::<(), clickhouse::error::Error>(())
    });
    watched.wait_for(|acknowledged| *acknowledged >= 50).await.unwrap();
    server.kill();
    writer.await.unwrap().expect_err("the server is gone");
    let acknowledged = *watched.borrow() * 100;

    let server = Server::start(dir.path(), &[]);
    let (found, distinct): (u64, u64) = server
        .client()
        .query("SELECT countIf(n < ?), uniqExact(n) FROM k")
        .bind(acknowledged)
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(found, acknowledged);
    // At most the insert that was under way came on top, whole.
    assert!(distinct == acknowledged || distinct == acknowledged + 100, "{distinct} of {acknowledged}");
}
