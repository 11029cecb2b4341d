//! What the kernel side and user space share: limits, records, the thinning
//! rule and the stack walk.
//!
//! Everything here is plain Rust without `aya`, so that the host's tests run the
//! very code that the BPF programs in `main.rs` are made of.
#![no_std]
#![forbid(unsafe_code)]

pub mod limits;
pub mod memory;
pub mod record;
pub mod thin;
pub mod walk;
