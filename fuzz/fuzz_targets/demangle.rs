//! Names of symbols.
#![no_main]

use hearth_node_agent::symbols::demangle::{MAX_MANGLED_BYTES, demangle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    let shown = demangle(name);
    assert!(shown.len() <= name.len().max(MAX_MANGLED_BYTES));
    // Most inputs are no names at all; give the parser more of them.
    demangle(&format!("_Z{name}"));
    demangle(&format!("_R{name}"));
});
