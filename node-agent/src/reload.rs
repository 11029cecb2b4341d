//! Follows the policy file: what it says now, and whose duration has ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::clock::unix_seconds;
use crate::durations::Accepted;
use crate::metrics::Metrics;
use crate::policies::PolicySet;
use crate::policy_file::{PolicyFile, PolicyFileError, Settled};

/// An edit is several events, and some editors empty a file before they write it:
/// the file is read when nothing has happened to it for so long.
const QUIET: Duration = Duration::from_millis(200);
/// A file that never rests is read all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why to look at the file again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Something happened to it.
    Changed,
    /// Somebody asked, and wants an answer.
    Asked,
}

/// The policy file in force.
pub struct Reload {
    path: PathBuf,
    max_frequency: u32,
    accepted: Accepted,
    file: PolicyFile,
    /// Unix seconds.
    next_end: Option<i64>,
}

impl Reload {
    /// Reads the file for the first time, at `now` (Unix seconds).
    ///
    /// # Errors
    /// There is no good file.
    pub fn start(
        path: PathBuf,
        max_frequency: u32,
        mut accepted: Accepted,
        now: i64,
    ) -> Result<(Self, PolicySet), PolicyFileError> {
        let file = PolicyFile::read(&path)?;
        let Settled { policies, warnings, next_end } = file.settle(max_frequency, &mut accepted, now)?;
        warnings.iter().for_each(|warning| warn!("{warning}"));
        Ok((Self { path, max_frequency, accepted, file, next_end }, policies))
    }

    /// Reads the file again; the policies, if it says something new. One with errors
    /// leaves everything as it was.
    fn read(&mut self, now: i64) -> Result<Option<PolicySet>, PolicyFileError> {
        let file = PolicyFile::read(&self.path)?;
        if file.text() == self.file.text() {
            return Ok(None);
        }
        let Settled { policies, warnings, next_end } =
            file.settle(self.max_frequency, &mut self.accepted, now)?;
        warnings.iter().for_each(|warning| warn!("{warning}"));
        (self.file, self.next_end) = (file, next_end);
        Ok(Some(policies))
    }

    /// The policies in force, if a duration has ended: by what was accepted, whatever
    /// the file says by now.
    fn end_durations(&mut self, now: i64) -> Result<Option<PolicySet>, PolicyFileError> {
        if self.next_end.is_none_or(|end| now < end) {
            return Ok(None);
        }
        let settled = self.file.settle(self.max_frequency, &mut self.accepted, now)?;
        self.next_end = settled.next_end;
        Ok(Some(settled.policies))
    }

    /// Works until nobody sends any more; `tell` takes the policies when they are others.
    pub fn follow(
        mut self,
        changes: &Receiver<Look>,
        mut tell: impl FnMut(PolicySet),
        metrics: &Arc<Metrics>,
    ) {
        loop {
            let look = match self.wait(changes) {
                Ok(first) => Some(gather(first, changes)),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = unix_seconds();
            let mut outcomes = vec![self.end_durations(now)];
            if let Some(look) = look {
                outcomes.push(self.read(now).inspect(|policies| {
                    if policies.is_none() && look == Look::Asked {
                        info!("the policy file says nothing new");
                    }
                }));
            }
            for outcome in outcomes {
                match outcome {
                    Ok(None) => {}
                    Ok(Some(policies)) => tell(policies),
                    Err(error) => {
                        metrics.configs_refused.inc();
                        error!("{error}");
                        error!("the policies from before stay in force");
                    }
                }
            }
        }
    }

    /// Waits for a change, at most until the next duration ends.
    fn wait(&self, changes: &Receiver<Look>) -> Result<Look, RecvTimeoutError> {
        let Some(end) = self.next_end else {
            return changes.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        let left = u64::try_from(end - unix_seconds()).unwrap_or(0);
        changes.recv_timeout(Duration::from_secs(left))
    }
}

/// Waits until nothing happens any more; whether somebody asked meanwhile.
fn gather(first: Look, changes: &Receiver<Look>) -> Look {
    let deadline = Instant::now() + PATIENCE;
    let mut look = first;
    while Instant::now() < deadline
        && let Ok(next) = changes.recv_timeout(QUIET)
    {
        if next == Look::Asked {
            look = next;
        }
    }
    look
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::mpsc::channel;

    use super::*;

    const FOR_30_S: &str = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
        metadata: {name: short}\nspec: {regex: '.*', hostProcesses: true, frequency: 99, duration: 30s}\n";

    /// At these Unix seconds, with this written to the file before it is read: what the reload says.
    fn check(steps: &[(i64, Option<&str>, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, FOR_30_S).unwrap();
        let (mut reload, policies) =
            Reload::start(path.clone(), 1000, Accepted::in_memory(), 1000).ok().unwrap();
        assert_eq!(policies.node_rate(), 99);
        for (now, text, expected) in steps {
            let ended = reload.end_durations(*now);
            let read = text.map(|text| {
                std::fs::write(&path, text).unwrap();
                reload.read(*now)
            });
            let said: Vec<String> = [Some(ended), read]
                .into_iter()
                .flatten()
                .filter_map(|outcome| match outcome {
                    Ok(policies) => policies.map(|policies| format!("{} Hz", policies.node_rate())),
                    Err(_) => Some("refused".to_owned()),
                })
                .collect();
            assert_eq!(said.join(", "), *expected, "at {now}");
        }
    }

    #[test]
    fn a_duration_ends_though_the_file_was_refused_and_came_back() {
        check(&[
            (1010, Some("{"), "refused"),
            (1020, Some(FOR_30_S), ""),
            (1029, None, ""),
            (1030, None, "0 Hz"),
        ]);
    }

    #[test]
    fn a_duration_ends_whatever_the_disk_says_by_then() {
        check(&[(1010, Some("{"), "refused"), (1030, None, "0 Hz"), (1031, Some(FOR_30_S), "")]);
        check(&[(1030, Some("{"), "0 Hz, refused"), (1031, None, "")]);
    }

    #[test]
    fn another_file_has_durations_of_its_own() {
        let longer = FOR_30_S.replace("30s", "40s");
        check(&[(1010, Some(&longer), "99 Hz"), (1030, None, ""), (1050, None, "0 Hz")]);
    }

    #[test]
    fn a_file_that_is_being_written_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, FOR_30_S).unwrap();
        let (reload, _) =
            Reload::start(path.clone(), 1000, Accepted::in_memory(), unix_seconds()).ok().unwrap();
        let metrics = Arc::new(Metrics::default());
        let (changed, changes) = channel();
        let (sender, rates) = channel();
        let counters = metrics.clone();
        let tell = move |policies: PolicySet| sender.send(policies.node_rate()).unwrap();
        let thread = std::thread::spawn(move || reload.follow(&changes, tell, &counters));

        // As an editor does that writes in place: it empties the file, and takes a moment.
        std::fs::write(&path, "").unwrap();
        changed.send(Look::Changed).unwrap();
        std::thread::sleep(QUIET / 10);
        std::fs::write(&path, FOR_30_S.replace("99", "49")).unwrap();
        changed.send(Look::Changed).unwrap();
        assert_eq!((rates.recv().unwrap(), metrics.configs_refused.get()), (49, 0));
        drop(changed);
        thread.join().unwrap();
    }
}
