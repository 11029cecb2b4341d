//! From the operator's configuration to policies that can be asked.

use std::collections::HashSet;

use hearth_policy::{
    ClusterProfilingPolicySpec, EffectivePolicy, Environment, MAX_DOCUMENTS, ProfilingPolicySpec, Spec,
    validate,
};
use hearth_proto::config::v1::{Config, Policy};
use hearth_proto::config_limits::MAX_KEPT;

use crate::policies::PolicySet;

/// The policies of a configuration as of some moment.
#[derive(Debug)]
pub struct Compiled {
    /// Ready to be used.
    pub policies: PolicySet,
    /// When the next policy's `duration` ends, Unix seconds.
    pub next_end: Option<i64>,
}

/// The configuration with the policies that it says to keep, as the one `before` has them. Those that it does not
/// have, this node goes without.
pub fn with_kept(mut config: Config, before: Option<&Config>) -> Config {
    let id = |policy: &Policy| (policy.namespace.clone(), policy.name.clone(), policy.created);
    let kept: HashSet<_> =
        config.kept.iter().map(|kept| (kept.namespace.clone(), kept.name.clone(), kept.created)).collect();
    let policies = before.map(|before| &*before.policies).unwrap_or_default();
    config.policies.extend(policies.iter().filter(|policy| kept.contains(&id(policy))).cloned());
    config
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
    if config.kept.len() > MAX_KEPT {
        let count = config.kept.len();
        return Err(format!("the configuration keeps {count} policies, more than {MAX_KEPT}"));
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

    use hearth_proto::config::v1::PolicyReference;

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

    /// A configuration with these policies, the created one each at 1000, that keeps those.
    fn keeping(policies: &[(&str, &str)], kept: &[(&str, i64)]) -> Config {
        let reference = |&(id, created): &(&str, i64)| {
            let Policy { namespace, name, .. } = policy(id, "");
            PolicyReference { namespace, name, created }
        };
        Config { kept: kept.iter().map(reference).collect(), ..config(policies) }
    }

    /// What a node works by, `id=spec …` in the order of ids.
    fn works_by(config: &Config) -> String {
        let text = |policy: &Policy| match &*policy.namespace {
            "" => format!("{}={}", policy.name, policy.spec),
            namespace => format!("{namespace}/{}={}", policy.name, policy.spec),
        };
        let mut policies: Vec<String> = config.policies.iter().map(text).collect();
        policies.sort();
        policies.join(" ")
    }

    #[test]
    fn a_node_keeps_its_versions_of_what_is_invalid_now_and_of_nothing_else() {
        let before = config(&[("p", "1"), ("shop/p", "2"), ("gone", "3"), ("edited", "4")]);
        let kept = keeping(&[("edited", "5")], &[("p", 1000), ("shop/p", 1000), ("never", 1000)]);
        assert_eq!(works_by(&with_kept(kept.clone(), Some(&before))), "edited=5 p=1 shop/p=2");
        assert_eq!(works_by(&with_kept(kept, None)), "edited=5", "a node without them goes without");
        let namesake = keeping(&[], &[("p", 1001)]);
        assert_eq!(works_by(&with_kept(namesake, Some(&before))), "", "it is another policy");
    }

    #[test]
    fn whichever_operator_leads_a_node_works_by_the_same() {
        let by_who_knows = config(&[("good", "1"), ("bad", "2")]);
        let by_who_does_not = keeping(&[("good", "1")], &[("bad", 1000)]);
        let mut in_force = with_kept(by_who_knows.clone(), None);
        for next in [&by_who_does_not, &by_who_does_not, &by_who_knows, &by_who_does_not] {
            in_force = with_kept(next.clone(), Some(&in_force));
            assert_eq!(works_by(&in_force), "bad=2 good=1");
        }
        in_force = with_kept(config(&[("good", "1")]), Some(&in_force));
        assert_eq!(works_by(&in_force), "good=1", "it was deleted");
    }

    #[test]
    fn what_is_kept_is_bounded_as_policies_are() {
        let kept = vec![("p", 1000); MAX_KEPT + 1];
        let refused = compile(&keeping(&[], &kept), 1000, 1000).unwrap_err();
        assert_eq!(refused, "the configuration keeps 1001 policies, more than 1000");
        compile(&keeping(&[], &kept[1..]), 1000, 1000).unwrap();
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
