//! Starts `hearth-clickhouse` and watches it.
//!
//! It runs as a process of its own, because a crash of the engine must not
//! take the collector with it. It ends with us however we end: its standard
//! input is a pipe that only we hold.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::Client;
use clickhouse::error::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PROGRAM: &str = "hearth-clickhouse";
/// Within the data directory.
const PASSWORD_FILE: &str = "clickhouse-password";
/// How often it is asked whether it is there while it starts.
const PING_INTERVAL: Duration = Duration::from_millis(100);
/// How long one such question may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the log says that it is still starting.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses before a restart: this, then twice as long, up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Having run so long, it begins with the shortest pause again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long it may take to stop; it lets queries finish for 20 s, twice.
const STOP_PATIENCE: Duration = Duration::from_secs(45);
/// What its log says once it listens.
const LISTENS: &str = " answers on http://";
/// What its last words hold when its directory or its port is somebody else's,
/// how long that is waited for, and how long between two attempts.
const TAKEN: &str = "in use";
const TAKEN_PATIENCE: Duration = Duration::from_secs(45);
const TAKEN_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a line of its log; what is longer is cut into several.
const MAX_LINE_BYTES: u64 = 8 << 10;
/// Lines of its log that an error about its end quotes.
const QUOTED_LINES: usize = 3;

/// How to start it.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The program.
    pub program: PathBuf,
    /// Where it keeps its data.
    pub data_dir: PathBuf,
    /// Where it listens; the port must not be 0.
    pub http: SocketAddr,
    /// The engine, if it shall not look for it itself.
    pub libchdb: Option<PathBuf>,
    /// Its password; without one, every user of the machine may ask.
    pub password: Option<Password>,
}

/// The engine's password, in a file that only our user may read: whoever may ask
/// the engine reads and writes, by `file()` and the like, every file that we can.
#[derive(Clone)]
pub struct Password {
    file: PathBuf,
    text: String,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Password").field(&self.file).finish()
    }
}

impl Password {
    /// The one in `data_dir`, drawn now if there is none.
    pub fn of(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let file = data_dir.join(PASSWORD_FILE);
        match Self::read_or_draw(data_dir, &file) {
            Ok(text) => Ok(Self { file, text }),
            Err(source) => Err(EmbeddedError::Password { file, source }),
        }
    }

    fn read_or_draw(data_dir: &Path, file: &Path) -> std::io::Result<String> {
        match fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            // Somebody wants another.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let text = Uuid::new_v4().simple().to_string();
        fs::create_dir_all(data_dir)?;
        // Whole or not at all, and never readable by others.
        let new = file.with_extension("new");
        let mut opened =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(opened, "{text}")?;
        fs::rename(&new, file)?;
        Ok(text)
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// Why it did not come up.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The program does not start.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Its password cannot be read or made.
    #[error("the password file {file}: {source}")]
    Password {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// It ended before it answered.
    #[error("{PROGRAM} ended before it answered ({status}): {log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        log: String,
    },
    /// It answers, but not us.
    #[error("{PROGRAM} refuses to answer: {0}")]
    Refused(String),
    /// Waiting for it failed.
    #[error("cannot wait for {PROGRAM}: {0}")]
    Wait(std::io::Error),
}

/// The running engine, restarted when it dies.
#[derive(Debug)]
pub struct Embedded {
    config: EmbeddedConfig,
    stop: CancellationToken,
    watcher: JoinHandle<()>,
    pid: Arc<Mutex<Option<u32>>>,
}

/// The program beside our own, else the one that PATH finds.
pub fn find_program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}

impl Embedded {
    /// Starts it and waits until it answers.
    pub async fn start(config: EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let stop = CancellationToken::new();
        let pid = Arc::new(Mutex::new(None));
        let process = Self::start_process(&config).await?;
        set(&pid, process.child.id());
        let watcher = tokio::spawn(watch(config.clone(), process, stop.clone(), Arc::clone(&pid)));
        Ok(Self { config, stop, watcher, pid })
    }

    /// A collector that was killed leaves an engine that is still finishing its
    /// queries: what it holds is waited for.
    async fn start_process(config: &EmbeddedConfig) -> Result<Process, EmbeddedError> {
        let started = Instant::now();
        loop {
            let mut process = Process::spawn(config)?;
            match process.wait_until_it_answers(config).await {
                Ok(()) => return Ok(process),
                Err(EmbeddedError::Ended { status, log })
                    if log.contains(TAKEN) && started.elapsed() < TAKEN_PATIENCE =>
                {
                    tracing::info!("waiting for another engine to end ({status}): {log}");
                    tokio::time::sleep(TAKEN_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        url(&self.config)
    }

    /// A client that it answers.
    pub fn client(&self) -> Client {
        client(&self.config)
    }

    /// Its process id; `None` between a death and the restart.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it finish its queries, and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.watcher.await {
            tracing::error!("the watcher of {PROGRAM} failed: {error}");
        }
    }
}

async fn watch(
    config: EmbeddedConfig,
    process: Process,
    stop: CancellationToken,
    pid: Arc<Mutex<Option<u32>>>,
) {
    let mut running = Some(process);
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(mut process) = running.take() {
            let started = Instant::now();
            let ended = tokio::select! {
                () = stop.cancelled() => return process.stop().await,
                ended = process.child.wait() => ended,
            };
            set(&pid, None);
            if started.elapsed() > HEALTHY_AFTER {
                pause = FIRST_PAUSE;
            }
            match ended {
                Ok(status) => tracing::error!("{PROGRAM} ended ({status}); restarting in {pause:?}"),
                Err(error) => tracing::error!("waiting for {PROGRAM}: {error}; restarting in {pause:?}"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        match Process::spawn(&config) {
            Ok(process) => {
                set(&pid, process.child.id());
                running = Some(process);
            }
            Err(error) => tracing::error!("{error}; next attempt in {pause:?}"),
        }
    }
}

struct Process {
    child: Child,
    /// Held apart from the child, whose `wait` would close it.
    stdin: Option<ChildStdin>,
    /// The last lines of its log.
    log: Arc<Mutex<VecDeque<String>>>,
    /// Its log said that it listens. A ping alone would not do: somebody else
    /// may answer on the port that ours is about to find taken.
    listens: Arc<AtomicBool>,
    log_reader: JoinHandle<()>,
}

impl Process {
    fn spawn(config: &EmbeddedConfig) -> Result<Self, EmbeddedError> {
        let EmbeddedConfig { program, data_dir, http, libchdb, password } = config;
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(data_dir).arg("--http").arg(http.to_string());
        // What somebody set for an engine of his own is not meant for ours.
        let inherited = std::env::vars_os().map(|(name, _)| name);
        inherited
            .filter(|name| name.as_encoded_bytes().starts_with(b"HEARTH_CLICKHOUSE_"))
            .for_each(|name| _ = command.env_remove(name));
        // Whatever our own log shows: `LISTENS` is looked for in its.
        command.arg("--stop-with-stdin").env("NO_COLOR", "1").env("HEARTH_LOG", "info");
        if let Some(libchdb) = libchdb {
            command.arg("--libchdb").arg(libchdb);
        }
        if let Some(Password { file, .. }) = password {
            command.arg("--password-file").arg(file);
        }
        // A process group of its own: Ctrl-C reaches us alone, and we stop it
        // after what is queued was stored.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|source| EmbeddedError::Spawn { program: program.clone(), source })?;
        let stdin = child.stdin.take();
        let log = Arc::default();
        let stderr = child.stderr.take().expect("stderr is piped");
        let listens = Arc::default();
        let log_reader = tokio::spawn(pass_on(stderr, Arc::clone(&log), Arc::clone(&listens)));
        Ok(Self { child, stdin, log, listens, log_reader })
    }

    async fn wait_until_it_answers(&mut self, config: &EmbeddedConfig) -> Result<(), EmbeddedError> {
        tracing::info!("starting {PROGRAM} on {}", config.data_dir.display());
        let started = Instant::now();
        let mut progress = PROGRESS_INTERVAL;
        let client = client(config);
        loop {
            if let Some(status) = self.child.try_wait().map_err(EmbeddedError::Wait)? {
                return Err(self.ended(status).await);
            }
            if self.listens.load(Ordering::Relaxed) {
                let ping = client.query("SELECT 1").fetch_one::<u8>();
                match tokio::time::timeout(PING_TIMEOUT, ping).await {
                    Ok(Ok(_)) => {
                        tracing::info!("{PROGRAM} answers after {:.1} s", started.elapsed().as_secs_f64());
                        return Ok(());
                    }
                    // It is there and says no: that does not change.
                    Ok(Err(Error::BadResponse(answer))) => return Err(EmbeddedError::Refused(answer)),
                    Ok(Err(error)) => tracing::debug!("{PROGRAM} does not answer yet: {error}"),
                    Err(_) => tracing::debug!("{PROGRAM} does not answer within {PING_TIMEOUT:?}"),
                }
            }
            if started.elapsed() > progress {
                tracing::info!("{PROGRAM} is still starting ({} s)", progress.as_secs());
                progress += PROGRESS_INTERVAL;
            }
            tokio::time::sleep(PING_INTERVAL).await;
        }
    }

    async fn ended(&mut self, status: ExitStatus) -> EmbeddedError {
        // Its log ends with it.
        if let Err(error) = (&mut self.log_reader).await {
            tracing::error!("reading the log of {PROGRAM}: {error}");
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        EmbeddedError::Ended { status, log: log.iter().cloned().collect::<Vec<_>>().join(" / ") }
    }

    async fn stop(&mut self) {
        // The end of its standard input asks it to stop, as SIGTERM would.
        drop(self.stdin.take());
        match tokio::time::timeout(STOP_PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => tracing::info!("{PROGRAM} stopped"),
            Ok(Ok(status)) => tracing::warn!("{PROGRAM} stopped with {status}"),
            Ok(Err(error)) => tracing::error!("waiting for {PROGRAM}: {error}"),
            Err(_) => {
                tracing::warn!("{PROGRAM} did not stop within {STOP_PATIENCE:?}: killing it");
                if let Err(error) = self.child.kill().await {
                    tracing::error!("killing {PROGRAM}: {error}");
                }
            }
        }
    }
}

/// Writes its log lines into ours, whatever they hold: it must never find the
/// other end of its pipe closed.
async fn pass_on(
    stderr: impl AsyncRead + Unpin,
    log: Arc<Mutex<VecDeque<String>>>,
    listens: Arc<AtomicBool>,
) {
    let mut stderr = BufReader::new(stderr);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).await {
            Ok(0) => return,
            Ok(_) => {
                let line = String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
                // Its own time and level are in the line.
                eprintln!("[{PROGRAM}] {line}");
                if line.contains(LISTENS) {
                    listens.store(true, Ordering::Relaxed);
                }
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_back(line);
                if log.len() > QUOTED_LINES {
                    log.pop_front();
                }
            }
            Err(error) => return tracing::warn!("reading the log of {PROGRAM}: {error}"),
        }
    }
}

fn url(config: &EmbeddedConfig) -> String {
    format!("http://{}", config.http)
}

fn client(config: &EmbeddedConfig) -> Client {
    let client = Client::default().with_url(url(config));
    match &config.password {
        Some(Password { text, .. }) => client.with_user("default").with_password(text),
        None => client,
    }
}

fn set(pid: &Mutex<Option<u32>>, value: Option<u32>) {
    *pid.lock().unwrap_or_else(PoisonError::into_inner) = value;
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// What is quoted of a log, and whether it said that the engine listens.
    async fn quoted(written: &[u8]) -> (Vec<String>, bool) {
        let (log, listens) = (Arc::default(), Arc::default());
        pass_on(written, Arc::clone(&log), Arc::clone(&listens)).await;
        let log = log.lock().unwrap().iter().cloned().collect();
        (log, listens.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_log_is_read_to_its_end_whatever_it_holds() {
        let (log, listens) = quoted(b"a\xffb\r\n\nx answers on http://127.0.0.1:1/\nend").await;
        assert_eq!(log, ["", "x answers on http://127.0.0.1:1/", "end"]);
        assert!(listens);
        assert_eq!(quoted(b"a\xffb\n").await.0, ["a\u{fffd}b"]);
    }

    #[test]
    fn a_password_is_drawn_once_and_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let first = Password::of(&data_dir).unwrap();
        assert_eq!(first.text.len(), 32);
        assert_eq!(fs::read_to_string(first.file()).unwrap(), format!("{}\n", first.text));
        assert_eq!(fs::metadata(first.file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Password::of(&data_dir).unwrap().text, first.text);
        fs::write(first.file(), "my own\n").unwrap();
        assert_eq!(Password::of(&data_dir).unwrap().text, "my own");
        fs::write(first.file(), "").unwrap();
        assert_ne!(Password::of(&data_dir).unwrap().text, first.text);
        assert!(!format!("{first:?}").contains(&first.text));
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut() {
        let (log, _) = quoted(&vec![b'x'; 2 * MAX_LINE_BYTES as usize + 1]).await;
        assert_eq!(log.iter().map(String::len).collect::<Vec<_>>(), [8192, 8192, 1]);
    }
}
