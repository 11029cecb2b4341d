//! Names for addresses.

pub mod demangle;
