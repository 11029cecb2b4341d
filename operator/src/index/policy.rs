//! One policy: what the API server has, and the version of it that nodes work by.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hearth_policy::{EffectivePolicy, Kind, Labels, PolicyStatus, Spec, validate};
use hearth_proto::config::v1;
use prost::Message as _;

/// `namespace/name`, or `name` of a cluster-wide one. No name has a slash in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(Arc<str>);

/// A policy as a watch brings it.
#[derive(Debug, Clone)]
pub struct PolicyObject {
    /// Tells it from one of the same name that was deleted.
    pub uid: String,
    /// `metadata.generation`: counts changes of the spec.
    pub generation: i64,
    /// Creation, Unix seconds.
    pub created: i64,
    /// The spec, or why it cannot be read.
    pub spec: Result<Spec, String>,
    /// `None`: it has none, or it could not be read together with the rest.
    pub status: Option<PolicyStatus>,
}

/// A policy with its last valid version.
#[derive(Debug, Clone)]
pub struct Policy {
    id: PolicyId,
    uid: String,
    generation: i64,
    created: i64,
    invalid: Option<String>,
    /// `spec.disabled` says so, whatever is wrong with the rest.
    off: bool,
    in_force: Option<Arc<InForce>>,
    status: PolicyStatus,
}

/// A valid version of a policy: what nodes work by.
#[derive(Debug)]
pub struct InForce {
    id: PolicyId,
    policy: EffectivePolicy,
    wire: Bytes,
    digest: blake3::Hash,
}

impl PolicyId {
    /// Of a name, and of a namespace for the namespaced kind.
    pub fn new(namespace: Option<&str>, name: &str) -> Self {
        Self(namespace.map_or_else(|| name.into(), |namespace| format!("{namespace}/{name}").into()))
    }

    /// Its namespace; `None` of a cluster-wide one.
    pub fn namespace(&self) -> Option<&str> {
        self.0.split_once('/').map(|(namespace, _)| namespace)
    }

    /// Its name within namespace and kind.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The kind that it has by its namespace.
    pub fn kind(&self) -> Kind {
        match self.namespace() {
            Some(_) => Kind::ProfilingPolicy,
            None => Kind::ClusterProfilingPolicy,
        }
    }

    /// As messages and rows have it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for PolicyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Policy {
    /// The policy after a change, and whether nodes get something else by it. A version that is not valid
    /// leaves the last valid one of the same object in force, if that is known; unless it is disabled, which needs
    /// nothing else to be right.
    pub(super) fn next(id: PolicyId, before: Option<Self>, object: PolicyObject) -> (Self, bool) {
        let PolicyObject { uid, generation, created, spec, status } = object;
        let before = before.filter(|before| before.uid == uid);
        let is_new = before.is_none();
        // While a watch was away. One of them may have been valid, and nodes work by it.
        let missed = before.as_ref().is_some_and(|before| before.generation.saturating_add(1) < generation);
        let was_off = before.as_ref().is_some_and(|before| before.off);
        let (last, known_status) = before.map(|before| (before.in_force, before.status)).unzip();
        let last = last.flatten();
        let off = spec.as_ref().is_ok_and(|spec| spec.core().disabled);
        // Of an object that cannot be read nothing is known but what was written to it.
        let status = match (&spec, status) {
            (Ok(_), status) => status.unwrap_or_default(),
            (Err(_), status) => status.or(known_status).unwrap_or_default(),
        };
        let (in_force, invalid) = match spec.and_then(|spec| InForce::new(&id, created, spec)) {
            Ok(version) => match last.clone().filter(|last| last.digest == version.digest) {
                Some(last) => (Some(last), None),
                None => (Some(Arc::new(version)), None),
            },
            Err(problem) => (last.clone().filter(|_| !missed && !off), Some(problem)),
        };
        let digest = |version: &Option<Arc<InForce>>| version.as_ref().map(|version| version.digest);
        let changed = is_new || off != was_off || digest(&last) != digest(&in_force);
        (Self { id, uid, generation, created, invalid, off, in_force, status }, changed)
    }

    /// Its id.
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// The object's, not the name's.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Of the spec that the API server has.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// Why that spec cannot be used; `None`: it can.
    pub fn invalid(&self) -> Option<&str> {
        self.invalid.as_deref()
    }

    /// What nodes work by; `None`: it is invalid, and either disabled or [kept](Self::is_kept).
    pub fn in_force(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref()
    }

    /// It is invalid, no valid version of it is known to this process, and each node keeps the one that it has.
    pub fn is_kept(&self) -> bool {
        self.in_force.is_none() && !self.off
    }

    /// Creation, Unix seconds.
    pub fn created(&self) -> i64 {
        self.created
    }

    /// Tells a node which policy is meant.
    pub(super) fn reference(&self) -> v1::PolicyReference {
        v1::PolicyReference {
            namespace: self.id.namespace().unwrap_or_default().to_owned(),
            name: self.id.name().to_owned(),
            created: self.created,
        }
    }

    /// What the API server has.
    pub fn status(&self) -> &PolicyStatus {
        &self.status
    }

    pub(super) fn set_status(&mut self, status: PolicyStatus) {
        self.status = status;
    }
}

impl InForce {
    fn new(id: &PolicyId, created: i64, spec: Spec) -> Result<Self, String> {
        let errors = validate(&spec).errors;
        if !errors.is_empty() {
            return Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
        }
        let json = match &spec {
            Spec::Namespaced(spec) => serde_json::to_string(spec),
            Spec::Cluster(spec) => serde_json::to_string(spec),
        };
        let json = json.map_err(|error| format!("spec cannot be written as JSON: {error}"))?;
        let policy = EffectivePolicy {
            namespace: id.namespace().map(ToOwned::to_owned),
            name: id.name().to_owned(),
            age: created,
            completed: false,
            spec,
        };
        let mut hasher = blake3::Hasher::new();
        for part in [id.as_str().as_bytes(), &created.to_le_bytes(), json.as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let wire = v1::Policy {
            namespace: id.namespace().unwrap_or_default().to_owned(),
            name: id.name().to_owned(),
            created,
            spec: json,
        };
        // Parts of a message may be written apart: together they are the message.
        let wire = v1::Config { policies: vec![wire], ..v1::Config::default() }.encode_to_vec().into();
        Ok(Self { id: id.clone(), policy, wire, digest: hasher.finalize() })
    }

    /// Its id.
    pub fn id(&self) -> &PolicyId {
        &self.id
    }

    /// It, with its namespace and its age.
    pub fn policy(&self) -> &EffectivePolicy {
        &self.policy
    }

    /// As nodes get it: its part of an encoded [`v1::Config`].
    pub fn wire(&self) -> &Bytes {
        &self.wire
    }

    /// Of what nodes get: equal content has an equal digest.
    pub fn digest(&self) -> &blake3::Hash {
        &self.digest
    }

    /// When its duration is over, Unix seconds.
    pub fn ends(&self) -> Option<i64> {
        let duration = self.policy.spec.core().duration.as_ref()?;
        Some(self.policy.age.saturating_add(i64::from(duration.seconds())))
    }

    /// Its duration is over.
    pub fn completed(&self, now: i64) -> bool {
        self.ends().is_some_and(|ends| ends <= now)
    }

    /// Nodes that it selects profile by it.
    pub fn active(&self, now: i64) -> bool {
        self.policy.enabled() && !self.completed(now)
    }

    /// It is for a node with these labels.
    pub fn selects_node(&self, labels: &Labels) -> bool {
        self.policy.selects_node(labels)
    }
}
