//! What keeps an agent from taking its machine down again and again: a mark on disk while it attaches.
//!
//! A start that finds a mark of another boot knows that the machine went down while the agent had just
//! begun to sample. Two of them within [`WITHIN_SECONDS`] leave it detached until somebody says otherwise.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::state_dir::{StateDir, read, replace};

/// Two unclean starts within so long leave the agent detached.
pub const WITHIN_SECONDS: i64 = 600;
/// No record of ours is longer.
const MAX_BYTES: u64 = 64 << 10;
/// The kernel draws it at every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is kept of the agent's starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The boot in which an agent attached and did not say yet that all went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// When unclean starts were found, Unix seconds; the last one or two.
    pub unclean: Vec<i64>,
    /// Since two of them, nothing is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached: Option<Detachment>,
}

/// What ends a detachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detachment {
    /// The node's `hearth.dev/resume` when it began, as far as it was known: another value ends it.
    pub resume: Option<String>,
}

/// What a start found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The last one ended well.
    Clean,
    /// The agent was killed before it could end well; the machine went on.
    Killed,
    /// The machine went down while an agent had just attached.
    Unclean,
}

impl Record {
    /// Takes in a start at `now` (Unix seconds) of this boot. `resume` is what is known of the node's
    /// annotation.
    pub fn start(&mut self, boot: &str, now: i64, resume: Option<&str>) -> Start {
        match self.mark.take() {
            None => Start::Clean,
            Some(mark) if mark == boot => Start::Killed,
            Some(_) => {
                // The clock may have been set back meanwhile: near in either direction.
                self.unclean.retain(|at| now.abs_diff(*at) <= WITHIN_SECONDS.unsigned_abs());
                self.unclean.push(now);
                if self.unclean.len() >= 2 && self.detached.is_none() {
                    self.detached = Some(Detachment { resume: resume.map(str::to_owned) });
                }
                Start::Unclean
            }
        }
    }

    /// Takes in the node's annotation; whether that changed the record.
    pub fn see_resume(&mut self, resume: &str) -> bool {
        match &mut self.detached {
            Some(Detachment { resume: Some(known) }) if known != resume => self.resume(),
            // What it was when the agent detached is not known: the first that comes is the old one.
            Some(Detachment { resume: unknown @ None }) => {
                *unknown = Some(resume.to_owned());
                true
            }
            Some(_) | None => false,
        }
    }

    /// Ends a detachment, and forgets what led to it; whether that changed the record.
    pub fn resume(&mut self) -> bool {
        let changed = self.detached.is_some() || !self.unclean.is_empty();
        (self.detached, self.unclean) = (None, Vec::new());
        changed
    }
}

/// The record on disk.
#[derive(Debug)]
pub struct FailSafe {
    /// `None`: there is no folder, and nothing is kept.
    path: Option<PathBuf>,
    boot: String,
    record: Record,
}

impl FailSafe {
    /// Reads the record and takes in this start, at `now` (Unix seconds). Without a folder nothing is
    /// known of starts, and every one counts as clean.
    pub fn start(state: Option<&StateDir>, now: i64, resume: Option<&str>) -> (Self, Start) {
        let path = state.map(|state| state.file("starts.json"));
        let record = path.as_ref().map_or_else(Record::default, |path| match read_record(path) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                error!("{}: {error}; what it said of earlier starts is forgotten", path.display());
                Record::default()
            }
        });
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_else(|error| {
            error!("{BOOT_ID}: {error}; a machine that goes down will look like a killed agent");
            String::new()
        });
        let mut safe = Self { path, boot: boot.trim().to_owned(), record };
        let found = safe.record.start(&safe.boot, now, resume);
        if found != Start::Clean {
            safe.write();
        }
        (safe, found)
    }

    /// Whether nothing may be attached.
    pub fn is_detached(&self) -> bool {
        self.record.detached.is_some()
    }

    /// Writes that the agent attaches now.
    pub fn mark(&mut self) {
        self.record.mark = Some(self.boot.clone());
        self.write();
    }

    /// Takes that back: all went well.
    pub fn unmark(&mut self) {
        if self.record.mark.take().is_some() {
            self.write();
        }
    }

    /// Takes in the node's annotation.
    pub fn see_resume(&mut self, resume: &str) {
        if self.record.see_resume(resume) {
            self.write();
        }
    }

    /// Ends a detachment: somebody asked for it.
    pub fn resume(&mut self) {
        if self.record.resume() {
            self.write();
        }
    }

    fn write(&self) {
        let Some(path) = &self.path else { return };
        let text = serde_json::to_vec_pretty(&self.record).expect("a record is plain data");
        if let Err(error) = replace(path, &text) {
            warn!("{}: {error}; a machine that goes down now will not be noticed", path.display());
        }
    }
}

fn read_record(path: &std::path::Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&read(path, MAX_BYTES)?)?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Boots by name at Unix seconds, each of which attaches and goes down; what each start found, with
    /// `!` where it is left detached.
    fn check(starts: &[(&str, i64)], expected: &str) {
        let mut record = Record::default();
        let found = starts.iter().map(|(boot, now)| {
            let found = record.start(boot, *now, Some(""));
            let detached = if record.detached.is_some() { "!" } else { "" };
            record.mark = record.detached.is_none().then(|| (*boot).to_owned());
            format!("{found:?}{detached}")
        });
        assert_eq!(found.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn two_unclean_starts_within_ten_minutes_leave_it_detached() {
        check(&[("a", 1000), ("b", 1100), ("c", 1700)], "Clean Unclean Unclean!");
        check(&[("a", 1000), ("b", 1100), ("c", 1701), ("d", 2301)], "Clean Unclean Unclean Unclean!");
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hide_one() {
        check(&[("a", 1000), ("b", 1100), ("c", 900)], "Clean Unclean Unclean!");
    }

    #[test]
    fn killed_agents_never_detach() {
        check(&[("a", 1), ("a", 2), ("a", 3), ("a", 4)], "Clean Killed Killed Killed");
    }

    #[test]
    fn it_stays_detached_until_the_annotation_changes() {
        let mut record = Record { unclean: vec![1, 2], ..Record::default() };
        record.detached = Some(Detachment { resume: Some("1".into()) });
        assert_eq!(record.start("b", 100_000, Some("1")), Start::Clean);
        assert!(!record.see_resume("1") && record.detached.is_some());
        assert!(record.see_resume("2"));
        assert_eq!(record, Record::default());
    }

    #[test]
    fn an_annotation_that_was_never_seen_does_not_end_it() {
        let mut record = Record { detached: Some(Detachment { resume: None }), ..Record::default() };
        assert!(record.see_resume("old") && record.detached.is_some());
        assert!(record.see_resume("new") && record.detached.is_none());
    }

    #[test]
    fn the_record_is_kept_and_a_broken_one_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let (mut safe, found) = FailSafe::start(Some(&state), 1, None);
        assert_eq!(found, Start::Clean);
        safe.mark();
        assert_eq!(FailSafe::start(Some(&state), 2, None).1, Start::Killed);
        safe.mark();
        safe.unmark();
        assert_eq!(FailSafe::start(Some(&state), 3, None).1, Start::Clean);
        std::fs::write(folder.path().join("starts.json"), "{").unwrap();
        assert_eq!(FailSafe::start(Some(&state), 4, None).1, Start::Clean);
    }
}
