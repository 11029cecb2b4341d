//! `flame`.

use crate::cli::{FlameArgs, OutputArgs};
use crate::commands::Session;
use crate::error::Failure;
use crate::output::{Format, put, show, written};
use crate::profile::Ask;
use crate::screen::Screen;

/// A flame graph of a target.
pub(super) async fn flame(
    session: &Session,
    args: &FlameArgs,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let FlameArgs { target, range, query, output } = args;
    check(output, screen)?;
    let ask = session.ask_about(target, range, query).await?;
    draw(session, &ask, output, screen).await
}

/// What of the output can be told before anybody is asked.
pub(super) fn check(output: &OutputArgs, screen: &Screen<'_>) -> Result<(), Failure> {
    let file = output.file.as_deref();
    match Format::chosen(output.output, file, screen.interactive) {
        Format::Tui if !screen.interactive => Err(Failure::Usage(
            "-o tui needs a terminal on standard input, output and error: choose another format, such as -o folded"
                .to_owned(),
        )),
        Format::Tui if file.is_some() => {
            Err(Failure::Usage("-o tui draws in the terminal: leave -f out, or choose another format".to_owned()))
        }
        Format::Pprof if file.is_none() && screen.out_is_terminal => {
            Err(Failure::Usage("-o pprof is not for a terminal: give a file by -f".to_owned()))
        }
        _ => Ok(()),
    }
}

/// The answer to a question, as it was asked for.
pub(super) async fn draw(
    session: &Session,
    ask: &Ask,
    output: &OutputArgs,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let file = output.file.as_deref();
    let format = Format::chosen(output.output, file, screen.interactive);
    if format == Format::Pprof {
        let bytes = pprof(session, ask, screen).await?;
        return put(&bytes, file, screen);
    }
    let profile = session.profile(ask, screen).await?;
    if format == Format::Tui {
        screen.clear();
        show(&profile).await?;
    } else {
        put(&written(&profile, format)?, file, screen)?;
    }
    for note in &profile.notes {
        screen.note(note);
    }
    Ok(())
}

/// Made by the collector, which has the labels of samples.
async fn pprof(session: &Session, ask: &Ask, screen: &mut Screen<'_>) -> Result<Vec<u8>, Failure> {
    let apps = session.apps_of(ask, screen).await?;
    let [app] = &apps.names[..] else {
        return Err(Failure::Usage(format!(
            "a pprof file is of one app, and {} has {}: choose one by --app",
            ask.selection.label,
            apps.names.join(", ")
        )));
    };
    screen.progress(&format!("asking for {}", ask.selection.label));
    let answer = session.surface.ask(&ask.flamegraph(app).with("format", "pprof")).await;
    let answer = match answer {
        // So it says that there are no samples.
        Err(Failure::Refused(reason)) if ask.selection.gone.is_some() => {
            return Err(session.nothing(ask, reason, String::new()).await?);
        }
        answer => answer?,
    };
    for note in apps.notes.iter().chain(&ask.selection.gone.as_ref().map(|gone| gone.note())) {
        screen.note(note);
    }
    if let Some(note) = answer.headers.get("hearth-note").and_then(|note| note.to_str().ok()) {
        screen.note(note);
    }
    Ok(answer.body)
}
