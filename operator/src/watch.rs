//! Follows what the API server has, into the index.
//!
//! No store beside the index: an object is reduced to what the index keeps as soon as it comes.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use hearth_identity::api_server::said;
use hearth_policy::{ClusterProfilingPolicy, PolicyStatus, ProfilingPolicy, Spec};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{Api, ObjectMeta, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Client, Resource as _};
use tracing::{info, warn};

use crate::hub::Hub;
use crate::index::{Change, Index, NodeObject, Owner, OwnerKind, PolicyId, PolicyObject, Resource};
use crate::metrics::Metrics;

/// Operators are few: the API server does not mind them, and its return is soon seen.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How long a part of a list may take, with the wait before it. A connection that is dead is noticed by nobody
/// else.
const LIST_PATIENCE: Duration = Duration::from_secs(60);

/// Namespace and name of an object.
type Key = (Option<Box<str>>, Box<str>);

/// What is watched of one resource, and what becomes of it.
trait Watched: 'static {
    /// As the watch brings it.
    type Object: kube::Resource + Send;
    const RESOURCE: Resource;
    /// It is there, or has changed. An error: it could not be read, wholly or in part.
    fn set(index: &mut Index, key: &Key, object: Self::Object) -> (Change, Result<(), String>);
    /// It is gone.
    fn remove(index: &mut Index, key: &Key) -> Change;
}

/// Follows everything until it is dropped.
pub async fn follow_all(client: Client, hub: Arc<Hub>, metrics: Arc<Metrics>) {
    // From the API server's memory: a quorum read of all ReplicaSets is a burden on etcd, and the watch brings
    // what the list may lack.
    let config = watcher::Config::default().any_semantic();
    macro_rules! follow {
        ($watched:ty, $object:ty) => {
            follow::<$watched, _>(
                || watcher(Api::<$object>::all(client.clone()), config.clone()).backoff(Waits::default()),
                &hub,
                &metrics,
            )
        };
    }
    futures::join!(
        follow!(Policies, DeserializeGuard<ProfilingPolicy>),
        follow!(ClusterPolicies, DeserializeGuard<ClusterProfilingPolicy>),
        follow!(Nodes, PartialObjectMeta<Node>),
        follow!(Namespaces, PartialObjectMeta<Namespace>),
        follow!(Services, DeserializeGuard<Service>),
        follow!(ReplicaSets, PartialObjectMeta<ReplicaSet>),
        follow!(Jobs, PartialObjectMeta<Job>),
    );
}

/// How long a watch that failed waits: as kube's own, which grows to a minute, but not longer than [`MAX_WAIT`].
#[derive(Default)]
struct Waits(DefaultBackoff);

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(MAX_WAIT))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Follows one watch until its events end, which they do not but in tests. A list that is not answered is asked
/// for anew.
async fn follow<W: Watched, S: Stream<Item = watcher::Result<Event<W::Object>>>>(
    mut begin: impl FnMut() -> S,
    hub: &Hub,
    metrics: &Metrics,
) where
    <W::Object as kube::Resource>::DynamicType: Default,
{
    let mut follower = Follower::<W> {
        hub,
        metrics,
        known: HashSet::new(),
        unseen: HashSet::new(),
        listing: false,
        failing: false,
        watched: PhantomData,
    };
    loop {
        let mut events = std::pin::pin!(begin());
        loop {
            let patience = if follower.listing { LIST_PATIENCE } else { Duration::MAX };
            match tokio::time::timeout(patience, events.next()).await {
                Ok(Some(Ok(event))) => follower.take(event),
                Ok(Some(Err(error))) => follower.failed(&why(&error)),
                Ok(None) => return,
                Err(_) => {
                    follower.failed(&format!("no answer within {LIST_PATIENCE:?}"));
                    break;
                }
            }
        }
    }
}

/// What is known by one watch.
struct Follower<'a, W> {
    hub: &'a Hub,
    metrics: &'a Metrics,
    known: HashSet<Key>,
    /// While a list comes in: what it has not brought yet.
    unseen: HashSet<Key>,
    listing: bool,
    failing: bool,
    watched: PhantomData<W>,
}

impl<W: Watched> Follower<'_, W> {
    /// What is missing from a complete list is gone; while a list comes in, nothing is.
    fn take(&mut self, event: Event<W::Object>) {
        match event {
            // Before it is asked for.
            Event::Init => {
                self.listing = true;
                self.unseen.clone_from(&self.known);
                return;
            }
            Event::InitApply(object) | Event::Apply(object) => self.set(object),
            Event::InitDone => {
                self.listing = false;
                for key in std::mem::take(&mut self.unseen) {
                    self.remove(&key);
                }
                self.hub.change(|index| index.set_synced(W::RESOURCE));
            }
            Event::Delete(object) => {
                if let Some(key) = key(object.meta()) {
                    self.remove(&key);
                }
            }
        }
        if std::mem::take(&mut self.failing) {
            info!(resource = W::RESOURCE.as_str(), "the watch works again");
        }
    }

    fn set(&mut self, object: W::Object) {
        let Some(key) = key(object.meta()) else { return };
        let mut read = Ok(());
        self.hub.change(|index| {
            let (change, outcome) = W::set(index, &key, object);
            read = outcome;
            change
        });
        if let Err(problem) = read {
            self.metrics.malformed(W::RESOURCE);
            warn!(resource = W::RESOURCE.as_str(), object = ?key, "an object cannot be read: {problem}");
        }
        self.unseen.remove(&key);
        self.known.insert(key);
    }

    fn remove(&mut self, key: &Key) {
        self.known.remove(key);
        self.hub.change(|index| W::remove(index, key));
    }

    /// Says it once: it is tried again for as long as it takes.
    fn failed(&mut self, why: &str) {
        self.metrics.watch_failed(W::RESOURCE);
        if !std::mem::replace(&mut self.failing, true) {
            warn!(resource = W::RESOURCE.as_str(), "the watch failed and begins again: {why}");
        }
    }
}

fn why(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => said(error),
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

/// `None`: without a name, which no object of the API server is.
fn key(meta: &ObjectMeta) -> Option<Key> {
    let name = meta.name.as_deref()?.into();
    Some((meta.namespace.as_deref().map(Into::into), name))
}

fn namespace(key: &Key) -> &str {
    key.0.as_deref().unwrap_or_default()
}

fn policy_id((namespace, name): &Key) -> PolicyId {
    PolicyId::new(namespace.as_deref(), name)
}

/// One that cannot be read keeps its last valid version, and its status says why.
fn set_policy<K: kube::Resource>(
    index: &mut Index,
    key: &Key,
    DeserializeGuard(object): DeserializeGuard<K>,
    parts: impl FnOnce(K) -> (Spec, Option<PolicyStatus>),
) -> (Change, Result<(), String>) {
    let meta = match &object {
        Ok(object) => object.meta().clone(),
        Err(invalid) => invalid.metadata.clone(),
    };
    let (spec, status) = match object {
        Ok(object) => {
            let (spec, status) = parts(object);
            (Ok(spec), status)
        }
        Err(invalid) => (Err(format!("cannot be read: {}", invalid.error)), None),
    };
    let read = spec.as_ref().map(|_| ()).map_err(Clone::clone);
    let object = PolicyObject {
        uid: meta.uid.unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        created: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
        spec,
        status,
    };
    (index.set_policy(policy_id(key), object), read)
}

struct Policies;

impl Watched for Policies {
    type Object = DeserializeGuard<ProfilingPolicy>;
    const RESOURCE: Resource = Resource::Policies;

    fn set(index: &mut Index, key: &Key, object: Self::Object) -> (Change, Result<(), String>) {
        set_policy(index, key, object, |policy| (Spec::Namespaced(policy.spec), policy.status))
    }

    fn remove(index: &mut Index, key: &Key) -> Change {
        index.remove_policy(&policy_id(key))
    }
}

struct ClusterPolicies;

impl Watched for ClusterPolicies {
    type Object = DeserializeGuard<ClusterProfilingPolicy>;
    const RESOURCE: Resource = Resource::ClusterPolicies;

    fn set(index: &mut Index, key: &Key, object: Self::Object) -> (Change, Result<(), String>) {
        set_policy(index, key, object, |policy| (Spec::Cluster(policy.spec), policy.status))
    }

    fn remove(index: &mut Index, key: &Key) -> Change {
        index.remove_policy(&policy_id(key))
    }
}

// Metadata is asked for as such, and not guarded: a guard would ask for whole objects, and metadata has one form
// for all kinds.

struct Nodes;

impl Watched for Nodes {
    type Object = PartialObjectMeta<Node>;
    const RESOURCE: Resource = Resource::Nodes;

    fn set(index: &mut Index, (_, name): &Key, object: Self::Object) -> (Change, Result<(), String>) {
        let ObjectMeta { labels, annotations, .. } = object.metadata;
        let node = NodeObject::new(labels.unwrap_or_default(), &annotations.unwrap_or_default());
        (index.set_node(name, node), Ok(()))
    }

    fn remove(index: &mut Index, (_, name): &Key) -> Change {
        index.remove_node(name)
    }
}

struct Namespaces;

impl Watched for Namespaces {
    type Object = PartialObjectMeta<Namespace>;
    const RESOURCE: Resource = Resource::Namespaces;

    fn set(index: &mut Index, (_, name): &Key, object: Self::Object) -> (Change, Result<(), String>) {
        (index.set_namespace(name, Some(object.metadata.labels.unwrap_or_default())), Ok(()))
    }

    fn remove(index: &mut Index, (_, name): &Key) -> Change {
        index.set_namespace(name, None)
    }
}

struct Services;

impl Watched for Services {
    type Object = DeserializeGuard<Service>;
    const RESOURCE: Resource = Resource::Services;

    fn set(
        index: &mut Index,
        key: &Key,
        DeserializeGuard(object): Self::Object,
    ) -> (Change, Result<(), String>) {
        match object {
            Ok(service) => {
                let selector = service.spec.and_then(|spec| spec.selector);
                (index.set_service(namespace(key), &key.1, selector), Ok(()))
            }
            // What was known of it stays.
            Err(invalid) => (Change::Nothing, Err(invalid.error)),
        }
    }

    fn remove(index: &mut Index, key: &Key) -> Change {
        index.set_service(namespace(key), &key.1, None)
    }
}

fn controller(meta: ObjectMeta) -> Option<Owner> {
    let owners = meta.owner_references.unwrap_or_default();
    let controller = owners.into_iter().find(|owner| owner.controller == Some(true))?;
    Some(Owner { kind: controller.kind.into(), name: controller.name.into() })
}

struct ReplicaSets;

impl Watched for ReplicaSets {
    type Object = PartialObjectMeta<ReplicaSet>;
    const RESOURCE: Resource = Resource::ReplicaSets;

    fn set(index: &mut Index, key: &Key, object: Self::Object) -> (Change, Result<(), String>) {
        let owner = controller(object.metadata);
        (index.set_owner(namespace(key), OwnerKind::ReplicaSet, &key.1, owner), Ok(()))
    }

    fn remove(index: &mut Index, key: &Key) -> Change {
        index.set_owner(namespace(key), OwnerKind::ReplicaSet, &key.1, None)
    }
}

struct Jobs;

impl Watched for Jobs {
    type Object = PartialObjectMeta<Job>;
    const RESOURCE: Resource = Resource::Jobs;

    fn set(index: &mut Index, key: &Key, object: Self::Object) -> (Change, Result<(), String>) {
        let owner = controller(object.metadata);
        (index.set_owner(namespace(key), OwnerKind::Job, &key.1, owner), Ok(()))
    }

    fn remove(index: &mut Index, key: &Key) -> Change {
        index.set_owner(namespace(key), OwnerKind::Job, &key.1, None)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use futures::stream;
    use serde_json::{Value, json};

    use super::*;

    /// An event as `Init`, `InitDone`, or one of an object.
    fn policy(
        event: fn(DeserializeGuard<ClusterProfilingPolicy>) -> PolicyEvent,
        object: Value,
    ) -> PolicyEvent {
        event(serde_json::from_value(object).unwrap())
    }

    type PolicyEvent = Event<DeserializeGuard<ClusterProfilingPolicy>>;

    fn object(name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "profiling.hearth.dev/v1alpha1",
            "kind": "ClusterProfilingPolicy",
            "metadata": {
                "name": name, "uid": name, "generation": 3, "creationTimestamp": "2026-11-25T20:00:00Z",
            },
            "spec": spec,
        })
    }

    /// Follows these events, and no others after them.
    async fn once<W: Watched>(
        events: impl IntoIterator<Item = watcher::Result<Event<W::Object>>>,
        hub: &Hub,
        metrics: &Metrics,
    ) where
        <W::Object as kube::Resource>::DynamicType: Default,
    {
        let mut events = Some(events);
        follow::<W, _>(|| stream::iter(events.take().unwrap()), hub, metrics).await;
    }

    struct Followed {
        hub: Hub,
        metrics: Metrics,
    }

    impl Followed {
        async fn new(events: Vec<watcher::Result<PolicyEvent>>) -> Self {
            let followed = Self { hub: Hub::new(|| 0), metrics: Metrics::default() };
            once::<ClusterPolicies>(events, &followed.hub, &followed.metrics).await;
            followed
        }

        fn policies(&self) -> String {
            let state = self.hub.lock();
            let policies = state.index.policies().map(|policy| {
                let valid = if policy.invalid().is_some() { "?" } else { "" };
                format!("{}{valid}", policy.id())
            });
            policies.collect::<Vec<_>>().join(" ")
        }

        fn counted(&self, what: &str) -> bool {
            self.metrics.encode(&self.hub).unwrap().contains(what)
        }
    }

    #[test]
    fn a_watch_that_failed_is_tried_again_within_seconds_however_often() {
        let waits: Vec<Duration> = Waits::default().take(50).collect();
        assert!(waits[0] < MAX_WAIT && waits[1..].iter().all(|wait| *wait <= MAX_WAIT), "{waits:?}");
        assert_eq!(waits.len(), 50, "it is never given up");
    }

    #[tokio::test]
    async fn what_a_complete_list_lacks_is_gone_and_what_a_broken_one_lacks_is_not() {
        let a = || policy(Event::InitApply, object("a", &json!({})));
        let b = || policy(Event::InitApply, object("b", &json!({})));
        let gone = || Err(watcher::Error::NoResourceVersion);
        let listed = || vec![Ok(Event::Init), Ok(a()), Ok(b()), Ok(Event::InitDone)];
        assert_eq!(Followed::new(listed()).await.policies(), "a b");
        let broken = [listed(), vec![gone(), Ok(Event::Init), Ok(b()), gone()]].concat_results();
        let followed = Followed::new(broken).await;
        assert_eq!(followed.policies(), "a b");
        assert!(followed.counted("watch_errors_total{resource=\"clusterprofilingpolicies\"} 2"));
        let complete =
            [listed(), vec![gone(), Ok(Event::Init), Ok(b()), Ok(Event::InitDone)]].concat_results();
        assert_eq!(Followed::new(complete).await.policies(), "b");
        let deleted = [listed(), vec![Ok(policy(Event::Delete, object("a", &json!({}))))]].concat_results();
        assert_eq!(Followed::new(deleted).await.policies(), "b");
    }

    trait Concat<T> {
        fn concat_results(self) -> Vec<T>;
    }

    impl<T> Concat<T> for [Vec<T>; 2] {
        fn concat_results(self) -> Vec<T> {
            self.into_iter().flatten().collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_never_answered_is_asked_for_anew() {
        let followed = Followed { hub: Hub::new(|| 0), metrics: Metrics::default() };
        let mut begun = 0;
        let begin = || {
            begun += 1;
            let a = || Ok(policy(Event::InitApply, object("a", &json!({}))));
            match begun {
                // A part of it came.
                1 => stream::iter(vec![Ok(Event::Init), a()]).chain(stream::pending()).boxed(),
                _ => stream::iter(vec![Ok(Event::Init), a(), Ok(Event::InitDone)]).boxed(),
            }
        };
        follow::<ClusterPolicies, _>(begin, &followed.hub, &followed.metrics).await;
        assert_eq!((followed.policies().as_str(), begun), ("a", 2));
        assert!(followed.counted("watch_errors_total{resource=\"clusterprofilingpolicies\"} 1"));
    }

    #[tokio::test]
    async fn a_malformed_object_in_a_list_stops_nothing() {
        let followed = Followed::new(vec![
            Ok(Event::Init),
            Ok(policy(Event::InitApply, object("a", &json!({"frequency": "often"})))),
            Ok(policy(Event::InitApply, object("b", &json!({})))),
            Ok(Event::InitDone),
        ])
        .await;
        assert_eq!(followed.policies(), "a? b");
        assert!(followed.counted("objects_malformed_total{resource=\"clusterprofilingpolicies\"} 1"));
        assert!(followed.hub.lock().index.unsynced().all(|resource| resource != Resource::ClusterPolicies));
    }

    #[tokio::test]
    async fn a_policy_comes_with_its_age_its_generation_and_its_status() {
        let mut with_status = object("a", &json!({"duration": "60s"}));
        with_status["status"] = json!({"observedGeneration": 2});
        let followed = Followed::new(vec![Ok(policy(Event::Apply, with_status))]).await;
        let state = followed.hub.lock();
        let policy = state.index.policies().next().unwrap();
        assert_eq!((policy.uid(), policy.generation()), ("a", 3));
        assert_eq!(policy.status().observed_generation, Some(2));
        // 2026-11-25T20:01:00Z.
        assert_eq!(policy.in_force().unwrap().ends(), Some(1_795_636_860));
    }

    #[tokio::test]
    async fn services_and_what_is_above_a_replica_set_come_into_the_directory() {
        let hub = Hub::new(|| 0);
        let metrics = Metrics::default();
        let meta = json!({"name": "web-1", "namespace": "shop", "ownerReferences": [
            {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1"},
            {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "2", "controller": true},
        ]});
        let replica_set = serde_json::from_value(json!({"metadata": meta})).unwrap();
        once::<ReplicaSets>([Ok(Event::Apply(replica_set))], &hub, &metrics).await;
        let service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"app": "web"}},
        }));
        let malformed = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": 7},
        }));
        let services = [Ok(Event::Apply(service.unwrap())), Ok(Event::Apply(malformed.unwrap()))];
        once::<Services>(services, &hub, &metrics).await;
        let namespace = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        once::<Namespaces>([Ok(Event::Apply(namespace))], &hub, &metrics).await;
        for resource in Resource::ALL {
            hub.change(|index| index.set_synced(resource));
        }
        let key = crate::index::OwnerKey {
            namespace: "shop".into(),
            kind: OwnerKind::ReplicaSet,
            name: "web-1".into(),
        };
        let directory = hub.lock().index.directory_for(["shop"], [&key]).unwrap();
        assert_eq!(directory.namespaces[0].services[0].selector["app"], "web");
        assert_eq!((&*directory.workloads[0].kind, &*directory.workloads[0].name), ("Deployment", "web"));
    }
}
