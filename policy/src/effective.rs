//! A policy as a node uses it.

use regex::{Regex, RegexBuilder};

use crate::facts::{Environment, ProcessFacts};
use crate::selector::Labels;
use crate::spec::{MatchOn, Policy, Spec};

/// Used when a policy has no regex and selects nothing: Hearth itself.
pub const DEFAULT_REGEX: &str = "^hearth-.*";

/// Memory that one compiled regex may take, in bytes. The crate's own limit is 10 MiB; a node may hold
/// a thousand policies.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// A policy with what the order between policies needs.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectivePolicy {
    /// `None` with the cluster kind.
    pub namespace: Option<String>,
    /// Unique within namespace and kind.
    pub name: String,
    /// The smaller is the older: the place in the file, or the creation time in Unix seconds.
    pub age: i64,
    /// Its `duration` is over: it stays, and matches nothing.
    pub completed: bool,
    /// The whole spec.
    pub spec: Spec,
}

/// An [`EffectivePolicy`] with its regex compiled once.
#[derive(Debug, Clone)]
pub struct CompiledPolicy {
    policy: EffectivePolicy,
    /// `None`: any process.
    regex: Option<Regex>,
}

/// The policy cannot be used as it is. [`crate::validate`] says so earlier and in more detail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy {id}: spec.regex {problem}")]
pub struct CompileError {
    id: String,
    problem: String,
}

/// How narrow a policy's target is; the narrower wins at equal priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Specificity {
    All,
    Node,
    Namespace,
    Pod,
}

impl EffectivePolicy {
    /// The policies of a file, in whose order the first is the oldest.
    pub fn from_file(policies: Vec<Policy>) -> Vec<Self> {
        let effective = |(age, policy): (i64, Policy)| Self {
            namespace: policy.metadata.namespace,
            name: policy.metadata.name,
            age,
            completed: false,
            spec: policy.spec,
        };
        (0..).zip(policies).map(effective).collect()
    }

    /// `namespace/name`, or `name` of a cluster-wide one.
    pub fn id(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Neither disabled nor completed.
    pub fn enabled(&self) -> bool {
        !self.spec.core().disabled && !self.completed
    }

    /// Only the most specific target that is present counts.
    pub(crate) fn specificity(&self) -> Specificity {
        let core = self.spec.core();
        if core.pod_selector.is_some() || !core.containers.is_empty() {
            return Specificity::Pod;
        }
        match self.spec.scope() {
            None => Specificity::Namespace,
            Some(scope) if scope.namespace_selector.is_some() => Specificity::Namespace,
            Some(scope) if scope.node_selector.is_some() => Specificity::Node,
            Some(_) => Specificity::All,
        }
    }

    /// Has a selector of pods, containers or namespaces.
    pub fn selects_pods(&self) -> bool {
        let core = self.spec.core();
        core.pod_selector.is_some()
            || !core.containers.is_empty()
            || self.spec.scope().is_some_and(|scope| scope.namespace_selector.is_some())
    }

    /// Whether it is for a node with these labels.
    pub fn selects_node(&self, node_labels: &Labels) -> bool {
        let selector = self.spec.scope().and_then(|scope| scope.node_selector.as_ref());
        selector.is_none_or(|selector| selector.matches(node_labels))
    }

    /// The regex that is searched; `None`: any process. Where it selects anything, a missing one means any
    /// process, and Hearth itself otherwise.
    pub fn regex_text(&self) -> Option<&str> {
        let selects =
            self.selects_pods() || self.spec.scope().is_some_and(|scope| scope.node_selector.is_some());
        match &self.spec.core().regex {
            Some(text) => Some(text),
            None if selects => None,
            None => Some(DEFAULT_REGEX),
        }
    }
}

impl CompiledPolicy {
    /// Compiles the regex.
    ///
    /// # Errors
    /// It does not compile, or takes too much memory when compiled.
    pub fn compile(policy: EffectivePolicy) -> Result<Self, CompileError> {
        let regex = match policy.regex_text() {
            None => None,
            Some(text) => {
                Some(compile_regex(text).map_err(|problem| CompileError { id: policy.id(), problem })?)
            }
        };
        Ok(Self { policy, regex })
    }

    /// What it was compiled from.
    pub fn policy(&self) -> &EffectivePolicy {
        &self.policy
    }

    /// Whether its regex is found in the process, whatever else it asks for.
    pub(crate) fn regex_matches(&self, facts: &ProcessFacts) -> bool {
        let text = match self.policy.spec.core().match_on {
            MatchOn::Comm => &facts.comm,
            MatchOn::Cmdline => &facts.cmdline,
            MatchOn::Exe => &facts.exe,
        };
        self.regex.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// The enabled policies that can match no process here, whatever runs: those with pod or namespace
/// selectors, or a node selector that does not hold, on a machine without Kubernetes; each with the reason.
pub fn cannot_match_here<'a>(
    policies: &'a [EffectivePolicy],
    environment: &Environment,
) -> Vec<(&'a EffectivePolicy, &'static str)> {
    let no_labels = Labels::new();
    let (standalone, node_labels) = match environment {
        Environment::Kubernetes { node_labels } => (false, node_labels),
        Environment::Standalone => (true, &no_labels),
    };
    let reason = |policy: &EffectivePolicy| {
        if standalone && policy.selects_pods() {
            Some("selects pods or namespaces, and without Kubernetes there are none")
        } else if policy.selects_node(node_labels) {
            None
        } else if standalone {
            Some("selects nodes by label, and without Kubernetes this machine has none")
        } else {
            Some("selects nodes by label, and this node is not among them")
        }
    };
    let enabled = policies.iter().filter(|policy| policy.enabled());
    enabled.filter_map(|policy| reason(policy).map(|reason| (policy, reason))).collect()
}

/// Compiles within [`REGEX_SIZE_LIMIT`]; the error is what is wrong, in one line.
pub(crate) fn compile_regex(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(REGEX_SIZE_LIMIT).dfa_size_limit(REGEX_SIZE_LIMIT).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(limit) => {
            format!("takes more than {} KiB when compiled", limit / 1024)
        }
        // The crate draws the pattern with a marker below it; the last line says what is wrong.
        other => {
            let text = other.to_string();
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            format!("does not compile: {}", last.trim().trim_start_matches("error: "))
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
pub(crate) mod tests {
    use super::*;
    use crate::file::parse_policy_file;

    /// A cluster policy with this spec (YAML, flow style or one field).
    pub(crate) fn policy(name: &str, spec: &str) -> EffectivePolicy {
        of_kind("ClusterProfilingPolicy", name, spec)
    }

    /// A policy of the namespace `default` with this spec.
    pub(crate) fn namespaced(name: &str, spec: &str) -> EffectivePolicy {
        of_kind("ProfilingPolicy", name, spec)
    }

    fn of_kind(kind: &str, name: &str, spec: &str) -> EffectivePolicy {
        let text = format!(
            "apiVersion: {}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n",
            crate::spec::API_VERSION
        );
        let (policies, _) = parse_policy_file(&text).unwrap();
        EffectivePolicy::from_file(policies).remove(0)
    }

    #[test]
    fn a_missing_regex_is_any_process_only_where_something_is_selected() {
        for (policy, expected) in [
            (policy("p", "{}"), Some(DEFAULT_REGEX)),
            (policy("p", "hostProcesses: true"), Some(DEFAULT_REGEX)),
            (namespaced("p", "{}"), Some(DEFAULT_REGEX)),
            (namespaced("p", "podSelector: {}"), None),
            (namespaced("p", "containers: [app]"), None),
            (policy("p", "namespaceSelector: {}"), None),
            (policy("p", "nodeSelector: {}"), None),
            (namespaced("p", "{podSelector: {}, regex: x}"), Some("x")),
        ] {
            assert_eq!(policy.regex_text(), expected, "{policy:?}");
        }
    }

    #[test]
    fn what_cannot_match_is_listed_with_its_reason() {
        let policies = [
            policy("everything", "regex: .*"),
            policy("pods", "podSelector: {}"),
            policy("node", "nodeSelector: {matchLabels: {disk: ssd}}"),
            policy("off", "{podSelector: {}, disabled: true}"),
        ];
        let names = |environment: &Environment| {
            cannot_match_here(&policies, environment).iter().map(|(p, _)| p.id()).collect::<Vec<_>>()
        };
        assert_eq!(names(&Environment::Standalone), ["pods", "node"]);
        let node_labels = Labels::from([("disk".into(), "ssd".into())]);
        assert_eq!(names(&Environment::Kubernetes { node_labels }), [""; 0]);
    }

    #[test]
    fn a_regex_error_fits_one_line() {
        assert_eq!(compile_regex("a(b").unwrap_err(), "does not compile: unclosed group");
        assert_eq!(compile_regex(r"\w{500}").unwrap_err(), "takes more than 1024 KiB when compiled");
    }
}
