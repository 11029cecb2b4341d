//! Hearth's gRPC contracts, generated from the `.proto` files beside this crate.
//!
//! The comments in the `.proto` files are the reference. What is added here are the
//! [`limits`] that both sides must know.

/// What node agents send to the collector.
pub mod collector {
    /// Version 1.
    #[expect(missing_docs, reason = "generated code; the .proto file has the comments")]
    #[expect(clippy::allow_attributes, reason = "generated code brings its own")]
    pub mod v1 {
        tonic::include_proto!("hearth.collector.v1");
    }
}

/// What the operator sends to node agents, and what they report.
pub mod config {
    /// Version 1.
    #[expect(missing_docs, reason = "generated code; the .proto file has the comments")]
    #[expect(clippy::allow_attributes, reason = "generated code brings its own")]
    pub mod v1 {
        tonic::include_proto!("hearth.config.v1");
    }
}

/// What a collector takes of one agent and the agent therefore keeps to: beyond it the stream is
/// refused, with whatever else it brings.
pub mod limits {
    /// Bytes of one stack's text: its frames, joined by `;`. A table of stacks that repeat one
    /// long string would otherwise grow without bound from a short message.
    pub const MAX_STACK_BYTES: usize = 128 << 10;
    /// Bytes that the rows of one batch and its new stacks may take where they are stored, all texts
    /// written out. Indices make them short on the wire: a message of 16 MiB that names one long
    /// frame over and over is 2 GB of text.
    pub const MAX_BATCH_BYTES: usize = 64 << 20;
    /// Bytes of the names of a node, a cluster and the like.
    pub const MAX_NAME_BYTES: usize = 253;
    /// Labels of one pod.
    pub const MAX_POD_LABELS: usize = 32;
}
