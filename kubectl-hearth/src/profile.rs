//! One profile of a selection: the API's answers, put together to one tree.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hearth_profile::tree::{FrameId, Tree, TreeBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::commands::Session;
use crate::error::Failure;
use crate::kubernetes::{Found, node_of, readiness};
use crate::resolve::{Selection, Stored, Subject};
use crate::screen::Screen;
use crate::surface::{Access, Place, Question};
use crate::time::{Range, utc};

/// Apps of one answer. The hottest; what is left out is said.
const MAX_APPS: usize = 20;
/// Questions that are asked at once.
const AT_ONCE: usize = 4;

/// What is asked of a selection.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) selection: Selection,
    pub(crate) range: Range,
    pub(crate) event: String,
    /// Several apps stand below a frame of their name each.
    pub(crate) grouped: bool,
}

/// A tree, and what must be known of it.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) title: String,
    pub(crate) tree: Tree,
    pub(crate) apps: Vec<Part>,
    pub(crate) notes: Vec<String>,
}

/// What a profile is made of.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// How far it can be trusted, as the API says it.
    pub(crate) quality: Value,
}

/// An answer of `flamegraph`.
#[derive(Debug, Deserialize)]
struct Flame {
    nodes: Vec<FlameNode>,
    quality: Option<Value>,
    notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct FlameNode {
    name: String,
    parent: Option<usize>,
    #[serde(rename = "self")]
    self_value: i64,
}

/// An answer of `tags/{tag}/values`.
#[derive(Debug, Deserialize)]
pub(crate) struct Values {
    pub(crate) values: Vec<TagValue>,
    pub(crate) notes: Vec<String>,
}

/// A value of a tag and the time of its rows.
#[derive(Debug, Deserialize)]
pub(crate) struct TagValue {
    pub(crate) name: String,
    /// Microseconds.
    pub(crate) value: i64,
}

impl Ask {
    /// Which app, in which range.
    pub(crate) fn flamegraph(&self, app_service: &str) -> Question {
        Question::new(&self.selection.place, "flamegraph")
            .with("app_service", app_service)
            .with("event", &self.event)
            .with("filter", &self.selection.filter)
            .with("from", self.range.from)
            .with("until", self.range.until)
    }

    /// The values of a tag, with a further condition.
    pub(crate) fn values(&self, tag: &'static str, filter: &str) -> Question {
        Question::values(&self.selection.place, tag)
            .with("event", &self.event)
            .with("filter", crate::resolve::both(&self.selection.filter, filter))
            .with("from", self.range.from)
            .with("until", self.range.until)
    }

    pub(crate) fn title(&self) -> String {
        let Range { from, until } = self.range;
        format!("{}, {} to {}", self.selection.label, utc(from), utc(until))
    }
}

impl Session {
    /// The profile, or why there is none.
    pub(crate) async fn profile(&self, ask: &Ask, screen: &mut Screen<'_>) -> Result<Profile, Failure> {
        let found = self.apps_of(ask, screen).await?;
        screen.progress(&format!("asking for {}", ask.selection.label));
        let mut notes = ask.selection.notes.clone();
        notes.extend(found.notes);
        let flames = stream::iter(found.names.iter().map(|name| self.flame(ask, name)));
        let flames: Vec<Flame> = flames.buffered(AT_ONCE).try_collect().await?;
        let of_apps = ask.selection.subject == Subject::EachApp;
        let grouped = of_apps && ask.grouped;
        let root = if of_apps { ask.selection.label.clone() } else { found.names[0].clone() };
        let mut builder = TreeBuilder::new(root);
        let mut apps = Vec::new();
        let several = found.names.len() > 1;
        let mut reasons = Vec::new();
        for (name, flame) in found.names.into_iter().zip(flames) {
            if flame.nodes.is_empty() {
                reasons.extend(flame.notes);
                continue;
            }
            for note in flame.notes {
                // What was lost is of the nodes, and the same for all.
                let note =
                    if several && !note.starts_with("the agents") { format!("{name}: {note}") } else { note };
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            add(&mut builder, grouped.then_some(name.as_str()), &flame.nodes)?;
            apps.push(Part { name, quality: flame.quality.unwrap_or_default() });
        }
        if apps.is_empty() {
            return Err(self.nothing(ask, reasons.join("; "), String::new()).await?);
        }
        if let Some(gone) = &ask.selection.gone {
            notes.push(gone.note());
        }
        Ok(Profile { title: ask.title(), tree: builder.finish(), apps, notes })
    }

    async fn flame(&self, ask: &Ask, app_service: &str) -> Result<Flame, Failure> {
        self.surface.read(&ask.flamegraph(app_service)).await
    }

    /// The apps to ask for.
    pub(crate) async fn apps_of(&self, ask: &Ask, screen: &mut Screen<'_>) -> Result<Apps, Failure> {
        match &ask.selection.subject {
            Subject::Total => return Ok(Apps::one("Total")),
            Subject::App(name) => return Ok(Apps::one(name)),
            Subject::EachApp => {}
        }
        screen.progress(&format!("looking for the apps of {}", ask.selection.label));
        // One of them may be what no policy matched, and one tells that there are more.
        let question = ask.values("app_service", "").with("limit", MAX_APPS + 2);
        let Values { values, notes } = self.surface.read(&question).await?;
        let unmatched = values.iter().find(|value| value.name.is_empty()).map_or(0, |value| value.value);
        let mut names: Vec<String> =
            values.into_iter().map(|value| value.name).filter(|name| !name.is_empty()).collect();
        let mut apps = Apps { names: Vec::new(), notes: Vec::new() };
        if names.is_empty() {
            let (reason, next) = if unmatched > 0 {
                let reason = format!("no policy matches its processes, which used {}", cpu(unmatched));
                (reason, self.how_to_profile(ask))
            } else {
                (notes.join("; "), String::new())
            };
            return Err(self.nothing(ask, reason, next).await?);
        }
        if names.len() > MAX_APPS {
            names.truncate(MAX_APPS);
            apps.notes
                .push(format!("only the {MAX_APPS} hottest apps are shown: ask for others by --app NAME"));
        }
        if unmatched > 0 {
            let unmatched = cpu(unmatched);
            apps.notes.push(format!(
                "{unmatched} more was used by processes that no policy matches, without stacks"
            ));
        }
        apps.names = names;
        Ok(apps)
    }

    fn how_to_profile(&self, ask: &Ask) -> String {
        match &ask.selection.pod {
            Some(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let namespace = pod.metadata.namespace.as_deref().unwrap_or(&self.namespace);
                format!(
                    "; kubectl hearth explain pod/{name} -n {namespace} says why, kubectl hearth record pod/{name} \
                     -n {namespace} --for 30s profiles it for a while"
                )
            }
            None => "; kubectl hearth explain pod/NAME says why".to_owned(),
        }
    }

    /// Why an answer is empty, by all that can be found out.
    pub(crate) async fn nothing(&self, ask: &Ask, reason: String, next: String) -> Result<Failure, Failure> {
        if let Some(gone) = &ask.selection.gone {
            return self.missing(gone, Stored::Nothing).await;
        }
        if let (Access::Kubernetes, Place::Namespace(namespace)) =
            (&self.surface.access, &ask.selection.place)
        {
            self.surface.check_namespace(namespace).await?;
        }
        let reason = if reason.is_empty() { "no samples in that time".to_owned() } else { reason };
        let next = if next.is_empty() { self.next_step(ask).await? } else { next };
        Ok(Failure::Empty { of: ask.title(), reason, next })
    }

    async fn next_step(&self, ask: &Ask) -> Result<String, Failure> {
        if self.surface.access == Access::Server {
            return Ok(String::new());
        }
        let Some(pod) = &ask.selection.pod else { return Ok(String::new()) };
        if let Some(sentence) = self.agent_sentence(node_of(pod)).await? {
            return Ok(format!("; {sentence}"));
        }
        Ok(self.how_to_profile(ask))
    }

    /// That the agent of a node is missing or not ready; `None` if it is well, or may not be looked for.
    pub(crate) async fn agent_sentence(&self, node: Option<&str>) -> Result<Option<String>, Failure> {
        let hearth = &self.hearth_namespace;
        let Some(node) = node else {
            return Ok(Some("the pod is not on a node yet: kubectl describe pod says why".to_owned()));
        };
        Ok(match self.surface.agent_on(hearth, Some(node)).await? {
            Some(Found::Nowhere) => Some(format!(
                "its node {node} has no agent in the namespace {hearth}: see kubectl get pods -n {hearth} -o wide, \
                 and tolerations and nodeSelector of the DaemonSet (Hearth is elsewhere? --hearth-namespace)"
            )),
            Some(Found::Here(agent)) => readiness(&agent).err().map(|problem| {
                let name = agent.metadata.name.unwrap_or_default();
                format!(
                    "the agent of its node {node} does not work ({problem}): kubectl logs -n {hearth} {name}"
                )
            }),
            Some(Found::Hidden(_)) | None => None,
        })
    }
}

/// Which apps, and what is left out.
#[derive(Debug)]
pub(crate) struct Apps {
    pub(crate) names: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Apps {
    fn one(name: &str) -> Self {
        Self { names: vec![name.to_owned()], notes: Vec::new() }
    }
}

/// Microseconds as CPU time.
pub(crate) fn cpu(micros: i64) -> String {
    format!("{:.2} s of CPU time", micros as f64 / 1e6)
}

/// Adds the nodes of an answer, below a frame of the app's name if there are several apps.
fn add(builder: &mut TreeBuilder, below: Option<&str>, nodes: &[FlameNode]) -> Result<(), Failure> {
    let broken =
        || Failure::Refused("the collector's answer is no tree: a node stands before its parent".to_owned());
    let below = below.map(|name| builder.intern(name));
    let frames: Vec<FrameId> = nodes.iter().map(|node| builder.intern(&node.name)).collect();
    let mut path = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        if node.parent.is_some_and(|parent| parent >= at) || node.parent.is_none() != (at == 0) {
            return Err(broken());
        }
        if node.self_value == 0 {
            continue;
        }
        path.clear();
        let mut here = at;
        while let Some(parent) = nodes[here].parent {
            path.push(frames[here]);
            here = parent;
        }
        builder.add_interned(below.into_iter().chain(path.iter().rev().copied()), node.self_value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hearth_profile::write::folded::folded;

    use super::*;

    fn check(json: &str, below: Option<&str>, expected: Result<&str, ()>) {
        let nodes: Vec<FlameNode> = serde_json::from_str(json).expect("nodes");
        let mut builder = TreeBuilder::new("root");
        let added = add(&mut builder, below, &nodes).map_err(|_| ());
        assert_eq!(added.map(|()| folded(&builder.finish())), expected.map(str::to_owned));
    }

    #[test]
    fn nodes_become_the_tree_they_were_made_from() {
        let nodes = r#"[{"name":"app","parent":null,"self":1,"total":9},{"name":"[t] app","parent":0,"self":0,"total":8},
            {"name":"main","parent":1,"self":3,"total":8},{"name":"app","parent":2,"self":5,"total":5}]"#;
        check(nodes, None, Ok("root 1\nroot;[t] app;main 3\nroot;[t] app;main;app 5\n"));
        check(nodes, Some("app"), Ok("root;app 1\nroot;app;[t] app;main 3\nroot;app;[t] app;main;app 5\n"));
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        check(r#"[{"name":"a","parent":0,"self":1}]"#, None, Err(()));
        check(r#"[{"name":"a","parent":null,"self":1},{"name":"b","parent":null,"self":1}]"#, None, Err(()));
        check(r#"[{"name":"a","parent":null,"self":1},{"name":"b","parent":7,"self":1}]"#, None, Err(()));
    }
}
