//! When a policy with a `duration` was first accepted, kept over restarts.
//!
//! In Kubernetes the API server's creation time tells; a file has none, so the agent
//! notes the moment in which it first accepted a name with that very spec.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use hearth_policy::EffectivePolicy;
use tracing::warn;

use crate::state_dir::{read, replace};

/// More is no record of ours: a thousand policies of a kilobyte.
const MAX_BYTES: u64 = 4 << 20;

/// Moments of acceptance, Unix seconds, by policy and spec.
#[derive(Debug, Default)]
pub struct Accepted {
    /// `None`: nothing is kept.
    path: Option<PathBuf>,
    since: BTreeMap<String, i64>,
}

impl Accepted {
    /// What is known in `folder`, which is made when there is something to keep.
    /// A record that cannot be read is begun anew, with a warning.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join("accepted.json");
        let since = match read_record(&path) {
            Ok(since) => since,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                warn!("{}: {error}; durations of policies count from now", path.display());
                BTreeMap::new()
            }
        };
        Self { path: Some(path), since }
    }

    /// Keeps nothing on disk: to look at a file without accepting it.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Marks the policies whose duration is over at `now` (Unix seconds); returns when
    /// the next one will be.
    pub fn settle(&mut self, policies: &mut [EffectivePolicy], now: i64) -> Option<i64> {
        let mut since = BTreeMap::new();
        let mut next = None;
        for policy in policies {
            let Some(duration) = &policy.spec.core().duration else { continue };
            let seconds = i64::from(duration.seconds());
            let key = key(policy);
            let accepted = self.since.get(&key).copied().unwrap_or(now);
            let end = accepted.saturating_add(seconds);
            policy.completed = end <= now;
            if !policy.completed {
                next = Some(next.map_or(end, |next: i64| next.min(end)));
            }
            since.insert(key, accepted);
        }
        if since != self.since {
            self.since = since;
            if let Err(error) = self.write() {
                warn!(
                    "cannot keep when policies were accepted ({error}): their durations begin anew at a restart; name a folder with --state-dir"
                );
            }
        }
        next
    }

    fn write(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        replace(path, &serde_json::to_vec_pretty(&self.since)?)
    }
}

fn read_record(path: &Path) -> io::Result<BTreeMap<String, i64>> {
    Ok(serde_json::from_slice(&read(path, MAX_BYTES)?)?)
}

/// A policy with another spec is another policy: its duration begins when it is accepted.
fn key(policy: &EffectivePolicy) -> String {
    let json = |value: serde_json::Result<String>| value.expect("specs are plain data with text keys");
    let core = json(serde_json::to_string(policy.spec.core()));
    let scope = json(serde_json::to_string(&policy.spec.scope()));
    format!("{} {core} {scope}", policy.id())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn policies(duration: &str, frequency: u32) -> Vec<EffectivePolicy> {
        let text = format!(
            "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata: {{name: short}}\n\
             spec: {{regex: '.*', hostProcesses: true, frequency: {frequency}, duration: {duration}}}\n"
        );
        EffectivePolicy::from_file(hearth_policy::parse_policy_file(&text).unwrap().0)
    }

    #[test]
    fn a_duration_counts_from_the_first_acceptance_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Accepted::open(folder.path());
        let mut of_file = policies("30s", 99);
        assert_eq!(agent.settle(&mut of_file, 1000), Some(1030));
        assert!(!of_file[0].completed);

        let mut restarted = Accepted::open(folder.path());
        assert_eq!(restarted.settle(&mut of_file, 1029), Some(1030));
        assert_eq!(restarted.settle(&mut of_file, 1030), None);
        assert!(of_file[0].completed);
    }

    #[test]
    fn another_spec_begins_anew() {
        let mut agent = Accepted::in_memory();
        assert_eq!(agent.settle(&mut policies("30s", 99), 1000), Some(1030));
        assert_eq!(agent.settle(&mut policies("30s", 49), 1020), Some(1050));
        assert_eq!(agent.settle(&mut policies("30s", 99), 1040), Some(1070), "the first was gone meanwhile");
    }

    #[test]
    fn a_broken_record_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("accepted.json"), "{not json").unwrap();
        assert_eq!(Accepted::open(folder.path()).settle(&mut policies("1m", 99), 5), Some(65));
        assert_eq!(Accepted::open(folder.path()).settle(&mut policies("1m", 99), 50), Some(65));
    }
}
