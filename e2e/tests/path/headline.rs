//! `make run` as its users run it, beside Redis under load and programs in three languages: the
//! answers are what the kernel accounts for.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hearth_e2e::daemon::{Daemon, binary, bound_to_us, wait_for};
use hearth_e2e::fixture::TURNS;
use hearth_e2e::{Collector, Program, Running, machine, proc_fs, svg, unique_name};

/// How long the whole run is.
const RUN: Duration = Duration::from_secs(40);
/// The part of it that is measured: what is left is for the last windows to arrive.
const MEASURED: Duration = Duration::from_secs(20);

/// `work_in_rust` in its turn, as [`Program::in_turns`].
const RUST: &str = "
    use std::time::{Duration, SystemTime, UNIX_EPOCH};
    #[unsafe(no_mangle)]
    #[inline(never)]
    fn work_in_rust() {
        for number in 0..100_000_u32 { std::hint::black_box(number); }
    }
    fn main() {
        let argument = |index| std::env::args().nth(index).unwrap().parse::<u64>().unwrap();
        let (from, until) = (argument(1), argument(2));
        loop {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 % TURNS;
            if from <= at && at < until { work_in_rust() }
            else { std::thread::sleep(Duration::from_millis((from + TURNS - at) % TURNS)) }
        }
    }";

/// `main.work_in_go` in its turn.
const GO: &str = r#"
package main

import ("os"; "strconv"; "time")

var sink int

//go:noinline
func work_in_go() {
	for number := 0; number < 100000; number++ { sink += number }
}

func main() {
	from, _ := strconv.ParseInt(os.Args[1], 10, 64)
	until, _ := strconv.ParseInt(os.Args[2], 10, 64)
	for {
		at := time.Now().UnixMilli() % TURNS
		if from <= at && at < until {
			work_in_go()
		} else {
			time.Sleep(time.Duration((from - at + TURNS) % TURNS) * time.Millisecond)
		}
	}
}"#;

/// scripts/run.sh; however the test ends, it is asked to end and ends what it started.
struct Run {
    script: Daemon,
    collector: Collector,
}

impl Run {
    fn start(folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/run.sh");
        let binaries = binary("hearth-node-agent");
        let profile = binaries.parent().unwrap();
        for name in ["hearth-collector", "hearth-clickhouse"] {
            binary(name);
        }
        let collector = Collector::at_free_ports();
        // Asked, not killed, when we end: what it started would go on.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(script);
        command.env("RUN_SECONDS", RUN.as_secs().to_string());
        command.env("HEARTH_RUN_DIR", folder.join("run")).env("HEARTH_FLAME_SVG", folder.join("flame.svg"));
        command.env("HEARTH_HTTP", collector.http.to_string());
        command.env("HEARTH_GRPC", collector.grpc.to_string());
        command.env("HEARTH_CLICKHOUSE", collector.clickhouse.to_string());
        command.env("HEARTH_WINDOW", "1s").env("HEARTH_AGENT_METRICS", "127.0.0.1:0");
        command.env("HEARTH_AGENT_STATE_DIR", folder.join("state"));
        // What the tests were built as is there already.
        let name = profile.file_name().unwrap();
        command.env("HEARTH_PROFILE", if name == "debug" { "dev".as_ref() } else { name });
        command.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        for variable in ["POLICY", "HEARTH_DATA_DIR"] {
            command.env_remove(variable);
        }
        Self { script: Daemon::start("run.sh", command, folder), collector }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Without a word where it ended by itself.
        self.script.terminate();
    }
}

/// Many commands in one request: one process that runs for longer than the other. Two that hand the
/// CPU to and fro would be the worst that sampling at 99 Hz can meet: each sample is then a throw
/// of a coin, and of 2000 of these the share is only known to 2 points.
const REDIS_SCRIPT: &str = "for i = 1, 500 do redis.call('SET', 'key', i) end";

/// Redis on CPU 0 under redis-benchmark, until dropped.
fn redis(folder: &Path) -> [Daemon; 2] {
    let port = Collector::at_free_ports().http.port().to_string();
    let start = |program: &str, arguments: &[&str]| {
        let mut command = bound_to_us("taskset".as_ref());
        command.args(["-c", "0", program]).args(arguments).current_dir(folder);
        Daemon::start(program, command, folder)
    };
    let server = start("redis-server", &["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
    wait_for("redis-server", || TcpStream::connect(format!("127.0.0.1:{port}")).ok());
    [server, start("redis-benchmark", &["-p", &port, "-l", "-q", "eval", REDIS_SCRIPT, "0"])]
}

/// CPU seconds until a full second: of the machine, and of each process.
fn accounts(pids: &[u32]) -> (i64, f64, Vec<f64>) {
    let (second, busy) = proc_fs::busy_at_a_full_second();
    (second, busy, pids.iter().map(|&pid| proc_fs::cpu_seconds(pid)).collect())
}

#[test]
fn a_run_shows_what_the_kernel_accounts_for() {
    let _machine = machine::alone();
    let folder = tempfile::tempdir().unwrap();
    let names = ["c", "rust", "go"].map(unique_name);
    let [c, rust, go] = &names;
    let turns = |source: &str| source.replace("TURNS", &TURNS.to_string());
    let programs = [
        (Program::in_turns(c), "0", "160", "work_in_c"),
        (Program::compile_rust(rust, &turns(RUST)), "160", "260", "work_in_rust"),
        (Program::compile_go(go, &turns(GO)), "260", "320", "main.work_in_go"),
    ];
    let mut run = Run::start(folder.path());
    let redis = redis(folder.path());
    let running: Vec<Running> = programs
        .iter()
        .map(|(program, from, until, _)| program.start_by(&["taskset", "-c", "1"], &[from, until]))
        .collect();
    let pids: Vec<u32> = redis.iter().map(Daemon::pid).chain(running.iter().map(Running::pid)).collect();
    run.script.wait_for_log("sampling for 40 seconds");
    run.collector.read_password(&folder.path().join("run/data"));

    let (from, busy_before, before) = accounts(&pids);
    // Time itself is what is measured here.
    std::thread::sleep(MEASURED);
    let (until, busy_after, after) = accounts(&pids);
    let collector = &run.collector;
    let stored =
        format!("SELECT count() FROM profile.in_process_local WHERE toUnixTimestamp(time) >= {until}");
    wait_for("the window behind the last that is measured", || (collector.number(&stored) > 0).then_some(()));

    // Windows with from <= start <= until: the last whole one began a second before the end.
    let ask = |app: &str| collector.flame_between(app, "", from, until - 1).unwrap();
    let (total, busy) = (ask("Total").root().total as f64 / 1e6, busy_after - busy_before);
    println!("Total: {total:.2} s found, {busy:.2} s busy");
    assert!((total / busy - 1.0).abs() < 0.03, "{total:.2} s found, {busy:.2} s busy");
    let apps = ["redis-server", "redis-benchmark", c, rust, go];
    let shares: Vec<(f64, f64)> = apps
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(app, (before, after))| {
            (ask(app).root().total as f64 / 1e4 / total, (after - before) * 100.0 / busy)
        })
        .collect();
    println!("{apps:?}: % found and % by the kernel's account: {shares:.2?}");
    for (app, (found, truth)) in apps.iter().zip(shares) {
        assert!(truth > 1.0, "{app} did not run");
        assert!(
            (found - truth).abs() < 2.0,
            "{app}: {found:.2} % found, {truth:.2} % by the kernel's account"
        );
    }
    for (program, _, _, function) in &programs {
        let flame = ask(program.name());
        let (work, all) = (flame.total_of(function), flame.root().total);
        assert!(work as f64 > 0.9 * all as f64, "{function}: {work} of {all} µs in {:?}", flame.names());
    }

    let status = run.script.wait();
    assert!(status.success(), "run.sh ended with {status}");
    the_end_is_worth_reading(&run.script, c);
    let drawing = std::fs::read_to_string(folder.path().join("flame.svg")).unwrap();
    let titles = svg::titles(&drawing);
    let log = run.script.log();
    let shown = log.lines().find_map(|line| line.split_once("flame.svg shows ")).unwrap().1;
    let output = run.script.output();
    let hottest = output.lines().next().unwrap();
    assert!(hottest.ends_with(&format!("%  {shown}")), "{shown} is not the app of {hottest:?}");
    assert!(titles.iter().any(|title| title.starts_with("[t] ")), "{titles:?}");
    assert!(drawing.matches("<rect").count() > 5, "a drawing has boxes");
}

/// Lines of the hottest apps, and of the hottest functions with their app.
fn the_end_is_worth_reading(script: &Daemon, app: &str) {
    let output = script.output();
    let words: Vec<Vec<&str>> = output.lines().map(|line| line.split_whitespace().collect()).collect();
    let seconds = |line: &[&str]| line.len() > 1 && line[1] == "s" && line[0].parse::<f64>().unwrap() > 0.0;
    assert!(words.iter().all(|line| seconds(line)), "{output}");
    assert!(words.iter().any(|line| line[3] == "%" && line[4] == app), "{app} is no line of {output}");
    let hottest = [app, "work_in_c"];
    assert!(words.iter().any(|line| line[2..] == hottest), "{hottest:?} is no line of {output}");
}

#[test]
fn a_run_that_is_stopped_leaves_nothing_running() {
    let _machine = machine::together();
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::start(folder.path());
    run.script.wait_for_log("sampling for 40 seconds");
    // Impatient: once more while everything ends.
    run.script.signal(libc::SIGTERM);
    run.script.signal(libc::SIGTERM);
    assert_eq!(run.script.wait().code(), Some(128 + libc::SIGTERM));
    for address in [run.collector.http, run.collector.clickhouse] {
        let error = TcpStream::connect(address).expect_err("nobody listens any more");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{address}");
    }
    let log = std::fs::read_to_string(folder.path().join("run/agent.log")).unwrap();
    assert!(log.contains("stopped sampling"), "{log}");
}
