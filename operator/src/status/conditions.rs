//! The conditions of one policy: what they are, why, and what is said of it.

use hearth_policy::PolicyStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::{Tally, counts, matched};
use crate::index::Policy;

/// Characters of a condition's message.
const MAX_MESSAGE_CHARS: usize = 1024;

/// All that a status follows from.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The policy, with the status that the API server has.
    pub policy: &'a Policy,
    /// How it stands on nodes.
    pub tally: &'a Tally,
    /// Unix seconds.
    pub now: i64,
    /// It has matched nothing for long enough to say so.
    pub idle: bool,
    /// Enough nodes have reported to speak of them.
    pub settled: bool,
}

/// `True`, `False` or `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    False,
    Unknown,
}

/// What one condition says.
type Said = (Truth, &'static str, String);

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Facts<'_> {
    /// The status that the policy should have.
    pub fn status(&self) -> PolicyStatus {
        let before = self.policy.status();
        if !self.settled {
            return self.unsettled(before);
        }
        let mut conditions = vec![("Accepted", self.accepted())];
        conditions.push(("Programmed", self.programmed()));
        conditions.push(("Ready", self.ready()));
        if self.reconciling() {
            let message = "nodes have not answered yet".to_owned();
            conditions.push(("Reconciling", (Truth::True, "Reconciling", message)));
        }
        if self.stalled() {
            let message = "every selected node failed: see failures".to_owned();
            conditions.push(("Stalled", (Truth::True, "NodesFailed", message)));
        }
        let in_force = self.policy.in_force().is_some();
        PolicyStatus {
            observed_generation: Some(self.policy.generation()),
            conditions: self.dated(conditions),
            nodes: in_force.then(|| counts(self.tally)),
            matched: in_force.then(|| matched(self.tally)),
            failures: self.tally.failures.clone(),
            overridden_by: self.tally.overridden_by.iter().map(ToString::to_string).collect(),
        }
    }

    /// What can be said without nodes: whether the policy is accepted. What was said of nodes before stands,
    /// for as long as it speaks of the same spec.
    fn unsettled(&self, before: &PolicyStatus) -> PolicyStatus {
        let accepted = self.accepted();
        let same = before.observed_generation == Some(self.policy.generation())
            && before
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Accepted" && condition.status == accepted.0.as_str());
        if same {
            return before.clone();
        }
        let mut conditions = vec![("Accepted", accepted)];
        if self.policy.invalid().is_some() {
            conditions.push(("Programmed", self.programmed()));
            conditions.push(("Ready", self.ready()));
        } else {
            for kind in ["Programmed", "Ready", "Reconciling"] {
                let truth = if kind == "Reconciling" { Truth::True } else { Truth::Unknown };
                conditions.push((kind, (truth, "Reconciling", "nodes have not reported yet".to_owned())));
            }
        }
        PolicyStatus {
            observed_generation: Some(self.policy.generation()),
            conditions: self.dated(conditions),
            ..before.clone()
        }
    }

    fn accepted(&self) -> Said {
        match self.policy.invalid() {
            Some(problem) => (Truth::False, "Invalid", problem.to_owned()),
            None => (Truth::True, "Accepted", String::new()),
        }
    }

    /// Invalid, or no node shall work by it: all that does not depend on nodes.
    fn without_nodes(&self) -> Option<(&'static str, String)> {
        let version = match (self.policy.invalid(), self.policy.in_force()) {
            (Some(_), Some(_)) => return Some(("Invalid", "nodes keep the last valid version".to_owned())),
            (_, None) if self.policy.is_kept() => {
                return Some(("Invalid", "nodes keep the version that they have, if any".to_owned()));
            }
            (_, None) => {
                return Some(("Invalid", "spec.disabled is true: no node works by it".to_owned()));
            }
            (None, Some(version)) => version,
        };
        if version.policy().spec.core().disabled {
            return Some(("Disabled", "spec.disabled is true".to_owned()));
        }
        version.completed(self.now).then(|| ("Completed", "its duration is over".to_owned()))
    }

    fn programmed(&self) -> Said {
        if let Some((reason, message)) = self.without_nodes() {
            return (Truth::False, reason, message);
        }
        let Tally { applied, pending, failed, processes, overridden, .. } = *self.tally;
        match () {
            () if self.tally.connected() == 0 => (Truth::Unknown, "NoNodes", self.no_nodes()),
            () if applied == 0 && pending > 0 => {
                (Truth::False, "Reconciling", "no node has answered yet".to_owned())
            }
            () if applied == 0 && failed > 0 => (Truth::False, "NodesFailed", "see failures".to_owned()),
            () if overridden > 0 && processes == 0 => {
                let message = "other policies win every process that it matches: see overriddenBy";
                (Truth::False, "Overridden", message.to_owned())
            }
            () if overridden > 0 => {
                let message = "other policies win some of the processes that it matches: see overriddenBy";
                (Truth::True, "PartiallyOverridden", message.to_owned())
            }
            () => (Truth::True, "Programmed", String::new()),
        }
    }

    fn ready(&self) -> Said {
        let Tally { failed, pending, processes, overridden, .. } = *self.tally;
        match self.without_nodes() {
            Some(("Invalid", message)) => return (Truth::False, "Invalid", message),
            // Nodes that still work by it are to stop first.
            Some((reason, message)) if pending == 0 => return (Truth::True, reason, message),
            Some(_) | None => {}
        }
        match () {
            () if pending == 0 && self.tally.connected() == 0 => (Truth::Unknown, "NoNodes", self.no_nodes()),
            () if failed > 0 => (Truth::False, "NodesFailed", "see failures".to_owned()),
            () if pending > 0 => (Truth::False, "Reconciling", "nodes have not answered yet".to_owned()),
            () if overridden > 0 && processes == 0 => {
                (Truth::False, "Overridden", "it wins no process".to_owned())
            }
            () if self.says_nothing_matched() => (Truth::True, "NothingMatched", self.nothing_matched()),
            () => (Truth::True, "Ready", String::new()),
        }
    }

    fn reconciling(&self) -> bool {
        self.policy.in_force().is_some() && self.policy.invalid().is_none() && self.tally.pending > 0
    }

    fn stalled(&self) -> bool {
        self.policy.invalid().is_none() && self.tally.selected > 0 && self.tally.failed == self.tally.selected
    }

    fn no_nodes(&self) -> String {
        match self.tally.selected {
            0 => "no node is selected: see spec.nodeSelector and the nodes' labels".to_owned(),
            _ => "no selected node has an agent with a connection to the operator".to_owned(),
        }
    }

    /// A restarted operator goes on saying what was said: it would be silent for a minute only because it does
    /// not know since when.
    fn says_nothing_matched(&self) -> bool {
        let said = |condition: &Condition| condition.type_ == "Ready" && condition.reason == "NothingMatched";
        let status = self.policy.status();
        let said = status.observed_generation == Some(self.policy.generation())
            && status.conditions.iter().any(said);
        self.tally.matches_nothing() && (self.idle || said)
    }

    /// The cause, without numbers: they would change all the time.
    fn nothing_matched(&self) -> String {
        let Some(version) = self.policy.in_force() else { return String::new() };
        let policy = version.policy();
        // A namespaced one is for pods whatever it says.
        let for_pods = policy.selects_pods() || policy.namespace.is_some();
        if for_pods && self.tally.selected_pods == 0 {
            return "it selects no running pod: see its selectors and the labels of pods and namespaces"
                .to_owned();
        }
        let looked = match policy.regex_text() {
            Some(regex) => format!("no process matches {regex:?}"),
            None => "no process runs where it selects".to_owned(),
        };
        if self.tally.seen.is_empty() {
            return looked;
        }
        let seen = self.tally.seen.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
        format!("{looked}; in the pods that it selects run: {seen}")
    }

    /// Times move only where the status of a condition does.
    fn dated(&self, conditions: Vec<(&'static str, Said)>) -> Vec<Condition> {
        let before = &self.policy.status().conditions;
        let now = Time(Timestamp::from_second(self.now).unwrap_or_default());
        let dated = |(kind, (truth, reason, message)): (&str, Said)| {
            let same = |old: &&Condition| old.type_ == kind && old.status == truth.as_str();
            Condition {
                type_: kind.to_owned(),
                status: truth.as_str().to_owned(),
                reason: reason.to_owned(),
                message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
                observed_generation: Some(self.policy.generation()),
                last_transition_time: before
                    .iter()
                    .find(same)
                    .map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
            }
        };
        conditions.into_iter().map(dated).collect()
    }
}
