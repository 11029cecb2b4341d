//! The plugin against an API server that is scripted: a command line in, what is written out.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod binary;
mod compared;
mod explained;
mod failures;
mod fake;
mod opened;
mod profiles;
mod recorded;
mod stated;
mod terminal;

use clap::Parser as _;
use kube::Client;
use kubectl_hearth::cli::Cli;
use kubectl_hearth::{Screen, Session, run_in};

use fake::Fake;

/// What a command wrote and how it ended.
struct Outcome {
    code: u8,
    out: String,
    err: String,
}

/// Runs a command line in the namespace `shop`; words are separated by one blank, `_` is a blank in a word.
async fn run(fake: &Fake, line: &str) -> Outcome {
    let words = std::iter::once("kubectl hearth".to_owned())
        .chain(line.split(' ').map(|word| word.replace('_', " ")));
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap();
            return Outcome { code, out: String::new(), err: error.to_string() };
        }
    };
    let client = Client::new(fake.router(), "shop");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut screen = Screen::plain(&mut out, &mut err);
    let done = match Session::of_client(client, &cli.connection) {
        Ok(session) => run_in(&session, cli.command, &mut screen).await,
        Err(failure) => Err(failure),
    };
    let code = done.as_ref().map_or_else(kubectl_hearth::Failure::code, |()| 0);
    if let Err(failure) = done {
        screen.fail(&failure);
    }
    let text = |bytes| without_times(&String::from_utf8(bytes).unwrap());
    Outcome { code, out: text(out), err: text(err) }
}

/// Times as `TIME`, whatever they are.
fn without_times(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(" UTC") {
        let (before, after) = (&rest[..at], &rest[at + 4..]);
        match before.len().checked_sub(19).filter(|&start| before.is_char_boundary(start)) {
            Some(start) if before[start..].starts_with("20") => {
                result += &format!("{}TIME", &before[..start])
            }
            _ => result += &format!("{before} UTC"),
        }
        rest = after;
    }
    result + rest
}

/// The answer, with success.
async fn check(fake: &Fake, line: &str, expected: &str) {
    let Outcome { code, out, err } = run(fake, line).await;
    assert_eq!((code, out.as_str()), (0, expected), "{line}: {err}");
}

/// No answer, and why.
async fn check_fails(fake: &Fake, line: &str, code: u8, expected: &str) {
    let outcome = run(fake, line).await;
    assert_eq!(outcome.out, "", "{line}");
    assert_eq!((outcome.code, outcome.err.trim_end()), (code, expected), "{line}");
}
