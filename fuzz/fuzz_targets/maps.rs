//! Executable mappings of a process.
#![no_main]

use hearth_node_agent::symbols::{AddressSpace, MAX_MAPPINGS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let space = AddressSpace::read_maps(bytes).expect("reading memory does not fail");
    assert!(space.len() <= MAX_MAPPINGS);
    let mut end = 0;
    for mapping in space.iter() {
        assert!(end <= mapping.start && mapping.start < mapping.end, "disjoint, sorted, not empty");
        end = mapping.end;
        assert_eq!(space.find(mapping.start), Some(mapping));
        assert_eq!(space.find(mapping.end - 1), Some(mapping));
    }
});
