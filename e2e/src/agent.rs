//! The real node agent, with a policy file and a node name of its own.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Output};

use tempfile::TempDir;

use crate::collector::{Answer, Collector, curl};
use crate::daemon::{Daemon, binary, bound_to_us, wait_for};
use crate::unique_name;

/// A policy document for host processes; `spec` is the rest of it in YAML's flow style, such as
/// `regex: '^redis$', frequency: 99`.
pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
         metadata: {{name: {name}}}\nspec: {{hostProcesses: true, {spec}}}\n"
    )
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its name in every row.
    pub node: String,
    daemon: Daemon,
    folder: TempDir,
}

impl Agent {
    /// Starts an agent with these policies and waits until it samples.
    pub fn start(policies: &str) -> Self {
        Self::start_by(&[], policies)
    }

    /// The same, started by a program that ends its arguments with ours, as `capsh … --` does.
    pub fn start_by(launcher: &[&str], policies: &str) -> Self {
        Self::start_for(Collector::shared(), launcher, policies)
    }

    /// The same for a collector of one's own.
    pub fn start_for(collector: &Collector, launcher: &[&str], policies: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("policy.yaml"), policies).expect("the folder can be written");
        let node = unique_name("node");
        let agent = binary("hearth-node-agent");
        let mut command = match launcher {
            [] => bound_to_us(&agent),
            [program, arguments @ ..] => {
                let mut command = bound_to_us(program.as_ref());
                command.args(arguments).arg(&agent);
                command
            }
        };
        command.arg("--policy").arg(folder.path().join("policy.yaml"));
        command.arg("--collector").arg(format!("http://{}", collector.grpc));
        command.args(["--node", &node, "--window", "1s", "--metrics", "127.0.0.1:0"]);
        // A debug build takes more than an agent may.
        command.args(["--max-cpu-share", "100"]);
        command.arg("--state-dir").arg(folder.path().join("state"));
        let daemon = Daemon::start(&node, command, folder.path());
        let mut agent = Self { node, daemon, folder };
        agent.wait_for_log("sampling ");
        agent
    }

    /// Runs an agent that is expected to end at once, as a user would, in a folder that holds
    /// `policy.yaml` with this text.
    pub fn run_to_end<S: AsRef<OsStr>>(launcher: &[S], policies: &str) -> Output {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("policy.yaml"), policies).expect("the folder can be written");
        let agent = binary("hearth-node-agent");
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "30"]).args(launcher).arg(&agent);
        command.args(["--policy", "policy.yaml", "--metrics", "127.0.0.1:0", "--window", "1s"]);
        command.args(["--state-dir", "state"]);
        command.current_dir(folder.path()).env("NO_COLOR", "1");
        command.output().expect("timeout(1) is installed")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The first log line that contains `text`, as soon as it is there.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        self.daemon.wait_for_log(text)
    }

    /// The file that holds its policies.
    pub fn policy_file(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    /// Replaces its policies, as an editor would: by a rename.
    pub fn write_policies(&self, policies: &str) {
        let new = self.folder.path().join("policy.yaml.new");
        std::fs::write(&new, policies).expect("the folder can be written");
        std::fs::rename(&new, self.policy_file()).expect("a file can be renamed");
    }

    /// Waits until so many samples that it took of an app service are stored.
    ///
    /// # Panics
    /// If it ends before.
    pub fn wait_for_samples(&mut self, app_service: &str, count: i64) {
        let condition = format!("app_service = '{app_service}'");
        wait_for(&format!("{count} samples of {app_service}"), || {
            let ended = self.ended();
            assert!(ended.is_none(), "the agent ended by itself: {ended:?}");
            (Collector::shared().samples(&self.node, &condition) >= count).then_some(())
        });
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: i32) {
        self.daemon.signal(signal);
    }

    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    /// `GET path` of its own HTTP server.
    pub fn get(&mut self, path: &str) -> Answer {
        let line = self.wait_for_log("metrics on http://");
        let (_, address) = line.split_once("http://").expect("the line has an address");
        let address = address.trim_end_matches("/metrics");
        curl(&[&format!("http://{address}{path}")])
    }

    /// A number of `/metrics`, 0 where it is not there.
    pub fn metric(&mut self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap_or_else(|error| panic!("{error} in {value}")))
    }

    /// Ends it: everything it sampled is stored when this returns. Gives the log.
    ///
    /// # Panics
    /// If it ends with an error or loses anything.
    pub fn stop(&mut self) -> String {
        let status = self.daemon.terminate();
        assert!(status.success(), "the agent ended with {status}");
        self.log()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the collector's log ends with:\n{}\n---", Collector::log_tail());
        }
    }
}
