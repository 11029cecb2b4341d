//! `top`.

use hearth_profile::tree::{Function, Tree};
use serde_json::json;

use crate::cli::{By, ListFormat, TopArgs};
use crate::commands::Session;
use crate::error::Failure;
use crate::resolve::Subject;
use crate::screen::Screen;
use crate::table::Table;

/// The functions that take the most time.
pub(super) async fn top(session: &Session, args: &TopArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let TopArgs { target, lines, by, output, range, query } = args;
    let mut ask = session.ask_about(target, range, query).await?;
    // A function is one whichever app it stands in.
    ask.grouped = false;
    let profile = session.profile(&ask, screen).await?;
    let mut functions = functions(&profile.tree, ask.selection.subject == Subject::Total);
    let value = |function: &Function| match by {
        By::SelfTime => function.self_value,
        By::Total => function.total,
    };
    let names = profile.tree.names();
    let name = |function: &Function| names[function.name as usize].as_str();
    functions.sort_by(|a, b| value(b).cmp(&value(a)).then_with(|| name(a).cmp(name(b))));
    functions.truncate(*lines);
    let all = profile.tree.root().total;
    let text = match output {
        ListFormat::Table => {
            let mut table = Table::new(&[">SELF", ">SELF%", ">TOTAL", ">TOTAL%", "FUNCTION"]);
            for function in functions.iter().filter(|function| value(function) != 0) {
                let Function { self_value, total, .. } = *function;
                table.row([
                    seconds(self_value),
                    percent(self_value, all),
                    seconds(total),
                    percent(total, all),
                    name(function).to_owned(),
                ]);
            }
            table.text()
        }
        ListFormat::Json => {
            let list: Vec<_> = functions
                .iter()
                .map(|function| json!({"name": name(function), "self": function.self_value, "total": function.total}))
                .collect();
            let title = &profile.title;
            let notes = &profile.notes;
            format!(
                "{}\n",
                json!({"title": title, "unit": "microseconds", "all": all, "functions": list, "notes": notes})
            )
        }
    };
    screen.write(text.as_bytes())?;
    for note in &profile.notes {
        screen.note(note);
    }
    Ok(())
}

/// Without the root, and without threads, which call everything; in `Total` there is nothing else.
pub(super) fn functions(tree: &Tree, threads: bool) -> Vec<Function> {
    let names = tree.names();
    let is_function = |function: &Function| {
        function.name != 0 && (threads || !names[function.name as usize].starts_with("[t] "))
    };
    tree.functions().into_iter().filter(is_function).collect()
}

/// Microseconds as seconds.
pub(super) fn seconds(micros: i64) -> String {
    format!("{:.2}s", micros as f64 / 1e6)
}

pub(super) fn percent(part: i64, all: i64) -> String {
    if all == 0 { "-".to_owned() } else { format!("{:.1}%", part as f64 * 100.0 / all as f64) }
}
