//! Reads and writes the objects.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::{KeepError, Owner, shown};
use crate::api::{WriteError, write};
use crate::certificates::issue::IssueError;
use crate::certificates::objects::{
    Created, Stored, leaf_secret, ours, publication_map, read_leaf, read_publication,
};
use crate::certificates::plan::{Fingerprint, Layout, Publication, Seen, Why};
use crate::certificates::read::{Certificate, Pair, Unreadable};
use crate::certificates::{Names, api_service};
use crate::metrics::{Metrics, Write};

/// What is done, in the words of an error.
const READ: &str = "read";
/// Only a write can be in conflict with another's.
const WRITTEN: &str = "written";

/// The objects of one installation.
pub(super) struct Objects {
    client: Client,
    names: Names,
    metrics: Arc<Metrics>,
    owner: OnceLock<Owner>,
    /// That the `APIService` may not be read has been said.
    forbidden: OnceLock<()>,
}

/// What was read in one pass.
#[derive(Debug)]
pub(super) struct Read {
    map: Option<ConfigMap>,
    service: Option<APIService>,
    leaf_secret: Option<Secret>,
    ca_secret: Option<Secret>,
    stored: Result<Stored, Unreadable>,
    seen: Seen,
}

impl Read {
    /// As the plan sees it.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// All CAs that may have signed something.
    pub(super) fn authorities(&self) -> impl Iterator<Item = &Certificate> {
        self.stored.iter().flat_map(Stored::certificates)
    }

    /// The one that signs.
    pub(super) fn signer(&self) -> Option<&Pair> {
        self.stored.as_ref().ok().map(Stored::current)
    }
}

impl Objects {
    pub(super) fn new(client: Client, names: Names, metrics: Arc<Metrics>) -> Self {
        Self { client, names, metrics, owner: OnceLock::new(), forbidden: OnceLock::new() }
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// In the order of [`Seen`].
    pub(super) async fn read(&self) -> Result<Read, KeepError> {
        let map: Option<ConfigMap> = self.get(&self.names.authority()).await?;
        let service = self.get_service().await?;
        let leaf_secret: Option<Secret> = self.get(&self.names.collector_certificate()).await?;
        let ca_secret: Option<Secret> = self.get(&self.names.authority()).await?;

        let stored = ca_secret.as_ref().map_or(Err(Unreadable::Missing("the Secret")), Stored::read);
        let authorities = || stored.iter().flat_map(Stored::certificates);
        let wanted = self.names.of_collector();
        let leaf = leaf_secret.as_ref().and_then(|secret| read_leaf(secret).ok());
        let seen = Seen {
            publication: map.as_ref().and_then(read_publication),
            aggregated: service.as_ref().and_then(|service| api_service::bundle(service, &self.names)),
            leaf: leaf.map(|pair| pair.certificate.leaf(authorities(), &wanted)),
            authorities: stored.as_ref().ok().map(Stored::facts),
        };
        Ok(Read { map, service, leaf_secret, ca_secret, stored, seen })
    }

    pub(super) async fn write_authorities(
        &self,
        read: Read,
        layout: Layout,
        make: impl Fn() -> Result<Pair, IssueError>,
        why: Why,
    ) -> Result<(), KeepError> {
        let name = self.names.authority();
        if let (Some(_), Err(error)) = (&read.ca_secret, &read.stored) {
            warn!("Secret {}/{name} cannot be used, and the CA is made anew: {error}", self.names.namespace);
        }
        let stored = Stored::arranged(read.stored.ok(), layout, make)?;
        let secret = stored.secret(read.ca_secret, self.created(&name).await?);
        self.put(&secret).await?;
        let facts = stored.facts();
        let until = shown(facts.current.valid.until);
        let next = facts.next.map(|next| format!(", the next one until {}", shown(next.valid.until)));
        info!("the CA is valid until {until}{}: {why}", next.unwrap_or_default());
        Ok(())
    }

    pub(super) async fn publish(&self, read: Read, publication: &Publication) -> Result<(), KeepError> {
        let Ok(stored) = &read.stored else { return Ok(()) };
        let name = self.names.authority();
        let map = publication_map(publication, stored, read.map, self.created(&name).await?);
        self.put(&map).await?;
        let before = read.seen.publication.map(|publication| publication.bundle);
        // Else it is an annotation that has changed, of which the certificate's own line tells.
        if before.as_ref() != Some(&publication.bundle) {
            let count = publication.bundle.len();
            info!("{count} CA(s) are published in ConfigMap {}/{name}", self.names.namespace);
        }
        Ok(())
    }

    pub(super) async fn write_leaf(&self, read: Read, pair: &Pair, why: Why) -> Result<(), KeepError> {
        let name = self.names.collector_certificate();
        let secret = leaf_secret(pair, read.leaf_secret, self.created(&name).await?);
        self.put(&secret).await?;
        let until = shown(pair.certificate.facts().valid.until);
        info!("{} has a certificate until {until}: {why}", self.names.collector_service);
        Ok(())
    }

    pub(super) async fn aggregate(&self, read: Read, bundle: &[Fingerprint]) -> Result<(), KeepError> {
        let (Some(service), Ok(stored)) = (&read.service, &read.stored) else { return Ok(()) };
        let patch = api_service::patch(service, stored.bundle(bundle));
        let api: Api<APIService> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let asked = api.patch(api_service::NAME, &params, &patch);
        self.ask(WRITTEN, &object(service), asked).await?;
        info!("{} CA(s) are in APIService {}", bundle.len(), api_service::NAME);
        Ok(())
    }

    /// `None` as well where it may not be read: whoever gave no right to it has no use for it.
    async fn get_service(&self) -> Result<Option<APIService>, KeepError> {
        let api: Api<APIService> = Api::all(self.client.clone());
        let object = format!("APIService {}", api_service::NAME);
        match self.ask(READ, &object, api.get_opt(api_service::NAME)).await {
            Err(KeepError::Api { error, .. }) if error.code() == Some(403) => {
                self.forbidden.get_or_init(|| info!("{object} is left alone: {error}"));
                Ok(None)
            }
            outcome => outcome,
        }
    }

    async fn get<K>(&self, name: &str) -> Result<Option<K>, KeepError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let object = format!("{} {}/{name}", K::kind(&()), self.names.namespace);
        let found = self.ask(READ, &object, api.get_opt(name)).await?;
        match found {
            Some(found) if !ours(found.meta()) => Err(KeepError::Foreign(object)),
            found => Ok(found),
        }
    }

    /// Creates it, or replaces the version that it was made of.
    async fn put<K>(&self, new: &K) -> Result<(), KeepError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.names.namespace);
        let params = PostParams::default();
        let written = async {
            match new.meta().resource_version {
                Some(_) => api.replace(&new.name_any(), &params, new).await,
                None => api.create(&params, new).await,
            }
        };
        self.ask(WRITTEN, &object(new), written).await.map(|_| ())
    }

    async fn created<'a>(&'a self, name: &'a str) -> Result<Created<'a>, KeepError> {
        let owner = match self.owner().await? {
            Owner::Account(owner) => Some(owner),
            Owner::Nobody => None,
        };
        Ok(Created { namespace: &self.names.namespace, name, owner })
    }

    /// Our service account, as the API server knows us: what we made goes when it does.
    async fn owner(&self) -> Result<&Owner, KeepError> {
        if let Some(owner) = self.owner.get() {
            return Ok(owner);
        }
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let (params, review) = (PostParams::default(), SelfSubjectReview::default());
        let reviewed = self.ask(READ, "our own account", api.create(&params, &review)).await;
        let owner = match reviewed {
            Ok(review) => self.account(&review).map_or(Owner::Nobody, Owner::Account),
            // Before Kubernetes 1.28.
            Err(KeepError::Api { error, .. }) if matches!(error.code(), Some(403 | 404)) => Owner::Nobody,
            Err(error) => return Err(error),
        };
        Ok(self.owner.get_or_init(|| owner))
    }

    fn account(&self, review: &SelfSubjectReview) -> Option<OwnerReference> {
        let user = review.status.as_ref()?.user_info.as_ref()?;
        let account = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = account.split_once(':')?;
        // An owner in another namespace is one that does not exist: what it owns is deleted.
        (namespace == self.names.namespace).then(|| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ServiceAccount".to_owned(),
            name: name.to_owned(),
            uid: user.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        })
    }

    async fn ask<T>(
        &self,
        done: &'static str,
        object: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, KeepError> {
        let asked = write(&self.metrics, Write::Certificates, request).await;
        asked.map_err(|error: WriteError| KeepError::Api { object: object.to_owned(), done, error })
    }
}

fn object<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.meta().namespace.as_ref().map(|namespace| format!("{namespace}/"));
    format!("{} {}{}", K::kind(&()), namespace.unwrap_or_default(), object.name_any())
}
