//! The kernel's side-band records: which process appeared, replaced its program,
//! mapped code, changed its name and ended, in the order in which that happened.
//!
//! They come from a dummy software event on every CPU (`perf_event_open(2)`), so
//! nothing is polled from `/proc`, and they carry the same clock as the samples.

use std::collections::BTreeMap;
use std::io;

use perf_event::data::parse::Parser;
use perf_event::data::{Comm, Exit, Fork, Lost, Mmap2, RecordMetadata, Visitor};
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};
use thiserror::Error;

use super::Monotonic;

/// Bytes of ring buffer per CPU: they hold some 2,000 records. With its page of
/// bookkeeping one agent takes 260 of the 516 KiB per CPU that a user has by default
/// (`kernel.perf_event_mlock_kb`); a second one goes 4 KiB per CPU beyond, which
/// RLIMIT_MEMLOCK allows for up to 2,048 CPUs where it has the kernel's 8 MiB.
const RING_BYTES: usize = 256 * 1024;
/// `PERF_RECORD_MISC_COMM_EXEC` (`include/uapi/linux/perf_event.h`).
const MISC_COMM_EXEC: u16 = 1 << 13;

/// What happened to a process. Ids are those of the initial pid namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `tgid` was forked from `parent`.
    Fork {
        /// The new process.
        tgid: u32,
        /// The one it is a copy of.
        parent: u32,
    },
    /// The process replaced its program; `comm` is its new name.
    Exec {
        /// The process.
        tgid: u32,
        /// Name of the leader, as the kernel wrote it.
        comm: Vec<u8>,
    },
    /// The leader changed its name.
    Rename {
        /// The process.
        tgid: u32,
        /// Its new name.
        comm: Vec<u8>,
    },
    /// The leader of the thread group ended.
    Exit {
        /// The process.
        tgid: u32,
    },
    /// Code was mapped.
    Map {
        /// The process.
        tgid: u32,
        /// What and where.
        mapped: Mapped,
    },
    /// The kernel dropped so many records: `/proc` has to be read again.
    Lost(u64),
}

/// An executable mapping as the record tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Offset in the file of the first address, bytes.
    pub file_offset: u64,
    /// The file's path as the process saw it, or a label such as `[vdso]` or `//anon`.
    pub path: Vec<u8>,
    /// GNU build id, where the kernel could read it.
    pub build_id: Option<Vec<u8>>,
    /// (major, minor, inode) where it could not.
    pub file: Option<(u32, u32, u64)>,
}

/// Why a reader could not be opened, with what helps.
#[derive(Debug, Error)]
pub enum SidebandError {
    /// The event.
    #[error("cannot open the side-band events of CPU {cpu}{}", remedy_of_event(source))]
    Event {
        /// Of which CPU.
        cpu: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its ring buffer.
    #[error("cannot map the buffer of the side-band events of CPU {cpu}{}", remedy_of_buffer(source))]
    Buffer {
        /// Of which CPU.
        cpu: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SidebandError {
    fn errno_of_event(&self) -> Option<i32> {
        match self {
            Self::Event { source, .. } => source.raw_os_error(),
            Self::Buffer { .. } => None,
        }
    }
}

fn remedy_of_event(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => " (needs CAP_PERFMON)",
        Some(libc::EMFILE) => " (needs more open files: RLIMIT_NOFILE)",
        Some(libc::ENOSYS | libc::ENOENT | libc::EOPNOTSUPP) => " (needs a kernel with CONFIG_PERF_EVENTS)",
        _ => "",
    }
}

fn remedy_of_buffer(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            " (other buffers of this user fill kernel.perf_event_mlock_kb: raise it or RLIMIT_MEMLOCK, or give CAP_IPC_LOCK)"
        }
        _ => "",
    }
}

/// Readers of all CPUs.
pub struct Sideband {
    samplers: BTreeMap<u32, Sampler>,
    /// Kernels before 5.12 put no build ids into the records.
    build_ids: bool,
}

impl Sideband {
    /// Opens a reader on each of `cpus`.
    ///
    /// # Errors
    /// Without CAP_PERFMON (or CAP_SYS_ADMIN), without memory that may be locked.
    pub fn open(cpus: &[u32]) -> Result<Self, SidebandError> {
        let mut sideband = Self { samplers: BTreeMap::new(), build_ids: true };
        match sideband.follow_cpus(cpus, &[]) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(sideband),
        }
    }

    /// Whether there is a reader on each of `online` (in order), and no other.
    pub fn covers(&self, online: &[u32]) -> bool {
        self.samplers.keys().eq(online)
    }

    /// Whether mappings come with build ids.
    pub fn build_ids(&self) -> bool {
        self.build_ids
    }

    /// Opens readers on CPUs that came online and, once more, on those of `anew`; closes those
    /// that went away. Whether any of this happened, and what went wrong last.
    pub fn follow_cpus(&mut self, online: &[u32], anew: &[u32]) -> (bool, Option<SidebandError>) {
        let before = self.samplers.len();
        self.samplers.retain(|cpu, _| online.contains(cpu) && !anew.contains(cpu));
        let mut changed = self.samplers.len() != before;
        let mut failed = None;
        for &cpu in online {
            if self.samplers.contains_key(&cpu) {
                continue;
            }
            let opened = match open(cpu, self.build_ids) {
                Err(error) if self.build_ids && error.errno_of_event() == Some(libc::EINVAL) => {
                    self.build_ids = false;
                    open(cpu, false)
                }
                other => other,
            };
            match opened {
                Ok(sampler) => {
                    self.samplers.insert(cpu, sampler);
                    changed = true;
                }
                // It went offline after the list of CPUs was read.
                Err(error) if error.errno_of_event() == Some(libc::ENODEV) => {}
                Err(error) => failed = Some(error),
            }
        }
        (changed, failed)
    }

    /// Appends everything that waits, in the order of its time. Returns how many
    /// records could not be understood.
    pub fn drain(&mut self, into: &mut Vec<(Monotonic, Event)>) -> u64 {
        let from = into.len();
        let mut bad = 0;
        let mut bytes = Vec::new();
        for sampler in self.samplers.values_mut() {
            let config = sampler.config().clone();
            while let Some(record) = sampler.next_record() {
                // The parser wants the record as the kernel wrote it, its header in front.
                let size = u16::try_from(record.len() + HEADER_BYTES).unwrap_or(u16::MAX);
                bytes.clear();
                bytes.extend(record.ty().to_ne_bytes());
                bytes.extend(record.misc().to_ne_bytes());
                bytes.extend(size.to_ne_bytes());
                record.data().iter().for_each(|part| bytes.extend_from_slice(part));
                match Parser::new(bytes.as_slice(), config.clone()).parse_record(ToEvent) {
                    Ok(Some(event)) => into.push(event),
                    // A kind that was not asked for.
                    Ok(None) => {}
                    Err(_) => bad += 1,
                }
            }
        }
        into[from..].sort_by_key(|(time, _)| *time);
        bad
    }
}

/// Size of `struct perf_event_header`.
const HEADER_BYTES: usize = 8;

struct ToEvent;

impl<'a> Visitor<'a> for ToEvent {
    type Output = Option<(Monotonic, Event)>;

    fn visit_unimplemented(self, _: RecordMetadata) -> Self::Output {
        None
    }

    fn visit_fork(self, record: Fork, metadata: RecordMetadata) -> Self::Output {
        // A new thread: its process is known.
        if record.pid == record.ppid {
            return None;
        }
        at(&metadata, Event::Fork { tgid: record.pid, parent: record.ppid })
    }

    fn visit_comm(self, record: Comm<'a>, metadata: RecordMetadata) -> Self::Output {
        let comm = record.comm.into_owned();
        if metadata.misc() & MISC_COMM_EXEC != 0 {
            return at(&metadata, Event::Exec { tgid: record.pid, comm });
        }
        // Threads' names come with the samples; a process is called after its leader.
        if record.pid != record.tid {
            return None;
        }
        at(&metadata, Event::Rename { tgid: record.pid, comm })
    }

    fn visit_exit(self, record: Exit, metadata: RecordMetadata) -> Self::Output {
        if record.pid != record.tid {
            return None;
        }
        at(&metadata, Event::Exit { tgid: record.pid })
    }

    fn visit_mmap2(self, record: Mmap2<'a>, metadata: RecordMetadata) -> Self::Output {
        let file = match (record.maj(), record.min(), record.ino()) {
            (Some(major), Some(minor), Some(inode)) => Some((major, minor, inode)),
            _ => None,
        };
        let mapped = Mapped {
            start: record.addr,
            end: record.addr.saturating_add(record.len),
            file_offset: record.pgoff,
            build_id: record.build_id().map(<[u8]>::to_vec),
            path: record.filename.into_owned(),
            file,
        };
        at(&metadata, Event::Map { tgid: record.pid, mapped })
    }

    fn visit_lost(self, record: Lost, metadata: RecordMetadata) -> Self::Output {
        at(&metadata, Event::Lost(record.lost))
    }
}

fn at(metadata: &RecordMetadata, event: Event) -> Option<(Monotonic, Event)> {
    Some((Monotonic(metadata.sample_id().time()?), event))
}

fn open(cpu: u32, build_ids: bool) -> Result<Sampler, SidebandError> {
    let event = Builder::new(Software::DUMMY)
        .any_pid()
        .one_cpu(cpu as usize)
        .include_kernel()
        .include_hv()
        .mmap(true)
        .mmap2(true)
        .build_id(build_ids)
        .comm(true)
        .comm_exec(true)
        .task(true)
        .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::CPU)
        .sample_id_all(true)
        .clockid(Clock::MONOTONIC)
        .enabled(true)
        .build()
        .map_err(|source| SidebandError::Event { cpu, source })?;
    event.sampled(RING_BYTES).map_err(|source| SidebandError::Buffer { cpu, source })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::process::Command;

    use super::*;

    #[test]
    fn an_error_says_what_helps() {
        let source = |errno| io::Error::from_raw_os_error(errno);
        let event = |errno| SidebandError::Event { cpu: 3, source: source(errno) }.to_string();
        assert_eq!(event(libc::EACCES), "cannot open the side-band events of CPU 3 (needs CAP_PERFMON)");
        assert!(event(libc::EMFILE).contains("RLIMIT_NOFILE"));
        assert_eq!(event(libc::EIO), "cannot open the side-band events of CPU 3");
        let buffer = |errno| SidebandError::Buffer { cpu: 3, source: source(errno) }.to_string();
        assert!(
            buffer(libc::EPERM).contains("perf_event_mlock_kb") && !buffer(libc::ENOMEM).contains("raise")
        );
    }

    /// A real child on the real kernel: its life is told in order, with its mappings.
    #[test]
    fn a_process_is_told_from_fork_to_exit() {
        let cpus = aya::util::online_cpus().unwrap();
        let mut sideband = Sideband::open(&cpus).expect("needs root or CAP_PERFMON");
        let mut child = Command::new("/bin/true").spawn().unwrap();
        let tgid = child.id();
        child.wait().unwrap();

        let mut events = Vec::new();
        assert_eq!(sideband.drain(&mut events), 0);
        assert!(events.is_sorted_by_key(|(time, _)| *time));
        let told: Vec<&Event> = events
            .iter()
            .map(|(_, event)| event)
            .filter(|event| match event {
                Event::Fork { tgid: of, .. }
                | Event::Exec { tgid: of, .. }
                | Event::Exit { tgid: of }
                | Event::Map { tgid: of, .. } => *of == tgid,
                _ => false,
            })
            .collect();
        assert_eq!(told[0], &Event::Fork { tgid, parent: std::process::id() });
        assert_eq!(told[1], &Event::Exec { tgid, comm: b"true".to_vec() });
        assert_eq!(told[told.len() - 1], &Event::Exit { tgid });
        let mapped = |name: &str| {
            told.iter().any(|event| {
                matches!(event, Event::Map { mapped, .. } if String::from_utf8_lossy(&mapped.path).contains(name))
            })
        };
        assert!(mapped("/true") && mapped("/libc.so.6") && mapped("[vdso]"), "{told:#?}");
    }
}
