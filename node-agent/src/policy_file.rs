//! The policy file: read at start, and again on SIGHUP and when it changes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::Context as _;
use hearth_policy::{EffectivePolicy, Environment, MAX_FILE_BYTES, cannot_match_here, parse_policy_file};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use thiserror::Error;
use tracing::warn;

use crate::durations::Accepted;
use crate::policies::PolicySet;

/// Why a policy file is not used.
#[derive(Debug, Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error(
        "cannot read the policy file {path}: {source}; name another with --policy, or correct its rights"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says something that cannot be; a line for each error, `file:line: field …`.
    #[error("{0}")]
    Content(String),
}

/// A file that was read and holds.
pub struct PolicyFile {
    /// Ready to be used.
    pub policies: PolicySet,
    /// What its author should know, one line each.
    pub warnings: Vec<String>,
    /// What was read, to tell whether it changed.
    pub text: String,
    /// When the next policy's `duration` ends, Unix seconds.
    pub next_end: Option<i64>,
}

/// Reads and compiles the policy file of a machine without Kubernetes, as of `now` (Unix seconds).
pub fn load(
    path: &Path,
    max_frequency: u32,
    accepted: &mut Accepted,
    now: i64,
) -> Result<PolicyFile, PolicyFileError> {
    let text = read(path).map_err(|source| PolicyFileError::Read { path: path.into(), source })?;
    let name = path.display().to_string();
    let (policies, warnings) =
        parse_policy_file(&text).map_err(|errors| PolicyFileError::Content(errors.in_file(&name)))?;
    let mut warnings: Vec<String> = warnings.iter().map(|warning| warning.in_file(&name)).collect();
    let mut policies = EffectivePolicy::from_file(policies);
    let next_end = accepted.settle(&mut policies, now);
    for (policy, reason) in cannot_match_here(&policies, &Environment::Standalone) {
        warnings.push(format!("{name}: policy {} matches nothing here: it {reason}", policy.id()));
    }
    let policies = PolicySet::new(policies, Environment::Standalone, max_frequency)
        .map_err(|error| PolicyFileError::Content(format!("{name}: {error}")))?;
    Ok(PolicyFile { policies, warnings, text, next_end })
}

/// Reads no more than a policy file may hold, and a byte more, so that a longer one is refused as such.
fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Tells `changed` whenever something happens to the file.
///
/// The folder is watched, not the file: editors and Kubernetes volumes replace a
/// file by another of its name. The watch ends when the answer is dropped.
pub fn watch(path: &Path, changed: Sender<()>) -> anyhow::Result<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = path.file_name().unwrap_or_default().to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        // Reading the file is an event too.
        Ok(event) if event.kind.is_access() || !concerns(&event, &file) => {}
        // Nobody listens any more: the agent is stopping.
        Ok(_) => drop(changed.send(())),
        Err(error) => warn!("the policy file's folder cannot be watched: {error}; SIGHUP reads it again"),
    })
    .context("cannot watch files")?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .with_context(|| format!("cannot watch {}", folder.display()))?;
    Ok(watcher)
}

/// Whether an event of the folder may have changed the file: a log that is written beside it has not.
/// A Kubernetes volume changes its files by renaming its link `..data`.
fn concerns(event: &notify::Event, file: &OsStr) -> bool {
    let mut names = event.paths.iter().filter_map(|path| path.file_name());
    event.need_rescan() || names.any(|name| name == file || name == "..data")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::time::Duration;

    use super::*;

    const GOOD: &str = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
        metadata: {name: all}\nspec: {regex: '.*', hostProcesses: true, frequency: 100}\n";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_good_file_with_a_warning() {
        let (_folder, path) = file(GOOD);
        let file = load(&path, 1000, &mut Accepted::in_memory(), 0).unwrap();
        assert_eq!((file.policies.len(), file.policies.node_rate()), (1, 100));
        assert_eq!(file.warnings.len(), 1);
        assert!(file.warnings[0].contains("policy.yaml:4: spec.frequency"), "{:?}", file.warnings);
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        let (_folder, path) = file(&GOOD.replace("100", "1001"));
        let error = load(&path, 1000, &mut Accepted::in_memory(), 0).err().unwrap().to_string();
        assert!(error.contains("policy.yaml:4: spec.frequency"), "{error}");
        let error = load(&path.with_file_name("none.yaml"), 1000, &mut Accepted::in_memory(), 0)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("none.yaml") && error.contains("--policy"), "{error}");
    }

    #[test]
    fn a_policy_that_needs_kubernetes_is_said_to_match_nothing() {
        let (_folder, path) = file(&GOOD.replace("frequency: 100", "podSelector: {}"));
        let warnings = load(&path, 1000, &mut Accepted::in_memory(), 0).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("matches nothing here")), "{warnings:?}");
    }

    #[test]
    fn the_highest_rate_is_capped() {
        let (_folder, path) = file(GOOD);
        assert_eq!(load(&path, 50, &mut Accepted::in_memory(), 0).unwrap().policies.node_rate(), 50);
    }

    #[test]
    fn a_replaced_file_is_told() {
        let (_folder, path) = file(GOOD);
        let (sender, receiver) = std::sync::mpsc::channel();
        let _watcher = watch(&path, sender).unwrap();
        let new = path.with_extension("new");
        std::fs::write(&new, GOOD).unwrap();
        std::fs::rename(&new, &path).unwrap();
        receiver.recv_timeout(Duration::from_secs(10)).expect("a rename over the file is a change");
    }

    #[test]
    fn only_the_file_and_the_link_of_a_volume_concern_us() {
        let concerns = |path: &str| {
            let event = notify::Event::new(notify::EventKind::Any).add_path(path.into());
            concerns(&event, OsStr::new("policy.yaml"))
        };
        assert!(concerns("/etc/hearth/policy.yaml") && concerns("/etc/hearth/..data"));
        assert!(!concerns("/etc/hearth/agent.log") && !concerns("/etc/hearth/policy.yaml~"));
        let overflow = notify::Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(super::concerns(&overflow, OsStr::new("policy.yaml")));
    }
}
