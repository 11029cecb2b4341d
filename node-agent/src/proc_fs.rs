//! The little that is read from `/proc`, with bounds.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::kernel::Monotonic;

/// `cmdline` is as long as its process likes; regexes look at this much of it.
const MAX_CMDLINE_BYTES: u64 = 16 * 1024;

/// What is needed of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Name of the leader, control characters and `;` replaced.
    pub comm: String,
    /// Start, in clock ticks since boot.
    pub start_ticks: u64,
}

/// Reads the stat of one process.
pub fn stat(tgid: u32) -> io::Result<Stat> {
    let text = std::fs::read(format!("/proc/{tgid}/stat"))?;
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

/// The command line, its arguments joined by spaces; at most 16 KiB of it.
pub fn cmdline(tgid: u32) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(format!("/proc/{tgid}/cmdline"))?.take(MAX_CMDLINE_BYTES).read_to_end(&mut bytes)?;
    let arguments = bytes.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>();
    Ok(arguments.join(" ").trim_end().to_owned())
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
    // Field 22 of the line is the 20th behind the name.
    let start_ticks = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(Stat { comm: hearth_profile::frame::clean_frame(&comm).into_owned(), start_ticks })
}

/// The name proper. Behind a kernel worker's name the file tells what it works on
/// (`kworker/0:1-events`), which changes from moment to moment and is no part of it.
fn task_name(comm: &[u8]) -> &[u8] {
    if !comm.starts_with(b"kworker/") {
        return comm;
    }
    comm.split(|byte| matches!(byte, b'-' | b'+')).next().unwrap_or(comm)
}

/// Turns the kernel's times since boot into wall-clock times.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    /// Unix nanoseconds of boot.
    boot: i128,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`: the time spent suspended, nanoseconds.
    suspended: i128,
    ticks_per_second: u64,
}

impl BootClock {
    /// Reads the clocks.
    pub fn read() -> io::Result<Self> {
        use rustix::time::{ClockId, clock_gettime};
        let nanos = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        let boottime = nanos(ClockId::Boottime);
        Ok(Self {
            boot: nanos(ClockId::Realtime) - boottime,
            suspended: boottime - nanos(ClockId::Monotonic),
            ticks_per_second: rustix::param::clock_ticks_per_second(),
        })
    }

    /// Clock ticks since boot at `time`.
    pub fn ticks_at(&self, time: Monotonic) -> u64 {
        let since_boot = u64::try_from(i128::from(time.0) + self.suspended).unwrap_or(0);
        since_boot / (1_000_000_000 / self.ticks_per_second)
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
        let clock = BootClock::read().unwrap();
        let stat = stat(std::process::id()).unwrap();
        assert!(stat.start_ticks <= clock.ticks_now());
        let started = clock.ticks_to_unix_millis(stat.start_ticks);
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
        assert!((0..3_600_000).contains(&(now - started)), "{started} {now}");
    }

    #[test]
    fn the_command_line_and_the_program_of_this_process() {
        let pid = std::process::id();
        assert!(cmdline(pid).unwrap().starts_with(&std::env::args().next().unwrap()));
        assert_eq!(exe(pid).unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
    }
}
