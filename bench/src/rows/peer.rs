//! The same rows as DeepFlow 6.5 lays them out and answers from them, in the same engine.
//!
//! Every row has its whole stack, compressed by itself; a question brings the rows to the client, at most a
//! million of them, which takes each stack apart and makes the tree. Only the columns are there that a flame
//! graph cannot do without, and no ids are made for the nodes: both flatters it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::Bench;
use crate::generate::{Hour, micros, node_name, service_name, thread_name};
use crate::store::Store;

/// Rows that it brings to the client; what is beyond is cut, and nothing is said.
const LIMIT: usize = 1_000_000;
/// More than the text of a stack.
const MAX_STACK_BYTES: usize = 1 << 20;

/// What a question found.
pub(super) struct Found {
    /// From the question until the tree was made.
    pub(super) time: Duration,
    /// Rows that came.
    pub(super) rows: usize,
    /// Nodes of the tree.
    pub(super) nodes: usize,
}

/// Makes the table and fills it; answers its bytes per row, merged.
pub(super) fn fill(bench: &Bench, store: &Store, hour: &Hour) -> anyhow::Result<f64> {
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
    Ok(store.size(bench, "peer", "rows")?.per_row())
}

/// The flame graph of the rows that fulfil `condition`.
pub(super) fn ask(bench: &Bench, store: &Store, condition: &str) -> anyhow::Result<Found> {
    let sql = format!(
        "SELECT profile_location_str, profile_value FROM peer.rows WHERE {condition} LIMIT {LIMIT} FORMAT RowBinary"
    );
    let started = Instant::now();
    let answer = store.bytes(bench, &sql)?;
    let mut nodes: HashMap<Vec<u8>, (i64, i64)> = HashMap::new();
    let mut rest = &answer[..];
    let mut rows = 0;
    while !rest.is_empty() {
        let length = length(&mut rest).context("a row breaks off")?;
        let (packed, after) = rest.split_at_checked(length).context("a row breaks off")?;
        let (value, after) = after.split_first_chunk().context("a row breaks off")?;
        rest = after;
        rows += 1;
        let value = i64::from_le_bytes(*value);
        let stack = zstd::bulk::decompress(packed, MAX_STACK_BYTES)?;
        // A node is the path that leads to it.
        let ends = stack.iter().enumerate().filter(|(_, byte)| **byte == b';').map(|(at, _)| at);
        for end in ends {
            add(&mut nodes, &stack[..end], 0, value);
        }
        add(&mut nodes, &stack, value, value);
    }
    Ok(Found { time: started.elapsed(), rows, nodes: nodes.len() })
}

fn add(nodes: &mut HashMap<Vec<u8>, (i64, i64)>, path: &[u8], own: i64, total: i64) {
    match nodes.get_mut(path) {
        Some(node) => {
            node.0 += own;
            node.1 += total;
        }
        None => {
            nodes.insert(path.to_vec(), (own, total));
        }
    }
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

/// Takes a length as [`string`] writes it.
fn length(data: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, rest) = data.split_first()?;
        *data = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
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
        let mut rest = &data[..];
        assert_eq!(length(&mut rest), Some(300));
        assert_eq!(rest.len(), 300);
        assert_eq!(length(&mut &[0x80][..]), None);
    }
}
