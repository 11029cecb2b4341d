//! Bytes per row, ingest and queries of the store, on a generated hour.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Bench;
use crate::generate::{Hour, micros, node_name, service_name, thread_name};
use crate::store::{Question, Store};
use crate::table::{Table, median, range};

const ROWS: u32 = 2_000_000;
/// Windows that are stored one by one, to see parts as they are before merging.
const SINGLE_WINDOWS: usize = 30;

/// Needs the engine; says so and measures nothing without it.
pub(crate) fn measure(bench: &Bench, table: &mut Table) -> anyhow::Result<()> {
    let Some(libchdb) = &bench.libchdb else {
        eprintln!("without --libchdb there is no store to measure");
        return Ok(());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let hour = Hour::generate(i64::try_from(now - now % 3600 - 3600)?, ROWS);
    unmerged(bench, libchdb, &hour, table)?;
    let last = ingest(bench, libchdb, &hour, table)?;
    merged(bench, libchdb, &last, &hour, table)?;
    queries(bench, libchdb, &last, &hour, table)
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
            "{:.2} B ({:.0} rows in {:.0} parts of {:.0} rows; labels are not on the wire yet)",
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
    let mut last = None;
    for round in 0..bench.rounds {
        let dir = bench.dir.path().join(format!("store-{round}"));
        let store = Store::start(bench, libchdb, &dir)?;
        let time = store.send(bench, hour.nodes.clone(), false)?;
        rates.push(rows / time.as_secs_f64() / 1e3);
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
    let peer = deepflow(bench, &store, hour)?;
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

/// The layout of DeepFlow 6.5: every row with its whole stack, compressed by itself; only the columns that
/// cannot be left out. Bytes per row, merged.
fn deepflow(bench: &Bench, store: &Store, hour: &Hour) -> anyhow::Result<f64> {
    store.sql(bench, "CREATE DATABASE peer")?;
    store.sql(
        bench,
        "CREATE TABLE peer.rows (time DateTime, app_service LowCardinality(String), \
         profile_language_type LowCardinality(String), pod_node LowCardinality(String), process_id UInt32, \
         profile_value Int64, profile_location_str String) ENGINE = MergeTree \
         PARTITION BY toStartOfHour(time) ORDER BY (app_service, profile_language_type, time)",
    )?;
    for rows in hour.rows.chunks(100_000) {
        let mut data = Vec::new();
        for row in rows {
            data.extend(row.time.to_le_bytes());
            string(&mut data, service_name(row.service).as_bytes());
            string(&mut data, b"eBPF");
            string(&mut data, node_name(row.node).as_bytes());
            data.extend(row.pid.to_le_bytes());
            data.extend(micros(row.samples).to_le_bytes());
            let stack = &hour.stacks[row.service as usize][row.stack];
            let location = format!("[t] {};{stack}", thread_name(row.thread));
            string(&mut data, &zstd::bulk::compress(location.as_bytes(), 3)?);
        }
        store.insert(bench, "INSERT INTO peer.rows FORMAT RowBinary", data)?;
    }
    store.sql(bench, "OPTIMIZE TABLE peer.rows FINAL")?;
    let bytes = store.size(bench, "peer", "rows")?.per_row();
    store.sql(bench, "DROP DATABASE peer")?;
    Ok(bytes)
}

/// A string of RowBinary: its length as LEB128, and its bytes.
fn string(data: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    while length >= 0x80 {
        data.push(length as u8 | 0x80);
        length >>= 7;
    }
    data.push(length as u8);
    data.extend(text);
}

/// Over HTTP: the first after a start, and repeated.
fn queries(bench: &Bench, libchdb: &Path, dir: &Path, hour: &Hour, table: &mut Table) -> anyhow::Result<()> {
    let (from, until) = (hour.start, hour.start + 3599);
    let flamegraph =
        |app: &str| Question::Flamegraph(format!("app_service={app}&from={from}&until={until}&format=json"));
    let tracing = format!(
        r#"{{"app_service":"{}","profile_language_type":"eBPF","profile_event_type":"on-cpu","time_start":{from},"time_end":{until}}}"#,
        service_name(0)
    );
    let asked = [
        ("query, one service of 2 M rows in the hour", "< 50 ms", flamegraph(&service_name(0))),
        ("the same through `ProfileTracing`", "–", Question::ProfileTracing(tracing)),
        ("query, all of 2 M rows in the hour (`Total`)", "< 150 ms", flamegraph("Total")),
    ];
    let mut first: [Vec<f64>; 3] = Default::default();
    let mut warm: [Vec<f64>; 3] = Default::default();
    let mut bytes = [0; 3];
    for _ in 0..bench.rounds {
        let store = Store::start(bench, libchdb, dir)?;
        for (i, (_, _, question)) in asked.iter().enumerate() {
            first[i].push(store.ask(bench, question)?.0.as_secs_f64() * 1e3);
            for _ in 0..3 {
                let (time, length) = store.ask(bench, question)?;
                warm[i].push(time.as_secs_f64() * 1e3);
                bytes[i] = length;
            }
        }
        store.stop()?;
    }
    for (i, (what, reach, _)) in asked.iter().enumerate() {
        let (least, most) = range(&warm[i]);
        table.row(
            what,
            reach,
            &format!(
                "{:.0} ms ({least:.0}–{most:.0}), {:.0} ms the first after a start; answer of {} KiB",
                median(&warm[i]),
                median(&first[i]),
                bytes[i] >> 10
            ),
            "–",
            "–",
            bench.rounds,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_strings_have_long_lengths() {
        let mut data = Vec::new();
        string(&mut data, &[7; 300]);
        assert_eq!(data[..3], [0xac, 0x02, 7]);
        assert_eq!(data.len(), 302);
    }
}
