//! The query core: what every query surface is made of.
//!
//! parse ([`request`], [`filter`]) → plan ([`plan`]: SQL text and bound
//! values, made in [`statement`] alone, for the [`scope`] of who asks; [`source`]: from which tables) → rows ([`store`], the only part that does IO) → tree ([`build`]),
//! or, when there are no rows, the reason ([`empty`]). With each tree comes how
//! far it can be trusted ([`quality`]).
//!
//! A question is bounded by [`Limits`]: ClickHouse ends a statement that
//! returns or needs too much, or takes too long. Beyond a bound there is an
//! error that says which it was and what to narrow, never a cut answer. Every
//! statement is read-only, and ends when whoever asked went away.

use std::time::Duration;

pub mod build;
pub mod empty;
mod error;
pub mod filter;
mod grouped;
pub mod labelled;
mod namespaces;
pub mod plan;
pub mod quality;
pub mod request;
pub mod scope;
pub mod source;
pub mod statement;
pub mod store;
pub mod tags;
pub mod time;
pub mod timeline;
pub mod values;

pub use error::{Exceeded, Limit, QueryError};
pub use quality::Quality;
pub use request::{Request, Subject, TimeRange};
pub use scope::Scope;
pub use store::{Answer, App, Flame, Store};

/// Bounds of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most rows that one statement may return: (stack, thread) pairs.
    pub max_rows: u64,
    /// Most bytes that one statement may return: rows, or the stacks of an answer.
    pub max_bytes: u64,
    /// Most bytes of memory that one statement may take in ClickHouse.
    pub max_memory: u64,
    /// Most seconds that one statement may run.
    pub max_execution_seconds: u64,
    /// How much longer than that ClickHouse may take to say so.
    pub grace: Duration,
    /// Questions answered at once.
    pub concurrent: usize,
    /// How long one more waits for its turn before it is told to come back: a
    /// dashboard asks for all of its panels at once.
    pub queue: Duration,
    /// Length of the windows that rows belong to, in seconds.
    pub window_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 500,000 rows with their stacks make a tree of some 300 MB; four of
        // them fit the collector's memory.
        Self {
            max_rows: 500_000,
            max_bytes: 256 << 20,
            max_memory: 1 << 30,
            max_execution_seconds: 30,
            grace: Duration::from_secs(5),
            concurrent: 4,
            queue: Duration::from_secs(1),
            window_seconds: 10,
        }
    }
}
