//! What is asked of the API server beside profiles, with the user's rights.

use futures::future::OptionFuture;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::Status;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::surface::Surface;
use crate::target::Kind;

/// Names given as alternatives.
const SUGGESTIONS: usize = 5;
/// Objects of a list. More are not looked through.
const MAX_LISTED: u32 = 5000;

/// What the API server has of something.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// It.
    Here(T),
    /// Nothing.
    Nowhere,
    /// The user may not know. Its own words.
    Hidden(String),
}

impl<T> Found<T> {
    /// `None` if it is not there, or may not be seen.
    pub(crate) fn here(self) -> Option<T> {
        match self {
            Self::Here(object) => Some(object),
            Self::Nowhere | Self::Hidden(_) => None,
        }
    }
}

impl Surface {
    /// The outcome of a request; absence and lack of rights are no failures.
    pub(crate) async fn found<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<Found<T>, Failure> {
        let outcome = async {
            match request.await {
                Ok(object) => Ok(Found::Here(object)),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Found::Nowhere),
                Err(kube::Error::Api(status)) if status.code == 403 => Ok(Found::Hidden(status.message)),
                Err(error) => Err(self.failure(&error)),
            }
        };
        self.in_time(outcome).await
    }

    /// What a failed request to the API server says.
    pub(crate) fn failure(&self, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) => match **status {
                Status { code: 401, ref message, .. } => self.unauthorized(message.clone()),
                Status { code: 403, ref message, .. } => {
                    Failure::Forbidden { said: message.clone(), remedy: "ask for that right".to_owned() }
                }
                Status { code, ref message, .. } => {
                    Failure::Refused(format!("the API server says: {message} ({code})"))
                }
            },
            error => self.unreachable(error),
        }
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn node(&self, name: &str) -> Result<Found<Node>, Failure> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        self.found(nodes.get(name)).await
    }

    pub(crate) async fn namespace(&self, name: &str) -> Result<Found<Namespace>, Failure> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        self.found(namespaces.get(name)).await
    }

    /// All that the API has, within bounds.
    pub(crate) async fn list<K>(&self, api: Api<K>, selector: Option<&str>) -> Result<Found<Vec<K>>, Failure>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let parameters = ListParams { label_selector: selector.map(str::to_owned), ..ListParams::default() };
        let found = self.found(api.list(&parameters.limit(MAX_LISTED))).await?;
        Ok(match found {
            Found::Here(list) => Found::Here(list.items),
            Found::Nowhere => Found::Nowhere,
            Found::Hidden(said) => Found::Hidden(said),
        })
    }

    /// A Deployment, a Job and so on, as the API server has it.
    pub(crate) async fn workload(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Found<DynamicObject>, Failure> {
        let (group, plural) = kind.resource();
        let gvk = GroupVersionKind::gvk(group, "v1", kind.as_str());
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        self.found(api.get(name)).await
    }

    /// That there is no such namespace, if that is sure.
    pub(crate) async fn check_namespace(&self, name: &str) -> Result<(), Failure> {
        match self.namespace(name).await? {
            Found::Nowhere => Err(Failure::NoNamespace(name.to_owned())),
            Found::Here(_) | Found::Hidden(_) => Ok(()),
        }
    }

    /// Pods whose names begin with what may be a part of one; none if that may not be seen.
    pub(crate) async fn pods_like(&self, namespace: &str, name: &str) -> Result<Vec<String>, Failure> {
        let pods = self.list(self.pods(namespace), None).await?.here().unwrap_or_default();
        let names = pods.into_iter().filter_map(|pod| pod.metadata.name);
        let mut names: Vec<String> = names.filter(|other| other.starts_with(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The agent's pod on a node; `None` if the user may not look for it.
    pub(crate) async fn agent_on(
        &self,
        hearth_namespace: &str,
        node: Option<&str>,
    ) -> Result<Option<Found<Pod>>, Failure> {
        let of_node = node.map(|node| async move {
            let agents = self.list(self.pods(hearth_namespace), Some(PART_OF)).await?;
            Ok::<_, Failure>(match agents {
                Found::Here(pods) => {
                    let agent = pods.into_iter().find(|pod| is_agent(pod) && node_of(pod) == Some(node));
                    agent.map_or(Found::Nowhere, Found::Here)
                }
                Found::Nowhere => Found::Nowhere,
                Found::Hidden(said) => Found::Hidden(said),
            })
        });
        OptionFuture::from(of_node).await.transpose()
    }
}

/// What Hearth's own objects are labelled with.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of=hearth";

/// Of Hearth's pods, those of the DaemonSet.
pub(crate) fn is_agent(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.kind == "DaemonSet")
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Whether its condition `Ready` holds, and if not why.
pub(crate) fn readiness(pod: &Pod) -> Result<(), String> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return Ok(());
    }
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let waiting = containers.iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        Some(format!("{}{message}", waiting.reason.as_deref().unwrap_or("waiting")))
    });
    let phase = || status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "unknown".to_owned());
    Err(waiting.unwrap_or_else(|| format!("{}, not ready", phase().to_lowercase())))
}

/// That there is no such pod, with those that may be meant.
pub(crate) fn no_pod(name: &str, namespace: &str, like: &[String], nothing: &str) -> Failure {
    match like {
        [] => Failure::NoObject(format!(
            "there is no pod {name} in the namespace {namespace}{nothing}: \
             kubectl get pods -n {namespace} lists those that run; -n chooses another namespace, --since or --from \
             another time"
        )),
        [one] => Failure::NoObject(format!(
            "there is no pod {name} in the namespace {namespace}: is it pod/{one}?"
        )),
        several => {
            let named: Vec<&str> = several.iter().take(SUGGESTIONS).map(String::as_str).collect();
            let more = several.len().saturating_sub(named.len());
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            Failure::Several(format!(
                "several pods of the namespace {namespace} begin with {name}: {}{more}; name one, or ask about all of \
                 them by deploy/NAME, sts/NAME and so on",
                named.join(", ")
            ))
        }
    }
}
