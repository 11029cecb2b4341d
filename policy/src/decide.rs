//! Which policy a process gets. One process, one policy: the winner's whole spec applies.

use std::cmp::{Ordering, Reverse};

use crate::effective::{CompiledPolicy, EffectivePolicy};
use crate::facts::{Environment, Home, PodFacts, ProcessFacts};
use crate::selector::Labels;

/// The outcome for one process. Numbers are places in the slice given to [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// One policy has it.
    Matched {
        /// The policy that applies.
        winner: usize,
        /// The others that match, the next in line first.
        overridden: Vec<usize>,
    },
    /// No policy matches.
    Unmatched,
    /// A policy may match once the process's pod is known.
    Undecided,
}

/// What one policy says of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It wants it.
    Matches,
    /// It may want it, once the pod is known.
    WaitsForPod,
    /// It does not.
    No(NoMatch),
}

/// Why a policy does not match a process: the first reason in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMatch {
    /// `disabled: true`.
    Disabled,
    /// Its `duration` is over.
    Completed,
    /// `nodeSelector` does not select this node.
    Node,
    /// `regex` was not found.
    Regex,
    /// The process is outside pods, and the policy reaches pods only.
    HostProcess,
    /// The pod is in another namespace, or `namespaceSelector` does not select its namespace.
    Namespace,
    /// `podSelector` does not select the pod.
    Pod,
    /// `containers` does not name the container.
    Container,
}

/// By which step of the order one policy goes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Its `priority` is higher.
    Priority,
    /// Its target is more specific.
    Target,
    /// It is older.
    Age,
    /// `{namespace}/{name}` comes first.
    Name,
}

/// Decides one process. The result does not depend on the order of `policies`, as long as no two have the
/// same age, namespace, name and kind.
///
/// Order: priority, then the more specific target, then the older, then `{namespace}/{name}`.
pub fn decide(policies: &[CompiledPolicy], environment: &Environment, facts: &ProcessFacts) -> Decision {
    let mut matching = Vec::new();
    let mut waits = false;
    for (i, policy) in policies.iter().enumerate() {
        match policy.verdict(environment, facts) {
            Verdict::Matches => matching.push(i),
            Verdict::WaitsForPod => waits = true,
            Verdict::No(_) => {}
        }
    }
    if waits {
        return Decision::Undecided;
    }
    matching.sort_by(|&a, &b| precedence(policies[a].policy(), policies[b].policy()));
    match matching.first().copied() {
        Some(winner) => Decision::Matched { winner, overridden: matching.split_off(1) },
        None => Decision::Unmatched,
    }
}

impl CompiledPolicy {
    /// Whether this policy, taken alone, wants the process, and if not why.
    pub fn verdict(&self, environment: &Environment, facts: &ProcessFacts) -> Verdict {
        let policy = self.policy();
        let no_labels = Labels::new();
        let (standalone, node_labels) = match environment {
            Environment::Kubernetes { node_labels } => (false, node_labels),
            Environment::Standalone => (true, &no_labels),
        };
        if policy.spec.core().disabled {
            return Verdict::No(NoMatch::Disabled);
        }
        if policy.completed {
            return Verdict::No(NoMatch::Completed);
        }
        if !policy.selects_node(node_labels) {
            return Verdict::No(NoMatch::Node);
        }
        if !self.regex_matches(facts) {
            return Verdict::No(NoMatch::Regex);
        }
        if standalone {
            // Every process is a host process, and both kinds reach it.
            return if policy.selects_pods() { Verdict::No(NoMatch::HostProcess) } else { Verdict::Matches };
        }
        verdict_by_home(policy, &facts.home)
    }

    /// Whether its selectors reach a pod, whatever runs in it and in which container.
    pub fn selects_pod(&self, environment: &Environment, pod: &PodFacts) -> bool {
        let policy = self.policy();
        let Environment::Kubernetes { node_labels } = environment else { return false };
        policy.enabled() && policy.selects_node(node_labels) && verdict_by_pod(policy, pod).is_none()
    }
}

fn verdict_by_home(policy: &EffectivePolicy, home: &Home) -> Verdict {
    let core = policy.spec.core();
    let pod = match home {
        Home::Host if policy.spec.scope().is_some_and(|scope| scope.host_processes) => {
            return Verdict::Matches;
        }
        Home::Host => return Verdict::No(NoMatch::HostProcess),
        Home::PodPending => return Verdict::WaitsForPod,
        Home::Pod(pod) => pod,
    };
    match verdict_by_pod(policy, pod) {
        Some(reason) => Verdict::No(reason),
        None if !core.containers.is_empty() && !core.containers.contains(&pod.container) => {
            Verdict::No(NoMatch::Container)
        }
        None => Verdict::Matches,
    }
}

/// Why a policy does not reach a pod, if it does not.
fn verdict_by_pod(policy: &EffectivePolicy, pod: &PodFacts) -> Option<NoMatch> {
    let in_namespace = match policy.spec.scope() {
        None => policy.namespace.as_deref() == Some(pod.namespace.as_str()),
        Some(scope) => {
            let selector = scope.namespace_selector.as_ref();
            selector.is_none_or(|selector| selector.matches(&pod.namespace_labels))
        }
    };
    let selector = policy.spec.core().pod_selector.as_ref();
    if !in_namespace {
        Some(NoMatch::Namespace)
    } else if selector.is_some_and(|selector| !selector.matches(&pod.labels)) {
        Some(NoMatch::Pod)
    } else {
        None
    }
}

/// By what the first of two policies that both match goes before the second.
pub fn goes_before(first: &EffectivePolicy, second: &EffectivePolicy) -> Before {
    if first.spec.core().priority != second.spec.core().priority {
        Before::Priority
    } else if first.specificity() != second.specificity() {
        Before::Target
    } else if first.age != second.age {
        Before::Age
    } else {
        Before::Name
    }
}

/// `Less` wins.
fn precedence(a: &EffectivePolicy, b: &EffectivePolicy) -> Ordering {
    let key = |policy: &EffectivePolicy| {
        (Reverse(policy.spec.core().priority), Reverse(policy.specificity()), policy.age)
    };
    let full_name =
        |p: &EffectivePolicy| format!("{}/{}", p.namespace.as_deref().unwrap_or_default(), p.name);
    key(a).cmp(&key(b)).then_with(|| full_name(a).cmp(&full_name(b)))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
