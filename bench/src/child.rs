//! Programs that are started and always ended, by their own pid.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// Pids of all programs that run.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn all_running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills all of them, for an end out of turn. No other can be started afterwards.
pub(crate) fn kill_all() -> impl Drop {
    let running = all_running();
    for pid in running.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        if let Err(error) = kill_process(pid, Signal::KILL) {
            eprintln!("cannot kill {pid:?}: {error}");
        }
    }
    running
}

/// A running program; dropping it kills it.
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    /// Starts `command` with both outputs in `log`.
    pub(crate) fn start(mut command: Command, name: &str, log: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut running = all_running();
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        running.insert(child.id());
        drop(running);
        Ok(Self { child, name: name.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the program has ended; its log tells why.
    pub(crate) fn check_alive(&mut self, log: &Path) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            anyhow::bail!("{} ended ({status}):\n{log}", self.name);
        }
        Ok(())
    }

    /// Sends `signal` and waits until the program has ended. bpftrace 0.17 can miss the first, so it is repeated.
    pub(crate) fn stop(mut self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        let started = Instant::now();
        let mut sent = 0;
        while self.child.try_wait()?.is_none() {
            anyhow::ensure!(sent < 5, "{} does not end on {signal:?}", self.name);
            if started.elapsed() >= Duration::from_secs(15 * sent) {
                kill_process(pid, signal).with_context(|| format!("cannot end {}", self.name))?;
                sent += 1;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        all_running().remove(&self.child.id());
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Err(error) = self.child.kill() {
                eprintln!("cannot kill {}: {error}", self.name);
            }
            if let Err(error) = self.child.wait() {
                eprintln!("cannot wait for {}: {error}", self.name);
            }
        }
    }
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let list = std::fs::read_to_string(task?.path().join("children"))?;
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// CPU time that a process has taken, user and system.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): utime and stime are the 14th and 15th field, the second ends with the last parenthesis.
    let after = stat.rsplit_once(')').context("/proc/PID/stat has no name")?.1;
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
}

/// Asks `ready` every few milliseconds until it says so.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready()? {
        anyhow::ensure!(Instant::now() < deadline, "{what} is not ready after a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
