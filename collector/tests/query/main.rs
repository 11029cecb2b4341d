//! The query surfaces over HTTP, on the real engine with the shipped schema.
//! Every test has rows of its own: another app service, another hour.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cancel;
mod common;
mod diff;
mod documented;
mod empty;
mod filter;
mod injection;
mod limits;
mod own_api;
mod quality;
mod refused;
mod tags;
mod timeline;
mod tools;
mod tracing;
