//! One pod, and what rows say of it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hearth_policy::Labels;

use super::directory::Directory;

/// The labels that rows carry by default: what a pod is called, of which version, and of which
/// ReplicaSet or Job. By the last two `kubectl hearth` finds `rs/x` and `job/x`.
pub const DEFAULT_LABELS: &str =
    "app,k8s-app,app.kubernetes.io/*,version,pod-template-hash,batch.kubernetes.io/job-name";
/// Labels of one pod that rows carry at most.
const MAX_LABELS: usize = hearth_proto::limits::MAX_POD_LABELS;

/// What is kept of a Pod object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// As its cgroups have it: a static pod's is not that of its object.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All labels: policies select by them.
    pub labels: Labels,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Its first address; empty until it has one.
    pub ip: String,
    /// Ids and names of its containers.
    pub containers: Vec<(Arc<str>, Arc<str>)>,
}

/// What controls pods, or controls what controls them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Such as Deployment.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A pod as rows name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its address; may be empty.
    pub ip: Arc<str>,
    /// A Service that selects it; empty if none does.
    pub service: Arc<str>,
    /// Kind of its workload; empty for a pod that somebody made by hand.
    pub workload_kind: Arc<str>,
    /// Name of its workload.
    pub workload: Arc<str>,
    /// The labels that rows carry.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

// Whatever else differs: the hash is asked for with every sample.
impl Hash for Tags {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.namespace, &self.name).hash(state);
    }
}

impl Tags {
    /// All its texts.
    pub fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        let Self { namespace, name, ip, service, workload_kind, workload, labels } = self;
        let labels = labels.iter().flat_map(|(key, value)| [key, value]);
        [namespace, name, ip, service, workload_kind, workload].into_iter().chain(labels)
    }
}

impl Pod {
    /// The name of a container by its id.
    pub(super) fn container(&self, id: &str) -> Option<&Arc<str>> {
        self.containers.iter().find(|(known, _)| **known == *id).map(|(_, name)| name)
    }

    /// What rows say of it.
    pub(super) fn tags(&self, directory: &Directory, labels: &LabelFilter) -> Tags {
        let workload = directory.workload(self);
        let (kind, name) = workload.map_or_else(Default::default, |owner| (owner.kind, owner.name));
        let kept = self.labels.iter().filter(|(key, value)| !value.is_empty() && labels.keeps(key));
        Tags {
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            ip: self.ip.as_str().into(),
            service: directory.service(self).unwrap_or_default().into(),
            workload_kind: kind.into(),
            workload: name.into(),
            labels: kept
                .take(MAX_LABELS)
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
        }
    }
}

/// Which labels rows carry: keys, or beginnings of keys with a `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    exact: Vec<String>,
    beginnings: Vec<String>,
}

/// A list of labels that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: write keys of labels with commas between them, each at most with a * at its end")]
pub struct LabelFilterError(String);

impl LabelFilter {
    /// Reads `app,app.kubernetes.io/*`; the empty text keeps none.
    ///
    /// # Errors
    /// A key is empty, or has a `*` that is not its end.
    pub fn parse(text: &str) -> Result<Self, LabelFilterError> {
        let mut filter = Self { exact: Vec::new(), beginnings: Vec::new() };
        for key in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (beginning, is_open) =
                key.strip_suffix('*').map_or((key, false), |beginning| (beginning, true));
            if key.is_empty() || beginning.contains(|c: char| c == '*' || c.is_whitespace()) {
                return Err(LabelFilterError(key.to_owned()));
            }
            if is_open { &mut filter.beginnings } else { &mut filter.exact }.push(beginning.to_owned());
        }
        Ok(filter)
    }

    fn keeps(&self, key: &str) -> bool {
        self.exact.iter().any(|exact| exact == key)
            || self.beginnings.iter().any(|beginning| key.starts_with(beginning.as_str()))
    }
}

impl Default for LabelFilter {
    fn default() -> Self {
        Self::parse(DEFAULT_LABELS).expect("the default is a list of labels")
    }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
