//! Hearth's gRPC contracts, generated from the `.proto` files beside this crate.
//!
//! The comments in the `.proto` files are the reference; nothing is added here.

/// What node agents send to the collector.
pub mod collector {
    /// Version 1.
    #[expect(missing_docs, reason = "generated code; the .proto file has the comments")]
    #[expect(clippy::allow_attributes, reason = "generated code brings its own")]
    pub mod v1 {
        tonic::include_proto!("hearth.collector.v1");
    }
}
