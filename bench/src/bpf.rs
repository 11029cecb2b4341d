//! The kernel's own account of the time that BPF programs take.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

/// Has the kernel measure every run of every program until dropped.
pub(crate) fn measure_runs() -> anyhow::Result<OwnedFd> {
    enable_stats(Stats::RunTime).context("cannot enable the kernel's BPF statistics")
}

/// The programs that a process holds open, by their ids.
pub(crate) fn programs_of(pid: u32) -> anyhow::Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A descriptor may be closed while we look.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        let id: Option<u32> =
            text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
        ids.extend(id);
    }
    Ok(ids)
}

/// Time and number of the runs of some programs since they were loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    pub(crate) time: Duration,
    pub(crate) count: u64,
}

impl Runs {
    /// Of the programs `ids`, as far as the kernel measured.
    pub(crate) fn of(ids: &BTreeSet<u32>) -> anyhow::Result<Self> {
        let mut runs = Self::default();
        // Others' programs may be unloaded while we look.
        for program in loaded_programs().flatten().filter(|program| ids.contains(&program.id())) {
            runs.time += program.run_time();
            runs.count += program.run_count();
        }
        Ok(runs)
    }

    /// What was added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { time: self.time - before.time, count: self.count - before.count }
    }
}
