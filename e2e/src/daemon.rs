//! A long-running process under test: its log, its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for; a debug build on a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
pub(crate) const LOOK: Duration = Duration::from_millis(20);
/// Lines of a log that a failed test prints.
const TAIL: usize = 60;

/// Looks until `condition` holds, and returns what it gave.
///
/// # Panics
/// With `what` when the patience is over.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// The binary of this workspace, beside the test's own.
///
/// # Panics
/// If it was not built; says how to.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/test-HASH
    let folder = test.parent().and_then(Path::parent).expect("the test stands in target/PROFILE/deps");
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is missing: build it with `cargo build --workspace --bins`",
        binary.display()
    );
    binary
}

type Spawn = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a process that dies with this one, however this one ends.
///
/// The kernel's death signal is sent when the *thread* that forked ends, and a test's thread ends
/// with its test: one thread that never ends starts them all.
pub fn spawn(command: Command) -> Child {
    static SPAWNER: LazyLock<std::sync::Mutex<mpsc::Sender<Spawn>>> = LazyLock::new(|| {
        let (sender, receiver) = mpsc::channel::<Spawn>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                // A test that no longer waits has panicked.
                drop(answer.send(command.spawn()));
            }
        });
        std::sync::Mutex::new(sender)
    });
    let text = format!("{command:?}");
    let (sender, receiver) = mpsc::channel();
    let spawner = SPAWNER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    spawner.send((command, sender)).expect("the spawner never ends");
    drop(spawner);
    let child = receiver.recv().expect("the spawner answers");
    child.unwrap_or_else(|error| panic!("cannot start {text}: {error}"))
}

/// `program`, to be killed by the kernel when this process ends.
pub fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A process whose stderr is a log.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    stdout: PathBuf,
}

impl Daemon {
    /// Starts it, with its log and its output in `folder`.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let [log, stdout] = ["log", "out"].map(|kind| folder.join(format!("{name}.{kind}")));
        let create = |path| File::create(path).expect("the test's folder can be written");
        command.stdin(Stdio::null()).stdout(create(&stdout)).stderr(create(&log)).env("NO_COLOR", "1");
        Self { name: name.to_owned(), child: spawn(command), log, stdout }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).expect("the log was created at the start");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Everything it wrote to stdout so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.stdout).expect("the file was created at the start");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The first line that contains `text`, as soon as it is there.
    ///
    /// # Panics
    /// If the process ends before, or the patience does.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let what = format!("{text:?} in the log of {}", self.name);
        wait_for(&what, || {
            // The order matters: what was written before the end is in the log read after it.
            let ended = self.ended();
            let line = self.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            if let (None, Some(status)) = (&line, ended) {
                panic!("{} ended ({status}) before it said {text:?}:\n{}", self.name, self.tail());
            }
            line
        })
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, || self.ended())
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: i32) {
        // A child that was waited for gave its pid back: somebody else may have it.
        if self.ended().is_none() {
            send_signal(self.pid(), signal);
        }
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the log of {} ends with:\n{}\n---", self.name, self.tail());
        }
        if self.ended().is_none() {
            // Already gone is as good as killed.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Sends a signal to a child that was not waited for yet.
pub fn send_signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a pid fits");
    // SAFETY: kill takes two integers and touches no memory of ours.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "cannot signal {pid}: {}", std::io::Error::last_os_error());
}

/// Kills a process of somebody who is gone, and which may be gone itself: only if it still has that name.
pub fn kill_if_named(pid: u32, comm: &str) {
    let found = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if found.trim_end() == comm {
        let pid = i32::try_from(pid).expect("a pid fits");
        // SAFETY: kill takes two integers and touches no memory of ours. That it ended just now is as good.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}
