//! `status`: how Hearth itself is.

use std::collections::{BTreeMap, BTreeSet};

use hearth_policy::{ClusterProfilingPolicy, PolicyStatus, ProfilingPolicy};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use serde::Deserialize;

use crate::commands::Session;
use crate::error::Failure;
use crate::kubernetes::{Found, PART_OF, is_agent, node_of, readiness};
use crate::resolve::{Selection, Subject};
use crate::screen::{Colour, Screen, printable};
use crate::table::Table;
use crate::time::{Range, about, utc};

/// Where the operator writes when its certificates end.
const EXPIRES: [(&str, &str); 2] = [
    ("hearth.dev/ca-expires", "certificate authority"),
    ("hearth.dev/collector-certificate-expires", "collector's certificate"),
];
/// Certificates are renewed long before this is left of them.
const SOON_SECONDS: i64 = 3 * 86_400;

/// What is written, and how many things are wrong.
struct Report<'a, 'b> {
    screen: &'a mut Screen<'b>,
    problems: usize,
}

impl Report<'_, '_> {
    fn section(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        self.screen.write(format!("{name}\n").as_bytes())?;
        for line in text.lines() {
            self.screen.write(format!("  {line}\n").as_bytes())?;
        }
        self.screen.write(b"\n")
    }

    fn wrong(&mut self, text: &str) -> String {
        self.problems += 1;
        self.screen.paint(&printable(text), Colour::Red)
    }

    /// What could not be looked at is not known to be wrong.
    fn hidden(&self, said: &str) -> String {
        self.screen.paint(&format!("not known: {}", printable(said)), Colour::Yellow)
    }
}

/// Agents, policies, losses, certificates.
pub(super) async fn status(session: &Session, screen: &mut Screen<'_>) -> Result<(), Failure> {
    session.need_kubernetes("status")?;
    screen.progress("looking at Hearth's pods");
    let mut report = Report { screen, problems: 0 };
    let pods = session.surface.list(session.surface.pods(&session.hearth_namespace), Some(PART_OF)).await?;
    if let Found::Here(pods) = &pods
        && pods.is_empty()
    {
        session.surface.check_namespace(&session.hearth_namespace).await?;
    }
    let nodes = session.surface.list(Api::<Node>::all(session.surface.client.clone()), None).await?;
    let text = agents(session, &pods, &nodes, &mut report);
    report.section("Agents", &text)?;
    let text = others(&pods, &mut report);
    report.section("Operator and collector", &text)?;
    let text = policies(session, &mut report).await?;
    report.section("Policies", &text)?;
    let text = losses(session, &mut report).await;
    report.section("Losses of the last 15 minutes", &text)?;
    let text = certificates(session, &mut report).await?;
    report.section("Certificates", &text)?;
    match report.problems {
        0 => Ok(()),
        1 => Err(Failure::Refused("one thing is wrong: see above".to_owned())),
        several => Err(Failure::Refused(format!("{several} things are wrong: see above"))),
    }
}

/// A line for each version, and for each node where something is wrong.
fn agents(
    session: &Session,
    pods: &Found<Vec<Pod>>,
    nodes: &Found<Vec<Node>>,
    report: &mut Report<'_, '_>,
) -> String {
    let hearth = &session.hearth_namespace;
    let pods = match pods {
        Found::Here(pods) => pods,
        Found::Nowhere => return report.wrong(&format!("no pods in the namespace {hearth}")),
        Found::Hidden(said) => return report.hidden(said),
    };
    let agents: Vec<&Pod> = pods.iter().filter(|pod| is_agent(pod)).collect();
    if agents.is_empty() {
        return report.wrong(&format!(
            "none in the namespace {hearth}: install Hearth, or say where it is by --hearth-namespace"
        ));
    }
    let mut lines = Vec::new();
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    let mut ready = 0_usize;
    for agent in &agents {
        *versions.entry(version(agent)).or_default() += 1;
        match readiness(agent) {
            Ok(()) => ready += 1,
            Err(problem) => {
                let node = node_of(agent).unwrap_or("no node yet");
                let name = agent.metadata.name.as_deref().unwrap_or_default();
                lines.push(report.wrong(&format!("{node}: {name} is not ready: {problem}")));
            }
        }
    }
    match nodes {
        Found::Here(nodes) => {
            let with: BTreeSet<&str> = agents.iter().filter_map(|agent| node_of(agent)).collect();
            for name in nodes.iter().filter_map(|node| node.metadata.name.as_deref()) {
                if !with.contains(name) {
                    lines.push(report.wrong(&format!(
                        "{name}: no agent: see tolerations and nodeSelector of the DaemonSet"
                    )));
                }
            }
            let all = nodes.len();
            lines.insert(0, format!("{ready} of {all} nodes have an agent that is ready"));
        }
        Found::Nowhere | Found::Hidden(_) => {
            let all = agents.len();
            lines.insert(
                0,
                format!("{ready} of {all} agents are ready; you may not list nodes, some may have none"),
            );
        }
    }
    let versions: Vec<String> =
        versions.iter().map(|(version, count)| format!("{version} on {count}")).collect();
    lines.insert(1, format!("version {}", versions.join(", ")));
    lines.join("\n")
}

/// The tag of the image.
fn version(pod: &Pod) -> String {
    let image = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .and_then(|container| container.image.as_deref());
    let Some(image) = image else { return "unknown".to_owned() };
    let name = image.rsplit('/').next().unwrap_or(image);
    let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
    match (name.split_once(':'), digest) {
        (Some((_, tag)), _) => tag.to_owned(),
        (None, Some(digest)) => digest.chars().take(19).collect(),
        (None, None) => "latest".to_owned(),
    }
}

fn others(pods: &Found<Vec<Pod>>, report: &mut Report<'_, '_>) -> String {
    let pods = match pods {
        Found::Here(pods) => pods,
        Found::Nowhere => return report.wrong("none"),
        Found::Hidden(said) => return report.hidden(said),
    };
    let mut table = Table::new(&["POD", "VERSION", "STATE"]);
    for pod in pods.iter().filter(|pod| !is_agent(pod)) {
        let state = match readiness(pod) {
            Ok(()) => "ready".to_owned(),
            // Of a job that is done nobody expects more.
            Err(_) if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Succeeded") => {
                continue;
            }
            Err(problem) => {
                report.problems += 1;
                problem
            }
        };
        table.row([pod.metadata.name.clone().unwrap_or_default(), version(pod), state]);
    }
    if table.is_empty() { report.wrong("none runs") } else { table.text() }
}

async fn policies(session: &Session, report: &mut Report<'_, '_>) -> Result<String, Failure> {
    let client = &session.surface.client;
    let own: Api<ProfilingPolicy> = match session.namespace_given {
        true => Api::namespaced(client.clone(), &session.namespace),
        false => Api::all(client.clone()),
    };
    let mut table = Table::new(&["POLICY", "READY", "NODES", "PROCESSES", "REASON"]);
    let mut lines = Vec::new();
    let mut row = |id: String, status: Option<PolicyStatus>, report: &mut Report<'_, '_>| {
        let status = status.unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let (truth, reason) = match ready {
            Some(ready) if ready.message.is_empty() => (ready.status.clone(), ready.reason.clone()),
            Some(ready) => (ready.status.clone(), format!("{}: {}", ready.reason, ready.message)),
            None => ("Unknown".to_owned(), "no status yet: the operator writes it".to_owned()),
        };
        if truth == "False" {
            report.problems += 1;
        }
        let nodes = status.nodes.unwrap_or_default().summary;
        let processes = status.matched.unwrap_or_default().processes.to_string();
        table.row([id, truth, nodes, processes, reason]);
    };
    match session.surface.list(own, None).await? {
        Found::Here(list) => {
            for policy in list {
                let meta = policy.metadata;
                let id = format!("{}/{}", meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                row(id, policy.status, report);
            }
        }
        Found::Nowhere => {
            return Ok(report.wrong("this cluster has no API profiling.hearth.dev: install Hearth's CRDs"));
        }
        Found::Hidden(said) => lines.push(report.hidden(&format!("{said}; -n chooses one namespace"))),
    }
    match session.surface.list(Api::<ClusterProfilingPolicy>::all(client.clone()), None).await? {
        Found::Here(list) => {
            for policy in list {
                row(policy.metadata.name.unwrap_or_default(), policy.status, report);
            }
        }
        Found::Nowhere => {}
        Found::Hidden(said) => lines.push(report.hidden(&said)),
    }
    if table.is_empty() && lines.is_empty() {
        return Ok("none: nothing is profiled but what they ask for".to_owned());
    }
    let table = if table.is_empty() { String::new() } else { table.text() };
    Ok(table + &lines.join("\n"))
}

#[derive(Deserialize)]
struct Total {
    quality: Option<Quality>,
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct Quality {
    samples: u64,
    lost: BTreeMap<String, u64>,
}

/// Of the whole cluster, which takes a right on it.
async fn losses(session: &Session, report: &mut Report<'_, '_>) -> String {
    let now = session.now;
    let selection = Selection::cluster("total", Subject::Total);
    let Ok(range) = Range::new(None, None, None, now) else { return String::new() };
    let ask = session.ask(selection, range, "on-cpu");
    match session.surface.read::<Total>(&ask.flamegraph("Total")).await {
        Ok(Total { quality: Some(Quality { samples, lost }), .. }) if lost.is_empty() => {
            format!("none; {samples} samples are stored")
        }
        Ok(Total { quality: Some(Quality { samples, lost }), .. }) => {
            let all = lost.values().fold(0_u64, |sum, lost| sum.saturating_add(*lost));
            let reasons: Vec<String> = lost.iter().map(|(reason, lost)| format!("{reason} {lost}")).collect();
            let text = format!("{all} samples ({}); {samples} are stored", reasons.join(", "));
            // Single ones happen; more than one in a hundred is a fault.
            if all.saturating_mul(100) > samples { report.wrong(&text) } else { text }
        }
        Ok(Total { quality: None, notes }) => {
            report.wrong(&format!("no samples at all: {}", notes.join("; ")))
        }
        Err(failure @ Failure::Forbidden { .. }) => report.hidden(&failure.to_string()),
        Err(failure) => report.wrong(&failure.to_string()),
    }
}

async fn certificates(session: &Session, report: &mut Report<'_, '_>) -> Result<String, Failure> {
    let hearth = &session.hearth_namespace;
    let api: Api<ConfigMap> = Api::namespaced(session.surface.client.clone(), hearth);
    let maps = match session.surface.list(api, None).await? {
        Found::Here(maps) => maps,
        Found::Nowhere => Vec::new(),
        Found::Hidden(said) => return Ok(report.hidden(&said)),
    };
    let mut lines = Vec::new();
    for map in maps {
        let annotations = map.metadata.annotations.unwrap_or_default();
        for (annotation, what) in EXPIRES {
            let Some(written) = annotations.get(annotation) else { continue };
            let expires =
                written.parse::<Timestamp>().map(|moment| moment.as_second()).or_else(|_| written.parse());
            lines.push(match expires {
                Err(_) => report.wrong(&format!("{what}: {annotation} is {written:?}, which is no time")),
                Ok(expires) => {
                    let left = expires.saturating_sub(session.now);
                    match left {
                        ..=0 => report.wrong(&format!("{what}: expired since {}", utc(expires))),
                        1..=SOON_SECONDS => report.wrong(&format!(
                            "{what}: expires in {}, on {}, and should be renewed by now: see the operator's log",
                            about(left),
                            utc(expires)
                        )),
                        _ => format!("{what}: expires in {}, on {}", about(left), utc(expires)),
                    }
                }
            });
        }
    }
    if lines.is_empty() {
        return Ok(format!(
            "the operator issues none in {hearth}: they are brought, by cert-manager or your Secrets"
        ));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn check(image: &str, expected: &str) {
        let container = Container { image: Some(image.to_owned()), ..Container::default() };
        let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
        assert_eq!(version(&Pod { spec: Some(spec), ..Pod::default() }), expected, "{image}");
    }

    #[test]
    fn the_version_is_the_images_tag() {
        check("localhost:5000/hearth/node-agent:v0.3.0", "v0.3.0");
        check("node-agent", "latest");
        check("registry:5000/node-agent", "latest");
        check("r/node-agent:v1@sha256:0123456789abcdef0123", "v1");
        check("r/node-agent@sha256:0123456789abcdef0123", "sha256:0123456789ab");
    }
}
