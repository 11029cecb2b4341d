//! `kubectl hearth`: flame graphs, policies and their state, with the rights of whoever asks.
//!
//! ```text
//! command line ──cli──► Target, Moment ──resolve──► Selection ──profile──► Tree ──output──► text, file, terminal
//!                                           │                     │
//!                              API server ◄─┘                     └─► Surface: query.hearth.dev, or --server
//! ```
//!
//! Everything goes through one [`kube::Client`]: to the API server, which passes questions on to the collector
//! (`docs/decisions/0033-the-plugin-goes-through-the-api-server.md`),
//! or with `--server` to a collector.
#![forbid(unsafe_code)]

pub mod cli;
mod commands;
pub mod connect;
mod ended;
mod error;
mod forward;
mod kubernetes;
mod output;
mod profile;
mod resolve;
mod screen;
mod surface;
mod table;
pub mod target;
pub mod time;

pub use commands::{Session, run, run_in};
pub use error::Failure;
pub use screen::Screen;
