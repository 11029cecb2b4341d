//! The policies a node works by, ready to be asked about a process.

use std::sync::Arc;
use std::time::Duration;

use hearth_policy::{
    AppService, CompileError, CompiledPolicy, Decision, EffectivePolicy, Environment, MatchOn, ProcessFacts,
    app_service, decide, effective_rate, node_rate,
};

/// How a matched process is sampled and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// `namespace/name`, or `name`.
    pub policy: Arc<str>,
    /// Samples per second and CPU.
    pub rate: u32,
    /// Rows keep the CPU's number.
    pub keep_cpu: bool,
    /// How long an unresolved address of a JVM waits before its symbols are read again.
    pub defer: Duration,
    /// What the process is shown as.
    pub app_service: Arc<str>,
}

/// What the policies say of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One has it.
    Matched(Match),
    /// None wants it.
    Unmatched,
    /// One may want it, once its pod is known.
    Undecided,
}

/// The policies of one configuration.
pub struct PolicySet {
    policies: Vec<CompiledPolicy>,
    environment: Environment,
    max_frequency: u32,
    node_rate: u32,
}

impl PolicySet {
    /// Compiles `policies` for a node in `environment`; no rate will exceed `max_frequency`.
    pub fn new(
        policies: Vec<EffectivePolicy>,
        environment: Environment,
        max_frequency: u32,
    ) -> Result<Self, CompileError> {
        let no_labels = hearth_policy::Labels::new();
        let labels = match &environment {
            Environment::Kubernetes { node_labels } => node_labels,
            Environment::Standalone => &no_labels,
        };
        let here: Vec<_> = policies.iter().filter(|policy| policy.selects_node(labels)).cloned().collect();
        let node_rate = node_rate(&here, max_frequency).unwrap_or(0);
        let policies = policies.into_iter().map(CompiledPolicy::compile).collect::<Result<_, _>>()?;
        Ok(Self { policies, environment, max_frequency, node_rate })
    }

    /// Ticks per second and CPU that the policies need together; 0 where none is enabled.
    pub fn node_rate(&self) -> u32 {
        self.node_rate
    }

    /// Number of policies, disabled ones included.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether a decision looks at more of a process than its name, so that
    /// `/proc/PID` has to be asked.
    pub fn looks_beyond_comm(&self) -> bool {
        self.policies
            .iter()
            .map(|policy| policy.policy().spec.core())
            .any(|core| core.match_on != MatchOn::Comm || core.app_service == AppService::Exe)
    }

    /// Whether a decision looks at the labels of a pod's namespace.
    pub fn looks_at_namespaces(&self) -> bool {
        let scopes = self.policies.iter().filter_map(|policy| policy.policy().spec.scope());
        scopes.into_iter().any(|scope| scope.namespace_selector.is_some())
    }

    /// What the winning policy says of a process. Without Kubernetes no process waits for its pod.
    pub fn decide(&self, facts: &ProcessFacts) -> Verdict {
        let winner = match decide(&self.policies, &self.environment, facts) {
            Decision::Matched { winner, .. } => winner,
            Decision::Unmatched => return Verdict::Unmatched,
            Decision::Undecided => return Verdict::Undecided,
        };
        let policy = self.policies[winner].policy();
        let core = policy.spec.core();
        Verdict::Matched(Match {
            policy: policy.id().into(),
            rate: effective_rate(policy, self.max_frequency),
            keep_cpu: core.cpu != 0,
            defer: Duration::from_secs(core.java_symbol_file_refresh_defer_interval.seconds().into()),
            app_service: app_service(core.app_service, facts).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use hearth_policy::{Home, parse_policy_file};

    use super::*;

    #[test]
    fn a_match_is_sampled_as_its_policy_says() {
        let text = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
            metadata: {name: web}\nspec: {regex: ^web, hostProcesses: true, frequency: 49, cpu: 1,\n  \
            javaSymbolFileRefreshDeferInterval: 7s}\n";
        let policies = EffectivePolicy::from_file(parse_policy_file(text).unwrap().0);
        let policies = PolicySet::new(policies, Environment::Standalone, 1000).unwrap();
        let facts =
            ProcessFacts { comm: "web-1".into(), cmdline: "".into(), exe: "".into(), home: Home::Host };
        let expected = Match {
            policy: "web".into(),
            rate: 49,
            keep_cpu: true,
            defer: Duration::from_secs(7),
            app_service: "web-1".into(),
        };
        assert_eq!(policies.decide(&facts), Verdict::Matched(expected));
    }
}
