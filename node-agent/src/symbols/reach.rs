//! Finding the file behind a mapping of another process.
//!
//! `/proc/PID/map_files` leads to the very file, whatever its name has become
//! and in whichever mount namespace it lies. Without the right to that
//! (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN), or once the mapping is gone, the
//! path is tried in the process's root, then in our own. A path may lead to
//! another file by now, so there the inode or the build id has to agree.

use std::io;

use rustix::fs::OFlags;

use super::address_space::{BackingFile, BuildId, Mapping};
use super::read::{FileIdentity, FoundFile};

/// How a file was reached, which says how far it can be believed to be the one
/// that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Through the mapping, provided that the pid is still the process's.
    Mapping,
    /// By its path.
    Path,
}

/// A file that may be the one behind a mapping.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) file: FoundFile,
    pub(super) reach: Reach,
}

/// Files that may be behind a mapping, the most certain first. Each is looked
/// for only when it is asked for.
pub(super) fn candidates<'a>(
    pid: u32,
    mapping: &'a Mapping,
    file: &'a BackingFile,
) -> impl Iterator<Item = io::Result<Candidate>> + 'a {
    let by_mapping = move || {
        FoundFile::find(&format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end))
            .map(|file| Candidate { file, reach: Reach::Mapping })
    };
    let has_path = file.path.starts_with('/') && !file.deleted;
    let in_root = move || {
        FoundFile::find_in_root(pid, file.path.trim_start_matches('/'), OFlags::empty())
            .map(|file| Candidate { file, reach: Reach::Path })
    };
    let in_ours = move || FoundFile::find(&file.path).map(|file| Candidate { file, reach: Reach::Path });
    let by_path = (0..2).filter(move |_| has_path).map(move |n| if n == 0 { in_root() } else { in_ours() });
    std::iter::once_with(by_mapping).chain(by_path)
}

/// Whether a candidate's metadata already proves it to be the mapped file, or
/// disproves it; `None` leaves it to the build id.
pub(super) fn agrees(reach: Reach, identity: &FileIdentity, expected: &BackingFile) -> Option<bool> {
    match (reach, expected.inode) {
        (Reach::Mapping, _) => Some(true),
        // On overlay and btrfs the numbers of a mapping and of its file may
        // differ although it is the same, so a difference proves nothing where
        // a build id can decide.
        (Reach::Path, Some(inode)) if inode == identity.inode => Some(true),
        (Reach::Path, _) if expected.build_id.is_some() => None,
        (Reach::Path, _) => Some(false),
    }
}

/// Whether the build id that the kernel saw contradicts the file's own.
pub(super) fn contradicts(expected: Option<BuildId>, found: Option<BuildId>) -> bool {
    expected.is_some() && expected != found
}
