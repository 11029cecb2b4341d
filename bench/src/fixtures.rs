//! Programs to profile.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::Bench;
use crate::child::{Running, wait_until};

/// A C program in this crate.
pub(crate) struct Fixture {
    name: &'static str,
    source: &'static str,
}

/// All time exactly twenty calls deep, on every CPU.
pub(crate) const FRAMES: Fixture =
    Fixture { name: "hb-frames", source: include_str!("../fixtures/frames.c") };
/// 625 paths of calls, on every CPU.
pub(crate) const PATHS: Fixture = Fixture { name: "hb-paths", source: include_str!("../fixtures/paths.c") };
/// A fixed amount of work.
pub(crate) const WORK: Fixture = Fixture { name: "hb-work", source: include_str!("../fixtures/work.c") };

impl Fixture {
    /// comm of the program.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Compiles it, with frame pointers; answers its path.
    pub(crate) fn build(&self, bench: &Bench) -> anyhow::Result<PathBuf> {
        let program = bench.dir.path().join(self.name);
        let source = program.with_extension("c");
        std::fs::write(&source, self.source)?;
        let status = Command::new("gcc")
            .args(["-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread"])
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .status()
            .context("cannot start gcc")?;
        anyhow::ensure!(status.success(), "gcc cannot compile {}", source.display());
        Ok(program)
    }

    /// Compiles it, starts it and waits until it says that it runs.
    pub(crate) fn run(&self, bench: &Bench) -> anyhow::Result<Running> {
        self.start(bench, Command::new(self.build(bench)?))
    }

    /// The same; whatever else wants a CPU gets a twentieth of it.
    pub(crate) fn run_before_others(&self, bench: &Bench) -> anyhow::Result<Running> {
        // The scheduler weighs sessions, where it groups by them, and priorities only within one.
        let mut command = Command::new("setsid");
        command.args(["nice", "-n", "-13"]).arg(self.build(bench)?);
        let running = self.start(bench, command)?;
        let group = format!("/proc/{}/autogroup", running.pid());
        if Path::new(&group).exists() {
            std::fs::write(&group, "-13").with_context(|| format!("cannot write {group}"))?;
        }
        Ok(running)
    }

    fn start(&self, bench: &Bench, command: Command) -> anyhow::Result<Running> {
        let log = bench.dir.path().join(format!("{}.log", self.name));
        let mut running = Running::start(command, self.name, &log)?;
        wait_until(self.name, || {
            running.check_alive(&log)?;
            Ok(std::fs::read_to_string(&log)?.contains("running"))
        })?;
        Ok(running)
    }
}

/// A Redis server under load, on a socket of its own.
pub(crate) struct Redis {
    _load: Running,
    _server: Running,
}

impl Redis {
    /// Starts both.
    pub(crate) fn run(bench: &Bench) -> anyhow::Result<Self> {
        let dir = bench.dir.path();
        let socket = dir.join("redis.sock");
        let mut server = Command::new("redis-server");
        server.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(&socket);
        let log = dir.join("redis.log");
        let mut server = Running::start(server, "redis-server", &log)?;
        wait_until("redis-server", || {
            server.check_alive(&log)?;
            Ok(socket.exists())
        })?;
        let mut load = Command::new("redis-benchmark");
        load.args(["-l", "-q", "-c", "20", "-t", "set,get,lpush,lrange_100,mset", "-s"]).arg(&socket);
        let load = Running::start(load, "redis-benchmark", &dir.join("redis-benchmark.log"))?;
        Ok(Self { _load: load, _server: server })
    }
}
