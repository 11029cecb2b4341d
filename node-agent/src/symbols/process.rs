//! What symbolization knows of one process.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::address_space::{AddressSpace, Backing};
use super::budget::{Budget, Charge};
use super::perf_map::PerfMap;
use super::read::{FileIdentity, ForeignFile, FoundFile};
use crate::proc_fs;

/// Different unknown addresses that are shown as such, per process and window.
pub const MAX_UNKNOWN_ADDRESSES: usize = 256;
/// Bytes of `/proc/PID/status` that are read.
const MAX_STATUS_BYTES: u64 = 64 * 1024;
/// Perf maps kept open for processes that may be gone when their samples are named.
const MAX_HELD_MAPS: usize = 128;

/// A process without a perf map is left alone for so long before one is looked for
/// again: a runtime may begin to write it at any time.
const ABSENT_MAP_INTERVAL: Duration = Duration::from_secs(1);

static NEXT_IMAGE: AtomicU64 = AtomicU64::new(0);

/// One process as symbolization sees it: its mappings and what was derived from
/// them. An exec makes a new one, a fork a [`ProcessImage::forked`] one.
#[derive(Debug)]
pub struct ProcessImage {
    /// In the initial pid namespace. Another of its threads where the leader ended
    /// before them: `/proc` shows no memory and no files of a leader that ended.
    pub pid: u32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`; 0 when unknown. Tells
    /// it from a later one with its pid.
    pub start_time: u64,
    /// Executable mappings; the caller keeps them up to date.
    pub space: AddressSpace,
    /// Unique among images, since pids are not.
    pub(super) id: u64,
    pub(super) jit: Jit,
    /// Unknown addresses that were shown, and in which window.
    unknown: HashSet<u64>,
    window: u64,
    /// Whether libjvm is mapped, as of which generation of `space`.
    maps_jvm: Option<(u64, bool)>,
}

impl ProcessImage {
    /// A process with its mappings.
    pub fn new(pid: u32, start_time: u64, space: AddressSpace) -> Self {
        Self {
            pid,
            start_time,
            space,
            id: NEXT_IMAGE.fetch_add(1, Ordering::Relaxed),
            jit: Jit::default(),
            unknown: HashSet::new(),
            window: 0,
            maps_jvm: None,
        }
    }

    /// Its child right after the fork: the same mappings, nothing else shared.
    pub fn forked(&self, pid: u32, start_time: u64) -> Self {
        Self::new(pid, start_time, self.space.clone())
    }

    /// Whether an unknown address may be shown verbatim in a window.
    pub(super) fn may_show_unknown(&mut self, address: u64, window: u64) -> bool {
        if self.window != window {
            self.window = window;
            self.unknown.clear();
        }
        self.unknown.contains(&address)
            || (self.unknown.len() < MAX_UNKNOWN_ADDRESSES && self.unknown.insert(address))
    }

    /// Whether `/proc/PID` is another process by now. One that just ended is
    /// not: what was opened through its pid was its own.
    pub(super) fn is_replaced(&self) -> bool {
        self.start_time != 0 && proc_fs::stat(self.pid).is_ok_and(|now| !now.began_at(self.start_time))
    }

    pub(super) fn maps_jvm(&mut self) -> bool {
        let generation = self.space.generation();
        if let Some((known, answer)) = self.maps_jvm
            && known == generation
        {
            return answer;
        }
        let is_jvm = |backing: &Backing| match backing {
            Backing::File(file) => file.path.rsplit('/').next() == Some("libjvm.so"),
            Backing::Vdso | Backing::Vsyscall | Backing::Anonymous => false,
        };
        let answer = self.space.iter().any(|mapping| is_jvm(&mapping.backing));
        self.maps_jvm = Some((generation, answer));
        answer
    }

    /// Opens the perf map while the process lives, to be read when needed.
    pub(super) fn hold_perf_map(&mut self, held: &Arc<()>) {
        if self.jit.held.is_some() || self.jit.was_found || Arc::strong_count(held) > MAX_HELD_MAPS {
            return;
        }
        if let Some(file) = self.find_perf_map().and_then(|found| found.open().ok())
            && !self.is_replaced()
        {
            self.jit.held = Some((file, held.clone()));
        }
    }

    /// Reads the perf map if it is due (never found, or `defer` passed) and has
    /// changed; the new one, if there is one. That there was none is no reading: it
    /// is looked for again without waiting for `defer`.
    pub(super) fn refresh_perf_map(&mut self, defer: Duration, budget: &Budget) -> Option<&PerfMap> {
        let wait = if self.jit.was_found { defer } else { defer.min(ABSENT_MAP_INTERVAL) };
        if self.jit.checked_at.is_some_and(|at| at.elapsed() < wait) {
            return None;
        }
        self.jit.checked_at = Some(Instant::now());
        let found = match self.find_perf_map() {
            Some(found) if self.jit.identity == Some(found.identity()) => return None,
            Some(found) => found.open().ok().filter(|_| !self.is_replaced()),
            None => None,
        };
        let held = self.jit.held.take();
        // Gone with the process; what was opened in time is left.
        let file = found.as_ref().or(held.as_ref().map(|(file, _)| file))?;
        self.jit.was_found = true;
        // The old map's place is the new one's, which is in memory beside it until it is whole.
        let own = self.jit.map.as_ref().map_or(0, |(_, charge)| charge.amount());
        match read_perf_map(file, budget.left() + own, budget.total()) {
            Ok(map) => {
                self.jit.identity = Some(file.identity());
                self.jit.version += 1;
                let charge = budget.charge(map.bytes());
                Some(&self.jit.map.insert((map, charge)).0)
            }
            Err(error) => {
                // The old one stays, and both files are looked at again once `defer` passed.
                tracing::debug!(pid = self.pid, %error, "reading a perf map failed");
                budget.refuse(1);
                self.jit.held = held;
                None
            }
        }
    }

    /// How often the perf map was read.
    #[cfg(test)]
    pub(crate) fn perf_map_readings(&self) -> u32 {
        self.jit.version
    }

    /// The map file in the process's own view, under its own pid, if it is its
    /// own or root's. A link in its place is not followed.
    fn find_perf_map(&mut self) -> Option<FoundFile> {
        let status = self.jit.status.or_else(|| {
            self.jit.status = Status::read(self.pid).ok();
            self.jit.status
        })?;
        let path = format!("tmp/perf-{}.map", status.inner_pid);
        let found = FoundFile::find_in_root(self.pid, &path, OFlags::NOFOLLOW).ok()?;
        (found.owner() == 0 || found.owner() == status.effective_uid).then_some(found)
    }
}

/// Reads a map into what is left; at most a quarter of the whole, so that one process
/// does not use up what others need.
fn read_perf_map(file: &ForeignFile, left: usize, total: usize) -> io::Result<PerfMap> {
    if left == 0 {
        return Err(io::Error::new(io::ErrorKind::OutOfMemory, "no memory left for perf maps"));
    }
    PerfMap::read(file, left.min(total / 4))
}

/// Functions that the process compiled itself.
#[derive(Debug, Default)]
pub(super) struct Jit {
    map: Option<(PerfMap, Charge)>,
    /// Which file content `map` is.
    identity: Option<FileIdentity>,
    checked_at: Option<Instant>,
    /// There was a file, whether or not it could be read.
    was_found: bool,
    held: Option<(ForeignFile, Arc<()>)>,
    status: Option<Status>,
    /// Changes when the map does.
    pub(super) version: u32,
}

impl Jit {
    pub(super) fn find(&self, address: u64) -> Option<String> {
        self.map.as_ref()?.0.find(address)
    }

    /// Whether the process has a map file.
    pub(super) fn has_map(&self) -> bool {
        self.was_found || self.held.is_some()
    }
}

/// What `/proc/PID/status` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    /// In the innermost pid namespace: what the process itself calls its pid.
    inner_pid: u32,
    effective_uid: u32,
}

impl Status {
    fn read(pid: u32) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(format!("/proc/{pid}/status"))?.take(MAX_STATUS_BYTES).read_to_end(&mut text)?;
        Self::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no NStgid or Uid line"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            inner_pid: field("NStgid:")?.split_ascii_whitespace().last()?.parse().ok()?,
            effective_uid: field("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_inner_pid_is_the_last_one() {
        let text = "Name:\tx\nUid:\t0\t1000\t0\t0\nNStgid:\t4242\t17\t3\nNSpid:\t4243\t18\t4\n";
        assert_eq!(Status::parse(text), Some(Status { inner_pid: 3, effective_uid: 1000 }));
        assert_eq!(Status::parse("Name:\tNStgid: 3\n"), None);
        assert_eq!(Status::read(std::process::id()).unwrap().inner_pid, std::process::id());
    }

    #[test]
    fn unknown_addresses_are_shown_up_to_a_bound_per_window() {
        let mut process = ProcessImage::new(1, 0, AddressSpace::new());
        assert!((0..256).all(|address| process.may_show_unknown(address, 1)));
        assert!(!process.may_show_unknown(256, 1) && process.may_show_unknown(255, 1));
        assert!(process.may_show_unknown(256, 2));
    }
}
