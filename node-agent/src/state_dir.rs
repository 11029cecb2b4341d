//! The folder in which an agent keeps what it must know after a restart. One agent has it at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Duration, Instant, sleep};
use tracing::info;

/// Between two looks at whether the other agent has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Why the folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another agent works by it.
    #[error("{folder} is another agent's: stop that one, or name another folder with --state-dir")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// It cannot be made or written.
    #[error("cannot write {folder}: {source}; name another folder with --state-dir, or correct its rights")]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The folder, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    folder: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// It cannot be written, or another agent has it.
    pub fn open(folder: &Path) -> Result<Self, StateDirError> {
        let unusable = |source| StateDirError::Unusable { folder: folder.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(folder.join("lock")).map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.into(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StateDirError::Locked { folder: folder.into() }),
            Err(error) => Err(unusable(error.into())),
        }
    }

    /// The same, but waits so long for the end of another agent that has it.
    ///
    /// # Errors
    /// It cannot be written, or the other agent goes on.
    pub async fn open_within(folder: &Path, patience: Duration) -> Result<Self, StateDirError> {
        let end = Instant::now() + patience;
        let mut is_said = false;
        loop {
            match Self::open(folder) {
                Err(StateDirError::Locked { .. }) if Instant::now() < end => {
                    if !is_said {
                        info!("{} is another agent's: waiting {patience:?} for its end", folder.display());
                        is_said = true;
                    }
                    sleep(LOOK).await;
                }
                result => return result,
            }
        }
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Replaces a file: a reader sees the old bytes or the new ones, also after the power failed.
///
/// # Errors
/// The new file cannot be written; the old one stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// The bytes of a file, at most so many.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn one_agent_has_the_folder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hearth/node");
        let first = StateDir::open(&path).unwrap();
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("another agent's") && error.contains("--state-dir"), "{error}");
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_begins_waits_for_the_one_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        let patience = Duration::from_secs(15);
        let refused = StateDir::open_within(folder.path(), patience).await.unwrap_err();
        assert!(matches!(refused, StateDirError::Locked { .. }), "{refused}");
        let ends = async {
            sleep(patience - LOOK).await;
            drop(first);
        };
        tokio::join!(ends, async { StateDir::open_within(folder.path(), patience).await.unwrap() });
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named_with_the_flag() {
        let error = StateDir::open(Path::new("/proc/hearth")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write /proc/hearth: ") && error.contains("--state-dir"), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole_and_read_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, b"one").unwrap();
        replace(&path, b"three").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"three");
        assert_eq!(read(&path, 4).unwrap_err().to_string(), "longer than 4 bytes");
    }
}
