//! What each policy does on this node, for the operator. Pure: it adds up decisions that were made.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hearth_policy::PodFacts;
use hearth_proto::config::v1::PolicyCount;

use crate::policies::PolicySet;
use crate::process::Standing;

/// Policies that are named as overriding one.
const MAX_OVERRIDDEN_BY: usize = 10;
/// Names of processes that are told where a policy matches none.
const MAX_SEEN: usize = 5;

/// A running process.
#[derive(Clone, Copy, Debug)]
pub struct Running<'a> {
    /// Name of its leader.
    pub comm: &'a str,
    /// What was decided of it.
    pub standing: &'a Standing,
    /// UID of the pod that it is in.
    pub pod: Option<&'a str>,
}

/// What is added up for one policy.
#[derive(Default)]
struct Tally<'a> {
    won: u64,
    pods: HashSet<&'a str>,
    overridden: u64,
    by: BTreeMap<usize, u64>,
}

/// One count for each of `policies`, in their order; `pods` are all of this node by their UID, whether or
/// not a process of them is known.
pub fn count<'a>(
    policies: &PolicySet,
    processes: impl Iterator<Item = Running<'a>> + Clone,
    pods: &BTreeMap<String, PodFacts>,
) -> Vec<PolicyCount> {
    let mut tallies: Vec<Tally<'_>> = Vec::new();
    tallies.resize_with(policies.len(), Tally::default);
    for process in processes.clone() {
        let Standing::Matched(matched) = process.standing else { continue };
        if let Some(tally) = tallies.get_mut(matched.winner) {
            tally.won += 1;
            tally.pods.extend(process.pod);
        }
        for loser in &matched.overridden {
            if let Some(tally) = tallies.get_mut(*loser) {
                tally.overridden += 1;
                *tally.by.entry(matched.winner).or_default() += 1;
            }
        }
    }
    let counts = tallies.into_iter().enumerate().map(|(place, tally)| {
        let selected = pods.iter().filter(|(_, pod)| policies.selects_pod(place, pod));
        let selected: BTreeSet<&str> = selected.map(|(uid, _)| uid.as_str()).collect();
        let matches_none = tally.won + tally.overridden == 0;
        let seen = if matches_none && !selected.is_empty() {
            names_in(processes.clone(), &selected)
        } else {
            Vec::new()
        };
        let mut by: Vec<(usize, u64)> = tally.by.into_iter().collect();
        // Stable, so that equal ones stay in the order of the configuration.
        by.sort_by_key(|(_, processes)| std::cmp::Reverse(*processes));
        PolicyCount {
            policy: policies.id(place),
            pods: tally.pods.len() as u64,
            processes: tally.won,
            overridden: tally.overridden,
            overridden_by: by
                .iter()
                .take(MAX_OVERRIDDEN_BY)
                .map(|(winner, _)| policies.id(*winner))
                .collect(),
            seen,
            selected_pods: selected.len() as u64,
        }
    });
    counts.collect()
}

/// Names of the processes in these pods, the first few of the alphabet, so that they stay the same.
fn names_in<'a>(processes: impl Iterator<Item = Running<'a>>, selected: &BTreeSet<&str>) -> Vec<String> {
    let inside = processes.filter(|process| process.pod.is_some_and(|pod| selected.contains(pod)));
    let names: BTreeSet<&str> = inside.map(|process| process.comm).collect();
    names.into_iter().take(MAX_SEEN).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::Arc;

    use hearth_policy::{EffectivePolicy, Environment, Home, Labels, ProcessFacts, parse_policy_file};

    use super::*;
    use crate::policies::Verdict;

    /// In `default`, with its own name as label `app`.
    fn facts(pod: &str) -> PodFacts {
        let labels = Labels::from([("app".to_owned(), pod.to_owned())]);
        PodFacts { namespace: "default".into(), labels, ..PodFacts::default() }
    }

    /// Policies (name and spec) and processes (name and pod) go in; a line for each policy
    /// comes out: processes won in pods, overridden by whom, names seen, pods selected.
    fn check(policies: &[(&str, &str)], processes: &[(&str, &'static str)], expected: &[&str]) {
        let text: String = policies
            .iter()
            .map(|(name, spec)| {
                format!(
                    "---\napiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
                     metadata: {{name: {name}}}\nspec: {{{spec}}}\n"
                )
            })
            .collect();
        let environment = Environment::Kubernetes { node_labels: Labels::new() };
        let policies = EffectivePolicy::from_file(parse_policy_file(&text).unwrap().0);
        let policies = PolicySet::new(policies, environment, 1000).unwrap();
        let mut pods = BTreeMap::new();
        let standings: Vec<Standing> = processes
            .iter()
            .map(|(comm, pod)| {
                let mut home = Home::Host;
                if !pod.is_empty() {
                    pods.insert((*pod).to_owned(), facts(pod));
                    home = Home::Pod(facts(pod));
                }
                let facts = ProcessFacts { comm: (*comm).into(), cmdline: "".into(), exe: "".into(), home };
                match policies.decide(&facts) {
                    Verdict::Matched(matched) => Standing::Matched(Arc::new(matched)),
                    Verdict::Unmatched | Verdict::Undecided => Standing::Unmatched,
                }
            })
            .collect();
        let running = processes.iter().zip(&standings).map(|((comm, pod), standing)| Running {
            comm,
            standing,
            pod: Some(*pod).filter(|pod| !pod.is_empty()),
        });
        let counts = count(&policies, running, &pods);
        let lines: Vec<String> = counts
            .iter()
            .map(|count| {
                format!(
                    "{}: {} in {}, {} overridden by {:?}, seen {:?}, {} selected",
                    count.policy,
                    count.processes,
                    count.pods,
                    count.overridden,
                    count.overridden_by.join(" "),
                    count.seen.join(" "),
                    count.selected_pods
                )
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_a_policy_wins_and_who_overrides_it() {
        check(
            &[
                ("all", "regex: '.*', hostProcesses: true"),
                ("web", "regex: ^web, hostProcesses: true, priority: 1"),
                ("db", "regex: ^db, hostProcesses: true, priority: 2"),
            ],
            &[("web-1", ""), ("db-1", ""), ("db-2", ""), ("sh", "")],
            &[
                "all: 1 in 0, 3 overridden by \"db web\", seen \"\", 0 selected",
                "web: 1 in 0, 0 overridden by \"\", seen \"\", 0 selected",
                "db: 2 in 0, 0 overridden by \"\", seen \"\", 0 selected",
            ],
        );
    }

    #[test]
    fn pods_are_counted_once_and_empty_hands_are_explained() {
        check(
            &[
                ("shop", "podSelector: {matchLabels: {app: shop}}, regex: ^java"),
                ("any", "namespaceSelector: {}"),
            ],
            &[("nginx", "shop"), ("worker", "shop"), ("worker", "shop"), ("java", "other"), ("sh", "")],
            &[
                "shop: 0 in 0, 0 overridden by \"\", seen \"nginx worker\", 1 selected",
                "any: 4 in 2, 0 overridden by \"\", seen \"\", 2 selected",
            ],
        );
    }
}
