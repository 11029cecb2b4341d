//! The ClickHouse engine as a library (libchdb) behind ClickHouse's own HTTP interface.
//!
//! [`ffi`] is the only module with unsafe code; [`engine`] owns the data
//! directory and runs queries; [`http`] speaks the protocol.

pub mod answer;
pub mod browser;
pub mod cli;
pub mod engine;
pub mod exception;
mod execute;
pub mod ffi;
pub mod format;
pub mod http;
pub mod insert;
mod kill;
pub mod listen;
pub mod locate;
pub mod metrics;
pub mod native;
pub mod output;
mod quote;
pub mod request;
pub mod spool;
pub mod wire;
mod words;
