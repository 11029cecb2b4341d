//! What the operator tells of objects that this node's pods name.

use std::collections::{BTreeSet, HashMap};

use hearth_policy::Labels;
use hearth_proto::config::v1;

use super::pod::{Owner, Pod};

/// Namespaces and owners of this node's pods, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// By name.
    pub namespaces: HashMap<String, Namespace>,
    /// The workload above a ReplicaSet or Job.
    pub workloads: HashMap<Object, Owner>,
}

/// One namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels.
    pub labels: Labels,
    /// Its Services, by name.
    pub services: Vec<Service>,
}

/// A Service and the pods that it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Labels that a pod must have; an empty selector selects none.
    pub selector: Labels,
}

/// An object in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Its namespace.
    pub namespace: String,
    /// Such as ReplicaSet.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What this node's pods make the agent ask the operator for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Their namespaces.
    pub namespaces: BTreeSet<String>,
    /// Their owners that may have an owner: ReplicaSets and Jobs.
    pub owners: BTreeSet<Object>,
}

/// Where a node is, as the cloud calls it; empty where nothing says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePlace {
    /// Label `topology.kubernetes.io/region`.
    pub region: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: String,
}

impl Directory {
    /// Name of a Service that selects the pod: of several the first by name.
    pub(super) fn service(&self, pod: &Pod) -> Option<&str> {
        let services = &self.namespaces.get(&pod.namespace)?.services;
        let selects = |service: &&Service| {
            let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
            !service.selector.is_empty() && service.selector.iter().all(has)
        };
        services.iter().filter(selects).map(|service| service.name.as_str()).min()
    }

    /// The workload that a pod belongs to: the Deployment, not the ReplicaSet.
    pub(super) fn workload(&self, pod: &Pod) -> Option<Owner> {
        let owner = pod.owner.as_ref()?;
        let object =
            Object { namespace: pod.namespace.clone(), kind: owner.kind.clone(), name: owner.name.clone() };
        if let Some(workload) = self.workloads.get(&object) {
            return Some(workload.clone());
        }
        // Not told yet. A Deployment names its ReplicaSets after itself and the hash in this label.
        let hash = pod.labels.get("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
        let stem = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        Some(match stem {
            Some(name) if !name.is_empty() => Owner { kind: "Deployment".into(), name: name.into() },
            _ => owner.clone(),
        })
    }
}

impl Wants {
    /// What pods in these namespaces and of these owners make it ask for.
    pub fn of<'a>(pods: impl Iterator<Item = (&'a str, Option<&'a Owner>)>) -> Self {
        let mut wants = Self::default();
        for (namespace, owner) in pods {
            wants.namespaces.insert(namespace.to_owned());
            if let Some(Owner { kind, name }) = owner
                && matches!(kind.as_str(), "ReplicaSet" | "Job")
            {
                let (namespace, kind, name) = (namespace.to_owned(), kind.clone(), name.clone());
                wants.owners.insert(Object { namespace, kind, name });
            }
        }
        wants
    }
}

impl NodePlace {
    /// From a node's labels, as they are called today or were before Kubernetes 1.17.
    pub fn of(labels: &Labels) -> Self {
        let value = |what: &str| {
            let names = [
                format!("topology.kubernetes.io/{what}"),
                format!("failure-domain.beta.kubernetes.io/{what}"),
            ];
            names.iter().find_map(|name| labels.get(name)).cloned().unwrap_or_default()
        };
        Self { region: value("region"), zone: value("zone") }
    }
}

impl From<v1::Directory> for Directory {
    fn from(told: v1::Directory) -> Self {
        let namespace = |v1::Namespace { name, labels, services }| {
            let service =
                |v1::Service { name, selector }| Service { name, selector: selector.into_iter().collect() };
            let services = services.into_iter().map(service).collect();
            (name, Namespace { labels: labels.into_iter().collect(), services })
        };
        let workload = |v1::Ownership { object, kind, name }| {
            let v1::Object { namespace, kind: owned, name: its_name } = object?;
            let object = Object { namespace, kind: owned, name: its_name };
            // One without an owner is a workload itself.
            let owner = if kind.is_empty() {
                Owner { kind: object.kind.clone(), name: object.name.clone() }
            } else {
                Owner { kind, name }
            };
            Some((object, owner))
        };
        Self {
            namespaces: told.namespaces.into_iter().map(namespace).collect(),
            workloads: told.workloads.into_iter().filter_map(workload).collect(),
        }
    }
}

impl From<Wants> for v1::Wants {
    fn from(wants: Wants) -> Self {
        let owner = |Object { namespace, kind, name }| v1::Object { namespace, kind, name };
        Self {
            namespaces: wants.namespaces.into_iter().collect(),
            owners: wants.owners.into_iter().map(owner).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_where_its_labels_say_the_new_names_first() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let place = NodePlace::of(&labels(&[
            ("topology.kubernetes.io/zone", "eu-1a"),
            ("failure-domain.beta.kubernetes.io/zone", "old"),
            ("failure-domain.beta.kubernetes.io/region", "eu-1"),
        ]));
        assert_eq!(place, NodePlace { region: "eu-1".into(), zone: "eu-1a".into() });
        assert_eq!(NodePlace::of(&Labels::new()), NodePlace::default());
    }

    #[test]
    fn what_the_operator_tells_is_taken_over() {
        let pairs = |key: &str| [(key.to_owned(), "1".to_owned())].into();
        let object =
            |kind: &str| v1::Object { namespace: "shop".into(), kind: kind.into(), name: "x-1".into() };
        let told = v1::Directory {
            namespaces: vec![v1::Namespace {
                name: "shop".into(),
                labels: pairs("team"),
                services: vec![v1::Service { name: "web".into(), selector: pairs("app") }],
            }],
            workloads: vec![
                v1::Ownership { object: Some(object("Job")), kind: "CronJob".into(), name: "x".into() },
                v1::Ownership {
                    object: Some(object("ReplicaSet")),
                    kind: String::new(),
                    name: String::new(),
                },
                v1::Ownership { object: None, kind: "Deployment".into(), name: "y".into() },
            ],
        };
        let directory = Directory::from(told);
        assert_eq!(directory.namespaces["shop"].labels["team"], "1");
        assert_eq!(directory.namespaces["shop"].services[0].name, "web");
        let mut workloads: Vec<_> = directory
            .workloads
            .iter()
            .map(|(of, is)| format!("{} {}: {} {}", of.kind, of.name, is.kind, is.name))
            .collect();
        workloads.sort();
        assert_eq!(workloads, ["Job x-1: CronJob x", "ReplicaSet x-1: ReplicaSet x-1"]);
    }
}
