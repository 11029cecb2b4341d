//! `status` of both kinds: conditions and counts, never one entry per node and never a clock.
//!
//! Conditions follow [kstatus](https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md):
//! `Ready` sums up; `Reconciling` and `Stalled` are there only while they are true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `status` of a policy. Written by the operator alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The `metadata.generation` that the rest speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`, `Programmed`, `Ready`; `Reconciling` and `Stalled` while they are true.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How far the policy has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// What it profiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matched: Option<Matched>,
    /// Nodes that do not do what the policy asks for, at most [`MAX_FAILURES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<NodeFailure>,
    /// Policies that win processes which this one matches, at most [`MAX_OVERRIDERS`]: `namespace/name`, or
    /// `name` of a cluster-wide one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overridden_by: Vec<String>,
}

/// Entries of [`PolicyStatus::failures`].
pub const MAX_FAILURES: usize = 10;
/// Entries of [`PolicyStatus::overridden_by`].
pub const MAX_OVERRIDERS: usize = 10;

/// How many nodes the policy has reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCounts {
    /// The policy is for them.
    pub selected: i32,
    /// They work by it as it is now.
    pub applied: i32,
    /// They were sent it and have not answered.
    pub pending: i32,
    /// They refused it, or do not sample.
    pub failed: i32,
    /// They have no stream to the operator; they work by what they had.
    pub stale: i32,
    /// `applied/selected`, for a column.
    pub summary: String,
}

/// What a policy profiles, on all nodes together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Matched {
    /// Pods with at least one such process.
    pub pods: i64,
    /// Processes.
    pub processes: i64,
}

/// A node that does not do what the policy asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFailure {
    /// The node's name.
    pub node: String,
    /// One word, such as `Refused` or `UncleanStart`.
    pub reason: String,
    /// For people, at most 256 characters.
    pub message: String,
}
