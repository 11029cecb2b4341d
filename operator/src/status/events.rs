//! What is worth an Event: a policy that begins to be in trouble, or ends.

use hearth_policy::PolicyStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// A change of status that its owner should see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The condition's reason.
    pub reason: &'static str,
    /// Something is wrong.
    pub warning: bool,
    /// The condition's message.
    pub note: String,
}

/// Conditions whose reason is worth an Event once it begins to hold, and whether something is wrong then.
const TOLD: [(&str, &str, bool); 4] = [
    ("Accepted", "Invalid", true),
    ("Programmed", "Overridden", true),
    ("Ready", "NodesFailed", true),
    ("Ready", "Completed", false),
];

/// What happened between two statuses.
pub fn transitions(before: &PolicyStatus, after: &PolicyStatus) -> Vec<Transition> {
    let find = |status: &PolicyStatus, kind: &str, reason: &str| -> Option<Condition> {
        let mut conditions = status.conditions.iter();
        conditions.find(|condition| condition.type_ == kind && condition.reason == reason).cloned()
    };
    let begun = |&(kind, reason, warning): &(&str, &'static str, bool)| {
        let condition = find(after, kind, reason)?;
        let held = find(before, kind, reason);
        // Another invalid version is another event.
        let again = reason == "Invalid"
            && held.as_ref().is_some_and(|held| held.observed_generation != condition.observed_generation);
        (held.is_none() || again).then_some(Transition { reason, warning, note: condition.message })
    };
    TOLD.iter().filter_map(begun).collect()
}
