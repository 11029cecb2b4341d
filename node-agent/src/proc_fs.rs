//! The little that is read from `/proc`, with bounds.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::kernel::Monotonic;

/// `cmdline` is as long as its process likes; regexes look at this much of it.
const MAX_CMDLINE_BYTES: u64 = 16 * 1024;
/// A name has 255 bytes and a path 4 KiB; 14 hierarchies of a nested cluster are 3 KiB.
const MAX_CGROUP_BYTES: u64 = 16 * 1024;

/// A fork's record is written a moment after the kernel noted the start: the two may
/// fall on either side of a clock tick. No pid comes round within two of them.
const START_TICKS_SLACK: u64 = 2;

/// What is needed of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Name of the leader, control characters and `;` replaced.
    pub comm: String,
    /// Start, in clock ticks since boot.
    pub start_ticks: u64,
    /// It ended and waits for its parent, or for the other threads of its process.
    pub is_zombie: bool,
}

impl Stat {
    /// Whether this is the one that began then, not a later one with its id.
    pub fn began_at(&self, start_ticks: u64) -> bool {
        self.start_ticks.abs_diff(start_ticks) <= START_TICKS_SLACK
    }
}

/// Reads the stat of one process, or of one thread.
pub fn stat(id: u32) -> io::Result<Stat> {
    let text = std::fs::read(format!("/proc/{id}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no process stat"))
}

/// Every process that runs now; those that end while this looks are left out.
pub fn running() -> io::Result<HashMap<u32, Stat>> {
    let mut running = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let tgid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(tgid) = tgid
            && let Ok(stat) = stat(tgid)
        {
            running.insert(tgid, stat);
        }
    }
    Ok(running)
}

/// A thread of the process that has not ended, other than the leader, and its stat.
pub fn other_thread(tgid: u32) -> Option<(u32, Stat)> {
    let threads = std::fs::read_dir(format!("/proc/{tgid}/task")).ok()?;
    threads
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|tid| *tid != tgid)
        .find_map(|tid| Some((tid, stat(tid).ok().filter(|stat| !stat.is_zombie)?)))
}

/// The command line, its arguments joined by spaces; at most 16 KiB of it.
pub fn cmdline(tgid: u32) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(format!("/proc/{tgid}/cmdline"))?.take(MAX_CMDLINE_BYTES).read_to_end(&mut bytes)?;
    let arguments = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>();
    Ok(arguments.join(" ").trim_end().to_owned())
}

/// The cgroups, one hierarchy a line; at most 16 KiB of them.
pub fn cgroup(id: u32) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{id}/cgroup"))?;
    file.take(MAX_CGROUP_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Path of the program, as the process's own mount namespace names it.
pub fn exe(tgid: u32) -> io::Result<String> {
    let path = std::fs::read_link(format!("/proc/{tgid}/exe"))?;
    let path = path.to_string_lossy();
    Ok(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
}

/// `pid (comm) state ppid …`: the name may hold anything, `)` and spaces included (`proc_pid_stat(5)`).
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let comm = String::from_utf8_lossy(task_name(text.get(open + 1..close)?));
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    // Field 22 of the line is the 19th behind the state.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { comm: hearth_profile::frame::clean_frame(&comm).into_owned(), start_ticks, is_zombie })
}

/// The name proper. Behind a kernel worker's name the file tells what it works on
/// (`kworker/0:1-events`), which changes from moment to moment and is no part of it.
fn task_name(comm: &[u8]) -> &[u8] {
    if !comm.starts_with(b"kworker/") {
        return comm;
    }
    comm.split(|byte| matches!(byte, b'-' | b'+')).next().unwrap_or(comm)
}

/// The kernel's clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// `CLOCK_REALTIME`.
    pub realtime: i128,
    /// `CLOCK_BOOTTIME`: goes on while the machine is suspended.
    pub boottime: i128,
    /// `CLOCK_MONOTONIC`: does not.
    pub monotonic: i128,
}

impl Clocks {
    /// Now.
    pub fn now() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let nanos = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        Self {
            realtime: nanos(ClockId::Realtime),
            boottime: nanos(ClockId::Boottime),
            monotonic: nanos(ClockId::Monotonic),
        }
    }
}

/// Turns the kernel's times since boot into wall-clock times.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    /// Unix nanoseconds of boot, as of the start: a clock that is set must not give a
    /// process that is known another start.
    boot: i128,
    ticks_per_second: u64,
    clocks: fn() -> Clocks,
}

impl BootClock {
    /// A clock that reads `clocks`: [`Clocks::now`].
    pub fn new(clocks: fn() -> Clocks) -> Self {
        let now = clocks();
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Self { boot: now.realtime - now.boottime, ticks_per_second, clocks }
    }

    /// Clock ticks since boot at `time`, a moment after the last time the machine was suspended.
    pub fn ticks_at(&self, time: Monotonic) -> u64 {
        let now = (self.clocks)();
        let since_boot = i128::from(time.0) + now.boottime - now.monotonic;
        u64::try_from(since_boot).unwrap_or(0) / (1_000_000_000 / self.ticks_per_second)
    }

    /// Clock ticks since boot now.
    pub fn ticks_now(&self) -> u64 {
        self.ticks_at(Monotonic::now())
    }

    /// Unix milliseconds of a number of clock ticks since boot.
    pub fn ticks_to_unix_millis(&self, ticks: u64) -> i64 {
        let nanos = self.boot + i128::from(ticks) * i128::from(1_000_000_000 / self.ticks_per_second);
        i64::try_from(nanos / 1_000_000).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_name_may_hold_what_delimits_it() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = parse_stat(format!("7 (a) (b;c\n) {rest}").as_bytes()).unwrap();
        assert_eq!(stat.start_ticks, 4711);
        assert!(stat.comm.starts_with("a) (b:c"), "{stat:?}");
        let nested = parse_stat(format!("42 (a) b (c)) {rest}").as_bytes()).unwrap();
        assert_eq!((nested.comm.as_str(), nested.start_ticks), ("a) b (c)", 4711));
        assert_eq!(parse_stat(b"42 (a) S 1"), None);
        assert_eq!(parse_stat(b"7 (cut"), None);
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn what_a_kernel_worker_works_on_is_not_its_name() {
        let rest = "I 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for (comm, name) in [("kworker/u8:0-events_unbound", "kworker/u8:0"), ("a-b", "a-b")] {
            assert_eq!(parse_stat(format!("7 ({comm}) {rest}").as_bytes()).unwrap().comm, name);
        }
    }

    #[test]
    fn this_process_started_between_boot_and_now() {
        let clock = BootClock::new(Clocks::now);
        let stat = stat(std::process::id()).unwrap();
        assert!(stat.start_ticks <= clock.ticks_now());
        let started = clock.ticks_to_unix_millis(stat.start_ticks);
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        assert!((0..3_600_000).contains(&(now - started)), "{started} {now}");
    }

    #[test]
    fn a_suspended_hour_moves_the_start_of_what_is_forked_later() {
        use std::sync::atomic::{AtomicU64, Ordering};
        const SECOND: u64 = 1_000_000_000;
        static SUSPENDED: AtomicU64 = AtomicU64::new(0);
        // 1,000 s awake since boot, and the hours suspended.
        let clock = BootClock::new(|| {
            let suspended = i128::from(SUSPENDED.load(Ordering::Relaxed));
            let awake = i128::from(1000 * SECOND);
            Clocks { realtime: awake * 50 + suspended, boottime: awake + suspended, monotonic: awake }
        });
        let forked = Monotonic(1000 * SECOND);
        let before = clock.ticks_at(forked);
        SUSPENDED.store(3600 * SECOND, Ordering::Relaxed);
        let after = clock.ticks_at(forked);
        assert_eq!([before, after], [1000, 4600].map(|seconds| seconds * clock.ticks_per_second));
        assert_eq!(clock.ticks_to_unix_millis(after), 50_000_000 + 3_600_000);
    }

    #[test]
    fn a_name_is_the_same_from_its_file_and_from_a_record() {
        let name = "a\\b\nc;) d";
        let look = || {
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            stat(link.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap().comm
        };
        // The file under a thread's id tells its name as it does a process's.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(look).unwrap();
        let (from_file, from_record) =
            (thread.join().unwrap(), crate::kernel::sample::comm_name(name.as_bytes()));
        assert_eq!(from_file, from_record);
    }

    #[test]
    fn the_command_line_and_the_program_of_this_process() {
        let pid = std::process::id();
        assert!(cmdline(pid).unwrap().starts_with(&std::env::args().next().unwrap()));
        assert_eq!(exe(pid).unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
    }
}
