//! A Kubernetes cluster on this machine: real nodes, built and started by `e2e/cluster/`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the programs are; `scripts/setup-cluster.sh` puts them there.
const BIN: &str = "HEARTH_KCLUSTER";
/// There is one cluster on a machine at a time: its addresses are fixed.
const LOCK: &str = "/tmp/hearth-e2e-cluster.lock";

/// The turn of this process to have a cluster; the next waits until it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] File);

impl Turn {
    /// Waits until no other run has a cluster.
    pub fn wait() -> Self {
        let lock = File::create(LOCK).expect("the lock of the cluster's tests");
        lock.lock().expect("the lock of the cluster's tests");
        Self(lock)
    }
}

/// A running cluster; taken down when dropped.
pub struct Cluster {
    bin: PathBuf,
    state: PathBuf,
}

/// This process has a cluster.
static UP: AtomicBool = AtomicBool::new(false);

/// Takes down the cluster of this process, if it has one: for an end out of turn, in which nothing is dropped.
pub fn take_down() {
    if UP.load(Ordering::SeqCst) {
        drop(Cluster::here());
    }
}

impl Cluster {
    /// Starts one of so many nodes; of none: the control plane alone.
    ///
    /// # Panics
    /// The programs are not there, or it does not come up: the message has what it said.
    pub fn up(_turn: &Turn, nodes: u8) -> Self {
        let cluster = Self::here();
        UP.store(true, Ordering::SeqCst);
        let output = cluster.kcluster(["up", &nodes.to_string()]);
        assert!(output.status.success(), "{}", text(&output));
        cluster
    }

    fn here() -> Self {
        let bin = std::env::var_os(BIN).map(PathBuf::from);
        let bin = bin.unwrap_or_else(|| panic!("{BIN} is not set: run make e2e, or make test"));
        Self { bin, state: "/tmp/hearth-e2e-cluster".into() }
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("pki/admin.kubeconfig")
    }

    /// Where everything is that it writes.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Runs `kcluster`.
    pub fn kcluster<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Output {
        let mut command = Command::new(self.bin.join("kcluster"));
        command.args(arguments).env("KCLUSTER_STATE", &self.state);
        command.output().expect("kcluster runs")
    }

    /// Takes one of the cluster's processes away (`stop`), or brings it back (`start`).
    ///
    /// # Panics
    /// It does not run, or never did.
    pub fn daemon(&self, action: &str, name: &str) {
        let output = self.kcluster([action, name]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// The program.
    pub fn kubectl_path(&self) -> PathBuf {
        self.bin.join("kubectl")
    }

    /// `kubectl` as the administrator.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.kubectl_path());
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Runs `kubectl` as the administrator, with this as its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.kubectl_command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        // One that does not read says why in its own words.
        let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }

    /// What `kubectl` prints.
    ///
    /// # Panics
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let output = self.kubectl_with(arguments, "");
        assert!(output.status.success(), "kubectl {}: {}", arguments.join(" "), text(&output));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    /// Applies these documents.
    ///
    /// # Panics
    /// They are refused.
    pub fn apply(&self, documents: &str) {
        let output = self.kubectl_with(&["apply", "-f", "-"], documents);
        assert!(output.status.success(), "{documents}\n{}", text(&output));
    }

    /// Brings an image to every node: a folder's content, and what runs in it.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn image(&self, reference: &str, folder: &Path, entry_point: &[&str]) {
        let folder = folder.to_str().expect("a folder of text");
        let output = self.kcluster([&["image", reference, folder], entry_point].concat());
        assert!(output.status.success(), "{}", text(&output));
    }

    /// What somebody who looks for the cause wants to see: events, pods, and the ends of all logs.
    pub fn diagnosis(&self) -> String {
        let mut said = String::new();
        for arguments in [
            &["get", "events", "-A", "--sort-by=.lastTimestamp"][..],
            &["get", "pods", "-A", "-o", "wide"],
            &["describe", "pods", "-A"],
            &["get", "pp,cpp", "-A", "-o", "yaml"],
        ] {
            let output = self.kubectl_with(arguments, "");
            said += &format!("== kubectl {}\n{}\n", arguments.join(" "), text(&output));
        }
        let pods = self.kubectl_with(
            &[
                "get",
                "pods",
                "-A",
                "-o",
                "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{\"\\n\"}{end}",
            ],
            "",
        );
        for line in String::from_utf8_lossy(&pods.stdout).lines() {
            let Some((namespace, name)) = line.split_once(' ') else { continue };
            let log = ["logs", "-n", namespace, name, "--all-containers", "--tail=60"];
            said += &format!("== log of {namespace}/{name}\n{}\n", text(&self.kubectl_with(&log, "")));
        }
        for entry in std::fs::read_dir(self.state.join("log")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            said += &format!("== end of {}\n{end}\n", entry.path().display());
        }
        said
    }

    /// Takes it down.
    ///
    /// # Panics
    /// Something of it stays.
    pub fn down(self) {
        let output = self.kcluster(["down"]);
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After `down` there is nothing left to take.
        self.kcluster(["down"]);
        UP.store(false, Ordering::SeqCst);
    }
}

/// Both streams of what a program printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
