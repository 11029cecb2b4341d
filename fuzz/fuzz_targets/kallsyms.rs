//! Functions of the kernel.
#![no_main]

use hearth_node_agent::symbols::KernelTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (address, bytes) = input;
    let table = KernelTable::read(bytes).expect("reading memory does not fail");
    if let Some(found) = table.find(address) {
        assert!(!table.name(found).is_empty());
    }
});
