//! What an agent sends: several messages on one stream.
#![no_main]

use std::collections::HashSet;

use hearth_collector::ingest::decode::StreamTables;
use hearth_collector::ingest::limits::{MAX_BATCH_BYTES, MAX_CPUS, MAX_LOST_SAMPLES};
use hearth_proto::collector::v1::{AgentIdentity, SampleBatch};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let mut tables = StreamTables::default();
    let mut rest = data;
    let mut sequence = 0;
    while let Ok(mut batch) = SampleBatch::decode_length_delimited(&mut rest) {
        // A head that is right lets more inputs come to what lies behind it.
        sequence += 1;
        if batch.agent.is_none() && batch.sequence == 0 {
            let instance = vec![0; 16];
            batch.agent = Some(AgentIdentity { instance, node: "n".into(), ..AgentIdentity::default() });
            batch.sequence = sequence;
            batch.window_start = batch.window_start.rem_euclid(360) * 10;
            batch.window_seconds = 10;
            batch.sent_at_micros = (batch.window_start + 10) * 1_000_000;
        }
        let Ok(accepted) = tables.accept(batch) else { return };
        assert!(accepted.bytes <= MAX_BATCH_BYTES);
        let text: usize = accepted.stacks.iter().map(|stack| stack.text.len()).sum();
        assert!(text <= accepted.bytes);
        let cpu_time: i64 = accepted.rows.iter().map(|row| row.value_micros).sum();
        assert!((0..=i64::from(accepted.window_seconds) * MAX_CPUS * 1_000_000).contains(&cpu_time));
        let mut reasons = HashSet::new();
        assert!(accepted.losses.iter().all(|(reason, samples)| {
            reasons.insert(*reason) && (1..=MAX_LOST_SAMPLES).contains(samples)
        }));
        if rest.is_empty() {
            return;
        }
    }
});
