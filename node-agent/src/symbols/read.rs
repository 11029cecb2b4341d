//! Bounded reading of foreign files.
//!
//! Files of a profiled process are read with `pread`, never mapped: one that is
//! truncated meanwhile would kill the agent with SIGBUS. They are opened without
//! waking a device or waiting for a pipe: first as a bare path, and for reading
//! only once they turned out to be regular files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};

use super::address_space::Inode;

/// Bytes that can be read at an offset.
pub trait ReadAt {
    /// Size in bytes, as of opening.
    fn size(&self) -> u64;

    /// Reads some bytes at an offset; fewer than asked for only at the end.
    ///
    /// # Errors
    /// What the file system says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let tail = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or(&[]);
        let length = tail.len().min(buffer.len());
        buffer[..length].copy_from_slice(&tail[..length]);
        Ok(length)
    }
}

/// Fills as much of the buffer as the file has from an offset on.
pub(super) fn fill_at(reader: &(impl ReadAt + ?Sized), offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(at) = offset.checked_add(filled as u64) else { break };
        match reader.read_at(at, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Which file, and which content as far as its metadata tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileIdentity {
    pub(super) inode: Inode,
    pub(super) modified: (i64, u64),
    /// Images often give all files one time of modification, and an inode of a container that is gone comes again:
    /// nobody can set this one.
    pub(super) changed: (i64, u64),
    pub(super) size: u64,
}

impl FileIdentity {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: Inode {
                major: rustix::fs::major(stat.st_dev),
                minor: rustix::fs::minor(stat.st_dev),
                number: stat.st_ino,
            },
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// A regular file that was found and not opened for reading yet.
#[derive(Debug)]
pub(super) struct FoundFile {
    handle: OwnedFd,
    stat: Stat,
}

impl FoundFile {
    /// A path of our own view, magic links of `/proc` included.
    pub(super) fn find(path: &str) -> io::Result<Self> {
        Self::regular(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// A path inside a process's root directory. Its symbolic links stay inside.
    pub(super) fn find_in_root(pid: u32, path: &str, flags: OFlags) -> io::Result<Self> {
        let root = openat(
            CWD,
            format!("/proc/{pid}/root"),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Self::regular(openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty(), resolve)?)
    }

    fn regular(handle: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&handle)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { handle, stat })
    }

    pub(super) fn identity(&self) -> FileIdentity {
        FileIdentity::of(&self.stat)
    }

    /// Owner, as a user id of our own user namespace.
    pub(super) fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    /// Opens it for reading.
    pub(super) fn open(self) -> io::Result<ForeignFile> {
        let link = format!("/proc/self/fd/{}", self.handle.as_fd().as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = File::from(openat(CWD, link, flags, Mode::empty())?);
        let identity = FileIdentity::of(&fstat(&file)?);
        Ok(ForeignFile { file, identity })
    }
}

/// A regular file of a profiled process, open for reading.
#[derive(Debug)]
pub(super) struct ForeignFile {
    file: File,
    identity: FileIdentity,
}

impl ForeignFile {
    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }
}

impl ReadAt for ForeignFile {
    fn size(&self) -> u64 {
        self.identity.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        // An offset beyond what the kernel takes is beyond the end.
        if i64::try_from(offset).is_err() {
            return Ok(0);
        }
        self.file.read_at(buffer, offset)
    }
}
