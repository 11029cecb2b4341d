//! What the operator wants of this node, and what it is told of it.
//!
//! ```text
//! operator ◄──► client ──Config──► keeper ──Wanted──► supervisor ──► sampler
//!                 ▲                   └─► store (disk)                  │
//!                 └───────────────── Counts ────────────────────────────┘
//! ```

pub mod client;
pub mod compile;
pub mod keeper;
pub mod retry;
pub mod store;
