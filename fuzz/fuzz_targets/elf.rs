//! A mapped file, from its headers to the names of its functions.
#![no_main]

use hearth_node_agent::symbols::{Elf, SymbolTable};
use libfuzzer_sys::fuzz_target;

const MAX_SYMBOLS: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    let Ok(elf) = Elf::parse(bytes) else { return };
    let table = SymbolTable::read(bytes, &elf, MAX_SYMBOLS).expect("reading memory does not fail");
    assert!(table.len() <= MAX_SYMBOLS);
    for range in elf.code.iter().take(16) {
        for address in [range.start, range.start.wrapping_add(1), range.end.wrapping_sub(1), range.end] {
            if let Some(found) = table.find(address) {
                table.name(bytes, found).expect("reading memory does not fail");
            }
            elf.address_of(address);
        }
    }
});
