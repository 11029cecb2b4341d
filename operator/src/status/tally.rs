//! Sums over nodes, for each policy.

use std::collections::{BTreeMap, BTreeSet};

use hearth_policy::{MAX_FAILURES, MAX_OVERRIDERS, NodeFailure};

use crate::index::{InForce, Index, NodeObject, PolicyId};
use crate::nodes::{Node, Nodes, Standing};

/// Names of processes that are shown where a policy matches nothing.
const MAX_SEEN: usize = 5;
/// Characters of a failure's message.
const MAX_MESSAGE_CHARS: usize = 256;

/// How one policy stands on all nodes that it selects. Lists hold the first of their order, so that they do not
/// depend on which node reported first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Nodes that it is for, but for those that are switched off by their label.
    pub selected: usize,
    /// They work by it.
    pub applied: usize,
    /// They have not answered.
    pub pending: usize,
    /// They refused it, or do not sample.
    pub failed: usize,
    /// They have no stream.
    pub stale: usize,
    /// The first of them, by name.
    pub failures: Vec<NodeFailure>,
    /// Pods with a process that it won.
    pub pods: u64,
    /// Processes that it won.
    pub processes: u64,
    /// Processes that it matches and others won.
    pub overridden: u64,
    /// Those others.
    pub overridden_by: BTreeSet<PolicyId>,
    /// Names of processes in pods that it selects.
    pub seen: BTreeSet<Box<str>>,
    /// Pods that it selects.
    pub selected_pods: u64,
}

/// A tally for each policy that nodes work by, or did and shall no longer.
pub(super) fn tally(index: &Index, nodes: &Nodes, now: i64) -> BTreeMap<PolicyId, Tally> {
    let in_force = index.policies().filter_map(|policy| policy.in_force());
    let mut tallies: Vec<(&InForce, bool, Tally)> =
        in_force.map(|policy| (&**policy, policy.active(now), Tally::default())).collect();
    for (name, object) in index.nodes() {
        let node = nodes.get(name);
        for (policy, active, tally) in &mut tallies {
            tally.add(name, object, node, policy, *active);
        }
    }
    tallies.into_iter().map(|(policy, _, tally)| (policy.id().clone(), tally)).collect()
}

impl Tally {
    fn add(&mut self, name: &str, object: &NodeObject, node: Option<&Node>, policy: &InForce, active: bool) {
        if object.is_off() || !policy.selects_node(object.labels()) {
            return;
        }
        self.selected += 1;
        let Some(node) = node else {
            self.stale += 1;
            return;
        };
        match node.standing(policy, active) {
            Standing::Applied => self.applied += 1,
            Standing::Pending => self.pending += 1,
            Standing::Failed { reason, message } => {
                self.failed += 1;
                // Nodes come in the order of their names.
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push(NodeFailure {
                        node: name.to_owned(),
                        reason: reason.to_owned(),
                        message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
                    });
                }
            }
        }
        let Some(count) = node.count(policy.id()).filter(|_| active) else { return };
        self.pods = self.pods.saturating_add(count.pods.into());
        self.processes = self.processes.saturating_add(count.processes.into());
        self.overridden = self.overridden.saturating_add(count.overridden.into());
        self.selected_pods = self.selected_pods.saturating_add(count.selected_pods.into());
        if let Some(details) = &count.details {
            keep_first(&mut self.overridden_by, &details.overridden_by, MAX_OVERRIDERS);
            keep_first(&mut self.seen, &details.seen, MAX_SEEN);
        }
    }

    /// Nodes with a stream.
    pub fn connected(&self) -> usize {
        self.selected - self.stale
    }

    /// The nodes that shall work by it do, and it is for no process on any of them.
    pub fn matches_nothing(&self) -> bool {
        self.applied > 0
            && self.pending == 0
            && self.failed == 0
            && self.processes == 0
            && self.overridden == 0
    }
}

fn keep_first<T: Ord + Clone>(set: &mut BTreeSet<T>, more: &[T], max: usize) {
    for item in more {
        set.insert(item.clone());
        if set.len() > max {
            set.pop_last();
        }
    }
}
