//! Windows of samples to the collector: encoded, queued, sent, acknowledged.
//!
//! ```text
//! Exporter::push ──► Queue (windows, bounded) ──► StreamEncoder (tables of one stream) ──► gRPC
//!                      ▲ remove ◄──────────────────────────────────────────────── BatchAck ◄┘
//! ```
//!
//! The queue keeps windows and not encoded batches, because the tables of a stream die with it:
//! on the next stream everything unacknowledged is encoded anew, under the same sequence numbers.

pub mod batch;
pub mod client;
pub mod queue;
