//! Functions that a runtime listed.
#![no_main]

use hearth_node_agent::symbols::PerfMap;
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 1 << 20;

fuzz_target!(|input: (u64, &[u8])| {
    let (address, bytes) = input;
    let map = PerfMap::read(bytes, MAX_BYTES).expect("reading memory does not fail");
    if map.is_empty() {
        assert!(map.find(address).is_none());
    }
    if let Some(name) = map.find(address) {
        assert!(!name.is_empty());
    }
});
