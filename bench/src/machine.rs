//! What the numbers were taken on, and what else ran there.

use std::time::Duration;

use anyhow::Context as _;

/// Times of all CPUs together since the boot, in clock ticks.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    busy: u64,
    stolen: u64,
    all: u64,
}

impl Usage {
    /// As `/proc/stat` has it.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        anyhow::ensure!(ticks.len() >= 8, "/proc/stat begins with {line:?}");
        let all = ticks[..8].iter().sum();
        Ok(Self { busy: all - ticks[3] - ticks[4] - ticks[7], stolen: ticks[7], all })
    }
}

/// How busy the machine is over `time`, in percent of all its CPUs.
pub(crate) fn busy_percent(time: Duration) -> anyhow::Result<f64> {
    let before = Usage::now()?;
    std::thread::sleep(time);
    let after = Usage::now()?;
    Ok(100.0 * (after.busy - before.busy) as f64 / (after.all - before.all).max(1) as f64)
}

/// The line above the table: date, machine, and what disturbed the run that began at `before`.
pub(crate) fn describe(before: &Usage, others_percent: f64) -> anyhow::Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let (_, model) = model.unwrap_or(("", "unknown CPU"));
    let cores = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let after = Usage::now()?;
    let stolen = 100.0 * (after.stolen - before.stolen) as f64 / (after.all - before.all).max(1) as f64;
    let virtual_machine = if cpuinfo.contains(" hypervisor") { ", a virtual machine" } else { "" };
    let shared = if others_percent > 5.0 { "**the machine was shared with other work**: " } else { "" };
    Ok(format!(
        "{}: {model}, {cores} cores{virtual_machine}, kernel {}; {shared}CPUs {others_percent:.0} % busy before \
         the first round, {stolen:.1} % stolen by the host during the run.",
        date()?,
        // Without what its builder added.
        kernel.trim().split('-').next().unwrap_or_default()
    ))
}

fn date() -> anyhow::Result<String> {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
