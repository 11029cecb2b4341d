//! `explain`: which policy decides for the processes of a pod, and why.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hearth_policy::{
    ClusterProfilingPolicy, CompiledPolicy, EffectivePolicy, Environment, Labels, NoMatch, PodFacts,
    PolicyStatus, ProfilingPolicy, Spec, SpecCore,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ObjectMeta};

use super::judge::{Process, because, judge, why};
use crate::cli::ExplainArgs;
use crate::commands::Session;
use crate::error::Failure;
use crate::kubernetes::{Found, node_of};
use crate::profile::{Ask, Values, cpu};
use crate::resolve::{Stored, text};
use crate::screen::Screen;
use crate::table::Table;
use crate::target::Target;

/// Names of processes that are looked at.
const MAX_PROCESSES: usize = 50;

/// The policies that the user may read, those that can be used first.
#[derive(Default)]
struct Policies {
    compiled: Vec<CompiledPolicy>,
    /// Of each of them.
    statuses: Vec<PolicyStatus>,
    /// Invalid: their ids and what is wrong.
    invalid: Vec<(String, String)>,
    notes: Vec<String>,
}

/// What is explained.
struct Subject {
    pod: PodFacts,
    node: Option<String>,
    environment: Environment,
    /// Processes by container.
    processes: Vec<(String, Process)>,
}

/// Which policy decides, and why.
pub(super) async fn explain(
    session: &Session,
    args: &ExplainArgs,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    session.need_kubernetes("explain")?;
    let Target::Pod(name) = &args.target else {
        return Err(Failure::Usage(format!("explain takes a pod, as pod/NAME, not {}", args.target)));
    };
    screen.progress(&format!("reading {}", args.target));
    let selection = session.resolve(&args.target).await?;
    let Some(pod) = selection.pod.clone() else {
        if let Some(gone) = &selection.gone {
            return Err(session.missing(gone, Stored::NotAsked).await?);
        }
        return Err(session.hidden_pod(name).await);
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| session.namespace.clone());
    let ask = session.ask(selection, args.range.range(session.now)?, "on-cpu");
    screen.progress("reading the policies");
    let mut policies = session.policies(&namespace).await?;
    let (subject, notes) = session.subject(&pod, &namespace, args, &ask).await?;
    policies.notes.extend(notes);
    let mut text = heading(&ask.selection.label, &subject);
    let agent = session.agent_sentence(subject.node.as_deref()).await?;
    if let Some(agent) = &agent {
        let _ = writeln!(text, "Nothing is sampled here: {agent}.");
    }
    let decided = decided(&subject, &policies, &mut text);
    seen(session, &ask, &mut text).await;
    statuses(&policies, &decided, subject.node.as_deref(), &mut text);
    others(&subject, &policies, &mut text);
    if decided.is_empty() {
        advice(&pod, &namespace, &policies, &mut text);
    }
    screen.write(crate::screen::printable(&text).as_bytes())?;
    for note in &policies.notes {
        screen.note(note);
    }
    Ok(())
}

impl Session {
    /// That a pod may not be read, in the API server's words.
    async fn hidden_pod(&self, name: &str) -> Failure {
        match self.surface.found(self.surface.pods(&self.namespace).get(name)).await {
            Ok(Found::Hidden(said)) => Failure::Forbidden {
                said,
                remedy: "ask for the right to get pods in this namespace".to_owned(),
            },
            Ok(_) => Failure::Refused(format!("pod {name} has changed meanwhile: ask again")),
            Err(failure) => failure,
        }
    }

    async fn policies(&self, namespace: &str) -> Result<Policies, Failure> {
        let client = &self.surface.client;
        let mut policies = Policies::default();
        let own: Api<ProfilingPolicy> = Api::namespaced(client.clone(), namespace);
        match self.surface.list(own, None).await? {
            Found::Here(list) => {
                for policy in list {
                    policies.add(policy.metadata, Spec::Namespaced(policy.spec), policy.status, self.now);
                }
            }
            Found::Nowhere => return Err(Failure::NotInstalled("profiling.hearth.dev/v1alpha1")),
            Found::Hidden(said) => {
                let remedy = "ask for the right to list profilingpolicies in this namespace".to_owned();
                return Err(Failure::Forbidden { said, remedy });
            }
        }
        match self.surface.list(Api::<ClusterProfilingPolicy>::all(client.clone()), None).await? {
            Found::Here(list) => {
                for policy in list {
                    policies.add(policy.metadata, Spec::Cluster(policy.spec), policy.status, self.now);
                }
            }
            Found::Nowhere | Found::Hidden(_) => policies.notes.push(
                "you may not list clusterprofilingpolicies: one of them may decide otherwise than what is said here"
                    .to_owned(),
            ),
        }
        Ok(policies)
    }

    /// The pod, its node and its processes, and what could not be read of them.
    async fn subject(
        &self,
        pod: &Pod,
        namespace: &str,
        args: &ExplainArgs,
        ask: &Ask,
    ) -> Result<(Subject, Vec<String>), Failure> {
        let mut notes = Vec::new();
        let node = node_of(pod).map(str::to_owned);
        let mut node_labels = Labels::new();
        if let Some(name) = &node {
            match self.surface.node(name).await? {
                Found::Here(node) => node_labels = node.metadata.labels.unwrap_or_default(),
                Found::Nowhere | Found::Hidden(_) => {
                    notes.push(
                        "the node's labels cannot be read: policies with a nodeSelector may match as well"
                            .to_owned(),
                    );
                }
            }
        }
        // The API server sets this one.
        let known = || Labels::from([("kubernetes.io/metadata.name".to_owned(), namespace.to_owned())]);
        let namespace_labels = match self.surface.namespace(namespace).await? {
            Found::Here(object) => object.metadata.labels.unwrap_or_default(),
            Found::Nowhere | Found::Hidden(_) => {
                notes.push("the namespace's labels cannot be read: policies with a namespaceSelector may match as well".to_owned());
                known()
            }
        };
        let facts = PodFacts {
            namespace: namespace.to_owned(),
            namespace_labels,
            name: pod.metadata.name.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ..PodFacts::default()
        };
        let processes = match &args.process {
            Some(comm) => {
                let process = Process {
                    comm: Some(comm.clone()),
                    cmdline: args.cmdline.clone(),
                    exe: args.exe.clone(),
                };
                containers(pod).into_iter().map(|container| (container, process.clone())).collect()
            }
            None => self.seen_processes(pod, ask, &mut notes).await,
        };
        let environment = Environment::Kubernetes { node_labels };
        Ok((Subject { pod: facts, node, environment, processes }, notes))
    }

    /// The names that samples have, by container; containers alone where none are known.
    async fn seen_processes(&self, pod: &Pod, ask: &Ask, notes: &mut Vec<String>) -> Vec<(String, Process)> {
        let mut found = Vec::new();
        for container in containers(pod) {
            let condition = format!("container = {}", text(&container));
            let question = ask.values("process_name", &condition).with("limit", MAX_PROCESSES);
            let names: Vec<String> = match self.surface.read::<Values>(&question).await {
                Ok(answer) => answer.values.into_iter().map(|value| value.name).collect(),
                Err(failure) => {
                    let note = format!(
                        "the names of processes are not known, as profiles cannot be read: {failure}"
                    );
                    if !notes.contains(&note) {
                        notes.push(note);
                    }
                    Vec::new()
                }
            };
            if names.is_empty() {
                found.push((container, Process::default()));
                continue;
            }
            for comm in names {
                found.push((container.clone(), Process { comm: Some(comm), ..Process::default() }));
            }
        }
        found
    }
}

impl Policies {
    fn add(&mut self, meta: ObjectMeta, spec: Spec, status: Option<PolicyStatus>, now: i64) {
        let age = meta.creation_timestamp.map_or(0, |created| created.0.as_second());
        let over =
            spec.core().duration.as_ref().is_some_and(|duration| age + i64::from(duration.seconds()) <= now);
        let policy = EffectivePolicy {
            namespace: meta.namespace,
            name: meta.name.unwrap_or_default(),
            age,
            completed: over,
            spec,
        };
        let id = policy.id();
        let errors = hearth_policy::validate(&policy.spec).errors;
        let compiled = match errors.first() {
            Some(error) => Err(error.sentence()),
            None => CompiledPolicy::compile(policy).map_err(|error| error.to_string()),
        };
        match compiled {
            Ok(compiled) => {
                self.compiled.push(compiled);
                self.statuses.push(status.unwrap_or_default());
            }
            Err(problem) => self.invalid.push((id, problem)),
        }
    }
}

/// All of them, as each may have processes.
fn containers(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let names = spec.containers.iter().map(|container| &container.name);
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always")).map(|init| &init.name);
    let debuggers = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
    names.chain(sidecars).chain(debuggers).cloned().collect()
}

fn heading(label: &str, subject: &Subject) -> String {
    match &subject.node {
        Some(node) => format!("{label}, on node {node}\n\n"),
        None => format!("{label}, on no node yet\n\n"),
    }
}

/// A line for each process. Returns the policies that decide for one.
fn decided(subject: &Subject, policies: &Policies, text: &mut String) -> BTreeSet<usize> {
    let mut deciding = BTreeSet::new();
    let mut table = Table::new(&["PROCESS", "CONTAINER", "POLICY", "WHY"]);
    let id = |at: usize| policies.compiled[at].policy().id();
    for (container, process) in &subject.processes {
        let pod = PodFacts { container: container.clone(), ..subject.pod.clone() };
        let judged = judge(&policies.compiled, &subject.environment, &pod, process);
        deciding.extend(judged.winner);
        let mut reasons = Vec::new();
        if let Some(winner) = judged.winner {
            reasons.push(match judged.overridden.first() {
                Some(next) => why(&policies.compiled[winner], &policies.compiled[*next]),
                None => "no other matches".to_owned(),
            });
        }
        for at in judged.unsure {
            deciding.insert(at);
            let what = match policies.compiled[at].policy().spec.core().match_on {
                hearth_policy::MatchOn::Comm => "the name (--process)",
                hearth_policy::MatchOn::Cmdline => "the command line (--process and --cmdline)",
                hearth_policy::MatchOn::Exe => "the program (--process and --exe)",
            };
            let regex = policies.compiled[at].policy().regex_text().unwrap_or_default().to_owned();
            reasons.push(format!("{} too, if {regex:?} is found in {what}", id(at)));
        }
        if reasons.is_empty() {
            reasons.push("none matches".to_owned());
        }
        let name = process.comm.clone().unwrap_or_else(|| "?".to_owned());
        let winner = judged.winner.map_or_else(|| "-".to_owned(), id);
        table.row([name, container.clone(), winner, reasons.join("; ")]);
    }
    text.push_str(&table.text());
    deciding
}

/// What samples say: the policies that have decided.
async fn seen(session: &Session, ask: &Ask, text: &mut String) {
    let question = ask.values("policy", "").with("limit", 20);
    // Why not, a note on the names of processes says already.
    let Ok(answer) = session.surface.read::<Values>(&question).await else { return };
    let seen: Vec<String> = answer
        .values
        .iter()
        .map(|value| {
            let by = if value.name.is_empty() { "no policy" } else { &value.name };
            format!("{by} {}", cpu(value.value))
        })
        .collect();
    let seen = if seen.is_empty() { answer.notes.join("; ") } else { seen.join(", ") };
    let _ = writeln!(text, "\nStored of {}: {seen}", ask.title());
}

/// What agents report of those that decide.
fn statuses(policies: &Policies, deciding: &BTreeSet<usize>, node: Option<&str>, text: &mut String) {
    if !deciding.is_empty() {
        text.push_str("\nWhat agents say of them:\n");
    }
    for &at in deciding {
        let policy = policies.compiled[at].policy();
        let SpecCore { frequency, priority, .. } = policy.spec.core();
        let status = &policies.statuses[at];
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let said = match ready {
            None => "no status yet: does the operator run? kubectl hearth status".to_owned(),
            Some(ready) if ready.message.is_empty() => format!("Ready={} ({})", ready.status, ready.reason),
            Some(ready) => format!("Ready={} ({}): {}", ready.status, ready.reason, ready.message),
        };
        let _ = writeln!(text, "  {} ({frequency} samples/s, priority {priority}): {said}", policy.id());
        for failure in status.failures.iter().filter(|failure| Some(failure.node.as_str()) == node) {
            let _ = writeln!(text, "    on this node: {}: {}", failure.reason, failure.message);
        }
    }
}

/// Why others do not match, each once.
fn others(subject: &Subject, policies: &Policies, text: &mut String) {
    let mut lines = Vec::new();
    for (container, process) in &subject.processes {
        let pod = PodFacts { container: container.clone(), ..subject.pod.clone() };
        for (at, reason) in judge(&policies.compiled, &subject.environment, &pod, process).others {
            let policy = &policies.compiled[at];
            // Hearth's own policy is about nothing else.
            if reason == NoMatch::Regex && policy.policy().regex_text() == Some(hearth_policy::DEFAULT_REGEX)
            {
                continue;
            }
            let line = format!("  {}: {}", policy.policy().id(), because(policy, reason, &pod, process));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.extend(policies.invalid.iter().map(|(id, problem)| format!("  {id}: it is invalid: {problem}")));
    if !lines.is_empty() {
        let _ = writeln!(text, "\nPolicies that do not match:\n{}", lines.join("\n"));
    }
}

/// What to change where nothing decides.
fn advice(pod: &Pod, namespace: &str, policies: &Policies, text: &mut String) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let there = if policies.compiled.is_empty() { "There is no policy that you could see. " } else { "" };
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let stable = |key: &str| !matches!(key, "pod-template-hash" | "controller-revision-hash");
    let labels: Labels = labels.into_iter().filter(|(key, _)| stable(key)).collect();
    let labels = serde_json::to_string(&labels).unwrap_or_default();
    let _ = writeln!(
        text,
        "\n{there}To profile it for a while:\n  kubectl hearth record pod/{name} -n {namespace} --for 30s\n\
         From now on, with all pods that have its labels:\n  kubectl apply -f - <<'EOF'\n  apiVersion: {}\n  \
         kind: ProfilingPolicy\n  metadata: {{name: profiled, namespace: {namespace}}}\n  \
         spec: {{podSelector: {{matchLabels: {labels}}}}}\n  EOF",
        hearth_policy::API_VERSION
    );
}
