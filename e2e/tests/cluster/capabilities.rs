//! Each capability of the DaemonSet taken away: what does not work then, and who says so.

use std::os::unix::fs::PermissionsExt as _;

use hearth_e2e::daemon::wait_for;
use hearth_e2e::hearth::{AgentMetrics, Forwarded, agent_log, agent_pod, delete_agent, program_image};
use hearth_e2e::{Cluster, Collector, Flame, Program, random_letters};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::profiles::{on_hearth, start_pod};
use crate::status::{await_ready, condition, policy};

/// Only here: the other one has all of them.
const NODE: &str = "node2";

/// What is lost without a capability: all that the DaemonSet gives, in its order.
const LOST: [(&str, Loss); 6] = [
    ("BPF", Loss::Samples("needs CAP_BPF: to load BPF programs")),
    ("PERFMON", Loss::Samples("needs CAP_PERFMON: to sample every CPU and to read stacks")),
    (
        "SYS_PTRACE",
        Loss::Names(
            Frames::Program,
            "functions of other users' processes, and of those with more capabilities, have no names",
        ),
    ),
    ("DAC_READ_SEARCH", Loss::Names(Frames::Program, "files that only other users may read cannot be named")),
    ("SYSLOG", Loss::Names(Frames::Kernel, "kernel functions show as [k] [unknown]")),
    ("CHECKPOINT_RESTORE", Loss::Names(Frames::Program, "deleted binaries cannot be named")),
];

#[derive(Clone, Copy)]
enum Loss {
    /// All of them, for the reason that the status gives.
    Samples(&'static str),
    /// The names of some frames, which the log says.
    Names(Frames, &'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frames {
    Kernel,
    Program,
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![on_hearth(
        "capabilities::each_that_is_missing_is_named_and_what_works_without_it_goes_on",
        each_that_is_missing_is_named,
    )]
}

fn each_that_is_missing_is_named(cluster: &Cluster) {
    let stage = Stage::set(cluster);
    let given = stage.given();
    assert_eq!(given, LOST.map(|(capability, _)| capability), "each is in the table, and no other");
    stage.run_with(&given, "all", |name| {
        stage.samples_come_without(None, name);
        let log = agent_log(cluster, NODE);
        assert!(!log.contains("is missing"), "{log}");
    });
    for (taken, loss) in LOST {
        let rest: Vec<&str> = given.iter().filter(|name| **name != taken).map(String::as_str).collect();
        stage.run_with(&rest, &taken.replace('_', "-").to_lowercase(), |name| {
            match loss {
                Loss::Samples(why) => stage.the_status_says(why, name),
                Loss::Names(frames, said) => {
                    stage.samples_come_without(Some(frames), name);
                    let log = agent_log(cluster, NODE);
                    let lines: Vec<&str> = log.lines().filter(|line| line.contains("is missing")).collect();
                    let [line] = lines[..] else { panic!("one line about {taken}: {log}") };
                    assert!(line.contains(&format!("WARN CAP_{taken} is missing: {said}")), "{line}");
                }
            }
            let metric = format!("hearth_agent_missing_capability{{capability=\"CAP_{taken}\"}}");
            assert_eq!(AgentMetrics::of(cluster, NODE).get(&metric), "1");
        });
    }
}

/// A node whose agent is given other capabilities, and a program whose names need all of them.
struct Stage<'a> {
    cluster: &'a Cluster,
    /// As it was installed.
    daemon_set: Value,
    program: Program,
    image: String,
    collector: Collector,
    _forwarded: Forwarded,
}

impl<'a> Stage<'a> {
    fn set(cluster: &'a Cluster) -> Self {
        let text = cluster.kubectl(&["-n", "hearth", "get", "daemonset", "hearth-node-agent", "-o", "json"]);
        let mut daemon_set: Value = serde_json::from_str(&text).unwrap();
        // It is put back over whatever is there then.
        daemon_set["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        // The file is deleted and nobody may read it; half of the time is the kernel's.
        let program = Program::compile(
            &format!("caps-{}", random_letters(6)),
            "static char buffer[1 << 20];
             FUNCTION void work(int fd) { BURN(200000); if (pread(fd, buffer, sizeof buffer, 0) < 0) exit(1); }
             int main(int argc, char **argv) {
               unlink(argv[0]);
               for (int fd = open(\"/dev/zero\", O_RDONLY); ;) work(fd);
             }",
        );
        let nobody_reads = std::fs::Permissions::from_mode(0o111);
        std::fs::set_permissions(program.path(), nobody_reads).unwrap();
        let image = format!("kc.local/{}:1", program.name());
        program_image(cluster, &image, &program.path(), &[]);
        let (forwarded, collector) = Forwarded::collector(cluster);
        Self { cluster, daemon_set, program, image, collector, _forwarded: forwarded }
    }

    fn given(&self) -> Vec<String> {
        let given = &self.daemon_set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        serde_json::from_value(given["capabilities"]["add"].clone()).unwrap()
    }

    fn replace(&self, daemon_set: &Value) {
        let output = self.cluster.kubectl_with(&["replace", "-f", "-"], &daemon_set.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives these to the node's agent, and checks what is so then for a pod and a policy of this name.
    fn run_with(&self, capabilities: &[impl AsRef<str>], name: &str, check: impl FnOnce(&str)) {
        let mut daemon_set = self.daemon_set.clone();
        // A pod is another one when it is deleted, and not before.
        daemon_set["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        let container = &mut daemon_set["spec"]["template"]["spec"]["containers"][0];
        let names: Vec<&str> = capabilities.iter().map(AsRef::as_ref).collect();
        container["securityContext"]["capabilities"]["add"] = json!(names);
        // So that nobody waits ten seconds for rows.
        let arguments = container["args"].as_array_mut().unwrap();
        arguments.retain(|argument| !argument.as_str().unwrap().starts_with("--window="));
        arguments.push(json!("--window=1s"));
        self.replace(&daemon_set);
        delete_agent(self.cluster, NODE, &[]);
        let name = format!("caps-{name}");
        let spec = format!("{{podSelector: {{matchLabels: {{app: {name}}}}}, frequency: 199}}");
        self.cluster.apply(&policy(&name, &spec));
        start_pod(self.cluster, &self.image, "default", &name, NODE);
        check(&name);
        self.cluster.kubectl(&["delete", &format!("pp/{name}"), &format!("pod/{name}"), "--wait=false"]);
    }

    /// The policy is ready on both nodes, and names of all other frames are in the rows of its pod.
    fn samples_come_without(&self, names: Option<Frames>, name: &str) {
        await_ready(self.cluster, &format!("pp/{name}"), "2/2");
        let of_pod = format!("pod_node = '{NODE}' AND pod_ns = 'default' AND pod = '{name}'");
        let flame = wait_for("half a second of the pod", || {
            let flame = self.collector.flame_between(self.program.name(), &of_pod, 1, u32::MAX.into());
            flame.ok().filter(|flame| flame.root().total > 500_000)
        });
        for frames in [Frames::Kernel, Frames::Program] {
            let is_named = has_names(&flame, frames);
            assert_eq!(is_named, names != Some(frames), "{name}: {frames:?} of {:?}", flame.names());
        }
    }

    /// That this node alone does not sample, and why. Its agent does not end over it.
    fn the_status_says(&self, why: &str, name: &str) {
        let policy = format!("pp/{name}");
        // The other node may apply it after this one has failed.
        let status = wait_for("the failure of the node", || {
            let failed = condition(self.cluster, &policy, "Ready") == "False NodesFailed";
            let status = self.cluster.kubectl(&["get", &policy, "-o", "jsonpath={.status}"]);
            let status: Value = serde_json::from_str(&status).ok()?;
            (failed && status["nodes"]["summary"] == "1/2").then_some(status)
        });
        let failures = status["failures"].as_array().unwrap();
        let [failure] = &failures[..] else { panic!("one node fails: {status}") };
        assert_eq!([&failure["node"], &failure["reason"]], [NODE, "CannotSample"], "{status}");
        assert!(failure["message"].as_str().unwrap().contains(why), "{status}");
        let log = agent_log(self.cluster, NODE);
        assert!(log.contains(&format!("WARN detached, nothing is sampled: {why}")), "{log}");
        let agent = AgentMetrics::of(self.cluster, NODE);
        // The kubelet leaves it alone by the first, and a rollout goes no further by the second.
        assert_eq!([agent.status("/healthz"), agent.status("/readyz")], [200, 503]);
        let restarts = agent_pod(self.cluster, NODE, ".status.containerStatuses[0].restartCount");
        assert_eq!(restarts.as_deref(), Some("0"));
    }
}

impl Drop for Stage<'_> {
    /// All is as it was installed, also for the tests after one that failed.
    fn drop(&mut self) {
        self.cluster.kubectl_with(&["replace", "-f", "-"], &self.daemon_set.to_string());
        let rollout = ["-n", "hearth", "rollout", "status", "daemonset/hearth-node-agent", "--timeout=60s"];
        let output = self.cluster.kubectl_with(&rollout, "");
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Whether frames of this kind have names.
fn has_names(flame: &Flame, frames: Frames) -> bool {
    let names = flame.names();
    match frames {
        Frames::Kernel => names.iter().any(|name| name.starts_with("[k] ") && *name != "[k] [unknown]"),
        Frames::Program => names.contains("work"),
    }
}
