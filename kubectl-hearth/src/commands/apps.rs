//! `apps`.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::{AppsArgs, ListFormat};
use crate::commands::Session;
use crate::commands::top::seconds;
use crate::error::Failure;
use crate::resolve::text;
use crate::screen::Screen;
use crate::surface::{Access, Place, Question};
use crate::table::Table;
use crate::time::{Range, utc};

/// An answer of `apps`.
#[derive(Deserialize)]
struct Apps {
    apps: Vec<App>,
    notes: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct App {
    name: String,
    samples: u64,
    /// Microseconds.
    value: i64,
}

/// What was profiled.
pub(super) async fn apps(session: &Session, args: &AppsArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let AppsArgs { output, range } = args;
    let range = range.range(session.now)?;
    screen.progress("asking for the apps");
    let Apps { apps, notes } = listed(session, range).await?;
    let Range { from, until } = range;
    if apps.is_empty() {
        if let (Access::Kubernetes, Place::Namespace(namespace)) = (&session.surface.access, session.place())
        {
            session.surface.check_namespace(&namespace).await?;
        }
        let next = match session.place() {
            Place::Namespace(_) => "; -A asks for all namespaces, kubectl get pp,cpp -A lists the policies",
            Place::Cluster => {
                "; kubectl get pp,cpp -A lists the policies, kubectl hearth status says how they are"
            }
        };
        let next = if session.surface.access == Access::Kubernetes { next } else { "" };
        return Err(Failure::Empty {
            of: format!("{} to {}", utc(from), utc(until)),
            reason: notes.join("; "),
            next: next.to_owned(),
        });
    }
    let text = match output {
        ListFormat::Json => {
            let answer =
                json!({"from": from, "until": until, "unit": "microseconds", "apps": apps, "notes": notes});
            format!("{answer}\n")
        }
        ListFormat::Table => {
            let mut table = Table::new(&[">CPU", ">CORES", ">SAMPLES", "APP"]);
            for App { name, samples, value } in apps {
                let cores = value as f64 / 1e6 / range.seconds() as f64;
                table.row([seconds(value), format!("{cores:.3}"), samples.to_string(), name]);
            }
            table.text()
        }
    };
    screen.write(text.as_bytes())?;
    for note in &notes {
        screen.note(note);
    }
    Ok(())
}

/// `apps` takes no filter: a namespace without Kubernetes is asked for by the values of the tag.
async fn listed(session: &Session, Range { from, until }: Range) -> Result<Apps, Failure> {
    let place = session.place();
    if session.surface.access == Access::Server && session.namespace_given {
        #[derive(Deserialize)]
        struct Values {
            values: Vec<App>,
            notes: Vec<String>,
        }
        let question = Question::values(&place, "app_service")
            .with("filter", format!("pod_ns = {}", text(&session.namespace)))
            .with("limit", 10_000);
        let Values { values, notes } =
            session.surface.read(&question.with("from", from).with("until", until)).await?;
        let apps = values.into_iter().filter(|app| !app.name.is_empty()).collect();
        return Ok(Apps { apps, notes });
    }
    session.surface.read(&Question::new(&place, "apps").with("from", from).with("until", until)).await
}
