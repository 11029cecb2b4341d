//! The Pod object, less what nobody here looks at: it is left out while the JSON is read, so that a
//! list of all pods of a node is small from the beginning.

use std::borrow::Cow;
use std::sync::Arc;

use hearth_policy::Labels;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};

use super::cgroup::is_uuid;
use super::pod::{Owner, Pod};

/// Labels and containers of a pod that are kept: whoever may create pods makes up as many as fit
/// into 1.5 MB, and all pods of a node are kept.
const MAX_KEPT: usize = 256;

/// A Pod as the API server sends it.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// Enough for the watch to go on from.
    metadata: ObjectMeta,
    /// What is kept of it.
    pub pod: Pod,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: Option<String>,
    labels: Option<Labels>,
    annotations: Option<RawAnnotations>,
    owner_references: Option<Vec<RawOwner>>,
}

#[derive(Default, Deserialize)]
struct RawAnnotations {
    /// On the mirror of a static pod: the uid that the kubelet gave the pod itself.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
    /// Marks such a mirror.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Deserialize)]
struct RawOwner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    container_statuses: Option<Vec<RawContainer>>,
    /// Sidecars are among these.
    init_container_statuses: Option<Vec<RawContainer>>,
    ephemeral_container_statuses: Option<Vec<RawContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    name: String,
    #[serde(rename = "containerID")]
    id: Option<String>,
    last_state: Option<RawState>,
}

#[derive(Deserialize)]
struct RawState {
    terminated: Option<RawTerminated>,
}

#[derive(Deserialize)]
struct RawTerminated {
    #[serde(rename = "containerID")]
    id: Option<String>,
}

impl From<Raw> for PodObject {
    fn from(raw: Raw) -> Self {
        let RawMetadata { name, namespace, uid, resource_version, labels, annotations, owner_references } =
            raw.metadata;
        let RawAnnotations { hash, mirror } = annotations.unwrap_or_default();
        // Whoever may create pods may call one a mirror: it is not to take another pod's place.
        let of_static = mirror.and(hash).filter(|hash| !is_uuid(hash));
        let in_cgroups = of_static.unwrap_or_else(|| uid.clone());
        let owners = owner_references.unwrap_or_default().into_iter();
        // The owner of a mirror is its node, which is no workload.
        let owner = owners
            .filter(|owner| owner.controller == Some(true) && owner.kind != "Node")
            .map(|RawOwner { kind, name, .. }| Owner { kind, name })
            .next();
        let RawStatus { pod_ip, container_statuses, init_container_statuses, ephemeral_container_statuses } =
            raw.status;
        let statuses = [container_statuses, init_container_statuses, ephemeral_container_statuses];
        let pod = Pod {
            uid: in_cgroups.into(),
            namespace: namespace.clone(),
            name: name.clone(),
            labels: labels.unwrap_or_default().into_iter().take(MAX_KEPT).collect(),
            owner,
            ip: pod_ip.unwrap_or_default(),
            containers: containers(statuses.into_iter().flatten().flatten()),
        };
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(uid),
            resource_version,
            ..ObjectMeta::default()
        };
        Self { metadata, pod }
    }
}

/// Id and name of each that runs or ran, and of what ran before under the same name.
fn containers(statuses: impl Iterator<Item = RawContainer>) -> Vec<(Arc<str>, Arc<str>)> {
    let mut containers = Vec::new();
    for RawContainer { name, id, last_state } in statuses {
        let name: Arc<str> = name.into();
        let before = last_state.and_then(|state| state.terminated?.id);
        for id in [id, before].into_iter().flatten() {
            // RUNTIME://ID
            let id = id.split_once("://").map_or(id.as_str(), |(_, id)| id);
            if !id.is_empty() && containers.len() < MAX_KEPT {
                containers.push((id.into(), name.clone()));
            }
        }
    }
    containers
}

impl<'de> Deserialize<'de> for PodObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Raw::deserialize(deserializer).map(Self::from)
    }
}

impl kube::Resource for PodObject {
    type DynamicType = ();
    type Scope = k8s_openapi::NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
