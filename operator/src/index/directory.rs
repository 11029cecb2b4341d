//! What nodes have to know of other objects: namespaces, their Services, and what is above ReplicaSets and Jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_policy::Labels;
use hearth_proto::config::v1;

use super::{Change, Index};

/// Kinds that own pods and may have an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    /// Below a Deployment.
    ReplicaSet,
    /// Below a CronJob.
    Job,
}

/// One ReplicaSet or Job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name.
    pub name: Arc<str>,
}

/// The controller of a ReplicaSet or Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Such as `Deployment`.
    pub kind: Box<str>,
    /// In the same namespace.
    pub name: Box<str>,
}

/// What is known by namespace. Objects may come before their namespace does.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    /// `None`: the namespace itself is not known.
    labels: Option<Labels>,
    services: BTreeMap<Box<str>, Labels>,
    owners: BTreeMap<(OwnerKind, Arc<str>), Owner>,
}

impl OwnerKind {
    /// As Kubernetes calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
        }
    }

    /// `None`: such objects have no owner that matters.
    pub fn parse(kind: &str) -> Option<Self> {
        [Self::ReplicaSet, Self::Job].into_iter().find(|known| known.as_str() == kind)
    }
}

impl Namespace {
    fn is_empty(&self) -> bool {
        self.labels.is_none() && self.services.is_empty() && self.owners.is_empty()
    }
}

impl Index {
    /// A namespace was created or changed (`Some`), or deleted.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> Change {
        self.in_namespace(name, |entry, name| {
            let changed = entry.labels != labels;
            entry.labels = labels;
            if changed { Change::Namespace(name) } else { Change::Nothing }
        })
    }

    /// A Service was created or changed, or deleted (`None`). One with an empty selector selects nothing.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) -> Change {
        self.in_namespace(namespace, |entry, namespace| {
            let before = match selector.filter(|selector| !selector.is_empty()) {
                Some(selector) if entry.services.get(name) == Some(&selector) => return Change::Nothing,
                Some(selector) => Some(entry.services.insert(name.into(), selector)),
                None => entry.services.remove(name).map(Some),
            };
            if before.is_some() { Change::Namespace(namespace) } else { Change::Nothing }
        })
    }

    /// A ReplicaSet or Job was created or changed: this is its controller. Or it has none, or was deleted.
    pub fn set_owner(
        &mut self,
        namespace: &str,
        kind: OwnerKind,
        name: &str,
        owner: Option<Owner>,
    ) -> Change {
        let name: Arc<str> = name.into();
        self.in_namespace(namespace, |entry, namespace| {
            let key = (kind, Arc::clone(&name));
            let changed = match owner {
                Some(owner) if entry.owners.get(&key) == Some(&owner) => false,
                Some(owner) => {
                    entry.owners.insert(key, owner);
                    true
                }
                None => entry.owners.remove(&key).is_some(),
            };
            if changed { Change::Owner(OwnerKey { namespace, kind, name }) } else { Change::Nothing }
        })
    }

    fn in_namespace(&mut self, name: &str, f: impl FnOnce(&mut Namespace, Arc<str>) -> Change) -> Change {
        let (name, mut entry) =
            self.namespaces.remove_entry(name).unwrap_or_else(|| (name.into(), Namespace::default()));
        let change = f(&mut entry, Arc::clone(&name));
        if !entry.is_empty() {
            self.namespaces.insert(name, entry);
        }
        change
    }

    /// All of what was asked for and exists, in the order of names. `None`: not all is listed yet.
    pub fn directory_for<'a>(
        &self,
        namespaces: impl IntoIterator<Item = &'a str>,
        owners: impl IntoIterator<Item = &'a OwnerKey>,
    ) -> Option<v1::Directory> {
        if !self.directories_known() {
            return None;
        }
        let namespaces = namespaces.into_iter().filter_map(|name| {
            let namespace = self.namespaces.get(name)?;
            let labels = namespace.labels.as_ref()?;
            let services = namespace.services.iter().map(|(name, selector)| v1::Service {
                name: name.to_string(),
                selector: selector.clone().into_iter().collect(),
            });
            Some(v1::Namespace {
                name: name.to_owned(),
                labels: labels.clone().into_iter().collect(),
                services: services.collect(),
            })
        });
        let workloads = owners.into_iter().filter_map(|key| {
            let owner =
                self.namespaces.get(&key.namespace)?.owners.get(&(key.kind, Arc::clone(&key.name)))?;
            Some(v1::Ownership {
                object: Some(v1::Object {
                    namespace: key.namespace.to_string(),
                    kind: key.kind.as_str().to_owned(),
                    name: key.name.to_string(),
                }),
                kind: owner.kind.to_string(),
                name: owner.name.to_string(),
            })
        });
        Some(v1::Directory { namespaces: namespaces.collect(), workloads: workloads.collect() })
    }
}
