//! `completion`: what shells and kubectl ask to complete a command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _, ValueHint};

use crate::cli::{Cli, CompletionArgs};
use crate::error::Failure;
use crate::screen::Screen;
use crate::target::Kind;

/// The program by which kubectl (1.26 and newer) completes `kubectl hearth`.
const PROGRAM: &str = "kubectl_complete-hearth";
const SCRIPT: &str = "#!/bin/sh\n# Written by kubectl hearth completion. kubectl runs it to complete kubectl hearth.\n\
                      exec kubectl-hearth __complete \"$@\"\n";

/// What cobra, which kubectl is made with, does with a list: bits.
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;

/// Writes the script of a shell, or the program for kubectl.
pub(super) fn completion(args: &CompletionArgs, screen: &mut Screen<'_>) -> Result<(), Failure> {
    if let Some(directory) = &args.install_dir {
        return install(directory, screen);
    }
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Cli::command().bin_name("kubectl-hearth"),
        "kubectl-hearth",
        &mut script,
    );
    screen.write(&script)?;
    screen.note(&format!(
        "this completes kubectl-hearth; kubectl hearth is completed by a program {PROGRAM}, which --install-dir \
         writes into a directory of your PATH"
    ));
    Ok(())
}

fn install(directory: &Path, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let path = directory.join(PROGRAM);
    let failed = |cause| Failure::File { path: path.display().to_string(), cause };
    std::fs::write(&path, SCRIPT).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    screen.note(&format!("written to {}; it must be on the PATH, as kubectl-hearth must", path.display()));
    Ok(())
}

/// Answers kubectl: a line for each word that may follow, and a number that says what to do with them.
pub(super) fn complete(words: &[String], screen: &mut Screen<'_>) -> Result<(), Failure> {
    screen.write(completed(words).as_bytes())
}

fn completed(words: &[String]) -> String {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    let mut expects: Option<&Arg> = None;
    let mut positional = 0;
    for word in before {
        if expects.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            expects =
                flag(command, word).filter(|flag| flag.get_action().takes_values() && !word.contains('='));
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
            positional = 0;
        } else {
            positional += 1;
        }
    }
    let (candidates, directive) = match expects {
        Some(flag) => values(flag),
        None if last.starts_with('-') => (flags(command), NO_FILES),
        None if command.has_subcommands() => {
            let visible = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            (visible.map(|sub| described(sub.get_name(), sub.get_about())).collect(), NO_FILES)
        }
        None => match command.get_positionals().nth(positional) {
            Some(argument) => values(argument),
            None => (Vec::new(), NO_FILES),
        },
    };
    let fitting = candidates.into_iter().filter(|candidate| candidate.starts_with(last));
    let lines: String = fitting.map(|candidate| candidate + "\n").collect();
    format!("{lines}:{directive}\n")
}

fn flag<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    command.get_arguments().find(|argument| match name.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short().is_some_and(|short| name.strip_prefix('-') == Some(&short.to_string())),
    })
}

fn flags(command: &Command) -> Vec<String> {
    let visible = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let named = visible.filter_map(|argument| Some((argument.get_long()?, argument.get_help())));
    named.map(|(long, help)| described(&format!("--{long}"), help)).collect()
}

/// With what it is, behind a tab.
fn described(name: &str, what: Option<&clap::builder::StyledStr>) -> String {
    let what = what.map(ToString::to_string).unwrap_or_default();
    format!("{name}\t{}", what.lines().next().unwrap_or_default())
}

fn values(argument: &Arg) -> (Vec<String>, u8) {
    if matches!(argument.get_id().as_str(), "target" | "base") {
        let mut kinds = vec!["total".to_owned(), "pod/".to_owned(), "app/".to_owned(), "node/".to_owned()];
        kinds.extend(Kind::ALL.map(|kind| format!("{}/", kind.short())));
        return (kinds, NO_FILES | NO_SPACE);
    }
    let possible: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| described(value.get_name(), value.get_help()))
        .collect();
    let names_files = matches!(argument.get_value_hint(), ValueHint::AnyPath)
        || matches!(argument.get_id().as_str(), "file" | "kubeconfig" | "token_file" | "ca" | "install_dir");
    (possible, if names_files { 0 } else { NO_FILES })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let answer = completed(&words);
        let names: Vec<&str> =
            answer.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
        assert_eq!(names.join(" "), expected, "{line}");
    }

    #[test]
    fn commands_targets_flags_and_their_values_are_completed() {
        check("fl", "flame :4");
        check("", "flame top diff apps explain status record open completion help :4");
        check("flame po", "pod/ :6");
        check("-n shop flame de", "deploy/ :6");
        check("flame pod/x --base", ":4");
        check("diff pod/x --base", "--base-from --base-until :4");
        check("flame pod/x -o s", "svg speedscope :4");
        check("flame pod/x --output js", "json :4");
        check("flame pod/x --file x", ":0");
        check("diff pod/x app", "app/ :6");
        check("flame pod/x app", ":4");
    }
}
