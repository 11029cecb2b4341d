//! The configuration of a node.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use hearth_proto::config::v1;
use prost::Message as _;

use super::{InForce, Index, NodeObject};

/// Of a configuration's content, as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigHash([u8; 16]);

/// What one node works by. The policies are shared with the index and with all other nodes.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Of the rest.
    pub hash: ConfigHash,
    /// Ordered by id.
    pub policies: Arc<[Arc<InForce>]>,
    node: NodeObject,
}

impl ConfigHash {
    fn new(node: &NodeObject, policies: &[Arc<InForce>]) -> Self {
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
        for policy in policies {
            add(policy.digest().as_bytes());
        }
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
    /// As it is sent: an encoded [`v1::NodeUpdate`], in pieces. All but the first belong to the policies and are
    /// the same memory for every node that gets them.
    pub fn update(&self, nonce: u64) -> Vec<Bytes> {
        let head = v1::Config {
            nonce,
            hash: self.hash.to_string(),
            policies: Vec::new(),
            node_labels: self.node.labels.clone().into_iter().collect(),
            off: self.node.is_off(),
            resume: self.node.resume.clone(),
        };
        let policies: usize = self.policies.iter().map(|policy| policy.wire().len()).sum();
        let mut first = BytesMut::new();
        first.put_u8(CONFIG_FIELD);
        prost::encoding::encode_varint((head.encoded_len() + policies) as u64, &mut first);
        first.put(&*head.encode_to_vec());
        let policies = self.policies.iter().map(|policy| policy.wire().clone());
        std::iter::once(first.freeze()).chain(policies).collect()
    }
}

/// The key of [`v1::NodeUpdate`]'s field `config`: number 1, of a length that follows.
const CONFIG_FIELD: u8 = 1 << 3 | 2;

impl Index {
    /// What a node works by. `None`: not all is listed yet, or there is no such node yet; it goes on by what it
    /// has.
    pub fn config_for(&self, node: &str, now: i64) -> Option<NodeConfig> {
        if !self.configs_known() {
            return None;
        }
        let node = self.nodes.get(node)?.clone();
        let in_force = self.policies.values().filter_map(|policy| policy.in_force());
        let for_node = in_force.filter(|policy| policy.active(now) && policy.selects_node(&node.labels));
        let policies: Arc<[Arc<InForce>]> = for_node.cloned().collect();
        Some(NodeConfig { hash: ConfigHash::new(&node, &policies), policies, node })
    }
}
