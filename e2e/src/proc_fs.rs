//! The kernel's own accounts, to compare with.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// User and system time of a process so far, in seconds (`/proc/PID/stat`).
pub fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read(format!("/proc/{pid}/stat")).expect("the process was not waited for yet");
    let text = String::from_utf8_lossy(&text);
    // The name may hold anything, but it is in the last parentheses.
    let (_, rest) = text.rsplit_once(") ").expect("stat has a name in parentheses");
    let field = |index: usize| -> f64 {
        let field = rest.split(' ').nth(index).expect("stat has 52 fields");
        field.parse().expect("times are numbers")
    };
    // utime and stime are fields 14 and 15; the rest begins with field 3.
    (field(11) + field(12)) / TICKS_PER_SECOND
}

/// Time that all CPUs together were busy since boot, in seconds (`/proc/stat`: user, nice, system,
/// irq, softirq).
pub fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = text.lines().next().expect("the first line is of all CPUs");
    let times: Vec<f64> = line.split_whitespace().skip(1).map(|time| time.parse().expect("ticks")).collect();
    [0, 1, 2, 5, 6].iter().map(|&index| times[index]).sum::<f64>() / TICKS_PER_SECOND
}

/// Waits for the next full second of the clock that windows are aligned to: its Unix time, and what
/// the machine was busy until then.
pub fn busy_at_a_full_second() -> (i64, f64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    std::thread::sleep(Duration::from_secs(now.as_secs() + 1) - now);
    let started = Instant::now();
    let busy = busy_seconds();
    assert!(started.elapsed() < Duration::from_millis(50), "/proc/stat took too long to be exact");
    (i64::try_from(now.as_secs() + 1).expect("seconds fit"), busy)
}

/// The children of a process; none of one that has ended.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Processes with this comm in a cgroup whose path has `part` in it.
pub fn in_cgroup(part: &str, comm: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        // One that ended meanwhile is in none.
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim_end() == comm && read("cgroup").contains(part)
    };
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has).collect()
}

/// Whether a signal has stopped a process.
pub fn is_stopped(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tT"))
}

/// The most memory a process has had at once, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kibibytes * 1024
}

/// Whether a capability, by its number, is in force for a process.
pub fn has_capability(pid: u32, capability: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it has a set");
    let set = u64::from_str_radix(line.trim(), 16).expect("a set is a number");
    set >> capability & 1 == 1
}

/// `USER_HZ`, which is 100 on every architecture that Hearth runs on.
const TICKS_PER_SECOND: f64 = 100.0;
