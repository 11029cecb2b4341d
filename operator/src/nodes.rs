//! What nodes reported on their streams. Pure.
//!
//! Only nodes with a stream are here: what a node said before its stream ended is not known to hold any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hearth_proto::config::v1;

use crate::index::{ConfigHash, InForce, NodeConfig, OwnerKey, PolicyId, PolicySet};

/// One stream of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(u64);

/// What is known of a node.
#[derive(Debug)]
pub struct Node {
    stream: StreamId,
    /// What it had in force when it came.
    hello_hash: String,
    sent: Option<Sent>,
    applied: Option<Arc<PolicySet>>,
    /// Why it refused what was sent last.
    refused: Option<String>,
    counts: Option<Counts>,
    wants: Wants,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    hash: ConfigHash,
    policies: Arc<PolicySet>,
}

/// How it goes on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ordered by policy, one entry for each of which there is something to say. Thousands of nodes times all
    /// policies: they take no more room than they need.
    pub policies: Box<[PolicyCount]>,
    /// It samples nothing although policies want it: reason and message.
    pub detached: Option<(v1::DetachedReason, String)>,
}

/// See [`v1::PolicyCount`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyCount {
    /// The policy.
    pub policy: PolicyId,
    /// Pods with a process that it won.
    pub pods: u32,
    /// Processes that it won.
    pub processes: u32,
    /// Processes that it matches and another won.
    pub overridden: u32,
    /// Pods that it selects.
    pub selected_pods: u32,
    /// The names that go with the numbers, where there are any.
    pub details: Option<Box<Details>>,
}

/// The names of a [`PolicyCount`], apart because most have none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The policies that won the processes that are overridden.
    pub overridden_by: Box<[PolicyId]>,
    /// Names of processes in the pods that it selects.
    pub seen: Box<[Box<str>]>,
}

/// What a node asked to know, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Names.
    pub namespaces: BTreeSet<Arc<str>>,
    /// ReplicaSets and Jobs.
    pub owners: BTreeSet<OwnerKey>,
}

/// A verdict on a configuration that was never sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a verdict has nonce {0}, and no configuration of this stream has it")]
pub struct UnknownNonce(u64);

/// How a node stands to one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It works by the policy as it is now.
    Applied,
    /// It has been sent it, or is about to be, and has not answered.
    Pending,
    /// It refused it, or does not sample.
    Failed {
        /// One word.
        reason: &'static str,
        /// For people.
        message: &'a str,
    },
}

/// All nodes with a stream.
#[derive(Debug, Default)]
pub struct Nodes {
    by_name: HashMap<Arc<str>, Node>,
    last_stream: u64,
}

impl Nodes {
    /// A node has opened a stream. Another one of it is no longer its own.
    pub fn connect(&mut self, name: Arc<str>, hello_hash: String) -> StreamId {
        self.last_stream += 1;
        let stream = StreamId(self.last_stream);
        let node = Node {
            stream,
            hello_hash,
            sent: None,
            applied: None,
            refused: None,
            counts: None,
            wants: Wants::default(),
        };
        self.by_name.insert(name, node);
        stream
    }

    /// A stream has ended.
    pub fn disconnect(&mut self, name: &str, stream: StreamId) -> bool {
        let own = self.by_stream(name, stream).is_some();
        if own {
            self.by_name.remove(name);
        }
        own
    }

    /// The node of a stream, unless another stream has taken its place.
    pub fn by_stream(&mut self, name: &str, stream: StreamId) -> Option<&mut Node> {
        self.by_name.get_mut(name).filter(|node| node.stream == stream)
    }

    /// A node that has a stream.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.by_name.get(name)
    }

    /// All that have one, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.by_name.iter()
    }

    /// Nodes with a stream.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// None has a stream.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl Node {
    /// The configuration has been sent. The first may be the one that the node came with.
    pub fn sent(&mut self, config: &NodeConfig) -> u64 {
        let nonce = self.sent.as_ref().map_or(1, |sent| sent.nonce + 1);
        if self.sent.is_none() && config.hash.is(&self.hello_hash) {
            self.applied = Some(Arc::clone(&config.policies));
        }
        self.refused = None;
        self.sent = Some(Sent { nonce, hash: config.hash, policies: Arc::clone(&config.policies) });
        nonce
    }

    /// Whether it was sent last.
    pub fn has(&self, hash: ConfigHash) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.hash == hash)
    }

    /// The node has decided on a configuration. What was overtaken by a newer one is of no interest: that one
    /// is answered too.
    ///
    /// # Errors
    /// There was no such configuration.
    pub fn verdict(&mut self, nonce: u64, refused: String) -> Result<(), UnknownNonce> {
        match &self.sent {
            Some(sent) if nonce == sent.nonce => {
                if refused.is_empty() {
                    self.applied = Some(Arc::clone(&sent.policies));
                    self.refused = None;
                } else {
                    self.refused = Some(refused);
                }
                Ok(())
            }
            Some(sent) if (1..sent.nonce).contains(&nonce) => Ok(()),
            Some(_) | None => Err(UnknownNonce(nonce)),
        }
    }

    /// How it goes on the node; whether that is new.
    pub fn set_counts(&mut self, counts: Counts) -> bool {
        let new = self.counts.as_ref() != Some(&counts);
        self.counts = Some(counts);
        new
    }

    /// What it asks to know.
    pub fn set_wants(&mut self, wants: Wants) {
        self.wants = wants;
    }

    /// See [`Node::set_wants`].
    pub fn wants(&self) -> &Wants {
        &self.wants
    }

    /// It has said how it stands, so that what is known of it is no longer only what is missing.
    pub fn reported(&self) -> bool {
        self.refused.is_some() || (self.applied.is_some() && self.counts.is_some())
    }

    /// How it stands to a policy that is for it. `active`: it shall work by it; otherwise it shall not.
    pub fn standing(&self, policy: &InForce, active: bool) -> Standing<'_> {
        let applied = self.applied.as_ref().and_then(|policies| policies.get(policy.id()));
        if !active {
            let keeps = self.applied.as_ref().is_some_and(|policies| policies.keeps(policy.id()));
            return if applied.is_none() && !keeps { Standing::Applied } else { Standing::Pending };
        }
        if let Some((reason, message)) = self.counts.as_ref().and_then(|counts| counts.detached.as_ref()) {
            let reason = match reason {
                v1::DetachedReason::UncleanStart => "UncleanStart",
                v1::DetachedReason::Off => "SwitchedOff",
                v1::DetachedReason::CannotSample => "CannotSample",
                v1::DetachedReason::Unspecified => "Detached",
            };
            return Standing::Failed { reason, message };
        }
        let is_it = |other: &&InForce| other.digest() == policy.digest();
        let sent = self.sent.as_ref().and_then(|sent| sent.policies.get(policy.id()));
        match &self.refused {
            _ if applied.filter(is_it).is_some() => Standing::Applied,
            Some(message) if sent.filter(is_it).is_some() => Standing::Failed { reason: "Refused", message },
            Some(_) | None => Standing::Pending,
        }
    }

    /// What it counts for a policy.
    pub fn count(&self, policy: &PolicyId) -> Option<&PolicyCount> {
        let counts = &self.counts.as_ref()?.policies;
        counts.binary_search_by(|count| count.policy.cmp(policy)).ok().map(|i| &counts[i])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod for_tests {
    use super::*;

    impl Nodes {
        pub(crate) fn by_name(&mut self, name: &str) -> &mut Node {
            self.by_name.get_mut(name).unwrap()
        }

        pub(crate) fn stream_of(&self, name: &str) -> Option<StreamId> {
            self.by_name.get(name).map(|node| node.stream)
        }
    }
}
