//! The formats, read by the programs that they are for.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::process::Command;

use crate::common::{Collector, insert};

/// What `go tool pprof` prints with these arguments; standard error if it fails.
async fn pprof(arguments: &[&str]) -> Result<String, String> {
    // It keeps what it fetched.
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pprof");
    let output = Command::new("go")
        .args(["tool", "pprof"])
        .args(arguments)
        .env("PPROF_TMPDIR", keep)
        .output()
        .await
        .expect("go runs: install it (Debian: apt-get install golang-go), or run scripts/setup.sh test");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The lines of `-top` with single spaces, from the heading of its table on.
fn table(top: &str) -> Vec<String> {
    let lines = top.lines().skip_while(|line| !line.contains("flat%")).skip(1);
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn pprof_reads_a_flame_graph_by_its_address() {
    insert(
        "1708740010 | pp | 7 | pp | pp   | main  | complete  | 6 | web | main;rec;rec;[l] memcpy
         1708740010 | pp | 7 | pp | pp   | main  | complete  | 2 | web | main;rec;rec
         1708740010 | pp | 8 | pp | io 1 | other | complete  | 1 | db  | [/usr/bin/x];std::vec<int>::push(int)
         1708740010 | pp | 8 | pp | io 1 | other | truncated | 1 | db  | [truncated];\"</script>;[/tmp/perf-PID.map]",
    )
    .await;
    let collector = Collector::start().await;
    let url = |more: &str| {
        let range = "from=1708740010&until=1708740019&format=pprof";
        collector.url(&format!("/api/v1/flamegraph?app_service=pp&{range}{more}"))
    };

    let top = pprof(&["-top", "-nodefraction=0", &url("")]).await.unwrap();
    assert!(top.contains("File: pp\n") && top.contains("Type: cpu\n"), "{top}");
    assert!(top.contains("Duration: 10s, Total samples = 101.01ms"), "{top}");
    // A function that calls itself has each sample once.
    assert_eq!(
        table(&top),
        [
            "60.61ms 60.00% 60.00% 60.61ms 60.00% [l] memcpy",
            "20.20ms 20.00% 80.00% 80.81ms 80.00% rec",
            "10.10ms 10.00% 90.00% 10.10ms 10.00% [/tmp/perf-8.map]",
            "10.10ms 10.00% 100% 10.10ms 10.00% std::vec<int>::push(int)",
            "0 0% 100% 10.10ms 10.00% \"</script>",
            "0 0% 100% 10.10ms 10.00% [/usr/bin/x]",
            "0 0% 100% 10.10ms 10.00% [truncated]",
            "0 0% 100% 80.81ms 80.00% main",
        ]
    );

    let samples = pprof(&["-top", "-sample_index=samples", &url("&filter=pod_ns='db'")]).await.unwrap();
    assert!(samples.contains("Showing nodes accounting for 2, 100% of 2 total"), "{samples}");

    let tags = pprof(&["-tags", &url("")]).await.unwrap();
    let lines = tags.lines().map(|line| line.split(": Total").next().unwrap().trim());
    assert_eq!(
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>(),
        [
            "namespace",
            "80.81ms (80.00%): web",
            "20.20ms (20.00%): db",
            "pid",
            "80.81ms (80.00%): 7",
            "20.20ms (20.00%): 8",
            "thread",
            "80.81ms (80.00%): pp",
            "20.20ms (20.00%): io 1",
        ]
    );
    let focused = pprof(&["-top", "-tagfocus=thread=io", &url("")]).await.unwrap();
    assert!(focused.contains("Showing nodes accounting for 20.20ms"), "{focused}");
    let by_thread = pprof(&["-traces", "-tagroot=thread", &url("")]).await.unwrap();
    assert!(by_thread.contains("io 1"), "{by_thread}");

    let notes = pprof(&["-comments", &url("")]).await.unwrap();
    assert_eq!(
        notes.trim(),
        "10.0 % of the time is in incomplete stacks (10.0 % deeper than what is walked)"
    );
}

#[tokio::test]
async fn pprof_reads_total_by_process_and_thread() {
    insert(
        "1708743610 | pt | 7 | pt | pt | main  | complete | 3 | a | main
         1708743610 | pt | 7 | pt | io | other | complete | 5 | a | main
         1708743610 |    | 9 | sh | sh | main  | counted  | 2 | b |",
    )
    .await;
    let collector = Collector::start().await;
    let path = "/api/v1/flamegraph?app_service=Total&from=1708743610&until=1708743619&format=pprof";
    let top = pprof(&["-top", "-nodefraction=0", &collector.url(path)]).await.unwrap();
    assert_eq!(
        table(&top),
        [
            "50.51ms 50.00% 50.00% 50.51ms 50.00% [t] io",
            "30.30ms 30.00% 80.00% 80.81ms 80.00% [p] pt",
            "20.20ms 20.00% 100% 20.20ms 20.00% [p] sh",
        ]
    );
}

#[tokio::test]
async fn pprof_shows_why_there_is_nothing() {
    insert("1708747210 | pn | 7 | pn | pn | main | complete | 3 | a | main").await;
    let collector = Collector::start().await;
    let ask = async |query: &str| {
        let url = collector.url(&format!("/api/v1/flamegraph?format=pprof&{query}"));
        pprof(&["-top", &url]).await.unwrap_err()
    };
    let error = ask("app_service=pn&from=1708747220&until=1708747229").await;
    assert!(error.contains("404 Not Found - app_service \"pn\" has no samples between"), "{error}");
    let error = ask("app_service=pn&from=x").await;
    assert!(error.contains("400 Bad Request - from is \"x\", not an integer: give Unix seconds"), "{error}");
}

#[tokio::test]
async fn speedscope_accepts_a_flame_graph() {
    insert(
        "1708750810 | sp | 7 | sp | sp | main  | complete | 6 | a | main;rec;rec;\"</script>
         1708750810 | sp | 7 | sp | io | other | complete | 2 | a | main",
    )
    .await;
    let collector = Collector::start().await;
    let range = "from=1708750810&until=1708750819&format=speedscope";
    let answer = collector.get(&format!("/api/v1/flamegraph?app_service=sp&{range}")).await;
    let names: Vec<_> =
        answer.json()["profiles"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert_eq!(names, [json!("[t] sp"), json!("[t] io")]);
    check_speedscope("sp", &answer.text).await;

    let total = collector.get(&format!("/api/v1/flamegraph?app_service=Total&{range}")).await;
    check_speedscope("total", &total.text).await;
    let empty = format!("/api/v1/flamegraph?app_service=nosuch&{range}");
    check_speedscope("empty", &collector.get(&empty).await.text).await;
}

/// Holds a file against the schema that speedscope publishes with its package.
async fn check_speedscope(name: &str, file: &str) {
    let schema = speedscope().join("dist/release/file-format-schema.json");
    assert!(schema.exists(), "{} is missing: run scripts/setup-speedscope.sh", schema.display());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.speedscope.json"));
    std::fs::write(&path, file).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/query/speedscope.mjs");
    let output = Command::new("node")
        .args([&script, &schema, &path])
        .output()
        .await
        .expect("node runs: install it (Debian: apt-get install npm), or run scripts/setup.sh test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The folder of the package that `scripts/setup-speedscope.sh` installs.
fn speedscope() -> PathBuf {
    let version = include_str!("speedscope.version").lines().next().unwrap();
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = set("HEARTH_CACHE").or_else(|| Some(set("XDG_CACHE_HOME")?.join("hearth")));
    let cache = cache.or_else(|| Some(set("HOME")?.join(".cache/hearth")));
    set("HEARTH_SPEEDSCOPE").unwrap_or_else(|| cache.unwrap().join("speedscope").join(version))
}
