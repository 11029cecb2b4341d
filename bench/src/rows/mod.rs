//! What is measured, a module for each kind of row.

pub(crate) mod agent;
pub(crate) mod config;
pub(crate) mod install;
pub(crate) mod kernel;
pub(crate) mod memory;
mod peer;
pub(crate) mod pods;
mod queries;
pub(crate) mod slowdown;
pub(crate) mod store;
pub(crate) mod wire;
