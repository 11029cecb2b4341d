//! The configuration of a node.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::{BufMut as _, Bytes, BytesMut};
use hearth_proto::config::v1;
use hearth_proto::config_limits::MAX_KEPT;
use prost::Message as _;

use super::{InForce, Index, NodeObject, Policy, PolicyId};

/// Of a configuration's content, as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigHash([u8; 16]);

/// Policies that nodes work by, for all nodes with the same.
#[derive(Debug)]
pub struct PolicySet {
    /// Ordered by id.
    policies: Vec<Arc<InForce>>,
    kept: Arc<Kept>,
    /// The part of both in an encoded [`v1::Config`].
    wire: Bytes,
    digest: blake3::Hash,
}

/// Policies of which each node keeps the version that it has.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Ordered.
    ids: Vec<PolicyId>,
    /// Their part of an encoded [`v1::Config`].
    wire: Vec<u8>,
}

/// The sets that some node has.
#[derive(Debug, Default)]
pub(super) struct PolicySets(HashMap<blake3::Hash, Weak<PolicySet>>);

/// What one node works by.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Of the rest.
    pub hash: ConfigHash,
    /// Shared.
    pub policies: Arc<PolicySet>,
    node: NodeObject,
}

impl PolicySet {
    /// One of them.
    pub fn get(&self, id: &PolicyId) -> Option<&InForce> {
        self.policies.binary_search_by(|policy| policy.id().cmp(id)).ok().map(|i| &*self.policies[i])
    }

    /// A node with this set may work by a version of it that is not known here.
    pub fn keeps(&self, id: &PolicyId) -> bool {
        self.kept.ids.binary_search(id).is_ok()
    }

    /// All, ordered by id.
    pub fn iter(&self) -> impl Iterator<Item = &InForce> {
        self.policies.iter().map(|policy| &**policy)
    }
}

impl Kept {
    fn among<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut kept: Vec<&Policy> = policies.filter(|policy| policy.is_kept()).collect();
        // Of too many the oldest: new ones of one user must not push out what nodes have by others.
        kept.sort_by_key(|policy| policy.created());
        kept.truncate(MAX_KEPT);
        kept.sort_by_key(|policy| policy.id());
        let references = kept.iter().map(|policy| policy.reference()).collect();
        let wire = v1::Config { kept: references, ..v1::Config::default() }.encode_to_vec();
        Self { ids: kept.iter().map(|policy| policy.id().clone()).collect(), wire }
    }
}

impl PolicySets {
    fn share(&mut self, policies: Vec<Arc<InForce>>, kept: Arc<Kept>) -> Arc<PolicySet> {
        let mut hasher = blake3::Hasher::new();
        for policy in &policies {
            hasher.update(policy.digest().as_bytes());
        }
        hasher.update(&kept.wire);
        let digest = hasher.finalize();
        if let Some(set) = self.0.get(&digest).and_then(Weak::upgrade) {
            return set;
        }
        self.0.retain(|_, set| set.strong_count() > 0);
        let length: usize = policies.iter().map(|policy| policy.wire().len()).sum();
        let mut wire = BytesMut::with_capacity(length + kept.wire.len());
        policies.iter().for_each(|policy| wire.put_slice(policy.wire()));
        wire.put_slice(&kept.wire);
        let set = Arc::new(PolicySet { policies, kept, wire: wire.freeze(), digest });
        self.0.insert(digest, Arc::downgrade(&set));
        set
    }
}

impl ConfigHash {
    fn new(node: &NodeObject, policies: &PolicySet) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        };
        add(&(node.labels.len() as u64).to_le_bytes());
        for (key, value) in &node.labels {
            add(key.as_bytes());
            add(value.as_bytes());
        }
        add(node.resume.as_bytes());
        add(policies.digest.as_bytes());
        let mut short = [0; 16];
        hasher.finalize_xof().fill(&mut short);
        Self(short)
    }

    /// Whether a node means this one.
    pub fn is(&self, text: &str) -> bool {
        !text.is_empty() && self.to_string() == text
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl NodeConfig {
    /// As it is sent: an encoded [`v1::NodeUpdate`], in two pieces. The second, the policies, is the same memory
    /// for every node that gets them.
    pub fn update(&self, nonce: u64) -> Vec<Bytes> {
        let head = v1::Config {
            nonce,
            hash: self.hash.to_string(),
            policies: Vec::new(),
            kept: Vec::new(),
            node_labels: self.node.labels.clone().into_iter().collect(),
            off: self.node.is_off(),
            resume: self.node.resume.clone(),
        };
        let policies = &self.policies.wire;
        let mut first = BytesMut::new();
        first.put_u8(CONFIG_FIELD);
        prost::encoding::encode_varint((head.encoded_len() + policies.len()) as u64, &mut first);
        first.put_slice(&head.encode_to_vec());
        vec![first.freeze(), policies.clone()]
    }
}

/// The key of [`v1::NodeUpdate`]'s field `config`: number 1, of a length that follows.
const CONFIG_FIELD: u8 = 1 << 3 | 2;

impl Index {
    /// What a node works by. `None`: not all is listed yet, or there is no such node yet; it goes on by what it
    /// has.
    pub fn config_for(&mut self, node: &str, now: i64) -> Option<NodeConfig> {
        if !self.configs_known() {
            return None;
        }
        let node = self.nodes.get(node)?.clone();
        let in_force = self.policies.values().filter_map(|policy| policy.in_force());
        let for_node = in_force.filter(|policy| policy.active(now) && policy.selects_node(&node.labels));
        let for_node = for_node.cloned().collect();
        let kept = self.kept.get_or_insert_with(|| Arc::new(Kept::among(self.policies.values())));
        let policies = self.sets.share(for_node, Arc::clone(kept));
        Some(NodeConfig { hash: ConfigHash::new(&node, &policies), policies, node })
    }
}
