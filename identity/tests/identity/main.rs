//! Agents and users against an API server that knows tokens and rights.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod agents;
mod reviewer;
