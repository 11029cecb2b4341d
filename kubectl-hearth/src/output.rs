//! A profile in the format that was asked for, where it was asked for.

use std::io::IsTerminal as _;
use std::path::Path;

use clap::ValueEnum;
use hearth_profile::write::{self, Labels};
use hearth_program::with_causes;
use serde::Serialize;
use serde_json::json;

use crate::error::Failure;
use crate::profile::{Part, Profile};
use crate::screen::{Screen, printable};

/// What a flame graph is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// In this terminal, to walk through; q ends it
    Tui,
    /// A drawing for a browser
    Svg,
    /// A page with search, zoom and a table
    Html,
    /// Lines `root;frame;… microseconds`
    Folded,
    /// For go tool pprof
    Pprof,
    /// For speedscope.app
    Speedscope,
    /// For scripts, with how far it can be trusted
    Json,
}

impl Format {
    /// What was asked for, else what the file is called like, else what fits the place.
    pub(crate) fn chosen(asked: Option<Self>, file: Option<&Path>, interactive: bool) -> Self {
        let by_name = |path: &Path| {
            let name = path.file_name()?.to_str()?.to_lowercase();
            let ends = |end: &str| name.ends_with(end);
            match () {
                () if ends(".svg") => Some(Self::Svg),
                () if ends(".html") || ends(".htm") => Some(Self::Html),
                () if ends(".pb.gz") || ends(".pprof") => Some(Self::Pprof),
                () if ends(".speedscope.json") => Some(Self::Speedscope),
                () if ends(".json") => Some(Self::Json),
                () => None,
            }
        };
        let usual = || if interactive && file.is_none() { Self::Tui } else { Self::Folded };
        asked.or_else(|| file.and_then(by_name)).unwrap_or_else(usual)
    }
}

#[derive(Serialize)]
struct Json<'a> {
    title: &'a str,
    #[serde(flatten)]
    tree: write::json::Json<'a>,
    apps: &'a [Part],
    notes: &'a [String],
}

/// The bytes of a format that is made of a tree.
pub(crate) fn written(profile: &Profile, format: Format) -> Result<Vec<u8>, Failure> {
    let Profile { title, tree, apps, notes } = profile;
    let labels = Labels { title, notes };
    Ok(match format {
        Format::Svg => {
            let drawing = write::svg::svg(tree, labels);
            drawing.map_err(|error| Failure::Refused(with_causes(&error)))?.svg.into_bytes()
        }
        Format::Html => write::html::html(tree, labels).into_bytes(),
        Format::Speedscope => {
            let name = [std::slice::from_ref(title), notes].concat().join("; ");
            line(&json!(write::speedscope::speedscope(tree, &name)))
        }
        Format::Json => line(&json!(Json { title, tree: write::json::json(tree), apps, notes })),
        // The collector writes the other.
        Format::Tui | Format::Folded | Format::Pprof => write::folded::folded(tree).into_bytes(),
    })
}

fn line(json: &serde_json::Value) -> Vec<u8> {
    format!("{json}\n").into_bytes()
}

/// To a file, or to standard output.
pub(crate) fn put(bytes: &[u8], file: Option<&Path>, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let Some(path) = file else {
        // A pipe gets names as they are.
        let shown = screen.out_is_terminal.then(|| printable(&String::from_utf8_lossy(bytes)));
        return screen.write(shown.as_ref().map_or(bytes, |shown| shown.as_bytes()));
    };
    std::fs::write(path, bytes).map_err(|cause| Failure::File { path: path.display().to_string(), cause })?;
    screen.note(&format!("written to {}", path.display()));
    Ok(())
}

/// Walks through a flame graph until the user ends it.
pub(crate) async fn show(profile: &Profile) -> Result<(), Failure> {
    if !std::io::stderr().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::Terminal(
            "standard input and standard error are not both a terminal".to_owned(),
        ));
    }
    // Names could not be told from what moves the cursor.
    let folded = printable(&write::folded::folded(&profile.tree));
    let title = profile.title.clone();
    let shown = tokio::task::spawn_blocking(move || {
        flamelens::run_from_collapsed_stacks(folded, &title, true).map_err(|error| error.to_string())
    });
    match shown.await {
        Ok(shown) => shown.map_err(Failure::Terminal),
        Err(panicked) => Err(Failure::Terminal(panicked.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_was_asked_for_or_what_fits() {
        let check = |asked, file: Option<&str>, interactive, expected| {
            assert_eq!(Format::chosen(asked, file.map(Path::new), interactive), expected, "{file:?}");
        };
        check(None, None, true, Format::Tui);
        check(None, None, false, Format::Folded);
        check(None, Some("x.SVG"), true, Format::Svg);
        check(None, Some("profile.pb.gz"), true, Format::Pprof);
        check(None, Some("x.speedscope.json"), true, Format::Speedscope);
        check(None, Some("x.json"), true, Format::Json);
        check(None, Some("flames"), true, Format::Folded);
        check(Some(Format::Html), Some("x.svg"), false, Format::Html);
    }
}
