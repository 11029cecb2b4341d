//! From a target to what the API is asked for: a place, an app, a condition on tags.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};

use crate::commands::Session;
use crate::error::Failure;
use crate::kubernetes::{Found, no_pod};
use crate::surface::{Access, Place};
use crate::target::{Kind, Target};

/// A target as the API understands it.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// For titles, and the root of what has several apps.
    pub(crate) label: String,
    pub(crate) subject: Subject,
    pub(crate) place: Place,
    /// A condition on tags; empty if there is none.
    pub(crate) filter: String,
    /// The pod, if it is one and is there.
    pub(crate) pod: Option<Box<Pod>>,
    /// What the reader must know of the target.
    pub(crate) notes: Vec<String>,
    /// Why there is nothing, if nothing is stored: there is no such object.
    pub(crate) gone: Option<Gone>,
}

/// An object that the API server does not have.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    target: Target,
    namespace: String,
}

/// Whether samples of it were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// There are none.
    Nothing,
    /// That takes no samples.
    NotAsked,
}

/// Whose stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Every process by its name, without stacks.
    Total,
    /// One app.
    App(String),
    /// Each app that the filter finds.
    EachApp,
}

impl Selection {
    fn new(target: &Target, subject: Subject, place: Place, filter: String) -> Self {
        let label = match &place {
            Place::Namespace(namespace) => format!("{target} in {namespace}"),
            Place::Cluster => target.to_string(),
        };
        Self { place, filter, ..Self::cluster(&label, subject) }
    }

    /// Of the whole cluster.
    pub(crate) fn cluster(label: &str, subject: Subject) -> Self {
        Self {
            label: label.to_owned(),
            subject,
            place: Place::Cluster,
            filter: String::new(),
            pod: None,
            notes: Vec::new(),
            gone: None,
        }
    }

    /// Narrowed by what the user wrote.
    pub(crate) fn narrowed(mut self, app: Option<&str>, filter: Option<&str>) -> Self {
        if let Some(app) = app {
            self.subject = Subject::App(app.to_owned());
        }
        self.filter = both(&self.filter, filter.unwrap_or_default());
        self
    }
}

impl Session {
    /// What a target is.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Selection, Failure> {
        let kubernetes = self.surface.access == Access::Kubernetes;
        match target {
            Target::App(name) => {
                let subject = Subject::App(name.clone());
                Ok(Selection::new(target, subject, self.place(), self.server_namespace()))
            }
            Target::Total => {
                // The cluster's, unless a namespace was asked for by name.
                let place = if self.namespace_given { self.place() } else { Place::Cluster };
                Ok(Selection::new(target, Subject::Total, place, self.server_namespace()))
            }
            Target::Node(name) if !kubernetes => {
                let name = text(name);
                let filter = format!("pod_node = {name} OR host = {name}");
                Ok(Selection::new(target, Subject::Total, Place::Cluster, filter))
            }
            Target::Pod(_) | Target::Workload(..) if !kubernetes => {
                Err(Failure::NeedsKubernetes(target.to_string()))
            }
            Target::Node(name) => self.node(target, name).await,
            Target::Pod(name) => self.pod(target, name).await,
            Target::Workload(kind, name) => self.workload(target, *kind, name).await,
        }
    }

    /// Without Kubernetes there is no path of a namespace: a condition says it.
    fn server_namespace(&self) -> String {
        if self.surface.access == Access::Server && self.namespace_given {
            format!("pod_ns = {}", text(&self.namespace))
        } else {
            String::new()
        }
    }

    async fn node(&self, target: &Target, name: &str) -> Result<Selection, Failure> {
        let filter = format!("pod_node = {}", text(name));
        let mut selection = Selection::new(target, Subject::Total, Place::Cluster, filter);
        if let Found::Nowhere = self.surface.node(name).await? {
            selection.gone = Some(Gone { target: target.clone(), namespace: String::new() });
        }
        Ok(selection)
    }

    async fn pod(&self, target: &Target, name: &str) -> Result<Selection, Failure> {
        let (namespace, found) = if self.all_namespaces {
            self.pod_anywhere(name).await?
        } else {
            (self.namespace.clone(), self.surface.found(self.surface.pods(&self.namespace).get(name)).await?)
        };
        let place = if namespace.is_empty() { Place::Cluster } else { Place::Namespace(namespace.clone()) };
        let filter = format!("pod = {}", text(name));
        let mut selection = Selection::new(target, Subject::EachApp, place, filter);
        match found {
            Found::Here(pod) => selection.pod = Some(Box::new(pod)),
            Found::Nowhere => selection.gone = Some(Gone { target: target.clone(), namespace }),
            // Rights on profiles are others than those on pods.
            Found::Hidden(_) => {}
        }
        Ok(selection)
    }

    async fn pod_anywhere(&self, name: &str) -> Result<(String, Found<Pod>), Failure> {
        let pods: Api<Pod> = Api::all(self.surface.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let mut pods = match self.surface.found(pods.list(&named)).await? {
            Found::Here(list) => list.items,
            Found::Nowhere => Vec::new(),
            Found::Hidden(said) => return Ok((String::new(), Found::Hidden(said))),
        };
        let namespaces: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.namespace.as_deref()).collect();
        if let [_, _, ..] = namespaces[..] {
            return Err(Failure::Several(format!(
                "several pods are called {name}, in the namespaces {}: choose one by -n",
                namespaces.join(", ")
            )));
        }
        let namespace = namespaces.first().map(|&namespace| namespace.to_owned()).unwrap_or_default();
        Ok((namespace, pods.pop().map_or(Found::Nowhere, Found::Here)))
    }

    async fn workload(&self, target: &Target, kind: Kind, name: &str) -> Result<Selection, Failure> {
        if self.all_namespaces {
            let filter = workload_filter(kind, name, None);
            return Ok(Selection::new(target, Subject::EachApp, Place::Cluster, filter));
        }
        let found = self.surface.workload(kind, &self.namespace, name).await?;
        let gone = matches!(found, Found::Nowhere);
        let object = found.here();
        let filter = workload_filter(kind, name, object.as_ref());
        let mut selection = Selection::new(target, Subject::EachApp, self.place(), filter);
        if gone {
            selection.gone = Some(Gone { target: target.clone(), namespace: self.namespace.clone() });
        }
        Ok(selection)
    }

    /// What to say of an object that is not there, and where that was looked for, of which nothing is stored.
    pub(crate) async fn missing(&self, gone: &Gone, stored: Stored) -> Result<Failure, Failure> {
        let nothing = match stored {
            Stored::Nothing => ", and nothing is stored of one in that time",
            Stored::NotAsked => "",
        };
        let Gone { target, namespace } = gone;
        if !namespace.is_empty() {
            self.surface.check_namespace(namespace).await?;
        }
        Ok(match target {
            Target::Pod(name) if namespace.is_empty() => Failure::NoObject(format!(
                "there is no pod {name} in any namespace{nothing}: \
                 kubectl get pods -A lists those that run"
            )),
            Target::Pod(name) => {
                let like = self.surface.pods_like(namespace, name).await?;
                no_pod(name, namespace, &like, nothing)
            }
            Target::Node(name) => {
                Failure::NoObject(format!("there is no node {name}{nothing}: kubectl get nodes lists them"))
            }
            target => Failure::NoObject(format!(
                "there is no {target} in the namespace {namespace}{nothing}: \
                 kubectl get {} -n {namespace} lists what there is; -n chooses another namespace, --since or --from \
                 another time",
                match target {
                    Target::Workload(kind, _) => kind.short(),
                    _ => "all",
                }
            )),
        })
    }
}

impl Gone {
    /// For an answer that is not empty.
    pub(crate) fn note(&self) -> String {
        format!("{} is not there any more: this is what is stored of it", self.target)
    }
}

/// Rows carry the workload above: of a ReplicaSet's pods its Deployment, of a Job's its CronJob.
fn workload_filter(kind: Kind, name: &str, object: Option<&DynamicObject>) -> String {
    let name = text(name);
    match kind {
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet => {
            format!("pod_group = {name} AND pod_group_type = '{}'", kind.as_str())
        }
        // DeepFlow has no number for it.
        Kind::CronJob => format!("pod_group = {name} AND pod_group_type IS NULL"),
        Kind::Job => format!("k8s.label.batch.kubernetes.io/job-name = {name}"),
        Kind::ReplicaSet => match object.and_then(of_deployment) {
            Some((deployment, hash)) => replica_set_filter(&deployment, &hash),
            None => format!("pod_group = {name} AND pod_group_type = 'ReplicaSet'"),
        },
    }
}

/// The pods of one ReplicaSet of a Deployment.
pub(crate) fn replica_set_filter(deployment: &str, hash: &str) -> String {
    let deployment = workload_filter(Kind::Deployment, deployment, None);
    format!("{deployment} AND k8s.label.pod-template-hash = {}", text(hash))
}

/// The Deployment that a ReplicaSet is of, and what tells its pods from those of the others.
fn of_deployment(replica_set: &DynamicObject) -> Option<(String, String)> {
    let owners = replica_set.metadata.owner_references.as_deref()?;
    let deployment = owners.iter().find(|owner| owner.kind == "Deployment")?.name.clone();
    let hash = replica_set.metadata.labels.as_ref()?.get("pod-template-hash")?.clone();
    Some((deployment, hash))
}

/// Text as filters take it.
pub(crate) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Both conditions.
pub(crate) fn both(one: &str, other: &str) -> String {
    match (one.trim(), other.trim()) {
        ("", only) | (only, "") => only.to_owned(),
        (one, other) => format!("({one}) AND ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_where_it_should() {
        assert_eq!(text("it's a \\"), r"'it''s a \\'");
    }

    #[test]
    fn a_condition_keeps_what_it_binds() {
        assert_eq!(both("a = 1 OR b = 2", "c = 3"), "(a = 1 OR b = 2) AND (c = 3)");
        assert_eq!(both("", " c = 3 "), "c = 3");
        assert_eq!(both("a = 1", ""), "a = 1");
    }
}
