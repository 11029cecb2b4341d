//! From what nodes report to the status of each policy. Pure; time is passed in.

mod conditions;
mod events;
mod tally;

use std::collections::HashMap;

use hearth_policy::{Matched, NodeCounts, PolicyStatus};

pub use conditions::Facts;
pub use events::{Transition, transitions};
pub use tally::Tally;

use crate::index::{Index, PolicyId};
use crate::nodes::Nodes;

/// A policy that has matched nothing for so long is said to match nothing, in seconds.
pub const IDLE_SECONDS: i64 = 60;

/// Works out statuses, and remembers since when policies match nothing.
#[derive(Debug, Default)]
pub struct Aggregator {
    idle: HashMap<PolicyId, Idle>,
}

#[derive(Debug, Clone, Copy)]
struct Idle {
    of: blake3::Hash,
    since: i64,
}

/// What was worked out.
#[derive(Debug, Default)]
pub struct Assessment {
    /// The policies whose status is not what the API server has, in order.
    pub differ: Vec<(PolicyId, PolicyStatus)>,
    /// When to look again although nothing has changed, Unix seconds.
    pub again: Option<i64>,
}

impl Aggregator {
    /// Compares each policy's status with what the API server has. `settled`: what is known of nodes is enough
    /// to speak of them.
    pub fn assess(&mut self, index: &Index, nodes: &Nodes, now: i64, settled: bool) -> Assessment {
        let mut assessment = Assessment { differ: Vec::new(), again: index.next_end(now) };
        self.idle.retain(|id, _| index.policy(id).is_some());
        let mut tallies = tally::tally(index, nodes, now);
        for policy in index.policies() {
            let tally = tallies.remove(policy.id()).unwrap_or_default();
            let active = policy.in_force().is_some_and(|version| version.active(now));
            let idle_since = match policy.in_force() {
                Some(version) if settled && active && tally.matches_nothing() => {
                    let start = Idle { of: *version.digest(), since: now };
                    let idle = self.idle.entry(policy.id().clone()).or_insert(start);
                    if idle.of != start.of {
                        *idle = start;
                    }
                    Some(idle.since)
                }
                Some(_) | None => {
                    self.idle.remove(policy.id());
                    None
                }
            };
            let idle_end = idle_since.map(|since| since.saturating_add(IDLE_SECONDS));
            if let Some(end) = idle_end.filter(|&end| end > now) {
                assessment.again = Some(assessment.again.map_or(end, |again| again.min(end)));
            }
            let idle = idle_end.is_some_and(|end| end <= now);
            let status = Facts { policy, tally: &tally, now, idle, settled }.status();
            if status != *policy.status() {
                assessment.differ.push((policy.id().clone(), status));
            }
        }
        assessment
    }
}

/// Whether the two differ in nothing but how much is matched, and both match something or both nothing. That
/// changes all the time, and is written less often.
pub fn differ_in_amount_only(a: &PolicyStatus, b: &PolicyStatus) -> bool {
    let nothing =
        |status: &PolicyStatus| status.matched.as_ref().is_none_or(|matched| matched.processes == 0);
    let without = |status: &PolicyStatus| PolicyStatus { matched: None, ..status.clone() };
    nothing(a) == nothing(b) && without(a) == without(b)
}

fn counts(tally: &Tally) -> NodeCounts {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    NodeCounts {
        selected: number(tally.selected),
        applied: number(tally.applied),
        pending: number(tally.pending),
        failed: number(tally.failed),
        stale: number(tally.stale),
        summary: format!("{}/{}", tally.applied, tally.selected),
    }
}

fn matched(tally: &Tally) -> Matched {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Matched { pods: number(tally.pods), processes: number(tally.processes) }
}

#[cfg(test)]
mod tests;
