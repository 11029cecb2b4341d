//! Bytes that the agent sends per row.

use std::time::Duration;

use crate::Bench;
use crate::fixtures::{PATHS, Redis};
use crate::profiler::{Kind, Profiler, Target};
use crate::sink::{BatchSeen, Sink};
use crate::table::{Table, median};

/// Windows that are not looked at: everything is new in them.
const WARM_UP: usize = 3;

/// One agent, and as many windows as there are rounds after the first few.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let _paths = PATHS.run(bench)?;
    let _redis = Redis::run(bench)?;
    let sink = Sink::start(&bench.runtime)?;
    let profiler = Profiler::start(bench, Kind::Hearth, &Target::Everything, &sink, "10s")?;
    let wanted = WARM_UP + bench.rounds;
    while sink.batches().len() < wanted {
        std::thread::sleep(Duration::from_millis(200));
    }
    let batches = sink.batches();
    profiler.stop()?;
    let steady = &batches[WARM_UP..wanted];
    let per_row = |bytes: fn(&BatchSeen) -> u64| {
        median(&steady.iter().map(|b| bytes(b) as f64 / b.rows.max(1) as f64).collect::<Vec<_>>())
    };
    let (first, last) = (batches[WARM_UP - 1], batches[wanted - 1]);
    let rows: u64 = steady.iter().map(|batch| batch.rows).sum();
    let samples: u64 = steady.iter().map(|batch| batch.stacks).sum();
    let socket = (last.socket_bytes - first.socket_bytes) as f64 / rows.max(1) as f64;
    table.row(
        "wire, bytes per repeated row",
        "≤ 10 B",
        &format!(
            "{:.2} B repeated; {:.2} B with what is new in a window; {socket:.2} B on the socket, framing included \
             ({:.0} rows and {:.0} samples in a window)",
            per_row(|batch| batch.repeated_bytes),
            per_row(|batch| batch.bytes),
            rows as f64 / bench.rounds as f64,
            samples as f64 / bench.rounds as f64,
        ),
        "–",
        "–",
        bench.rounds,
    );
    Ok(())
}
