//! The whole path on one machine: real processes, the real kernel, the real engine.
//!
//! Needs root. Each module is a subject.

mod gate;
mod policy;
mod query;
