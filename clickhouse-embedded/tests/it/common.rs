//! Starts the real binary on a free port and stops it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hearth_clickhouse::wire::{self, BlockReader, Encoder, Encoding};

/// A running `hearth-clickhouse`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

/// The engine's path; the test fails here when it is not installed.
pub(crate) fn libchdb() -> PathBuf {
    hearth_clickhouse::locate::libchdb(None).unwrap_or_else(|missing| panic!("{missing}"))
}

/// `body` as a client would encode it.
pub(crate) fn encoded(encoding: Encoding, body: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(encoding).unwrap();
    let mut out = encoder.push(body).unwrap();
    out.extend(encoder.finish().unwrap());
    out
}

/// What a client makes of `body`.
pub(crate) fn decoded(encoding: Encoding, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match encoding {
        Encoding::Plain => out.extend_from_slice(body),
        Encoding::Blocks | Encoding::ZstdBlocks => {
            BlockReader::new(body).read_to_end(&mut out).unwrap();
        }
        Encoding::Content(encoding) => {
            wire::decoder(encoding, body).unwrap().read_to_end(&mut out).unwrap();
        }
    }
    out
}

impl Server {
    pub(crate) fn start(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut child = command(data_dir)
            .args(arguments)
            .arg("--libchdb")
            .arg(libchdb())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (found, url) = mpsc::channel();
        // Reads on to the end, so that the server never blocks on its log.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("answers on ") {
                    found.send(rest.to_owned()).unwrap();
                }
                eprintln!("server: {line}");
            }
        });
        let url = url.recv_timeout(Duration::from_secs(30)).expect("the server did not start");
        Self { child, url: url.trim_end_matches('/').to_owned() }
    }

    pub(crate) fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default().with_url(&self.url)
    }

    /// Asks until the answer is `expected`; fails when it never is.
    pub(crate) async fn until(&self, sql: &str, expected: &str) {
        let http = reqwest::Client::new();
        let ask = async || {
            let response = http.post(&self.url).body(sql.to_owned()).send().await.unwrap();
            response.text().await.unwrap().trim_end().to_owned()
        };
        let end = Instant::now() + Duration::from_secs(20);
        let mut answer = ask().await;
        while answer != expected {
            assert!(Instant::now() < end, "{sql}: {answer} instead of {expected}");
            answer = ask().await;
        }
    }

    /// The most memory the process ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        wait(&mut self.child, Duration::from_secs(30))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after kill and terminate.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-clickhouse"));
    command.arg("--data-dir").arg(data_dir).args(["--http", "127.0.0.1:0"]);
    command.env("NO_COLOR", "1");
    command
}

pub(crate) fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process did not end within {patience:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
