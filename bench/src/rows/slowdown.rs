//! What a fixed amount of work takes longer while it is profiled.

use std::process::Command;

use anyhow::Context as _;

use crate::Bench;
use crate::fixtures::WORK;
use crate::profiler::{Kind, Profiler, Target};
use crate::sink::Sink;
use crate::table::{Table, median};

/// Some two seconds.
const CALLS: &str = "3000000";

/// Nothing, Hearth, bpftrace, perf, nothing, Hearth, …
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let program = WORK.build(bench)?;
    let last_cpu = std::thread::available_parallelism()?.get() - 1;
    let work = || -> anyhow::Result<f64> {
        let output = Command::new(&program).arg(last_cpu.to_string()).arg(CALLS).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let nanos: f64 = text.trim().parse().with_context(|| format!("the fixed work printed {text:?}"))?;
        Ok(nanos / 1e9)
    };
    let mut slower: [Vec<f64>; 3] = Default::default();
    let mut alone = Vec::new();
    for _ in 0..bench.rounds {
        let before = work()?;
        let mut profiled = [0.0; 3];
        for (kind, seconds) in [Kind::Hearth, Kind::Bpftrace, Kind::Perf].into_iter().zip(&mut profiled) {
            let sink = Sink::start(&bench.runtime)?;
            let profiler = Profiler::start(bench, kind, &Target::Everything, &sink, "10s")?;
            *seconds = work()?;
            profiler.stop()?;
        }
        // The machine's speed drifts: each round is compared with what ran before and after it.
        let base = f64::midpoint(before, work()?);
        alone.push(base);
        for (slower, seconds) in slower.iter_mut().zip(profiled) {
            slower.push(100.0 * (seconds / base - 1.0));
        }
    }
    let noise = alone.windows(2).map(|pair| 100.0 * (pair[1] / pair[0] - 1.0).abs()).collect::<Vec<_>>();
    let [hearth, bpftrace, perf] = slower.map(|slower| median(&slower));
    table.row(
        "slowdown of a fixed-work program, everything profiled at 99 Hz, by the wall clock",
        "–",
        &format!("{hearth:+.2} %"),
        &format!("bpftrace {bpftrace:+.2} %; perf {perf:+.2} %"),
        &format!("{:.2} s alone, {:.2} % between rounds", median(&alone), median(&noise)),
        bench.rounds,
    );
    Ok(())
}
