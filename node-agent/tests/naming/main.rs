//! Names of addresses in real processes: each row of the naming table.
//!
//! The programs are compiled by the tests. Each prints where its functions are
//! and waits for its standard input to close.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod files;
mod generated;
mod leaderless;
mod running;
