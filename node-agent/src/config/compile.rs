//! From the operator's configuration to policies that can be asked.

use std::collections::HashSet;

use hearth_policy::{
    ClusterProfilingPolicySpec, EffectivePolicy, Environment, MAX_DOCUMENTS, ProfilingPolicySpec, Spec,
    validate,
};
use hearth_proto::config::v1::{Config, Policy};

use crate::policies::PolicySet;

/// The policies of a configuration as of some moment.
#[derive(Debug)]
pub struct Compiled {
    /// Ready to be used.
    pub policies: PolicySet,
    /// When the next policy's `duration` ends, Unix seconds.
    pub next_end: Option<i64>,
}

/// Compiles a configuration as of `now` (Unix seconds). One bad policy refuses it whole: a node works by
/// what the operator has in view, or by what it had before.
///
/// # Errors
/// Why it is refused, for people: the policy, the field, what is wrong and what to write instead.
pub fn compile(config: &Config, now: i64, max_frequency: u32) -> Result<Compiled, String> {
    if config.policies.len() > MAX_DOCUMENTS {
        let count = config.policies.len();
        return Err(format!("the configuration has {count} policies, more than {MAX_DOCUMENTS}"));
    }
    let mut ids = HashSet::new();
    let mut policies = Vec::new();
    let mut next_end: Option<i64> = None;
    for policy in &config.policies {
        let mut effective = effective(policy)?;
        if !ids.insert(effective.id()) {
            return Err(format!("policy {} is there twice", effective.id()));
        }
        if let Some(duration) = &effective.spec.core().duration {
            let end = policy.created.saturating_add(duration.seconds().into());
            effective.completed = end <= now;
            if !effective.completed {
                next_end = Some(next_end.map_or(end, |next| next.min(end)));
            }
        }
        policies.push(effective);
    }
    let node_labels = config.node_labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let policies = PolicySet::new(policies, Environment::Kubernetes { node_labels }, max_frequency)
        .map_err(|error| error.to_string())?;
    Ok(Compiled { policies, next_end })
}

fn effective(policy: &Policy) -> Result<EffectivePolicy, String> {
    let Policy { namespace, name, created, spec } = policy;
    let namespace = Some(namespace.clone()).filter(|namespace| !namespace.is_empty());
    let parsed = match namespace {
        None => serde_json::from_str::<ClusterProfilingPolicySpec>(spec).map(Spec::Cluster),
        Some(_) => serde_json::from_str::<ProfilingPolicySpec>(spec).map(Spec::Namespaced),
    };
    let mut effective = EffectivePolicy {
        namespace,
        name: name.clone(),
        age: *created,
        completed: false,
        spec: Spec::Namespaced(ProfilingPolicySpec::default()),
    };
    if name.is_empty() {
        return Err("a policy has no name".to_owned());
    }
    effective.spec = parsed.map_err(|error| format!("policy {}: spec {error}", effective.id()))?;
    match validate(&effective.spec).errors.first() {
        Some(finding) => Err(format!("policy {}: {}", effective.id(), finding.sentence())),
        None => Ok(effective),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn policy(id: &str, spec: &str) -> Policy {
        let (namespace, name) = id.split_once('/').unwrap_or(("", id));
        Policy { namespace: namespace.into(), name: name.into(), created: 1000, spec: spec.into() }
    }

    fn config(policies: &[(&str, &str)]) -> Config {
        let policies = policies.iter().map(|(id, spec)| policy(id, spec)).collect();
        Config { policies, ..Config::default() }
    }

    fn check_refused(policies: &[(&str, &str)], expected: &str) {
        assert_eq!(compile(&config(policies), 1000, 1000).unwrap_err(), expected);
    }

    #[test]
    fn the_highest_rate_of_both_kinds_is_the_nodes() {
        let config = config(&[("web", r#"{"frequency":49}"#), ("shop/web", r#"{"frequency":199}"#)]);
        let compiled = compile(&config, 1000, 1000).unwrap();
        assert_eq!((compiled.policies.len(), compiled.policies.node_rate()), (2, 199));
        assert_eq!(compile(&config, 1000, 100).unwrap().policies.node_rate(), 100);
    }

    #[test]
    fn one_bad_policy_refuses_all_with_its_id_and_a_remedy() {
        let good = ("good", "{}");
        check_refused(
            &[good, ("shop/web", r#"{"regex":"a(b"}"#)],
            "policy shop/web: spec.regex does not compile: unclosed group; \
             write a regular expression as https://docs.rs/regex describes them",
        );
        check_refused(
            &[good, ("fast", r#"{"frequency":1001}"#)],
            "policy fast: spec.frequency is 1001, above 1000; write a whole number from 1 to 1000",
        );
        check_refused(
            &[good, ("broken", "{")],
            "policy broken: spec EOF while parsing an object at line 1 column 1",
        );
        check_refused(&[good, good], "policy good is there twice");
        check_refused(&[("", "{}")], "a policy has no name");
    }

    #[test]
    fn a_duration_counts_from_creation_and_ends_by_itself() {
        let config = config(&[("short", r#"{"duration":"30s"}"#)]);
        let running = compile(&config, 1029, 1000).unwrap();
        assert_eq!((running.policies.node_rate(), running.next_end), (99, Some(1030)));
        let over = compile(&config, 1030, 1000).unwrap();
        assert_eq!((over.policies.node_rate(), over.next_end), (0, None));
    }

    #[test]
    fn a_policy_for_other_nodes_does_not_raise_the_rate() {
        let mut config =
            config(&[("ssd", r#"{"nodeSelector":{"matchLabels":{"disk":"ssd"}},"frequency":499}"#)]);
        assert_eq!(compile(&config, 1000, 1000).unwrap().policies.node_rate(), 0);
        config.node_labels.insert("disk".into(), "ssd".into());
        assert_eq!(compile(&config, 1000, 1000).unwrap().policies.node_rate(), 499);
    }
}
