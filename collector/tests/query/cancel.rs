//! Who asks and goes away costs nothing any more, and nothing that is asked can write.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Compression};
use hearth_collector::query::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::common::{Collector, client, insert};
use crate::limits::now;

/// A ClickHouse that takes statements and answers only when told to.
struct Silent {
    url: String,
    statements: mpsc::UnboundedReceiver<Taken>,
}

/// A statement that it took.
struct Taken {
    asked: Asked,
    connection: TcpStream,
}

struct Asked {
    /// Its request line.
    line: String,
    sql: String,
}

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(30);

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (took, statements) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let took = took.clone();
                tokio::spawn(async move { took.send(take(connection).await) });
            }
        });
        Self { url, statements }
    }

    fn client(&self) -> Client {
        Client::default().with_url(&self.url).with_validation(false).with_compression(Compression::None)
    }

    async fn next(&mut self) -> Taken {
        let taken = tokio::time::timeout(PATIENCE, self.statements.recv()).await;
        taken.expect("a statement in time").unwrap()
    }

    /// The rows of a question, and what was lost, which are asked at once.
    async fn question(&mut self) -> [Taken; 2] {
        [self.next().await, self.next().await]
    }

    /// Answers without a row whatever is asked until a question is done. Says what it was.
    async fn answer_nothing_until_done(&mut self, mut asked: JoinHandle<u16>) -> Vec<Asked> {
        let mut statements = Vec::new();
        loop {
            tokio::select! {
                status = &mut asked => {
                    assert_eq!(status.unwrap(), 200);
                    return statements;
                }
                taken = self.next() => statements.push(taken.answer_nothing().await),
            }
        }
    }
}

async fn take(mut connection: TcpStream) -> Taken {
    let mut request = Vec::new();
    loop {
        assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0, "the end of half a request");
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
        });
        if body.len() >= length.unwrap() {
            let (line, sql) = (head.lines().next().unwrap().to_owned(), body.to_owned());
            return Taken { asked: Asked { line, sql }, connection };
        }
    }
}

impl Taken {
    /// Waits for the end of the connection.
    async fn ends(mut self) {
        let mut rest = [0; 16];
        let end = tokio::time::timeout(PATIENCE, self.connection.read(&mut rest)).await;
        // A reset is an end as well.
        assert_eq!(end.expect("closed in time").unwrap_or(0), 0);
    }

    /// Answers without a row.
    async fn answer_nothing(mut self) -> Asked {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        self.connection.write_all(answer).await.unwrap();
        self.asked
    }
}

fn ask(collector: &Arc<Collector>) -> JoinHandle<u16> {
    let collector = Arc::clone(collector);
    // So late that raw rows answer, without a look at what is rolled up.
    let now = now();
    tokio::spawn(async move { collector.ask("x", now - 9, now, &[]).await.status })
}

#[tokio::test]
async fn whoever_goes_away_takes_the_statements_along() {
    let mut store = Silent::start().await;
    let limits = Limits { concurrent: 1, ..Limits::default() };
    let collector = Arc::new(Collector::start_with(store.client(), limits).await);
    let asked = ask(&collector);
    let statements = store.question().await;
    asked.abort();
    for statement in statements {
        statement.ends().await;
    }
    // And the place is free again.
    let asked = ask(&collector);
    store.question().await;
    asked.abort();
}

#[tokio::test]
async fn what_is_given_up_is_ended_too() {
    let mut store = Silent::start().await;
    let limits = Limits { max_execution_seconds: 0, grace: Duration::from_millis(300), ..Limits::default() };
    let collector = Arc::new(Collector::start_with(store.client(), limits).await);
    let asked = ask(&collector);
    let statements = store.question().await;
    assert_eq!(asked.await.unwrap(), 422);
    for statement in statements {
        statement.ends().await;
    }
}

#[tokio::test]
async fn a_statement_that_fails_takes_the_other_along() {
    let mut store = Silent::start().await;
    let collector = Arc::new(Collector::start_with(store.client(), Limits::default()).await);
    let asked = ask(&collector);
    let [mut first, second] = store.question().await;
    let answer = b"HTTP/1.1 500 Oh\r\ncontent-length: 9\r\n\r\nCode: 60.";
    first.connection.write_all(answer).await.unwrap();
    assert_eq!(asked.await.unwrap(), 500);
    second.ends().await;
}

/// A dashboard asks for all of its panels at once.
#[tokio::test]
async fn one_question_too_many_waits_for_its_turn() {
    let mut store = Silent::start().await;
    let limits = Limits { concurrent: 1, queue: PATIENCE, ..Limits::default() };
    let collector = Arc::new(Collector::start_with(store.client(), limits).await);
    let first = ask(&collector);
    let statements = store.question().await;
    let second = ask(&collector);
    first.abort();
    for statement in statements {
        statement.ends().await;
    }
    for statement in store.question().await {
        statement.answer_nothing().await;
    }
    // It asks why there is nothing.
    store.answer_nothing_until_done(second).await;
}

#[tokio::test]
async fn every_statement_is_bounded_and_read_only() {
    let mut store = Silent::start().await;
    let collector = Arc::new(Collector::start_with(store.client(), Limits::default()).await);
    let statements = store.answer_nothing_until_done(ask(&collector)).await;
    for Asked { line, .. } in &statements {
        for setting in [
            "readonly=2",
            "compile_expressions=0",
            "compile_aggregate_expressions=0",
            "cancel_http_readonly_queries_on_client_close=1",
            "max_execution_time=30",
            "timeout_overflow_mode=throw",
            "max_result_rows=500000",
            "max_result_bytes=268435456",
            "result_overflow_mode=throw",
            "max_rows_to_group_by=500000",
            "group_by_overflow_mode=throw",
            "max_memory_usage=1073741824",
        ] {
            let is_there = line.split(['?', '&', ' ']).any(|part| part == setting);
            assert!(is_there, "{setting} is not in {line}");
        }
    }
}

#[tokio::test]
async fn an_answer_without_data_asks_once_for_each_thing_it_says() {
    let mut store = Silent::start().await;
    let collector = Arc::new(Collector::start_with(store.client(), Limits::default()).await);
    let statements = store.answer_nothing_until_done(ask(&collector)).await;
    let of_losses = |asked: &&Asked| asked.sql.contains("FROM profile.losses");
    assert_eq!(statements.iter().filter(of_losses).count(), 1);
    // Its rows, and why there are none: the app's at any time, those of the range, all.
    assert_eq!(statements.len(), 1 + 4);
}

/// What the setting is for.
#[tokio::test]
async fn the_engine_holds_read_only_statements_to_it() {
    let read_only = client().with_setting("readonly", "2");
    for sql in [
        "INSERT INTO profile.in_process_local (time) VALUES (1)",
        "ALTER TABLE profile.in_process_local DELETE WHERE 1",
        "DROP TABLE profile.stacks",
        "CREATE TABLE profile.x (a UInt8) ENGINE = Memory",
    ] {
        let refused = read_only.query_raw(sql).execute().await.unwrap_err().to_string();
        assert!(refused.contains("Code: 164"), "{sql}: {refused}");
    }
}

/// Not only the connection ends: what it asked for does.
#[tokio::test]
async fn the_engine_ends_what_nobody_waits_for() {
    // Eight hours are eight parts, read one after the other: twenty seconds.
    let rows: Vec<String> = (0..8)
        .map(|hour| {
            format!("{} | left | 7 | x | x | main | complete | 1 | a | main", 1_709_200_820 + hour * 3600)
        })
        .collect();
    insert(&rows.join("\n")).await;
    let slow = client()
        .with_setting(
            "additional_table_filters",
            "{'profile.in_process_local': 'if(app_service = \\'left\\', sleepEachRow(2.5), 0) = 0'}",
        )
        .with_setting("log_comment", "left")
        .with_setting("max_threads", "1");
    let collector = Arc::new(Collector::start_with(slow, Limits::default()).await);
    let running = async || -> u64 {
        let sql = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'left'";
        client().query_raw(sql).fetch_one().await.unwrap()
    };
    let asked = {
        let collector = Arc::clone(&collector);
        tokio::spawn(async move { collector.ask("left", 1_709_200_820, 1_709_229_620, &[]).await.text })
    };
    let started = std::time::Instant::now();
    while running().await == 0 {
        assert!(started.elapsed() < PATIENCE && !asked.is_finished(), "it never ran");
    }
    asked.abort();
    let left = std::time::Instant::now();
    while running().await != 0 {
        assert!(left.elapsed() < Duration::from_secs(10), "it runs on");
    }
}
