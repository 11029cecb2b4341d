//! The kernel's own accounts, to compare with.

use std::fs;

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

/// The most memory a process has had at once, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kibibytes * 1024
}

/// `USER_HZ`, which is 100 on every architecture that Hearth runs on.
const TICKS_PER_SECOND: f64 = 100.0;
