//! The node agent: load, sample, match, symbolize, aggregate, stream.
//!
//! ```text
//! kernel::programs ─samples─┐                       ┌─► window ─► export ─► collector
//! kernel::sideband ─events──┴─► agent ─► process ───┤
//! reload ─► policies ─────────────┘                 └─► naming ─► symbols
//! ```

pub mod agent;
pub mod cli;
pub mod clock;
pub mod durations;
pub mod export;
pub mod held;
pub mod host;
pub mod http;
pub mod kernel;
pub mod metrics;
pub mod naming;
pub mod pods;
pub mod policies;
pub mod policy_file;
pub mod preflight;
pub mod proc_fs;
pub mod process;
pub mod reload;
pub mod report;
pub mod service;
pub mod symbols;
pub mod window;
