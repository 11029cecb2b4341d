//! Programs of others, unchanged: curl and clickhouse-go.

use std::path::Path;
use std::process::Command;

use crate::common::Server;

/// Runs curl; its exit code and what it wrote.
fn curl(arguments: &[&str]) -> (i32, String) {
    let output = Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn curl_speaks_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "geheim").unwrap();
    let server = Server::start(&dir.path().join("data"), &["--password-file", password.to_str().unwrap()]);
    let url = server.url.as_str();
    let key = "X-ClickHouse-Key: geheim";
    let check = |arguments: &[&str], expected: &str| {
        let (code, shown) = curl(&[&["-H", key, url], arguments].concat());
        assert_eq!((code, shown.as_str()), (0, expected), "{arguments:?}");
    };
    check(&["-G", "--data-urlencode", "query=SELECT 'a b'"], "a b\n");
    check(&["-d", "SELECT 1 FORMAT JSONEachRow"], "{\"1\":1}\n");
    check(
        &["-F", "query=SELECT {a:String}, {b:UInt8}", "--form-string", "param_a=x;y", "-F", "param_b=7"],
        "x;y\t7\n",
    );
    check(&["-d", "CREATE TABLE t (a UInt8, b String) ENGINE = Memory"], "");
    let rows = dir.path().join("rows.csv");
    std::fs::write(&rows, "1,a\n2,\"b\nc\"\n").unwrap();
    let insert = format!("{url}/?query=INSERT+INTO+t+FORMAT+CSV");
    let file = format!("@{}", rows.display());
    let sent = curl(&["-H", key, &insert, "-H", "Transfer-Encoding: chunked", "--data-binary", &file]);
    assert_eq!(sent, (0, String::new()));
    check(&["--compressed", "-d", "SELECT a, b FROM t ORDER BY a FORMAT CSV"], "1,\"a\"\n2,\"b\nc\"\n");
    check(&["-H", "Accept-Encoding: gzip", "--compressed", "-d", "SELECT 1"], "1\n");

    assert_eq!(curl(&["-u", "default:geheim", url, "-d", "SELECT 1"]), (0, "1\n".into()));
    let refused = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %header{x-clickhouse-exception-code}",
        url,
        "-d",
        "SELECT 1",
    ]);
    assert_eq!(refused, (0, "403 516".into()));
    let wrong = curl(&[
        "-H",
        key,
        "-w",
        "%{http_code} %header{x-clickhouse-exception-code}",
        "-o",
        "/dev/null",
        url,
        "-d",
        "SELEC 1",
    ]);
    assert_eq!(wrong, (0, "400 62".into()));
}

/// No option of curl makes a cut answer look whole.
#[test]
fn curl_fails_when_an_answer_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let sql = "SELECT throwIf(number = 3999999), cityHash64(number) FROM numbers(4000000) SETTINGS max_block_size = 10000";
    for arguments in [&["-d", sql][..], &["--compressed", "-d", sql]] {
        let (code, shown) = curl(&[&[server.url.as_str()], arguments].concat());
        assert_ne!(code, 0, "{arguments:?}");
        assert!(
            shown.contains("__exception__") && shown.contains("Code: 395. DB::Exception"),
            "{arguments:?}"
        );
    }
}

/// `tests/go`, with every compression that clickhouse-go knows over HTTP and we speak.
#[test]
fn clickhouse_go_speaks_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "geheim").unwrap();
    let server = Server::start(&dir.path().join("data"), &["--password-file", password.to_str().unwrap()]);
    let output = Command::new("go")
        .args(["test", "-count=1", "./..."])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go"))
        .env("HEARTH_TEST_CLICKHOUSE", &server.url)
        .env("HEARTH_TEST_PASSWORD", "geheim")
        .output()
        .expect("go (1.26 or newer) is needed");
    let shown = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&shown));
}
