//! A cgroup for each program that is measured: the kernel's own account of CPU and memory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;

/// A cgroup that is removed when dropped; by then its programs must have ended.
pub(crate) struct Cgroup {
    cpu: PathBuf,
    memory: PathBuf,
    unified: bool,
}

/// What is charged to a cgroup, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Charge {
    pub(crate) total: u64,
    /// Memory of the programs themselves.
    pub(crate) anonymous: u64,
    /// Pages of files that they were the first to read.
    pub(crate) files: u64,
    /// Allocations of the kernel for them, BPF maps among them.
    pub(crate) kernel: u64,
}

impl Cgroup {
    /// A new one, in the unified hierarchy or in the two of version 1.
    pub(crate) fn create() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hearth-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let (cpu, memory) = if unified {
            std::fs::write(root.join("cgroup.subtree_control"), "+cpu +memory")
                .context("cannot enable the cpu and memory controllers")?;
            (root.join(&name), root.join(&name))
        } else {
            (root.join("cpuacct").join(&name), root.join("memory").join(&name))
        };
        for path in [&cpu, &memory] {
            std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(Self { cpu, memory, unified })
    }

    /// A command that enters the cgroup and becomes `program`.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        let (cpu, memory) = (self.cpu.display(), self.memory.display());
        let enter = format!("echo $$ >{cpu}/cgroup.procs && echo $$ >{memory}/cgroup.procs && exec \"$@\"");
        command.args(["-c", &enter, "sh"]).arg(program);
        command
    }

    /// CPU time so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        if self.unified {
            Ok(Duration::from_micros(self.stat(&self.cpu.join("cpu.stat"), "usage_usec")?))
        } else {
            Ok(Duration::from_nanos(number(&self.cpu.join("cpuacct.usage"))?))
        }
    }

    /// Memory now.
    pub(crate) fn charge(&self) -> anyhow::Result<Charge> {
        let stat = self.memory.join("memory.stat");
        Ok(if self.unified {
            Charge {
                total: number(&self.memory.join("memory.current"))?,
                anonymous: self.stat(&stat, "anon")?,
                files: self.stat(&stat, "file")?,
                kernel: self.stat(&stat, "kernel")?,
            }
        } else {
            Charge {
                total: number(&self.memory.join("memory.usage_in_bytes"))?,
                anonymous: self.stat(&stat, "rss")?,
                files: self.stat(&stat, "cache")?,
                kernel: number(&self.memory.join("memory.kmem.usage_in_bytes"))?,
            }
        })
    }

    /// The most memory that was ever charged to it, in bytes.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        number(&self.memory.join(if self.unified { "memory.peak" } else { "memory.max_usage_in_bytes" }))
    }

    fn stat(&self, file: &Path, key: &str) -> anyhow::Result<u64> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("{} has no {key}", file.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.cpu);
        remove(&self.memory);
    }
}

/// Removes the cgroups that this process made and has not removed yet.
pub(crate) fn remove_all() {
    for folder in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/memory"] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let ours = format!("hearth-bench-{}-", std::process::id());
        let is_ours = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&ours);
        entries.flatten().filter(is_ours).for_each(|entry| remove(&entry.path()));
    }
}

/// The kernel lets go of an ended program a moment after it was waited for.
fn remove(path: &Path) {
    let mut tries = 0;
    while path.exists() && std::fs::remove_dir(path).is_err() {
        tries += 1;
        if tries > 100 {
            eprintln!("cannot remove {}", path.display());
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn number(file: &Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.trim().parse().with_context(|| format!("{} holds {text:?}", file.display()))
}
