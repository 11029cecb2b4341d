//! `ProfilingPolicy`: types, validation and the decision for one process.
//!
//! Pure: no IO, no clock, no client. The way through it:
//!
//! ```text
//! text ──file::parse_policy_file──► Policy ──EffectivePolicy──► CompiledPolicy ─┐
//! (or serde, from the API server)     │                                         ├─decide──► Decision
//!                                     └─validate──► Finding (path, remedy)      │
//!                                                              ProcessFacts ────┘
//! ```
//!
//! [`validate`] is the one table of bounds; [`decide`] the one place where a policy wins or loses a process.
#![forbid(unsafe_code)]

mod bounds;
#[cfg(feature = "crd")]
pub mod crd;
mod decide;
mod effective;
mod facts;
mod file;
mod finding;
mod interval;
mod rate;
mod selector;
mod spec;
#[cfg(feature = "crd")]
mod status;
mod yaml;

pub use bounds::{Checked, validate};
pub use decide::{Before, Decision, NoMatch, Verdict, decide, goes_before};
pub use effective::{CompileError, CompiledPolicy, DEFAULT_REGEX, EffectivePolicy, cannot_match_here};
pub use facts::{Environment, Home, PodFacts, ProcessFacts, app_service};
pub use file::{MAX_DOCUMENTS, MAX_FILE_BYTES, parse_policy_file};
pub use finding::{Finding, PolicyErrors, Warning};
pub use interval::{Interval, IntervalError};
pub use rate::{effective_rate, node_rate, period_micros};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use spec::{
    API_VERSION, AppService, ClusterProfilingPolicySpec, ClusterScope, Kind, MatchOn, Metadata, Policy,
    ProfilingPolicySpec, Spec, SpecCore,
};
#[cfg(feature = "crd")]
pub use spec::{ClusterProfilingPolicy, ProfilingPolicy};
#[cfg(feature = "crd")]
pub use status::{MAX_FAILURES, MAX_OVERRIDERS, Matched, NodeCounts, NodeFailure, PolicyStatus};
