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
use crate::reload::Look;

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

/// A policy file without errors.
pub struct PolicyFile {
    /// As it stands in messages.
    name: String,
    text: String,
    policies: Vec<EffectivePolicy>,
    /// What its author should know, one line each.
    warnings: Vec<String>,
}

/// The policies of a file as of some moment.
pub struct Settled {
    /// Ready to be used.
    pub policies: PolicySet,
    /// What their author should know, one line each.
    pub warnings: Vec<String>,
    /// When the next policy's `duration` ends, Unix seconds.
    pub next_end: Option<i64>,
}

impl PolicyFile {
    /// Reads the policy file of a machine without Kubernetes.
    pub fn read(path: &Path) -> Result<Self, PolicyFileError> {
        let bytes = read(path).map_err(|source| PolicyFileError::Read { path: path.into(), source })?;
        let name = path.display().to_string();
        let text = text(bytes).map_err(|problem| PolicyFileError::Content(format!("{name}:{problem}")))?;
        let (policies, warnings) =
            parse_policy_file(&text).map_err(|errors| PolicyFileError::Content(errors.in_file(&name)))?;
        let warnings = warnings.iter().map(|warning| warning.in_file(&name)).collect();
        Ok(Self { policies: EffectivePolicy::from_file(policies), name, text, warnings })
    }

    /// What was read, to tell whether it changed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The policies as of `now` (Unix seconds), accepted with this.
    pub fn settle(
        &self,
        max_frequency: u32,
        accepted: &mut Accepted,
        now: i64,
    ) -> Result<Settled, PolicyFileError> {
        let Self { name, policies, warnings, .. } = self;
        let (mut policies, mut warnings) = (policies.clone(), warnings.clone());
        let next_end = accepted.settle(&mut policies, now);
        for (policy, reason) in cannot_match_here(&policies, &Environment::Standalone) {
            warnings.push(format!("{name}: policy {} matches nothing here: it {reason}", policy.id()));
        }
        let policies = PolicySet::new(policies, Environment::Standalone, max_frequency)
            .map_err(|error| PolicyFileError::Content(format!("{name}: {error}")))?;
        Ok(Settled { policies, warnings, next_end })
    }
}

/// Reads no more than a policy file may hold, and a byte more, so that a longer one is refused as such.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file; else the line and what is wrong there.
fn text(bytes: Vec<u8>) -> Result<String, String> {
    // Before anything else: the cut may have gone through a character.
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!(
            "1: the file has more than {MAX_FILE_BYTES} bytes; write fewer policies: one can select many processes"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
        format!("{line}: there is a character that is not UTF-8; save the file as UTF-8")
    })
}

/// Tells `changed` whenever something happens to the file.
///
/// The folder is watched, not the file: editors and Kubernetes volumes replace a
/// file by another of its name. The watch ends when the answer is dropped.
pub fn watch(path: &Path, changed: Sender<Look>) -> anyhow::Result<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = path.file_name().unwrap_or_default().to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        // Reading the file is an event too.
        Ok(event) if event.kind.is_access() || !concerns(&event, &file) => {}
        // Nobody listens any more: the agent is stopping.
        Ok(_) => drop(changed.send(Look::Changed)),
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

    fn load(path: &Path, max_frequency: u32) -> Result<Settled, PolicyFileError> {
        PolicyFile::read(path)?.settle(max_frequency, &mut Accepted::in_memory(), 0)
    }

    /// Bytes in; the message out, which names the file.
    fn check_refused(bytes: &[u8], expected: &str) {
        let (_folder, path) = file(GOOD);
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path, 1000).err().unwrap().to_string();
        assert!(error.contains(&format!("policy.yaml:{expected}")), "{error}");
    }

    #[test]
    fn a_character_that_is_not_utf_8_is_told_with_its_line() {
        check_refused(
            &[GOOD.as_bytes(), b"# caf\xe9\n"].concat(),
            "5: there is a character that is not UTF-8",
        );
    }

    #[test]
    fn a_file_that_is_too_long_is_refused_as_such() {
        check_refused(&[b'#'; MAX_FILE_BYTES + 1], "1: the file has more than 1048576 bytes");
        // Cut where it is read no further, in the middle of a character.
        let text = "#".to_owned() + &"é".repeat(MAX_FILE_BYTES);
        check_refused(text.as_bytes(), "1: the file has more than 1048576 bytes");
    }

    #[test]
    fn a_good_file_with_a_warning() {
        let (_folder, path) = file(GOOD);
        let file = load(&path, 1000).unwrap();
        assert_eq!((file.policies.len(), file.policies.node_rate()), (1, 100));
        assert_eq!(file.warnings.len(), 1);
        assert!(file.warnings[0].contains("policy.yaml:4: spec.frequency"), "{:?}", file.warnings);
    }

    #[test]
    fn an_error_names_file_line_and_field() {
        let (_folder, path) = file(&GOOD.replace("100", "1001"));
        let error = load(&path, 1000).err().unwrap().to_string();
        assert!(error.contains("policy.yaml:4: spec.frequency"), "{error}");
        let error = load(&path.with_file_name("none.yaml"), 1000).err().unwrap().to_string();
        assert!(error.contains("none.yaml") && error.contains("--policy"), "{error}");
    }

    #[test]
    fn a_policy_that_needs_kubernetes_is_said_to_match_nothing() {
        let (_folder, path) = file(&GOOD.replace("frequency: 100", "podSelector: {}"));
        let warnings = load(&path, 1000).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("matches nothing here")), "{warnings:?}");
    }

    #[test]
    fn the_highest_rate_is_capped() {
        let (_folder, path) = file(GOOD);
        assert_eq!(load(&path, 50).unwrap().policies.node_rate(), 50);
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
