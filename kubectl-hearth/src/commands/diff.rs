//! `diff`.

use std::collections::BTreeMap;
use std::path::Path;

use hearth_profile::diff::{Diff, Scale, diff as compare};
use hearth_profile::tree::Tree;
use hearth_profile::write::{self, Labels};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::Api;
use serde_json::json;

use crate::cli::{DiffArgs, DiffFormat};
use crate::commands::Session;
use crate::commands::top::{functions, seconds};
use crate::error::Failure;
use crate::kubernetes::Found;
use crate::output::put;
use crate::profile::{Ask, Profile};
use crate::resolve::{Selection, Stored, Subject, both, replica_set_filter};
use crate::screen::{Colour, Screen};
use crate::table::Table;
use crate::target::{Kind, Target};
use crate::time::Range;

/// How long after a ReplicaSet is made pods of the one before run on.
const ROLLOUT: i64 = 300;

/// Two profiles compared.
pub(super) async fn diff(session: &Session, args: &DiffArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let (new, base) = sides(session, args).await?;
    if (new.selection.subject == Subject::EachApp) != (base.selection.subject == Subject::EachApp) {
        return Err(Failure::Usage(format!(
            "{} and {} are of different kinds: compare pods and workloads with each other, or apps, nodes and total; \
             --app NAME takes one app of each",
            new.selection.label, base.selection.label
        )));
    }
    let new_profile = session.profile(&new, screen).await?;
    let base_profile = session.profile(&base, screen).await.map_err(of_base)?;
    let asked = if args.absolute { Scale::Absolute } else { Scale::EqualTotals };
    let compared = compare(&base_profile.tree, &new_profile.tree, asked);
    let mut notes = new_profile.notes.clone();
    notes.extend(base_profile.notes.iter().map(|note| format!("base: {note}")));
    let title = format!("{} compared with {}", new_profile.title, base_profile.title);
    let file = args.file.as_deref();
    let format = chosen(args.output, file);
    let text = match format {
        DiffFormat::Table => {
            let threads = new.selection.subject == Subject::Total;
            let text = table(&base_profile.tree, &new_profile.tree, args, threads, file.is_none(), screen);
            if file.is_none() {
                screen.note(&title);
            }
            text
        }
        DiffFormat::Html => write::html::diff_html(&compared, Labels { title: &title, notes: &notes }),
        DiffFormat::Folded => write::diff::folded(&compared),
        DiffFormat::Json => json_of(&title, &compared, &base_profile, &new_profile, &notes),
    };
    if format == DiffFormat::Table && file.is_none() {
        // Its names are checked, and it may have colours.
        screen.write(text.as_bytes())?;
    } else {
        put(text.as_bytes(), file, screen)?;
    }
    for note in &notes {
        screen.note(note);
    }
    Ok(())
}

fn of_base(failure: Failure) -> Failure {
    match failure {
        Failure::Empty { of, reason, next: _ } => Failure::Empty {
            of: format!("the base, {of}"),
            reason,
            next: "; choose another base by --before, or by --base-from and --base-until".to_owned(),
        },
        failure => failure,
    }
}

fn chosen(asked: Option<DiffFormat>, file: Option<&Path>) -> DiffFormat {
    let name = file.and_then(Path::extension).and_then(|extension| extension.to_str());
    asked.unwrap_or(match name {
        Some("html" | "htm") => DiffFormat::Html,
        Some("json") => DiffFormat::Json,
        Some("folded") => DiffFormat::Folded,
        _ => DiffFormat::Table,
    })
}

/// The question and its base.
async fn sides(session: &Session, args: &DiffArgs) -> Result<(Ask, Ask), Failure> {
    let new = session.ask_about(&args.target, &args.range, &args.query).await?;
    let base_range = match (args.before, args.base_from, args.base_until) {
        (Some(before), ..) => Some(new.range.before(before)),
        (None, Some(from), Some(until)) => Some(Range::new(None, Some(from), Some(until), session.now)?),
        _ => None,
    };
    match (&args.base, base_range, &args.target) {
        (Some(target), range, _) => {
            let mut base = session.ask_about(target, &args.range, &args.query).await?;
            base.range = range.unwrap_or(base.range);
            Ok((new, base))
        }
        (None, Some(range), _) => Ok((new.clone(), Ask { range, ..new })),
        (None, None, Target::Workload(Kind::Deployment, name)) => {
            replica_sets(session, name, new, args).await
        }
        (None, None, _) => Err(Failure::Usage(
            "what is it compared with? Give another target, --before 1d, or --base-from and --base-until"
                .to_owned(),
        )),
    }
}

/// The newest ReplicaSet of a Deployment and the one before, each in its time.
async fn replica_sets(
    session: &Session,
    name: &str,
    ask: Ask,
    args: &DiffArgs,
) -> Result<(Ask, Ask), Failure> {
    session.need_kubernetes("diff deploy/x")?;
    if session.all_namespaces {
        return Err(Failure::Usage("ReplicaSets are of one namespace: choose it by -n".to_owned()));
    }
    let api: Api<ReplicaSet> = Api::namespaced(session.surface.client.clone(), &session.namespace);
    let sets = session.surface.found(api.list(&kube::api::ListParams::default())).await?;
    let sets = match sets {
        Found::Here(list) => list.items,
        Found::Nowhere => Vec::new(),
        Found::Hidden(said) => {
            let remedy = "to tell the ReplicaSets of a Deployment takes the right to list them; compare times by \
                          --before instead";
            return Err(Failure::Forbidden { said, remedy: remedy.to_owned() });
        }
    };
    let mut revisions: Vec<Revision> = sets.iter().filter_map(|set| Revision::of(set, name)).collect();
    revisions.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let [newest, before, ..] = &revisions[..] else {
        if let Some(gone) = &ask.selection.gone {
            return Err(session.missing(gone, Stored::NotAsked).await?);
        }
        return Err(Failure::NoObject(format!(
            "deploy/{name} has no ReplicaSet before its newest: compare times by --before 1h, or give a second target"
        )));
    };
    let side = |revision: &Revision, range: Range| {
        let filter =
            both(&replica_set_filter(name, &revision.hash), args.query.filter.as_deref().unwrap_or_default());
        let label = format!("rs/{}", revision.name);
        let selection = Selection { label, filter, ..ask.selection.clone() };
        Ask { selection, range, ..ask.clone() }
    };
    let until = ask.range.until.min(newest.created.saturating_add(ROLLOUT));
    let earlier = Range { from: newest.created.min(until).saturating_sub(ask.range.seconds()).max(1), until };
    Ok((side(newest, ask.range), side(before, earlier)))
}

/// A ReplicaSet of a Deployment.
#[derive(Debug)]
struct Revision {
    number: u64,
    name: String,
    hash: String,
    created: i64,
}

impl Revision {
    fn of(set: &ReplicaSet, deployment: &str) -> Option<Self> {
        let meta = &set.metadata;
        let owners = meta.owner_references.as_deref()?;
        owners.iter().find(|owner| owner.kind == "Deployment" && owner.name == deployment)?;
        Some(Self {
            number: meta.annotations.as_ref()?.get("deployment.kubernetes.io/revision")?.parse().ok()?,
            name: meta.name.clone()?,
            hash: meta.labels.as_ref()?.get("pod-template-hash")?.clone(),
            created: meta.creation_timestamp.as_ref()?.0.as_second(),
        })
    }
}

/// Self time of each function, those first that differ most.
fn table(
    base: &Tree,
    new: &Tree,
    args: &DiffArgs,
    threads: bool,
    coloured: bool,
    screen: &Screen<'_>,
) -> String {
    let mut changes: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for function in functions(base, threads) {
        changes.entry(&base.names()[function.name as usize]).or_default().0 += function.self_value;
    }
    for function in functions(new, threads) {
        changes.entry(&new.names()[function.name as usize]).or_default().1 += function.self_value;
    }
    let value = |micros: i64, all: i64| {
        if args.absolute { micros as f64 } else { micros as f64 * 100.0 / (all.max(1)) as f64 }
    };
    let mut rows: Vec<(f64, f64, &str)> = changes
        .into_iter()
        .map(|(name, (before, after))| {
            (value(before, base.root().total), value(after, new.root().total), name)
        })
        .filter(|(before, after, _)| before != after)
        .collect();
    rows.sort_by(|a, b| (b.1 - b.0).abs().total_cmp(&(a.1 - a.0).abs()).then_with(|| a.2.cmp(b.2)));
    rows.truncate(args.lines);
    let show = |value: f64| {
        if args.absolute { seconds(value as i64) } else { format!("{value:.1}%") }
    };
    let mut table = Table::new(&[">CHANGE", ">BASE", ">NEW", "FUNCTION"]);
    for &(before, after, name) in &rows {
        let sign = if after > before { "+" } else { "" };
        table.row([format!("{sign}{}", show(after - before)), show(before), show(after), name.to_owned()]);
    }
    let text = table.text();
    if !coloured {
        return text;
    }
    // Whole lines, as the columns are as wide as what is seen of them.
    let lines =
        text.lines().enumerate().map(|(at, line)| match at.checked_sub(1).and_then(|at| rows.get(at)) {
            Some((before, after, _)) => {
                screen.paint(line, if after > before { Colour::Red } else { Colour::Green }) + "\n"
            }
            None => format!("{line}\n"),
        });
    lines.collect()
}

fn json_of(title: &str, compared: &Diff, base: &Profile, new: &Profile, notes: &[String]) -> String {
    let side = |profile: &Profile| json!({"title": profile.title, "apps": profile.apps});
    let answer = json!({
        "title": title,
        "unit": "microseconds",
        "normalized": compared.scale == Scale::EqualTotals,
        "base": side(base),
        "new": side(new),
        "nodes": write::diff::json(compared),
        "notes": notes,
    });
    format!("{answer}\n")
}
