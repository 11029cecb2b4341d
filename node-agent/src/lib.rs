//! The node agent: load, sample, match, symbolize, aggregate, stream.
//!
//! ```text
//! kernel::programs ─samples─┐                       ┌─► window ─► export ─► collector
//! kernel::sideband ─events──┴─► agent ─► process ───┤
//! config ─┬─► supervisor ─────────┘                 └─► naming ─► symbols
//! reload ─┘
//! ```

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counts;
pub mod durations;
pub mod export;
pub mod failsafe;
pub mod governor;
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
pub mod remote;
pub mod report;
pub mod service;
pub mod state_dir;
pub mod supervisor;
pub mod symbols;
pub mod window;
