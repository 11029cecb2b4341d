//! Bytes per row and ingest of the store, on a generated hour; then its queries.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{peer, queries};
use crate::Bench;
use crate::generate::Hour;
use crate::store::Store;
use crate::table::{Table, median, range};

/// Two million rows.
const NODES: u32 = 20;
const ROWS_A_WINDOW: u32 = 278;
/// Rows a window of nodes of three sizes, and how many of each are stored.
const NODE_SIZES: [u32; 3] = [100, 300, 1000];
const NODES_OF_A_SIZE: u32 = 4;
/// Windows that are stored one by one, to see parts as they are before merging.
const SINGLE_WINDOWS: usize = 30;

/// Needs the engine; says so and measures nothing without it.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let Some(libchdb) = &bench.libchdb else {
        eprintln!("without --libchdb there is no store to measure");
        return Ok(());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let start = i64::try_from(now - now % 3600 - 3600)?;
    sizes(bench, libchdb, start, table)?;
    let hour = Hour::generate(start, NODES, ROWS_A_WINDOW);
    unmerged(bench, libchdb, &hour, table)?;
    let last = ingest(bench, libchdb, &hour, table)?;
    merged(bench, libchdb, &last, &hour, table)?;
    queries::measure(bench, libchdb, &last, &hour, table)
}

/// What nodes of three sizes take a day.
fn sizes(bench: &Bench, libchdb: &Path, start: i64, table: &mut Table) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for rows_a_window in NODE_SIZES {
        let hour = Hour::generate(start, NODES_OF_A_SIZE, rows_a_window);
        let dir = bench.dir.path().join(format!("size-{rows_a_window}"));
        let store = Store::start(bench, libchdb, &dir)?;
        store.send(bench, hour.nodes.clone(), false)?;
        store.sql(bench, "OPTIMIZE TABLE profile.in_process_local FINAL")?;
        store.sql(bench, "OPTIMIZE TABLE profile.stacks FINAL")?;
        let rows = store.size(bench, "profile", "in_process_local")?;
        let stacks = store.size(bench, "profile", "stacks")?;
        store.stop()?;
        std::fs::remove_dir_all(dir)?;
        let nodes = f64::from(NODES_OF_A_SIZE);
        found.push(format!(
            "{:.1} MB and {:.1} MB of stacks once at {rows_a_window} rows a window ({:.1} busy CPUs)",
            rows.bytes * 24.0 / nodes / 1e6,
            stacks.bytes / nodes / 1e6,
            hour.busy_cpus(),
        ));
    }
    table.row("store, MB per node and day of raw rows, merged", "–", &found.join("; "), "–", "–", 1);
    Ok(())
}

/// Parts as INSERTs leave them: every window of all nodes is one.
fn unmerged(bench: &Bench, libchdb: &Path, hour: &Hour, table: &mut Table) -> anyhow::Result<()> {
    let store = Store::start(bench, libchdb, &bench.dir.path().join("unmerged"))?;
    store.sql(bench, "SYSTEM STOP MERGES profile.in_process_local")?;
    store.send(bench, hour.first_windows(SINGLE_WINDOWS), true)?;
    let size = store.size(bench, "profile", "in_process_local")?;
    store.stop()?;
    table.row(
        "store, bytes per row before merging",
        "≤ 10 B",
        &format!(
            "{:.2} B ({:.0} rows in {:.0} parts of {:.0} rows)",
            size.per_row(),
            size.rows,
            size.parts,
            size.rows / size.parts
        ),
        "–",
        "–",
        1,
    );
    Ok(())
}

/// Each round into a new store; answers the folder of the last.
fn ingest(
    bench: &Bench,
    libchdb: &Path,
    hour: &Hour,
    table: &mut Table,
) -> anyhow::Result<std::path::PathBuf> {
    let rows = hour.rows.len() as f64;
    let mut rates = Vec::new();
    let mut cpu: [Vec<f64>; 2] = Default::default();
    let mut last = None;
    for round in 0..bench.rounds {
        let dir = bench.dir.path().join(format!("store-{round}"));
        let store = Store::start(bench, libchdb, &dir)?;
        let time = store.send(bench, hour.nodes.clone(), false)?;
        rates.push(rows / time.as_secs_f64() / 1e3);
        for (all, seconds) in cpu.iter_mut().zip(store.cpu()?) {
            all.push(seconds * 1e6 / rows);
        }
        let stored = store.size(bench, "profile", "in_process_local")?.rows;
        anyhow::ensure!((stored - rows).abs() < 0.5, "{rows} rows were acknowledged and {stored} are there");
        store.stop()?;
        if let Some(old) = last.replace(dir) {
            std::fs::remove_dir_all(old)?;
        }
    }
    let (least, most) = range(&rates);
    table.row(
        "ingest through gRPC: decoding, look-up, shipped DDL, sender on the same cores",
        "≥ 200 k rows/s",
        &format!("{:.0} k rows/s ({least:.0}–{most:.0})", median(&rates)),
        "–",
        "–",
        bench.rounds,
    );
    let [collector, engine] = cpu.map(|all| median(&all));
    table.row(
        "the same: CPU per row, start-up included",
        "–",
        &format!("{collector:.2} µs in the collector, {engine:.2} µs in the engine with its merges"),
        "–",
        "–",
        bench.rounds,
    );
    last.ok_or_else(|| anyhow::anyhow!("no round was run"))
}

/// The whole hour in one part, beside the same rows in DeepFlow's layout.
fn merged(bench: &Bench, libchdb: &Path, dir: &Path, hour: &Hour, table: &mut Table) -> anyhow::Result<()> {
    let store = Store::start(bench, libchdb, dir)?;
    let loose = store.size(bench, "profile", "in_process_local")?;
    store.sql(bench, "OPTIMIZE TABLE profile.in_process_local FINAL")?;
    store.sql(bench, "OPTIMIZE TABLE profile.stacks FINAL")?;
    let rows = store.size(bench, "profile", "in_process_local")?;
    let stacks = store.size(bench, "profile", "stacks")?;
    let columns = store.sql(
        bench,
        "SELECT column, round(sum(column_bytes_on_disk) / sum(rows), 3) AS b FROM system.parts_columns \
         WHERE active AND database = 'profile' AND table = 'in_process_local' GROUP BY column \
         ORDER BY b DESC LIMIT 8 FORMAT TSV",
    )?;
    eprintln!("bytes per row by column:\n{columns}");
    let peer = peer::fill(bench, &store, hour)?;
    store.stop()?;
    table.row(
        "store, bytes per row merged, stacks apart",
        "≤ 6 B",
        &format!("{:.2} B ({:.2} B after ingest at full speed)", rows.per_row(), loose.per_row()),
        &format!("DeepFlow's layout {peer:.1} B, stack included"),
        &format!(
            "{:.3}; {:.3} with the stacks",
            rows.per_row() / peer,
            (rows.bytes + stacks.bytes) / rows.rows / peer
        ),
        1,
    );
    let (distinct, text) = hour.distinct_stacks();
    table.row(
        "store, bytes per stack merged",
        "≤ 120 B",
        &format!(
            "{:.1} B ({distinct} stacks, {:.0} B of text each)",
            stacks.per_row(),
            text as f64 / distinct as f64
        ),
        "–",
        "–",
        1,
    );
    Ok(())
}
