//! The program itself: arguments, start, stop.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::{engine_program, free_address};

fn collector(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-collector"));
    command.args(arguments).env("NO_COLOR", "1");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn schema_is_printed() {
    let output = collector(&["schema", "--retention-raw", "5h"]).output().unwrap();
    assert!(output.status.success());
    assert!(text(&output).contains("TTL time + toIntervalSecond(18000)"), "{}", text(&output));
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [&[] as &[&str], &["--nosuch"], &["--data-dir", "d", "--http", "0.0.0.0:1"]] {
        let output = collector(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
    }
}

/// Starts with an engine of its own, answers, asks for the token, and ends with
/// 0 at SIGTERM, the engine with it.
#[tokio::test(flavor = "multi_thread")]
async fn starts_answers_and_stops() {
    engine_program();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a-token-of-sufficient-length\n").unwrap();
    let [http, grpc, engine] = [free_address(), free_address(), free_address()].map(|a| a.to_string());
    let data_dir = dir.path().join("data");
    let mut child = collector(&["--http", &http, "--grpc", &grpc, "--clickhouse-http", &engine])
        .arg("--data-dir")
        .arg(&data_dir)
        .arg("--token-file")
        .arg(&token)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();

    let client = reqwest::Client::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        assert!(tokio::time::Instant::now() < deadline, "it does not get ready");
        match client.get(format!("http://{http}/readyz")).send().await {
            Ok(response) if response.status().is_success() => break,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    let apps = client.get(format!("http://{http}/api/v1/apps"));
    assert_eq!(apps.try_clone().unwrap().send().await.unwrap().status().as_u16(), 401);
    let apps = apps.bearer_auth("a-token-of-sufficient-length").send().await.unwrap();
    assert_eq!(apps.status().as_u16(), 200);
    let metrics = client.get(format!("http://{http}/metrics")).bearer_auth("a-token-of-sufficient-length");
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("hearth_collector_rows_total 0"), "{metrics}");

    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    // The engine has given its directory back.
    let lock = std::fs::File::open(data_dir.join("hearth-clickhouse.lock")).unwrap();
    lock.try_lock().unwrap();
}
