//! The decision for a process of a pod, as agents make it, by what can be known from outside of the node.

use hearth_policy::{
    Before, CompiledPolicy, Decision, Environment, Home, MatchOn, NoMatch, PodFacts, ProcessFacts, Spec,
    Verdict, decide, goes_before,
};

/// What is known of a process. The command line and the program's path are not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) comm: Option<String>,
    pub(super) cmdline: Option<String>,
    pub(super) exe: Option<String>,
}

/// What the policies say of a process. Numbers are places in the list of policies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) winner: Option<usize>,
    /// The others that match, the next in line first.
    pub(super) overridden: Vec<usize>,
    /// What they search is not known.
    pub(super) unsure: Vec<usize>,
    pub(super) others: Vec<(usize, NoMatch)>,
}

impl Process {
    fn knows(&self, what: MatchOn) -> bool {
        match what {
            MatchOn::Comm => self.comm.is_some(),
            MatchOn::Cmdline => self.cmdline.is_some(),
            MatchOn::Exe => self.exe.is_some(),
        }
    }

    fn facts(&self, pod: &PodFacts) -> ProcessFacts {
        ProcessFacts {
            comm: self.comm.clone().unwrap_or_default(),
            cmdline: self.cmdline.clone().unwrap_or_default(),
            exe: self.exe.clone().unwrap_or_default(),
            home: Home::Pod(pod.clone()),
        }
    }
}

/// Decides by the policies of which that can be told.
pub(super) fn judge(
    policies: &[CompiledPolicy],
    environment: &Environment,
    pod: &PodFacts,
    process: &Process,
) -> Judged {
    let facts = process.facts(pod);
    let mut judged = Judged::default();
    let mut sure = Vec::new();
    for (at, policy) in policies.iter().enumerate() {
        let searches = policy.policy().regex_text().is_some();
        let known = !searches || process.knows(policy.policy().spec.core().match_on);
        let verdict = if known {
            Some(policy.verdict(environment, &facts))
        } else {
            without_regex(policy).map(|policy| policy.verdict(environment, &facts))
        };
        match verdict {
            Some(Verdict::No(reason)) => judged.others.push((at, reason)),
            Some(Verdict::Matches) if known => sure.push(at),
            _ => judged.unsure.push(at),
        }
    }
    let matching: Vec<CompiledPolicy> = sure.iter().map(|&at| policies[at].clone()).collect();
    if let Decision::Matched { winner, overridden } = decide(&matching, environment, &facts) {
        judged.winner = Some(sure[winner]);
        judged.overridden = overridden.into_iter().map(|at| sure[at]).collect();
    }
    judged
}

/// The policy with everything but its regex.
fn without_regex(policy: &CompiledPolicy) -> Option<CompiledPolicy> {
    let mut policy = policy.policy().clone();
    match &mut policy.spec {
        Spec::Namespaced(spec) => spec.core.regex = Some(String::new()),
        Spec::Cluster(spec) => spec.core.regex = Some(String::new()),
    }
    CompiledPolicy::compile(policy).ok()
}

/// Why the winner wins over the next, as the rest of a sentence.
pub(super) fn why(winner: &CompiledPolicy, next: &CompiledPolicy) -> String {
    let (winner, next) = (winner.policy(), next.policy());
    let id = next.id();
    match goes_before(winner, next) {
        Before::Priority => {
            let (priority, other) = (winner.spec.core().priority, next.spec.core().priority);
            format!("priority {priority}, {id} has {other}")
        }
        Before::Target => format!("its target is more specific than that of {id}"),
        Before::Age => format!("it is older than {id}"),
        Before::Name => format!("its name comes before {id}"),
    }
}

/// Why a policy does not match, and what would change that.
pub(super) fn because(policy: &CompiledPolicy, reason: NoMatch, pod: &PodFacts, process: &Process) -> String {
    let policy = policy.policy();
    let core = policy.spec.core();
    let asked = |selector: Option<&hearth_policy::LabelSelector>| {
        selector.map(|selector| serde_json::to_string(selector).unwrap_or_default()).unwrap_or_default()
    };
    match reason {
        NoMatch::Disabled => "it is disabled: spec.disabled is true".to_owned(),
        NoMatch::Completed => "its duration is over: make it anew".to_owned(),
        NoMatch::Node => {
            let selector = policy.spec.scope().and_then(|scope| scope.node_selector.as_ref());
            format!("its nodeSelector {} does not select the node", asked(selector))
        }
        NoMatch::Regex => {
            let (what, known) = match core.match_on {
                MatchOn::Comm => ("name", &process.comm),
                MatchOn::Cmdline => ("command line", &process.cmdline),
                MatchOn::Exe => ("program", &process.exe),
            };
            let known = known.as_deref().unwrap_or_default();
            format!(
                "its regex {:?} is not found in the {what} {known:?}",
                policy.regex_text().unwrap_or_default()
            )
        }
        NoMatch::HostProcess => "it is about processes outside of pods".to_owned(),
        NoMatch::Namespace if policy.namespace.is_some() => "it is another namespace's".to_owned(),
        NoMatch::Namespace => {
            let selector = policy.spec.scope().and_then(|scope| scope.namespace_selector.as_ref());
            format!("its namespaceSelector {} does not select {}", asked(selector), pod.namespace)
        }
        NoMatch::Pod => {
            let labels = serde_json::to_string(&pod.labels).unwrap_or_default();
            let selector = asked(core.pod_selector.as_ref());
            format!("its podSelector {selector} does not select the pod's labels {labels}")
        }
        NoMatch::Container => {
            format!("its containers {} do not name {:?}", core.containers.join(", "), pod.container)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use hearth_policy::{EffectivePolicy, Labels, parse_policy_file};

    use super::*;

    fn compiled(specs: &[(&str, &str)]) -> Vec<CompiledPolicy> {
        let text: Vec<String> = specs
            .iter()
            .map(|(name, spec)| {
                format!(
                    "apiVersion: {}\nkind: ProfilingPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n",
                    hearth_policy::API_VERSION
                )
            })
            .collect();
        let (policies, _) = parse_policy_file(&text.join("---\n")).unwrap();
        let compile = |policy| CompiledPolicy::compile(policy).unwrap();
        EffectivePolicy::from_file(policies).into_iter().map(compile).collect()
    }

    fn check(specs: &[(&str, &str)], process: &Process, expected: &str) {
        let policies = compiled(specs);
        let pod = PodFacts {
            namespace: "shop".into(),
            labels: Labels::from([("app".into(), "web".into())]),
            container: "main".into(),
            ..PodFacts::default()
        };
        let environment = Environment::Kubernetes { node_labels: Labels::new() };
        let judged = judge(&policies, &environment, &pod, process);
        let id = |at: &usize| policies[*at].policy().name.clone();
        let mut lines = Vec::new();
        if let Some(winner) = judged.winner {
            let why = judged.overridden.first().map(|next| why(&policies[winner], &policies[*next]));
            lines.push(format!("{} wins: {}", id(&winner), why.unwrap_or_default()));
        }
        lines.extend(judged.unsure.iter().map(|at| format!("{} unsure", id(at))));
        let others = judged.others.iter();
        lines.extend(
            others.map(|(at, reason)| {
                format!("{}: {}", id(at), because(&policies[*at], *reason, &pod, process))
            }),
        );
        assert_eq!(lines.join("\n"), expected);
    }

    fn named(comm: &str) -> Process {
        Process { comm: Some(comm.to_owned()), ..Process::default() }
    }

    #[test]
    fn the_winner_is_the_one_of_the_agents() {
        let both = [("old", "{regex: ngi}"), ("narrow", "{podSelector: {}, regex: nginx}")];
        check(&both, &named("nginx"), "narrow wins: its target is more specific than that of shop/old");
        let priority = [("a", "{podSelector: {}}"), ("b", "{podSelector: {}, priority: 5}")];
        check(&priority, &named("x"), "b wins: priority 5, shop/a has 0");
    }

    #[test]
    fn a_policy_that_does_not_match_says_why() {
        check(
            &[("off", "{podSelector: {}, disabled: true}")],
            &named("x"),
            "off: it is disabled: spec.disabled is true",
        );
        check(
            &[("db", "{podSelector: {matchLabels: {app: db}}}")],
            &named("x"),
            r#"db: its podSelector {"matchLabels":{"app":"db"}} does not select the pod's labels {"app":"web"}"#,
        );
        check(&[("c", "{containers: [side]}")], &named("x"), r#"c: its containers side do not name "main""#);
        check(
            &[("java", "{regex: ^java$}")],
            &named("x"),
            r#"java: its regex "^java$" is not found in the name "x""#,
        );
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let policies = [("cmd", "{regex: serve, match: cmdline}"), ("any", "{podSelector: {}}")];
        check(&policies, &named("x"), "any wins: \ncmd unsure");
        let known = Process { cmdline: Some("x --serve".into()), ..named("x") };
        check(&policies, &known, "any wins: its target is more specific than that of shop/cmd");
        check(&[("name", "{regex: a}")], &Process::default(), "name unsure");
        let elsewhere = [("name", "{regex: a, podSelector: {matchLabels: {app: db}}}")];
        let reason = r#"name: its podSelector {"matchLabels":{"app":"db"}} does not select the pod's labels {"app":"web"}"#;
        check(&elsewhere, &Process::default(), reason);
    }
}
