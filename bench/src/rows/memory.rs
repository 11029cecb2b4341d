//! Memory of the agent: what the kernel charges to its cgroup, BPF maps included.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::Bench;
use crate::cgroup::Charge;
use crate::child::{Running, wait_until};
use crate::fixtures::{PATHS, Redis};
use crate::profiler::{Kind, Profiler, Target, free_port};
use crate::sink::Sink;
use crate::table::{Table, median};

/// An idle node, then one with every load that can be had here.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    both(bench, table, "idle node", "≤ 64 MiB")?;
    let _paths = PATHS.run(bench)?;
    let _redis = Redis::run(bench)?;
    let mut loads = vec!["C", "Redis"];
    let _node =
        interpreter(bench, "node", "-e", "for(;;)JSON.parse(JSON.stringify({a:[1,2,{b:'c'}]}))", &mut loads)?;
    let source = bench.dir.path().join("Busy.java");
    std::fs::write(&source, JAVA)?;
    let _java = interpreter(bench, "java", &source.to_string_lossy(), "", &mut loads)?;
    let _engine = engine(bench, &mut loads)?;
    both(
        bench,
        table,
        &format!("profiling {}", loads.join(", ")),
        "≤ 150 MiB with a JVM, node and a 500 MB library",
    )
}

const JAVA: &str = "public class Busy { public static void main(String[] a) { \
    var m = new java.util.HashMap<Long, String>(); \
    for (long i = 0; ; i++) m.put(i % 5000, Long.toString(i)); } }";

fn both(bench: &Bench, table: &mut Table, what: &str, reach: &str) -> anyhow::Result<()> {
    let rounds = bench.rounds.min(3);
    let (mut hearth, mut bpftrace) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        hearth.push(round(bench, Kind::Hearth)?);
        bpftrace.push(round(bench, Kind::Bpftrace)?);
    }
    let of = |charges: &[Measured], value: fn(&Measured) -> u64| {
        median(&charges.iter().map(|charge| value(charge) as f64 / f64::from(1 << 20)).collect::<Vec<_>>())
    };
    let all = |measured: &Measured| measured.charge.total + measured.buffers;
    let show = |charges: &[Measured]| {
        format!(
            "{:.1} MiB ({:.1} its own, {:.1} file pages, {:.1} kernel with BPF maps, {:.1} event buffers)",
            of(charges, all),
            of(charges, |m| m.charge.anonymous),
            of(charges, |m| m.charge.files),
            of(charges, |m| m.charge.kernel),
            of(charges, |m| m.buffers),
        )
    };
    table.row(
        &format!("agent memory, {what}"),
        reach,
        &show(&hearth),
        &format!("bpftrace {}", show(&bpftrace)),
        &format!("{:.2}", of(&hearth, all) / of(&bpftrace, all)),
        rounds,
    );
    Ok(())
}

struct Measured {
    charge: Charge,
    /// Ring buffers of perf events, which the kernel charges to no cgroup.
    buffers: u64,
}

fn round(bench: &Bench, kind: Kind) -> anyhow::Result<Measured> {
    let sink = Sink::start(&bench.runtime)?;
    let profiler = Profiler::start(bench, kind, &Target::Everything, &sink, "10s")?;
    // Two windows and a half: every symbol table that is hot has been read.
    std::thread::sleep(Duration::from_secs(25));
    let measured = Measured { charge: profiler.group.charge()?, buffers: event_buffers(profiler.pid())? };
    profiler.stop()?;
    Ok(measured)
}

/// Bytes that a process maps of perf events.
fn event_buffers(pid: u32) -> anyhow::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let sizes = maps.lines().filter(|line| line.ends_with("anon_inode:[perf_event]")).filter_map(|line| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(to, 16).ok()? - u64::from_str_radix(from, 16).ok()?)
    });
    Ok(sizes.sum())
}

/// Starts `program` if the machine has it, and says so in `loads`.
fn interpreter(
    bench: &Bench,
    program: &'static str,
    first: &str,
    second: &str,
    loads: &mut Vec<&'static str>,
) -> anyhow::Result<Option<Running>> {
    let mut command = Command::new(program);
    command.args([first, second].into_iter().filter(|argument| !argument.is_empty()));
    let log = bench.dir.path().join(format!("{program}.log"));
    match Running::start(command, program, &log) {
        Ok(mut running) => {
            std::thread::sleep(Duration::from_secs(3));
            running.check_alive(&log)?;
            loads.push(program);
            Ok(Some(running))
        }
        Err(error) => {
            eprintln!("without {program}: {error:#}");
            Ok(None)
        }
    }
}

/// The embedded ClickHouse, whose library has more than 500 MB, with a query that does not end.
fn engine(bench: &Bench, loads: &mut Vec<&'static str>) -> anyhow::Result<Option<Running>> {
    let Some(libchdb) = &bench.libchdb else { return Ok(None) };
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut command = Command::new(bench.bin.join("hearth-clickhouse"));
    command.args(["--http", &address, "--libchdb"]).arg(libchdb);
    command.arg("--data-dir").arg(bench.dir.path().join("engine"));
    let log = bench.dir.path().join("engine.log");
    let mut running = Running::start(command, "hearth-clickhouse", &log)?;
    let ping = format!("http://{address}/ping");
    wait_until("hearth-clickhouse", || {
        running.check_alive(&log)?;
        Ok(bench.runtime.block_on(bench.http.get(&ping).send()).is_ok())
    })?;
    let query = bench
        .http
        .post(format!("http://{address}/"))
        .body("SELECT sum(cityHash64(number)) FROM numbers(1e12)");
    bench.runtime.spawn(async move {
        // Ends with the engine.
        if let Err(error) = query.send().await {
            eprintln!("the engine's endless query ended: {error}");
        }
    });
    running.check_alive(&log).context("the engine ended")?;
    loads.push("ClickHouse (566 MB library)");
    Ok(Some(running))
}
