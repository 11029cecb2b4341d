//! Answers and bodies that do not fit into memory, that break off, and that nobody waits for any more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{Server, encoded};
use crate::http::shown;
use hearth_clickhouse::wire::{ContentEncoding, Encoding};
use reqwest::{Client, StatusCode};

/// Never ends by itself, and its first row never comes.
pub(crate) const ENDLESS: &str = "SELECT count() FROM numbers(1000000000000) WHERE number % 3 = 7";
/// Never ends by itself, and its rows come at once.
pub(crate) const FLOOD: &str = "SELECT number FROM numbers(1000000000000)";
/// Fails after 29 MB.
const FAILS_LATE: &str =
    "SELECT throwIf(number = 3999999), 'xxxxx' FROM numbers(4000000) SETTINGS max_block_size = 10000";

pub(crate) fn running(mark: &str) -> String {
    format!("SELECT count() FROM system.processes WHERE Settings['log_comment'] = '{mark}'")
}

#[tokio::test]
async fn a_streamed_answer_is_the_one_that_is_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let formats = [
        "TSV",
        "TSVWithNames",
        "TSVWithNamesAndTypes",
        "CSV",
        "CSVWithNames",
        "JSONEachRow",
        "JSONCompactEachRow",
        "JSONCompactEachRowWithNamesAndTypes",
        "RowBinary",
        "RowBinaryWithNames",
        "RowBinaryWithNamesAndTypes",
        "TSKV",
        "MsgPack",
        "LineAsString",
        "JSON",
        "Values",
    ];
    let statements = [
        "SELECT number AS `a\n\"b`, toString(number) AS s FROM numbers(200000)",
        "SELECT number % 100000 AS n, count() FROM numbers(200000) GROUP BY n WITH TOTALS ORDER BY n",
        "SELECT number FROM numbers(0)",
    ];
    for format in formats {
        for statement in statements {
            let ask = |whole: &str| {
                let sql = format!("{statement} FORMAT {format}");
                let settings = [("wait_end_of_query", whole), ("output_format_write_statistics", "0")];
                let request = http.post(&server.url).query(&settings).body(sql).send();
                async { request.await.unwrap().bytes().await.unwrap() }
            };
            let (streamed, whole) = (ask("0").await, ask("1").await);
            assert!(streamed == whole, "{format}: {statement}: {} and {} bytes", streamed.len(), whole.len());
        }
    }
}

/// 300 MB out and 150 MB in pass through a process that grows by far less.
#[tokio::test]
async fn memory_is_bounded_however_much_flows() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    assert_eq!(shown(http.post(&server.url).body("SELECT 1")).await, "200 1\n");
    let before = server.peak_memory();

    let sql = "SELECT repeat('x', 999) FROM numbers(300000) SETTINGS max_block_size = 1000, max_threads = 1";
    let mut response = http.post(&server.url).body(sql).send().await.unwrap();
    let mut length = 0;
    while let Some(chunk) = response.chunk().await.unwrap() {
        length += chunk.len();
    }
    assert_eq!(length, 300_000_000);
    let grown = (server.peak_memory() - before) >> 20;
    assert!(grown < 100, "grew by {grown} MiB sending");

    let table = "CREATE TABLE t (n UInt64) ENGINE = Null";
    assert_eq!(shown(http.post(&server.url).body(table)).await, "200 ");
    let settings = [
        ("query", "INSERT INTO t FORMAT RowBinary"),
        ("max_insert_block_size", "65536"),
        ("min_insert_block_size_rows", "65536"),
    ];
    let request = http.post(&server.url).query(&settings).body(vec![0; 150 << 20]);
    assert_eq!(shown(request).await, "200 ");
    let grown = (server.peak_memory() - before) >> 20;
    assert!(grown < 120, "grew by {grown} MiB receiving");
}

/// Pieces without a byte are no end: of a format whose rows may be empty, and
/// of an answer that goes to a file.
#[tokio::test]
async fn empty_pieces_end_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let blocks = "SETTINGS max_block_size = 10, max_threads = 1";
    let rows = format!("SELECT if(number < 500, '', 'x') FROM numbers(1000) FORMAT RawBLOB {blocks}");
    assert_eq!(shown(http.post(&server.url).body(rows)).await, format!("200 {}", "x".repeat(500)));
    let file = dir.path().join("rows");
    let path = file.to_str().unwrap();
    let rows = format!("SELECT number FROM numbers(1000) INTO OUTFILE '{path}' FORMAT TSV {blocks}");
    assert_eq!(shown(http.post(&server.url).body(rows)).await, "200 ");
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 1000);
}

/// Reads an answer, waiting before the first and before every other read; its length and whether it is whole.
fn read_slowly(server: &Server, sql: &str, first: Duration, pause: Duration) -> (usize, bool) {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let length = sql.len();
    write!(stream, "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{sql}").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut piece = vec![0; 64 << 10];
    let (mut read, mut end) = (0, Vec::new());
    std::thread::sleep(first);
    loop {
        std::thread::sleep(pause);
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return (read, false),
            Ok(length) => {
                read += length;
                end.extend_from_slice(&piece[length.saturating_sub(7)..length]);
                if end.ends_with(b"\r\n0\r\n\r\n") {
                    return (read, true);
                }
                end.drain(..end.len().saturating_sub(16));
            }
        }
    }
}

/// Who reads slowly gets all of an answer, however long the engine's pieces
/// take; who does not read loses its connection, and holds nothing any more.
#[tokio::test]
async fn slow_clients_are_served_and_silent_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--client-timeout", "2", "--max-concurrent", "1"]);
    // One piece of the engine for three seconds.
    let sql = "SELECT repeat('x', 999) FROM numbers(40000) SETTINGS max_block_size = 65536, max_threads = 1";
    for format in ["TSV", "CustomSeparated"] {
        let sql = format!("{sql} FORMAT {format}");
        let begun = Instant::now();
        let (length, is_whole) = read_slowly(&server, &sql, Duration::ZERO, Duration::from_millis(5));
        assert!(is_whole && length > 40_000_000, "{format}: {length}");
        assert!(begun.elapsed() > Duration::from_millis(2500), "{:?}", begun.elapsed());
        let (length, is_whole) = read_slowly(&server, &sql, Duration::from_secs(5), Duration::ZERO);
        assert!(!is_whole && length < 40_000_000, "{format}: {length}");
    }
    assert_eq!(shown(Client::new().post(&server.url).body("SELECT 1")).await, "200 1\n");
}

/// What the requests under way hold is bounded by their number.
#[tokio::test]
async fn who_waits_too_long_to_be_received_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-concurrent", "1", "--queue-timeout", "1"]);
    let http = Client::new();
    let address = server.url.strip_prefix("http://").unwrap();
    let ask = || http.post(&server.url).body("SELECT 1");
    let slow = || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 9\r\n\r\nSELECT").unwrap();
        stream
    };
    let mut clients: Vec<TcpStream> = (0..3).map(|_| slow()).collect();
    assert_eq!(shown(ask()).await, "200 1\n");
    clients.push(slow());
    let refused = Instant::now() + Duration::from_secs(20);
    while shown(ask()).await != "503 code 202" {
        assert!(Instant::now() < refused);
    }
    drop(clients);
    server.until("SELECT 1", "1").await;
}

/// The exception is in the body, and the body has no end.
#[tokio::test]
async fn a_late_exception_is_told_and_breaks_the_answer_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let mut response = http.post(&server.url).body(FAILS_LATE).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let tag = response.headers()["x-clickhouse-exception-tag"].to_str().unwrap().to_owned();
    let mut body = Vec::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => panic!("a cut answer looks whole"),
            Err(error) => break error,
        }
    };
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    let end = String::from_utf8(body.split_off(body.len() - 1000)).unwrap();
    let (_, block) = end.split_once("\r\n__exception__\r\n").unwrap();
    let block = block.strip_prefix(&format!("{tag}\r\n")).unwrap();
    let block = block.strip_suffix(&format!(" {tag}\r\n__exception__\r\n")).unwrap();
    let (message, length) = block.rsplit_once('\n').unwrap();
    assert!(message.starts_with("Code: 395. DB::Exception: "), "{message}");
    assert_eq!(length, (message.len() + 1).to_string());

    let whole = http.post(&server.url).query(&[("wait_end_of_query", "1")]).body(FAILS_LATE);
    assert_eq!(shown(whole).await, "500 code 395");
    let metrics = http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("hearth_clickhouse_queries_total{outcome=\"Error\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn the_crate_sees_a_late_exception() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for compression in [clickhouse::Compression::None, clickhouse::Compression::Lz4] {
        let client = server.client().with_compression(compression);
        let mut cursor = client.query(FAILS_LATE).fetch::<(u8, String)>().unwrap();
        let error = loop {
            match cursor.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a cut answer looks whole"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("Code: 395. DB::Exception"), "{error}");
    }
}

/// A read whose client is gone ends in the engine, whether its answer waits for
/// the first row, is made whole, or is under way.
#[tokio::test]
async fn a_read_ends_with_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    for (mark, sql) in [("streamed", ENDLESS.to_owned()), ("whole", format!("{ENDLESS} FORMAT JSON"))] {
        let request = http.post(&server.url).query(&[("log_comment", mark)]).body(sql);
        let client = tokio::spawn(request.send());
        server.until(&running(mark), "1").await;
        client.abort();
        server.until(&running(mark), "0").await;
    }
    let request = http.post(&server.url).query(&[("log_comment", "flood")]).body(FLOOD);
    let mut response = request.send().await.unwrap();
    response.chunk().await.unwrap().unwrap();
    server.until(&running("flood"), "1").await;
    drop(response);
    server.until(&running("flood"), "0").await;
    let metrics = http.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("hearth_clickhouse_queries_total{outcome=\"Cancelled\"} 3\n"), "{metrics}");
    assert!(metrics.contains("hearth_clickhouse_queries_in_flight 0\n"), "{metrics}");
}

/// What came whole is inserted, also when nobody is left to hear of it.
#[tokio::test]
async fn an_insert_outlives_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let table =
        "CREATE TABLE t (n UInt8, s UInt8 MATERIALIZED sleepEachRow(0.3)) ENGINE = MergeTree ORDER BY n";
    assert_eq!(shown(http.post(&server.url).body(table)).await, "200 ");
    let settings = [("query", "INSERT INTO t FORMAT TSV"), ("log_comment", "slow")];
    let request = http.post(&server.url).query(&settings).body("1\n2\n3\n");
    let client = tokio::spawn(request.send());
    server.until(&running("slow"), "1").await;
    client.abort();
    server.until("SELECT count() FROM t", "3").await;
}

/// However a body breaks off, not even its first rows are inserted, though the
/// engine would store them as they come.
#[tokio::test]
async fn a_body_that_breaks_off_inserts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let table = "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n";
    assert_eq!(shown(http.post(&server.url).body(table)).await, "200 ");
    let rows: Vec<u8> = (0..500_000u64).flat_map(u64::to_le_bytes).collect();
    let settings = [
        ("query", "INSERT INTO t FORMAT RowBinary"),
        ("max_insert_block_size", "1000"),
        ("min_insert_block_size_rows", "1000"),
    ];

    for encoding in ContentEncoding::ALL {
        let mut body = encoded(Encoding::Content(encoding), &rows);
        body.truncate(body.len() - 9);
        let request = http.post(&server.url).query(&settings).header("content-encoding", encoding.name());
        assert_eq!(shown(request.body(body)).await, "400 code 271", "{encoding:?}");
    }
    let mut body = encoded(Encoding::Blocks, &rows);
    body.truncate(body.len() - 9);
    let request = http.post(&server.url).query(&settings).query(&[("decompress", "1")]);
    assert_eq!(shown(request.body(body)).await, "400 code 271");

    let target =
        "/?query=INSERT+INTO+t+FORMAT+RowBinary&max_insert_block_size=1000&min_insert_block_size_rows=1000";
    let address = server.url.strip_prefix("http://").unwrap();
    let head = format!("POST {target} HTTP/1.1\r\nHost: {address}\r\n");
    let chunk = [format!("{:x}\r\n", rows.len()).as_bytes(), &rows, b"\r\n"].concat();
    let length = format!("Content-Length: {}\r\n\r\n", rows.len() + 8);
    let broken = [
        [head.as_bytes(), length.as_bytes(), &rows].concat(),
        [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunk].concat(),
        [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n", &chunk, b"not a length\r\n"].concat(),
    ];
    for request in broken {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Until the server has done with it.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(shown(http.post(&server.url).body("SELECT count() FROM t")).await, "200 0\n");

    let request = http.post(&server.url).query(&settings).body(rows);
    assert_eq!(shown(request).await, "200 ");
    assert_eq!(shown(http.post(&server.url).body("SELECT count() FROM t")).await, "200 500000\n");
}

/// Query id and log comment are seen from beside while the statement runs, and
/// an id belongs to one statement at a time.
#[tokio::test]
async fn a_running_statement_is_known_by_its_marks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let settings = [("log_comment", "it's mine"), ("query_id", "q'1")];
    let ask = || http.post(&server.url).query(&settings).body(ENDLESS);
    let client = tokio::spawn(ask().send());
    let seen = r"SELECT Settings['log_comment'] FROM system.processes WHERE startsWith(Settings['chdb_client_name'], 'q\'1 ') FORMAT TSVRaw";
    server.until(seen, "it's mine").await;
    assert_eq!(shown(ask()).await, "500 code 216");
    let kill = r"KILL QUERY WHERE Settings['log_comment'] = 'it\'s mine' SYNC FORMAT Null";
    assert_eq!(shown(http.post(&server.url).body(kill)).await, "200 ");
    let response = client.await.unwrap().unwrap();
    assert_eq!(response.headers()["x-clickhouse-query-id"], "q'1");
    assert_eq!(response.headers()["x-clickhouse-exception-code"], "394");
    let again = http.post(&server.url).query(&settings).body("SELECT 1");
    assert_eq!(shown(again).await, "200 1\n");
}

#[tokio::test]
async fn who_waits_too_long_for_a_turn_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-concurrent", "1", "--queue-timeout", "1"]);
    let http = Client::new();
    let mut flood = http.post(&server.url).body(FLOOD).send().await.unwrap();
    flood.chunk().await.unwrap().unwrap();
    assert_eq!(shown(http.post(&server.url).body("SELECT 1")).await, "503 code 202");
    drop(flood);
    server.until("SELECT 1", "1").await;
}
