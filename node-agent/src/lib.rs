//! The node agent.
pub mod export;
