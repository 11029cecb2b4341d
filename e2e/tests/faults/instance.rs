//! A collector with its embedded engine, that is killed and started again.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_e2e::Collector;
use hearth_e2e::collector::curl;
use hearth_e2e::daemon::{Daemon, kill_if_named, wait_for};
use hearth_e2e::proc_fs::{children, is_stopped};
use tempfile::TempDir;

/// What the kernel calls an engine: 15 bytes.
const ENGINE: &str = "hearth-clickhou";

/// One, on data of its own.
pub(crate) struct Instance {
    pub(crate) collector: Collector,
    daemon: Option<Daemon>,
    engines: Vec<u32>,
    arguments: Vec<&'static str>,
    /// Dropped last.
    pub(crate) folder: TempDir,
}

impl Instance {
    /// Starts it, to stop at `stop_at` if that names a point.
    pub(crate) fn start(stop_at: &str, arguments: &[&'static str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), stop_at, arguments)
    }

    /// The same with its data in this folder.
    pub(crate) fn start_in(folder: TempDir, stop_at: &str, arguments: &[&'static str]) -> Self {
        let mut instance = Self {
            collector: Collector::at_free_ports(),
            daemon: None,
            engines: Vec::new(),
            arguments: arguments.to_vec(),
            folder,
        };
        instance.restart(stop_at);
        instance
    }

    /// The same with other arguments.
    pub(crate) fn restart_with(&mut self, stop_at: &str, arguments: &[&'static str]) {
        self.arguments = arguments.to_vec();
        self.restart(stop_at);
    }

    /// Starts it again at the same addresses.
    pub(crate) fn restart(&mut self, stop_at: &str) {
        let arguments = &self.arguments;
        let daemon = self.collector.start_with(self.folder.path(), |command| {
            command.args(arguments).env(hearth_kill_points::VARIABLE, stop_at);
        });
        self.daemon = Some(daemon);
        self.engine();
    }

    /// Where agents send to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.collector.grpc)
    }

    /// The collector's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().pid()
    }

    /// The running engine's process id.
    pub(crate) fn engine(&mut self) -> u32 {
        let pid = wait_for("the engine's process", || children(self.pid()).first().copied());
        if !self.engines.contains(&pid) {
            self.engines.push(pid);
        }
        pid
    }

    /// Waits until the collector stopped itself.
    pub(crate) fn wait_until_stopped(&mut self) {
        let daemon = self.daemon.as_mut().unwrap();
        wait_for("the collector to reach its point", || {
            assert!(daemon.ended().is_none(), "the collector ended by itself:\n{}", daemon.tail());
            is_stopped(daemon.pid()).then_some(())
        });
    }

    /// Waits until the engine stopped itself.
    pub(crate) fn wait_until_engine_stopped(&mut self) {
        wait_for("the engine to reach its point", || {
            let pid = self.engine();
            is_stopped(pid).then_some(())
        });
    }

    /// `kill -9` of the collector. Its engine ends by itself, if it can.
    pub(crate) fn kill_collector(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(libc::SIGKILL);
            daemon.wait();
        }
    }

    /// `kill -9` of every engine that is left of it.
    pub(crate) fn kill_engine(&mut self) {
        for pid in self.engines.drain(..) {
            kill_if_named(pid, ENGINE);
        }
    }

    /// A number of the collector's metrics, summed over its labels; 0 where it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.collector.get("/metrics").body;
        let numbers = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        numbers.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A stopped engine would never see that its collector is gone.
        self.engines.extend(self.daemon.iter().flat_map(|daemon| children(daemon.pid())));
        self.daemon = None;
        self.kill_engine();
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    unix_micros() / 1_000_000
}

/// Microseconds since 1970.
pub(crate) fn unix_micros() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// A store that several collectors share, without a password.
pub(crate) struct SharedStore {
    /// Runs as long as this lives.
    _daemon: Daemon,
    address: std::net::SocketAddr,
    folder: TempDir,
}

impl SharedStore {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = hearth_e2e::collector::free_port();
        let mut command = hearth_e2e::daemon::bound_to_us(&hearth_e2e::daemon::binary("hearth-clickhouse"));
        command.arg("--data-dir").arg(folder.path().join("data")).arg("--http").arg(address.to_string());
        command.arg("--libchdb").arg(hearth_e2e::collector::libchdb());
        let mut daemon = Daemon::start("clickhouse", command, folder.path());
        daemon.wait_for_log(" answers on http://");
        // Where a collector's own store has its password: none.
        std::fs::write(folder.path().join("clickhouse-password"), "\n").unwrap();
        assert_eq!(curl(&[&format!("http://{address}/ping")]).status, 200);
        Self { _daemon: daemon, address, folder }
    }

    /// A collector on it, in a folder of its own.
    pub(crate) fn collector(&self) -> Collector {
        let mut collector = Collector::at_free_ports();
        collector.clickhouse = self.address;
        collector.read_password(self.folder.path());
        collector
    }

    pub(crate) fn start_collector(&self, collector: &Collector, folder: &Path, stop_at: &str) -> Daemon {
        collector.start_on(folder, |command| {
            command.arg("--clickhouse-url").arg(format!("http://{}", self.address));
            command.env(hearth_kill_points::VARIABLE, stop_at);
        })
    }
}
