//! The real collector with the embedded engine, shared by all tests, asked by the real `curl`.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, binary, bound_to_us, wait_for};
use crate::flame::{Flame, Folded};

/// The pinned version of the engine, first line of `clickhouse-embedded/chdb.version`.
const CHDB_VERSION: &str = include_str!("../../clickhouse-embedded/chdb.version");

/// What is left to be stopped at the end of the test binary.
static RUNNING: Mutex<Option<(Daemon, TempDir)>> = Mutex::new(None);

/// The collector as its users see it: by its addresses.
#[derive(Debug)]
pub struct Collector {
    /// Of the API.
    pub http: SocketAddr,
    /// For agents.
    pub grpc: SocketAddr,
    /// Of the embedded engine.
    pub clickhouse: SocketAddr,
    /// Its password, once it was started.
    password: OnceLock<String>,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's code.
    pub status: u16,
    /// Header lines.
    pub headers: String,
    /// The rest.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

impl Collector {
    /// The collector of this test binary, started for the first that asks.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Collector> = OnceLock::new();
        SHARED.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a temporary folder can be made");
            let collector = Self::at_free_ports();
            let daemon = collector.start(folder.path());
            *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some((daemon, folder));
            // SAFETY: a function without arguments that does not unwind: a panic across `extern "C"` aborts.
            let registered = unsafe { libc::atexit(stop_shared) };
            assert_eq!(registered, 0, "atexit has room");
            collector
        })
    }

    /// A collector of one's own, to be started, killed and started again at the same addresses.
    pub fn at_free_ports() -> Self {
        Self { http: free_port(), grpc: free_port(), clickhouse: free_port(), password: OnceLock::new() }
    }

    /// One that somebody else started, of which the API is known.
    pub fn at(http: SocketAddr) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { http, grpc: nowhere, clickhouse: nowhere, password: OnceLock::new() }
    }

    /// One that somebody else started, of which the engine is known, and where its data is.
    pub fn with_engine_at(clickhouse: SocketAddr, data: &Path) -> Self {
        let collector = Self { clickhouse, ..Self::at(SocketAddr::from(([127, 0, 0, 1], 0))) };
        collector.read_password(data);
        collector
    }

    /// Starts it with its data and its log in `folder`, and waits until it is ready.
    pub fn start(&self, folder: &Path) -> Daemon {
        self.start_with(folder, |_| ())
    }

    /// The same with further arguments or variables.
    pub fn start_with(&self, folder: &Path, adjust: impl FnOnce(&mut Command)) -> Daemon {
        let data = folder.join("data");
        let daemon = self.start_on(folder, |command| {
            // The collector starts it, and finds it beside itself.
            binary("hearth-clickhouse");
            command.arg("--clickhouse-http").arg(self.clickhouse.to_string());
            command.arg("--data-dir").arg(&data).arg("--libchdb").arg(libchdb());
            adjust(command);
        });
        self.read_password(&data);
        daemon
    }

    /// The same on whatever store these arguments name.
    pub fn start_on(&self, folder: &Path, store: impl FnOnce(&mut Command)) -> Daemon {
        let mut command = bound_to_us(&binary("hearth-collector"));
        command.arg("--http").arg(self.http.to_string()).arg("--grpc").arg(self.grpc.to_string());
        command.args(["--window", "1s"]);
        store(&mut command);
        let mut daemon = Daemon::start("collector", command, folder);
        daemon.wait_for_log("questions are answered on");
        wait_for("the collector's /readyz", || (self.get("/readyz").status == 200).then_some(()));
        daemon
    }

    /// Learns the engine's password, which lies beside its data.
    pub fn read_password(&self, data: &Path) {
        self.password.get_or_init(|| {
            let password = std::fs::read_to_string(data.join("clickhouse-password"));
            password.expect("the collector has made a password").trim().to_owned()
        });
    }

    /// What the shared collector logged last.
    pub fn log_tail() -> String {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map_or_else(String::new, |(daemon, _)| daemon.tail())
    }

    /// `GET path`, by curl.
    pub fn get(&self, path: &str) -> Answer {
        curl(&[&format!("http://{}{path}", self.http)])
    }

    /// The request that DeepFlow documents, by curl, with this body.
    pub fn profile_tracing(&self, body: &str) -> Answer {
        let url = format!("http://{}/v1/profile/ProfileTracing", self.http);
        curl(&["-X", "POST", &url, "-H", "Content-Type: application/json", "-d", body])
    }

    /// The flame graph of an app service on a node, over all time. An empty one says why.
    pub fn flame(&self, app_service: &str, node: &str) -> Result<Flame, String> {
        self.flame_between(app_service, &format!("pod_node = '{node}'"), 1, i64::from(u32::MAX))
    }

    /// The flame graph of an app service; windows with `from <= start <= until`, Unix seconds.
    pub fn flame_between(
        &self,
        app_service: &str,
        tag_filter: &str,
        from: i64,
        until: i64,
    ) -> Result<Flame, String> {
        let body = json!({
            "app_service": app_service, "profile_language_type": "eBPF", "profile_event_type": "on-cpu",
            "tag_filter": tag_filter, "time_start": from, "time_end": until,
        });
        let answer = self.profile_tracing(&body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        Flame::parse(&answer.json())
    }

    /// The flame graph as `frame;frame value` lines, without the app service at their head.
    pub fn folded(&self, app_service: &str, node: &str) -> Folded {
        let until = u32::MAX;
        let path = format!(
            "/api/v1/flamegraph?app_service={app_service}&format=folded&from=1&until={until}\
             &filter=pod_node%3D'{node}'"
        );
        let answer = self.get(&path);
        assert_eq!(answer.status, 200, "{}", answer.body);
        Folded::parse(&answer.body)
    }

    /// A question to the engine itself; the answer's lines, its columns separated by tabs.
    ///
    /// # Panics
    /// If the engine refuses it.
    pub fn sql(&self, query: &str) -> Vec<String> {
        let url = format!("http://{}/?default_format=TSV", self.clickhouse);
        let password = self.password.get().expect("the password was read");
        let key = format!("X-ClickHouse-Key: {password}");
        let answer = curl(&["-X", "POST", &url, "-H", &key, "--data-binary", query]);
        assert_eq!(answer.status, 200, "{query}\n{}", answer.body);
        answer.body.lines().map(str::to_owned).collect()
    }

    /// The one number that answers `query`.
    pub fn number(&self, query: &str) -> i64 {
        let lines = self.sql(query);
        let [line] = &lines[..] else { panic!("{query} gave {lines:?}") };
        line.parse().unwrap_or_else(|error| panic!("{query} gave {line:?}: {error}"))
    }

    /// Samples that are stored of a node and meet `condition`.
    pub fn samples(&self, node: &str, condition: &str) -> i64 {
        self.number(&format!(
            "SELECT sum(sample_count) FROM profile.in_process_local WHERE pod_node = '{node}' AND {condition}"
        ))
    }
}

extern "C" fn stop_shared() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((mut daemon, folder)) = running {
        daemon.terminate();
        // Its files before its folder; the folder goes by its own drop.
        drop(daemon);
        drop(folder);
    }
}

/// Runs the real curl.
///
/// # Panics
/// If it cannot reach the server; any HTTP status is an answer.
pub fn curl(arguments: &[&str]) -> Answer {
    let output = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "60", "-H", "Expect:"])
        .args(arguments)
        .output()
        .expect("curl is installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {stderr}");
    let text = String::from_utf8(output.stdout).expect("answers are UTF-8");
    let (headers, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {headers}"));
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

/// The engine's library, where `scripts/setup-chdb.sh` puts it.
pub fn libchdb() -> PathBuf {
    if let Some(path) = std::env::var_os("HEARTH_LIBCHDB") {
        return path.into();
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("HEARTH_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("hearth")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/hearth")))
        .expect("HEARTH_CACHE, XDG_CACHE_HOME or HOME is set");
    let version = CHDB_VERSION.lines().next().expect("the file names a version");
    let library = cache.join("chdb").join(version).join("libchdb.so");
    assert!(
        library.is_file(),
        "{} is missing: run scripts/setup-chdb.sh, or set HEARTH_LIBCHDB",
        library.display()
    );
    library
}

/// A port that nobody had a moment ago, below those that the kernel gives to outgoing connections: it
/// must still be free when its owner was killed and is started again.
pub fn free_port() -> SocketAddr {
    const PORTS: std::ops::Range<u16> = 21_000..32_000;
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new((std::process::id() * 97 % u32::from(u16::MAX)) as u16));
    loop {
        let drawn = NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], PORTS.start + drawn));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
