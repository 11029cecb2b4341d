//! Kernel time per sample: the run time of the BPF program by the kernel's own statistics.

use std::time::Duration;

use crate::Bench;
use crate::bpf::measure_runs;
use crate::fixtures::FRAMES;
use crate::profiler::{Kind, Profiler, Target};
use crate::sink::Sink;
use crate::table::{Table, median, range};

/// One round of one profiler.
struct Round {
    /// Per run of the program.
    nanos: f64,
    /// Percent of the runs that walked a stack.
    walked: f64,
    /// Mean of those stacks.
    frames: f64,
}

/// A, B, A, B while the fixture keeps every CPU busy.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let fixture = FRAMES.run_before_others(bench)?;
    let target = Target::Process { comm: FRAMES.name(), pid: fixture.pid() };
    let _measuring = measure_runs()?;
    let (mut hearth, mut bpftrace) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        hearth.push(round(bench, Kind::Hearth, &target)?);
        bpftrace.push(round(bench, Kind::Bpftrace, &target)?);
    }
    let of =
        |rounds: &[Round], value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    let show = |rounds: &[Round]| {
        let (least, most) = range(&rounds.iter().map(|round| round.nanos).collect::<Vec<_>>());
        format!(
            "{:.2} µs ({:.2}–{:.2}); {:.1} frames, {:.1} % of runs walked",
            of(rounds, |round| round.nanos) / 1e3,
            least / 1e3,
            most / 1e3,
            of(rounds, |round| round.frames),
            of(rounds, |round| round.walked),
        )
    };
    let ratios: Vec<f64> = hearth.iter().zip(&bpftrace).map(|(a, b)| a.nanos / b.nanos).collect();
    let per_frame = of(&hearth, |round| (round.nanos - 2000.0) / round.frames);
    table.row(
        "kernel time per sample, frame pointers (the target's row is `.eh_frame`, which is a later step)",
        "≤ 0.5 × bpftrace's; ≤ 200 ns per frame + 2 µs",
        &format!("{}; {per_frame:.0} ns per frame + 2 µs", show(&hearth)),
        &format!("bpftrace {}", show(&bpftrace)),
        &format!("{:.2}", median(&ratios)),
        bench.rounds,
    );
    Ok(())
}

fn round(bench: &Bench, kind: Kind, target: &Target<'_>) -> anyhow::Result<Round> {
    let sink = Sink::start(&bench.runtime)?;
    let profiler = Profiler::start(bench, kind, target, &sink, "1s")?;
    // Undecided processes, compiled programs, first faults: not what is measured.
    std::thread::sleep(Duration::from_millis(1500));
    let before = profiler.runs()?;
    let exits_before = if kind == Kind::Hearth { profiler.exits(bench)? } else { Default::default() };
    let from = sink.batches().len();
    std::thread::sleep(Duration::from_secs(bench.seconds));
    let runs = profiler.runs()?.since(before);
    anyhow::ensure!(runs.count > 0, "{kind:?} did not run: nothing to measure");
    let nanos = runs.time.as_nanos() as f64 / runs.count as f64;
    if kind == Kind::Hearth {
        let exits = profiler.exits(bench)?;
        let seen = sink.batches().split_off(from);
        let since = |label: &str| exits.get(label).unwrap_or(&0) - exits_before.get(label).unwrap_or(&0);
        let ends = ["idle", "sampled", "sampled_undecided", "thinned", "counted", "ring_full", "not_ready"];
        let all: u64 = ends.into_iter().map(since).sum();
        let walked = since("sampled") + since("sampled_undecided");
        profiler.stop()?;
        let (stacks, frames) = seen.iter().fold((0, 0), |sum, b| (sum.0 + b.stacks, sum.1 + b.frames));
        let walked = 100.0 * walked as f64 / all.max(1) as f64;
        return Ok(Round { nanos, walked, frames: frames as f64 / stacks.max(1) as f64 });
    }
    let all = profiler.runs()?.count;
    let (stacks, frames) = parse(&profiler.stop()?);
    let walked = 100.0 * stacks as f64 / all.max(1) as f64;
    Ok(Round { nanos, walked: walked.min(100.0), frames: frames as f64 / stacks.max(1) as f64 })
}

/// Stacks and their frames in what bpftrace prints: `@[`, a frame a line, `, `, the kernel's frames, `]: count`.
fn parse(text: &str) -> (u64, u64) {
    let (mut stacks, mut frames, mut depth) = (0, 0, 0);
    for line in text.lines().map(str::trim) {
        if line.starts_with("@[") {
            depth = 0;
        } else if let Some((_, count)) = line.split_once("]: ") {
            let count: u64 = count.parse().unwrap_or(0);
            stacks += count;
            frames += depth * count;
        } else if !line.is_empty() && line != "," {
            depth += 1;
        }
    }
    (stacks, frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_bpftrace_are_weighted_by_their_count() {
        let text = "Attaching 1 probe...\n\n@[\n    main+16\n    __libc_start_call_main+122\n, \n    \
                    asm_sysvec+27\n]: 2\n@[\n    main+20\n, ]: 10\n";
        assert_eq!(parse(text), (12, 16));
    }
}
