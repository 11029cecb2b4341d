//! CPU that the profilers themselves take, steady and at their start.

use std::time::{Duration, Instant};

use crate::Bench;
use crate::bpf::measure_runs;
use crate::fixtures::{PATHS, Redis};
use crate::profiler::{Kind, Profiler, Target};
use crate::sink::Sink;
use crate::table::{Table, median, range};

#[derive(Default)]
struct Costs {
    /// Percent of a core per busy core: the cgroup's account.
    user: Vec<f64>,
    /// The same of its BPF programs.
    bpf: Vec<f64>,
    /// Seconds of CPU from exec until it samples.
    start: Vec<f64>,
    /// Runs of its programs per second and core: 99 if none is missing.
    runs: Vec<f64>,
}

/// A, B, C, A, B, C under a load that keeps every CPU busy.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let _paths = PATHS.run(bench)?;
    let _redis = Redis::run(bench)?;
    let _measuring = measure_runs()?;
    let mut costs: [Costs; 3] = Default::default();
    for _ in 0..bench.rounds {
        for (kind, costs) in [Kind::Hearth, Kind::Bpftrace, Kind::Perf].into_iter().zip(&mut costs) {
            round(bench, kind, costs)?;
        }
    }
    let [hearth, bpftrace, perf] = costs;
    let total =
        |costs: &Costs| -> Vec<f64> { costs.user.iter().zip(&costs.bpf).map(|(a, b)| a + b).collect() };
    let show = |costs: &Costs| {
        let total = total(costs);
        let (least, most) = range(&total);
        format!(
            "{:.3} % ({least:.3}–{most:.3}; {:.3} its processes, {:.3} its BPF programs)",
            median(&total),
            median(&costs.user),
            median(&costs.bpf)
        )
    };
    let ratio = |a: &[f64], b: &[f64]| median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>());
    table.row(
        "agent CPU, 99 Hz, everything matched, both cores busy: % of a core per busy core",
        "≤ 0.3 %",
        &show(&hearth),
        &format!("bpftrace {}; perf {:.3} % (its process only)", show(&bpftrace), median(&perf.user)),
        &format!("{:.2} of bpftrace", ratio(&total(&hearth), &total(&bpftrace))),
        bench.rounds,
    );
    let (least, most) = range(&hearth.start);
    table.row(
        "agent start-up, CPU from exec to the first tick",
        "≤ 0.5 s",
        &format!("{:.3} s ({least:.3}–{most:.3})", median(&hearth.start)),
        &format!("bpftrace {:.3} s; perf {:.3} s", median(&bpftrace.start), median(&perf.start)),
        &format!("{:.2} of bpftrace", ratio(&hearth.start, &bpftrace.start)),
        bench.rounds,
    );
    eprintln!(
        "runs per second and core: {:.1} hearth, {:.1} bpftrace",
        median(&hearth.runs),
        median(&bpftrace.runs)
    );
    Ok(())
}

fn round(bench: &Bench, kind: Kind, costs: &mut Costs) -> anyhow::Result<()> {
    let sink = Sink::start(&bench.runtime)?;
    let profiler = Profiler::start(bench, kind, &Target::Everything, &sink, "10s")?;
    costs.start.push(profiler.start_cpu.as_secs_f64());
    // The first windows read the symbols of everything that runs; that is start-up, not the steady state.
    std::thread::sleep(Duration::from_secs(if kind == Kind::Hearth { 12 } else { 3 }));
    let (from, cpu, runs) = (Instant::now(), profiler.group.cpu()?, profiler.runs()?);
    std::thread::sleep(Duration::from_secs(bench.seconds));
    let cores = std::thread::available_parallelism()?.get() as f64;
    let core_seconds = from.elapsed().as_secs_f64() * cores;
    let used = profiler.group.cpu()? - cpu;
    let runs = profiler.runs()?.since(runs);
    costs.user.push(100.0 * used.as_secs_f64() / core_seconds);
    costs.bpf.push(100.0 * runs.time.as_secs_f64() / core_seconds);
    costs.runs.push(runs.count as f64 / core_seconds);
    profiler.stop()?;
    Ok(())
}
