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

/// What an operator takes of one agent, and what an agent must be ready to take of it. Beyond the first the
/// stream is refused with INVALID_ARGUMENT; names keep to [`limits::MAX_NAME_BYTES`].
pub mod config_limits {
    /// Bytes of one report.
    pub const MAX_REPORT_BYTES: usize = 4 << 20;
    /// Bytes of one update: a configuration with many policies is larger than what a client takes by default.
    pub const MAX_UPDATE_BYTES: usize = 16 << 20;
    /// Entries of `Config.kept`.
    pub const MAX_KEPT: usize = 1000;
    /// Bytes of an agent's instance.
    pub const INSTANCE_BYTES: usize = 16;
    /// Bytes of a configuration's hash.
    pub const MAX_HASH_BYTES: usize = 64;
    /// Bytes of `namespace/name` of a policy.
    pub const MAX_POLICY_BYTES: usize = 63 + 1 + 253;
    /// Bytes of what is written for people. What is longer is cut, not refused.
    pub const MAX_MESSAGE_BYTES: usize = 1024;
    /// Entries of `Counts.policies`.
    pub const MAX_COUNTS: usize = 10_000;
    /// Entries of `PolicyCount.overridden_by`.
    pub const MAX_OVERRIDERS: usize = 10;
    /// Entries of `PolicyCount.seen`.
    pub const MAX_SEEN: usize = 5;
    /// Entries of `Wants.namespaces`.
    pub const MAX_WANTED_NAMESPACES: usize = 2000;
    /// Entries of `Wants.owners`.
    pub const MAX_WANTED_OWNERS: usize = 4000;
}
