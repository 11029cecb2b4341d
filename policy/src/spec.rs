//! The two kinds as `kubectl apply` takes them.
//!
//! A field that is not known here, as of a newer version, must not be passed over: it may narrow what is profiled.
//! The API server prunes what its own schema does not have, which may be the newer one. So unknown fields are kept
//! by name, and [`crate::validate`] refuses them; serde cannot combine `flatten` with `deny_unknown_fields`.
#![cfg_attr(feature = "crd", expect(clippy::duplicated_attributes, reason = "columns of equal types"))]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::interval::Interval;
use crate::selector::{LabelSelector, Labels};

/// `apiVersion` of both kinds.
pub const API_VERSION: &str = "profiling.hearth.dev/v1alpha1";

/// A policy with its kind, as one document of a file or one object of the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Name, namespace and so on.
    pub metadata: Metadata,
    /// What to profile and how.
    pub spec: Spec,
}

/// The kinds of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaced: reaches the pods of its own namespace only.
    ProfilingPolicy,
    /// Cluster-scoped.
    ClusterProfilingPolicy,
}

/// `metadata`, as far as Hearth reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// A DNS subdomain of at most 253 characters.
    pub name: String,
    /// A DNS label of at most 63 characters; `None` with the cluster kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels of the policy itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Annotations of the policy itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: Labels,
    /// RFC 3339, from the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
}

/// The spec of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// Of a `ProfilingPolicy`.
    Namespaced(ProfilingPolicySpec),
    /// Of a `ClusterProfilingPolicy`.
    Cluster(ClusterProfilingPolicySpec),
}

/// `spec` of a `ProfilingPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "profiling.hearth.dev",
        version = "v1alpha1",
        kind = "ProfilingPolicy",
        namespaced,
        status = "crate::status::PolicyStatus",
        shortname = "pp",
        category = "hearth",
        printcolumn(
            name = "Ready",
            type_ = "string",
            json_path = r#".status.conditions[?(@.type=="Ready")].status"#
        ),
        printcolumn(name = "Applied", type_ = "string", json_path = ".status.nodes.summary"),
        printcolumn(name = "Freq", type_ = "integer", json_path = ".spec.frequency"),
        printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matched.processes"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Regex", type_ = "string", json_path = ".spec.regex", priority = 1),
        printcolumn(
            name = "Reason",
            type_ = "string",
            json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
            priority = 1
        ),
        doc = "Profiles the pods of its own namespace."
    )
)]
#[cfg_attr(feature = "crd", schemars(transform = crate::crd::namespaced_priority))]
pub struct ProfilingPolicySpec {
    /// What both kinds have.
    #[serde(flatten)]
    pub core: SpecCore,
    /// Names of fields that this version does not know; never written.
    #[serde(flatten, skip_serializing, deserialize_with = "keys")]
    #[cfg_attr(feature = "crd", schemars(skip))]
    pub unknown: BTreeSet<String>,
}

/// `spec` of a `ClusterProfilingPolicy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(kube::CustomResource, schemars::JsonSchema))]
#[cfg_attr(
    feature = "crd",
    kube(
        group = "profiling.hearth.dev",
        version = "v1alpha1",
        kind = "ClusterProfilingPolicy",
        status = "crate::status::PolicyStatus",
        shortname = "cpp",
        category = "hearth",
        printcolumn(
            name = "Ready",
            type_ = "string",
            json_path = r#".status.conditions[?(@.type=="Ready")].status"#
        ),
        printcolumn(name = "Applied", type_ = "string", json_path = ".status.nodes.summary"),
        printcolumn(name = "Freq", type_ = "integer", json_path = ".spec.frequency"),
        printcolumn(name = "Matched", type_ = "integer", json_path = ".status.matched.processes"),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(name = "Regex", type_ = "string", json_path = ".spec.regex", priority = 1),
        printcolumn(
            name = "Reason",
            type_ = "string",
            json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
            priority = 1
        ),
        doc = "Profiles pods of all namespaces, and processes outside pods where it asks for them."
    )
)]
#[cfg_attr(feature = "crd", schemars(transform = crate::crd::cluster_priority))]
pub struct ClusterProfilingPolicySpec {
    /// What both kinds have.
    #[serde(flatten)]
    pub core: SpecCore,
    /// What this kind has alone.
    #[serde(flatten)]
    pub scope: ClusterScope,
    /// Names of fields that this version does not know; never written.
    #[serde(flatten, skip_serializing, deserialize_with = "keys")]
    #[cfg_attr(feature = "crd", schemars(skip))]
    pub unknown: BTreeSet<String>,
}

/// The fields that both kinds have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SpecCore {
    /// Keeps the policy, profiles nothing by it.
    pub disabled: bool,
    /// Searched in what `match` names. `None`: any process if the policy selects, else Hearth's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(length(max = 512)))]
    pub regex: Option<String>,
    /// Where `regex` is searched.
    #[serde(rename = "match")]
    pub match_on: MatchOn,
    /// Samples per second and CPU, 1 to 1000.
    #[cfg_attr(feature = "crd", schemars(with = "i32", range(min = 1, max = 1000)))]
    pub frequency: u32,
    /// 1: rows keep the CPU number. 0: they do not.
    #[cfg_attr(feature = "crd", schemars(with = "i32", range(min = 0, max = 1)))]
    pub cpu: u8,
    /// How long an unresolved Java frame waits before that JVM's symbols are read again.
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::defer_interval"))]
    pub java_symbol_file_refresh_defer_interval: Interval,
    /// The higher wins a process that several policies match.
    pub priority: i32,
    /// Which pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::label_selector"))]
    pub pod_selector: Option<LabelSelector>,
    /// Which containers in them, by name; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::containers"))]
    pub containers: Vec<String>,
    /// What a process is called in queries.
    pub app_service: AppService,
    /// Profile for so long after creation, then stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::duration"))]
    pub duration: Option<Interval>,
}

/// The fields that the cluster kind has alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterScope {
    /// Which namespaces, by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::label_selector"))]
    pub namespace_selector: Option<LabelSelector>,
    /// Which nodes, by their labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "crd", schemars(schema_with = "crate::crd::label_selector"))]
    pub node_selector: Option<LabelSelector>,
    /// Also the processes outside pods.
    pub host_processes: bool,
}

/// Where a policy's regex is searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MatchOn {
    /// The process leader's name, at most 15 bytes.
    #[default]
    Comm,
    /// The arguments, joined by blanks.
    Cmdline,
    /// The path of the executable.
    Exe,
}

/// What `app_service` is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "crd", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AppService {
    /// After the process.
    #[default]
    Comm,
    /// After the container.
    Container,
    /// After the workload (the Deployment, not the ReplicaSet).
    Workload,
    /// After the file of the executable, without its folder.
    Exe,
}

/// The keys of a map, whatever their values.
pub(crate) fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    struct Keys;

    impl<'de> Visitor<'de> for Keys {
        type Value = BTreeSet<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut keys = BTreeSet::new();
            while let Some((key, IgnoredAny)) = map.next_entry()? {
                keys.insert(key);
            }
            Ok(keys)
        }
    }

    deserializer.deserialize_map(Keys)
}

impl Default for SpecCore {
    fn default() -> Self {
        Self {
            disabled: false,
            regex: None,
            match_on: MatchOn::default(),
            frequency: 99,
            cpu: 0,
            java_symbol_file_refresh_defer_interval: Interval::from_seconds(600),
            priority: 0,
            pod_selector: None,
            containers: Vec::new(),
            app_service: AppService::default(),
            duration: None,
        }
    }
}

impl Kind {
    /// As `kind` in a document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProfilingPolicy => "ProfilingPolicy",
            Self::ClusterProfilingPolicy => "ClusterProfilingPolicy",
        }
    }
}

impl Spec {
    /// Which kind it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespaced(_) => Kind::ProfilingPolicy,
            Self::Cluster(_) => Kind::ClusterProfilingPolicy,
        }
    }

    /// The fields that both kinds have.
    pub fn core(&self) -> &SpecCore {
        match self {
            Self::Namespaced(spec) => &spec.core,
            Self::Cluster(spec) => &spec.core,
        }
    }

    /// Names of fields that this version does not know in this kind.
    pub fn unknown(&self) -> &BTreeSet<String> {
        match self {
            Self::Namespaced(spec) => &spec.unknown,
            Self::Cluster(spec) => &spec.unknown,
        }
    }

    /// The fields of the cluster kind; `None` for the other.
    pub fn scope(&self) -> Option<&ClusterScope> {
        match self {
            Self::Namespaced(_) => None,
            Self::Cluster(spec) => Some(&spec.scope),
        }
    }
}

impl Policy {
    /// `namespace/name`, or `name` of a cluster-wide one: what rows and messages carry.
    pub fn id(&self) -> String {
        match &self.metadata.namespace {
            Some(namespace) => format!("{namespace}/{}", self.metadata.name),
            None => self.metadata.name.clone(),
        }
    }
}
