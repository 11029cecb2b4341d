//! Who calls, and what they may: the API server's word on it, asked for no more often than needed.
//!
//! ```text
//!  agent's stream ──Agents──┐
//!                           ├──► Reviewer ──cache, single flight, bounds──► API server
//!  user's request ──────────┘      token → Caller        TokenReview
//!                                  Caller, Ask → bool    SubjectAccessReview
//! ```
//!
//! A token is a secret: it is kept as its hash, and is in no log, error or `Debug` text.
#![forbid(unsafe_code)]

mod account;
mod agents;
pub mod api_server;
mod cache;
mod claims;
#[cfg(feature = "fake")]
pub mod fake;
mod reviewer;

pub use account::{Account, NotAnAccount};
pub use agents::{Agent, Agents, Reason, Refused, bearer};
pub use reviewer::{Ask, Caller, Denied, MAX_TOKEN_BYTES, Reviewer, Unavailable};
