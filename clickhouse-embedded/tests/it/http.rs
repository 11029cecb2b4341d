//! Plain HTTP, as curl would speak it, and the life of the process.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Server, decoded, encoded};
use crate::stream::{ENDLESS, FLOOD, running};
use hearth_clickhouse::wire::{ContentEncoding, Encoding};
use reqwest::{Client, RequestBuilder, StatusCode};

/// Sends it; status and body, and with an error the exception code before it.
pub(crate) async fn shown(request: RequestBuilder) -> String {
    let response = request.send().await.unwrap();
    let status = response.status();
    let code = response.headers().get("x-clickhouse-exception-code").cloned();
    let body = response.text().await.unwrap();
    match code {
        None => format!("{} {body}", status.as_u16()),
        // The answer to HEAD has no text.
        Some(code) if body.is_empty() => format!("{} code {}", status.as_u16(), code.to_str().unwrap()),
        // The texts are the engine's and change with it.
        Some(code) => {
            let code = code.to_str().unwrap();
            assert!(body.starts_with(&format!("Code: {code}. DB::Exception: ")), "{body}");
            assert_eq!(body.matches("(version ").count(), 1, "{body}");
            format!("{} code {code}", status.as_u16())
        }
    }
}

#[tokio::test]
async fn requests_and_their_answers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-body", "1"]);
    let url = &server.url;
    let http = Client::new();
    let get = |query: &[(&str, &str)]| http.get(format!("{url}/")).query(query);
    let post =
        |query: &[(&str, &str)], body: &str| http.post(format!("{url}/")).query(query).body(body.to_owned());

    let table = "CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a";
    let cases: Vec<(RequestBuilder, &str)> = vec![
        (http.get(format!("{url}/ping")), "200 Ok.\n"),
        (http.get(format!("{url}/healthz")), "200 ok\n"),
        (http.get(format!("{url}/nosuch")), "404 "),
        (get(&[]), "200 Ok.\n"),
        (get(&[("query", "SELECT 1")]), "200 1\n"),
        (get(&[("query", "SELECT 1"), ("default_format", "JSONEachRow")]), "200 {\"1\":1}\n"),
        (get(&[("query", "SELECT 1 AS x FORMAT CSVWithNames")]), "200 \"x\"\n1\n"),
        (get(&[("query", "SELECT currentDatabase()"), ("database", "system")]), "200 system\n"),
        (get(&[("query", "SELECT {x:String}"), ("param_x", "a\\tb")]), "200 a\\tb\n"),
        (get(&[("query", "SELECT getSetting('max_threads')"), ("max_threads", "3")]), "200 3\n"),
        // A link changes nothing, whatever it says.
        (get(&[("query", table)]), "500 code 164"),
        (get(&[("query", table), ("readonly", "0")]), "500 code 164"),
        (get(&[("query", "SELECT 1"), ("readonly", "1")]), "200 1\n"),
        (get(&[("query", "SYSTEM STOP MERGES")]), "500 code 164"),
        (get(&[("query", "SELECT 1 INTO OUTFILE '/dev/full'")]), "500 code 164"),
        (get(&[("query", "INSERT INTO FUNCTION file('x', CSV, 'a Int8') SELECT 1")]), "500 code 164"),
        (http.head(url).query(&[("query", table)]), "500 code 164"),
        (post(&[], table), "200 "),
        (post(&[("query", "INSERT INTO t FORMAT CSV")], "1,\"a\nb\"\n2,c\n"), "200 "),
        (post(&[("query", "INSERT INTO t VALUES")], "(3, 'x;y'), (4, '')"), "200 "),
        (post(&[], "INSERT INTO t FORMAT JSONEachRow\n{\"a\":5,\"s\":\"z\"}"), "200 "),
        (post(&[("query", "SELECT s FROM t")], "WHERE a = 3"), "200 x;y\n"),
        (get(&[("query", "SELECT sum(a), count() FROM t")]), "200 15\t5\n"),
        (post(&[("query", "INSERT INTO t FORMAT CSV"), ("format_csv_delimiter", "|")], "6|x"), "200 "),
        (post(&[], "INSERT INTO t VALUES (7, 'a\n\n;b'),\n\n(8, '')"), "200 "),
        (post(&[("query", "INSERT INTO t FORMAT CSV")], ""), "200 "),
        (post(&[("param_s", "nine")], "INSERT INTO t VALUES (9, {s:String})"), "200 "),
        (post(&[], "INSERT INTO t SELECT 10, 'ten'"), "200 "),
        (get(&[("query", "SELECT sum(a), count() FROM t")]), "200 55\t10\n"),
        (post(&[("query", "INSERT INTO nosuch FORMAT CSV")], "1"), "404 code 60"),
        // Errors and their statuses.
        (post(&[], "SELEC 1"), "400 code 62"),
        (post(&[], ""), "400 code 62"),
        (post(&[], "SELECT * FROM nosuch"), "404 code 60"),
        (post(&[("database", "no`such")], "SELECT 1"), "404 code 81"),
        (post(&[("nosuch", "1")], "SELECT 1"), "404 code 115"),
        (post(&[("max_threads", "many")], "SELECT 1"), "400 code 27"),
        (post(&[("session_id", "s")], "SELECT 1"), "501 code 48"),
        (post(&[("chdb_client_name", "x")], "SELECT 1"), "400 code 36"),
        (post(&[], "SELECT {x:UInt8}"), "400 code 456"),
        (post(&[], "SELECT throwIf(1)"), "500 code 395"),
        (post(&[("query", "INSERT INTO t FORMAT CSV")], "not a number,1\n"), "400 code 27"),
        (post(&[("query", "INSERT INTO t FORMAT RowBinary")], "123"), "400 code 33"),
        // One statement, also where the engine would run two, or drop what follows.
        (post(&[], "SELECT 5 FORMAT JSON; SELECT 6"), "400 code 62"),
        (post(&[], "SELECT 5; SELECT 6"), "400 code 62"),
        (post(&[], "SHOW TABLES; SELECT 6"), "400 code 62"),
        (post(&[], "INSERT INTO t SELECT 11, ''; SELECT 6"), "400 code 62"),
        (post(&[], "INSERT INTO t VALUES (11, ';'); (12, '')"), "400 code 62"),
        (post(&[("param_s", "x")], "INSERT INTO t VALUES (11, {s:String}); SELECT 6"), "400 code 62"),
        (get(&[("query", "SELECT max(a) FROM t;")]), "200 10\n"),
        (post(&[("max_result_bytes", "100")], "SELECT number FROM numbers(1000)"), "500 code 396"),
        (post(&[], &format!("SELECT '{}'", "x".repeat(1 << 20))), "413 code 307"),
    ];
    for (number, (request, expected)) in cases.into_iter().enumerate() {
        let request_text = format!("{request:?}");
        assert_eq!(shown(request).await, expected, "case {number}: {request_text}");
    }
}

/// What the engine takes for blank or comment hides nothing from us: not a file
/// that is written, and not where an INSERT's data begins.
#[tokio::test]
async fn odd_blanks_and_comments_hide_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let http = Client::new();
    let file = dir.path().join("rows.csv");
    let path = file.to_str().unwrap();
    let links = [
        format!("SELECT 1 INTO OUTFILE\u{a0}'{path}'"),
        format!("SELECT 1 // '\nINTO OUTFILE '{path}'"),
        format!("SELECT 1 /* /* */ ' */ INTO OUTFILE '{path}' --'"),
        format!("SELECT ‘a' ’ INTO OUTFILE '{path}'"),
        format!("SELECT 1 FORMAT Protobuf SETTINGS `output\\x5fformat_schema` = '{path}'"),
        "SELECT 1 PARALLEL\u{a0}WITH SYSTEM FLUSH LOGS".to_owned(),
    ];
    for link in &links {
        assert_eq!(shown(http.get(&server.url).query(&[("query", link)])).await, "500 code 164", "{link}");
        assert!(!file.exists(), "{link}");
    }
    std::fs::write(&file, "1\n").unwrap();
    let rows = format!("SELECT * FROM file('{path}', CSV, 'a Int8')");
    let query = [("query", rows.as_str()), ("rename_files_after_processing", "gone")];
    assert_eq!(shown(http.get(&server.url).query(&query)).await, "500 code 164");
    assert_eq!(shown(http.get(&server.url).query(&query[..1])).await, "200 1\n");

    let post = |sql: &str| shown(http.post(&server.url).body(sql.to_owned()));
    assert_eq!(post("CREATE TABLE t (s String) ENGINE = Memory").await, "200 ");
    for head in ["\u{feff}INSERT", "INSERT\u{a0}", "// it's\nINSERT", "/* /* */ ' */INSERT"] {
        assert_eq!(post(&format!("{head} INTO t FORMAT TSV\na\n\nb\n")).await, "200 ", "{head}");
    }
    assert_eq!(post("SELECT count() FROM t").await, "200 12\n");
}

/// Only data is read on from the file that holds what is beyond.
#[tokio::test]
async fn a_statement_is_at_most_a_mebibyte() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let x = "x".repeat(1 << 20);
    let post = |sql: String| {
        let settings = [("max_query_size", "10000000"), ("param_n", "1")];
        shown(http.post(&server.url).query(&settings).body(sql))
    };
    assert_eq!(post("CREATE TABLE t (s String) ENGINE = Memory".into()).await, "200 ");
    assert_eq!(post(format!("SELECT length('{x}')")).await, "413 code 307");
    assert_eq!(post(format!("INSERT INTO t VALUES ('{x}')")).await, "413 code 307");
    assert_eq!(post(format!("INSERT INTO t SELECT '{x}'")).await, "413 code 307");
    assert_eq!(post(format!("INSERT INTO t FORMAT TSV\n{x}")).await, "200 ");
    assert_eq!(post("SELECT length(s) FROM t".into()).await, "200 1048576\n");
    let link = [("query", "SELECT 1 --")];
    assert_eq!(shown(http.get(&server.url).query(&link).body(x)).await, "413 code 307");
}

/// An empty line within the data does not end it: given the INSERT and its data
/// as one text, the engine reads no further than there, and reports success.
#[tokio::test]
async fn data_with_empty_lines_is_inserted_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let post = |query: &str, body: Vec<u8>| {
        http.post(format!("{}/", server.url)).query(&[("query", query)]).body(body)
    };
    let table = "CREATE TABLE t (n UInt16) ENGINE = MergeTree ORDER BY n";
    assert_eq!(shown(post(table, Vec::new())).await, "200 ");
    // Every pair of bytes, 0x0A 0x0A among them, aligned and not.
    let numbers = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    assert_eq!(shown(post("INSERT INTO t FORMAT RowBinary", numbers)).await, "200 ");
    let count = "SELECT count(), uniqExact(n) FROM t";
    assert_eq!(shown(post(count, Vec::new())).await, "200 65536\t65536\n");
}

#[tokio::test]
async fn compressed_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--max-body", "1"]);
    let url = format!("{}/", server.url);
    let http = Client::new();
    let decompress = |body: Vec<u8>| http.post(&url).query(&[("decompress", "1")]).body(body);

    assert_eq!(shown(decompress(encoded(Encoding::Blocks, b"SELECT 'x'"))).await, "200 x\n");
    assert_eq!(shown(decompress(b"SELECT 'x'".to_vec())).await, "400 code 271");
    let mut corrupt = encoded(Encoding::Blocks, b"SELECT 'x'");
    *corrupt.last_mut().unwrap() ^= 1;
    assert_eq!(shown(decompress(corrupt)).await, "400 code 40");
    let bomb = encoded(Encoding::Blocks, &vec![b' '; 2 << 20]);
    assert_eq!(shown(decompress(bomb)).await, "413 code 307");
    for encoding in ContentEncoding::ALL {
        let request = |body| http.post(&url).header("content-encoding", encoding.name()).body(body);
        let body = encoded(Encoding::Content(encoding), b"SELECT 'x'");
        assert_eq!(shown(request(body)).await, "200 x\n");
        let bomb = encoded(Encoding::Content(encoding), &vec![b' '; 2 << 20]);
        assert_eq!(shown(request(bomb)).await, "413 code 307", "{encoding:?}");
    }
    let unknown = http.post(&url).header("content-encoding", "br").body("SELECT 1");
    assert_eq!(shown(unknown).await, "501 code 48");

    // Less than what is held before the status is sent, and more.
    for rows in [1000, 1_000_000] {
        let numbers = format!("SELECT number FROM numbers({rows})");
        let body = |request: RequestBuilder| {
            let request = request.body(numbers.clone());
            async { request.send().await.unwrap().bytes().await.unwrap() }
        };
        let plain = body(http.post(&url)).await;
        let blocks = body(http.post(&url).query(&[("compress", "1")])).await;
        assert!(decoded(Encoding::Blocks, &blocks) == plain);
        let zstd = [("compress", "1"), ("network_compression_method", "zstd")];
        let blocks = body(http.post(&url).query(&zstd)).await;
        assert_eq!(blocks[16], 0x90);
        assert!(decoded(Encoding::ZstdBlocks, &blocks) == plain);
        for encoding in ContentEncoding::ALL {
            let request = http.post(&url).header("accept-encoding", encoding.name()).body(numbers.clone());
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["content-encoding"], encoding.name());
            let body = response.bytes().await.unwrap();
            assert!(decoded(Encoding::Content(encoding), &body) == plain, "{encoding:?}");
        }
    }
}

#[tokio::test]
async fn headers_and_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let request = http.post(&server.url).query(&[("query_id", "q1")]).body("SELECT 1");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-clickhouse-query-id"], "q1");
    assert_eq!(response.headers()["x-clickhouse-format"], "TabSeparated");
    assert!(response.headers().contains_key("x-clickhouse-timezone"));
    assert!(response.headers().contains_key("x-clickhouse-server-display-name"));
    assert_eq!(response.headers()["x-clickhouse-exception-tag"].len(), 16);
    let summary = response.headers()["x-clickhouse-summary"].to_str().unwrap();
    assert!(summary.starts_with(r#"{"read_rows":"1","#), "{summary}");
    let metrics = http.get(format!("{}/metrics", server.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("hearth_clickhouse_queries_total{outcome=\"Ok\"} 1\n"), "{metrics}");
}

/// A page on the web can send to loopback addresses what its reader could.
#[tokio::test]
async fn pages_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let drop = || http.post(&server.url).body("DROP DATABASE default");
    assert_eq!(shown(drop().header("origin", "http://evil.example")).await, "403 code 497");
    assert_eq!(shown(drop().header("sec-fetch-site", "cross-site")).await, "403 code 497");
    assert_eq!(shown(drop().header("host", "evil.example:8123")).await, "403 code 497");
    let typed = http.get(&server.url).query(&[("query", "EXISTS DATABASE default")]);
    assert_eq!(shown(typed.header("sec-fetch-site", "none")).await, "200 1\n");
}

#[tokio::test]
async fn passwords() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "geheim\n").unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--password-file", file.to_str().unwrap()]);
    let http = Client::new();
    let ask = |password: &str| http.post(&server.url).header("x-clickhouse-key", password).body("SELECT 1");
    assert_eq!(shown(ask("geheim")).await, "200 1\n");
    assert_eq!(shown(ask("geheim1")).await, "403 code 516");
    assert_eq!(shown(ask("")).await, "403 code 516");
    let in_url = http.post(&server.url).query(&[("user", "default"), ("password", "geheim")]);
    assert_eq!(shown(in_url.body("SELECT 1")).await, "200 1\n");
    let basic = |password| http.post(&server.url).basic_auth("default", Some(password)).body("SELECT 1");
    assert_eq!(shown(basic("geheim")).await, "200 1\n");
    assert_eq!(shown(basic("geheim:")).await, "403 code 516");
    let other = http.post(&server.url).query(&[("user", "x"), ("password", "geheim")]);
    assert_eq!(shown(other.body("SELECT 1")).await, "403 code 516");
}

/// A running query is finished and answered, then the process ends with 0.
#[tokio::test]
async fn sigterm_lets_queries_finish() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let slow = tokio::spawn(http.post(&server.url).body("SELECT sleep(1)").send());
    let seen =
        "SELECT count() FROM system.processes WHERE query LIKE '%sleep(1)%' AND query NOT LIKE '%processes%'";
    while shown(http.post(&server.url).body(seen)).await != "200 1\n" {}
    let status = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
    assert_eq!(slow.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(status.code(), Some(0));
}

/// One that would never end is ended, and its client told.
#[tokio::test]
async fn sigterm_ends_endless_reads() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let http = Client::new();
    let endless = http.post(&server.url).query(&[("log_comment", "endless")]).body(ENDLESS);
    let endless = tokio::spawn(shown(endless));
    server.until(&running("endless"), "1").await;
    // Its client takes nothing more.
    let mut flood = http.post(&server.url).body(FLOOD).send().await.unwrap();
    flood.chunk().await.unwrap().unwrap();
    // Another one goes on taking.
    let taken = http.post(&server.url).body(FLOOD).send().await.unwrap();
    let taken = tokio::spawn(last_bytes(taken));
    let asked = Instant::now();
    let status = tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    assert_eq!(endless.await.unwrap(), "500 code 394");
    let taken = taken.await.unwrap();
    assert!(taken.contains("\r\n__exception__\r\n"), "{taken}");
}

/// Takes a broken answer to its end.
async fn last_bytes(mut response: reqwest::Response) -> String {
    let mut last = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        last.extend_from_slice(&chunk);
        last.drain(..last.len().saturating_sub(1000));
    }
    String::from_utf8(last).unwrap()
}

#[test]
fn a_data_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path(), &[]);
    let second =
        crate::common::command(dir.path()).arg("--libchdb").arg(crate::common::libchdb()).output().unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr.contains("is in use by process"), "{stderr}");
}

#[test]
fn ends_with_its_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = crate::common::command(dir.path())
        .arg("--libchdb")
        .arg(crate::common::libchdb())
        .arg("--stop-with-stdin")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    assert_eq!(crate::common::wait(&mut child, Duration::from_secs(30)).code(), Some(0));
}

/// What is wrong at the start, and what is said about it.
#[test]
fn refusals_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], code: i32, message: &str| {
        let mut command = crate::common::command(dir.path());
        command.args(arguments).env_remove("HEARTH_CACHE").env("HOME", dir.path());
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    };
    check(&[], 1, "run scripts/setup-chdb.sh");
    check(&["--libchdb", "/nonexistent.so"], 1, "looked at /nonexistent.so");
    check(&["--libchdb", "/etc/passwd"], 1, "cannot load /etc/passwd");
    check(&["--nosuch"], 2, "unexpected argument");
    check(&["--max-body", "0"], 2, "0 is not in 1..=4096");
}
