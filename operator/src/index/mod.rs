//! What the API server has, as far as nodes and statuses depend on it.
//!
//! Pure: it is told what a watch brought, says who is touched by it, and computes what a node gets. Time is
//! passed in. Every table is ordered, so that equal content gives equal answers whatever the order in which
//! it came.

mod config;
mod directory;
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_policy::{Labels, PolicyStatus};

pub use config::{ConfigHash, NodeConfig, PolicySet};
pub use directory::{Owner, OwnerKey, OwnerKind};
pub use policy::{InForce, Policy, PolicyId, PolicyObject};

/// The node's label that switches profiling off there, by its value [`OFF_VALUE`].
pub const OFF_LABEL: &str = "hearth.dev/profiling";
/// See [`OFF_LABEL`].
pub const OFF_VALUE: &str = "off";
/// The node's annotation whose change lets a detached agent attach again.
pub const RESUME_ANNOTATION: &str = "hearth.dev/resume";
/// Bytes of that annotation's value that are passed on: it is a token, and may be as large as an object.
const MAX_RESUME_BYTES: usize = 253;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `ProfilingPolicy`.
    Policies,
    /// `ClusterProfilingPolicy`.
    ClusterPolicies,
    /// Their metadata.
    Nodes,
    /// Their metadata.
    Namespaces,
    /// Those with a selector.
    Services,
    /// Their metadata, for what is above them.
    ReplicaSets,
    /// Their metadata, for what is above them.
    Jobs,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Policies,
        Self::ClusterPolicies,
        Self::Nodes,
        Self::Namespaces,
        Self::Services,
        Self::ReplicaSets,
        Self::Jobs,
    ];

    /// As the API server calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policies => "profilingpolicies",
            Self::ClusterPolicies => "clusterprofilingpolicies",
            Self::Nodes => "nodes",
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::ReplicaSets => "replicasets",
            Self::Jobs => "jobs",
        }
    }

    /// Whether a node's configuration depends on it, not only its directory.
    fn decides_configs(self) -> bool {
        matches!(self, Self::Policies | Self::ClusterPolicies | Self::Nodes)
    }
}

/// Whom a change touches. Statuses may be touched by any but [`Change::Nothing`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Nobody.
    Nothing,
    /// Statuses only.
    Statuses,
    /// The configuration of every node.
    EveryNode,
    /// That of this node.
    Node(Arc<str>),
    /// The directory of nodes that want this namespace.
    Namespace(Arc<str>),
    /// The directory of nodes that want this owner.
    Owner(OwnerKey),
}

/// A node as its object describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeObject {
    labels: Labels,
    resume: String,
}

/// Everything that was watched.
#[derive(Debug, Default)]
pub struct Index {
    policies: BTreeMap<PolicyId, Policy>,
    nodes: BTreeMap<Arc<str>, NodeObject>,
    namespaces: BTreeMap<Arc<str>, directory::Namespace>,
    synced: BTreeSet<Resource>,
    sets: config::PolicySets,
    /// Until a policy changes: it is the same for every node.
    kept: Option<Arc<config::Kept>>,
}

impl NodeObject {
    /// A node with this metadata.
    pub fn new(labels: Labels, annotations: &Labels) -> Self {
        let resume = annotations.get(RESUME_ANNOTATION).map(String::as_str).unwrap_or_default();
        let end = (0..=resume.len().min(MAX_RESUME_BYTES)).rev().find(|&i| resume.is_char_boundary(i));
        Self { labels, resume: resume[..end.unwrap_or(0)].to_owned() }
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Profiling is switched off there by its label.
    pub fn is_off(&self) -> bool {
        self.labels.get(OFF_LABEL).is_some_and(|value| value == OFF_VALUE)
    }
}

impl Index {
    /// All of a resource has been listed.
    pub fn set_synced(&mut self, resource: Resource) -> Change {
        if self.synced.insert(resource) && (self.configs_known() || self.directories_known()) {
            return Change::EveryNode;
        }
        Change::Nothing
    }

    /// What has not been listed yet.
    pub fn unsynced(&self) -> impl Iterator<Item = Resource> {
        Resource::ALL.into_iter().filter(|resource| !self.synced.contains(resource))
    }

    /// Before that, a configuration would lack policies, and nodes would stop profiling by them.
    pub fn configs_known(&self) -> bool {
        self.unsynced().all(|resource| !resource.decides_configs())
    }

    fn directories_known(&self) -> bool {
        self.unsynced().all(Resource::decides_configs)
    }

    /// A policy was created or changed, in its spec or elsewhere.
    pub fn set_policy(&mut self, id: PolicyId, object: PolicyObject) -> Change {
        self.kept = None;
        let (policy, changed) = Policy::next(id.clone(), self.policies.remove(&id), object);
        self.policies.insert(id, policy);
        if changed { Change::EveryNode } else { Change::Statuses }
    }

    /// A policy was deleted.
    pub fn remove_policy(&mut self, id: &PolicyId) -> Change {
        self.kept = None;
        match self.policies.remove(id) {
            Some(_) => Change::EveryNode,
            None => Change::Nothing,
        }
    }

    /// What the API server answered to a write of a status: the watch brings it later.
    pub fn set_status(&mut self, id: &PolicyId, uid: &str, status: PolicyStatus) {
        if let Some(policy) = self.policies.get_mut(id).filter(|policy| policy.uid() == uid) {
            policy.set_status(status);
        }
    }

    /// A node was created or changed.
    pub fn set_node(&mut self, name: &str, object: NodeObject) -> Change {
        if self.nodes.get(name) == Some(&object) {
            return Change::Nothing;
        }
        let name = self.nodes.remove_entry(name).map_or_else(|| Arc::from(name), |(name, _)| name);
        self.nodes.insert(Arc::clone(&name), object);
        Change::Node(name)
    }

    /// A node was deleted.
    pub fn remove_node(&mut self, name: &str) -> Change {
        self.nodes.remove_entry(name).map_or(Change::Nothing, |(name, _)| Change::Node(name))
    }

    /// Policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// One policy.
    pub fn policy(&self, id: &PolicyId) -> Option<&Policy> {
        self.policies.get(id)
    }

    /// Nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = (&Arc<str>, &NodeObject)> {
        self.nodes.iter()
    }

    /// The name of a node, if there is one of that name.
    pub fn node_name(&self, name: &str) -> Option<Arc<str>> {
        self.nodes.get_key_value(name).map(|(name, _)| Arc::clone(name))
    }

    /// The id of a policy, if there is one of that name.
    pub fn policy_id(&self, id: &str) -> Option<PolicyId> {
        self.policies.get_key_value(id).map(|(id, _)| id.clone())
    }

    /// The next moment, in Unix seconds, at which a policy's duration is over.
    pub fn next_end(&self, now: i64) -> Option<i64> {
        let in_force = self.policies.values().filter_map(|policy| policy.in_force());
        in_force.filter_map(|policy| policy.ends()).filter(|&ends| ends > now).min()
    }
}

#[cfg(test)]
pub(crate) mod tests;
