//! What a cluster could leave behind on the machine.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::process::Command;

/// Everything of the machine that a cluster changes while it is up.
#[derive(PartialEq, Debug)]
pub(crate) struct Trace {
    lines: BTreeSet<String>,
}

impl Trace {
    /// Of the machine now.
    pub(crate) fn of_machine() -> Self {
        let mut lines = BTreeSet::new();
        let mut add = |what: &str, text: String| {
            lines.extend(text.lines().map(|line| format!("{what}: {}", line.trim_end())));
        };
        add("link", run("ip", &["-brief", "link"]));
        add("route", run("ip", &["route"]));
        add("mount", mounts());
        add("namespace", run("lsns", &["-n", "-o", "TYPE,NS", "-t", "net"]));
        add("cgroup", run("find", &["/sys/fs/cgroup", "-maxdepth", "2", "-name", "kc"]));
        for name in ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"] {
            add(name, read_to_string(format!("/proc/sys/{name}")).unwrap());
        }
        add("rule", run("nft", &["list", "ruleset"]));
        for folder in [
            "/var/lib/kubelet",
            "/var/lib/cni",
            "/run/containerd",
            "/var/log/pods",
            "/tmp/hearth-e2e-cluster",
        ] {
            if std::fs::exists(folder).unwrap() {
                add("folder", format!("{folder}: {}", std::fs::read_dir(folder).unwrap().count()));
            }
        }
        let marked =
            |environment: Vec<u8>| String::from_utf8_lossy(&environment).contains("KCLUSTER_PART_OF=");
        for entry in std::fs::read_dir("/proc").unwrap() {
            // A process that ended meanwhile is no trace.
            let environment = std::fs::read(entry.unwrap().path().join("environ")).unwrap_or_default();
            if marked(environment) {
                add("process", "of a cluster".to_owned());
            }
        }
        Self { lines }
    }

    /// Compares with the machine now.
    pub(crate) fn assert_unchanged(&self) {
        let now = Self::of_machine();
        let left: Vec<_> = now.lines.difference(&self.lines).collect();
        let gone: Vec<_> = self.lines.difference(&now.lines).collect();
        assert!(left.is_empty() && gone.is_empty(), "left behind: {left:#?}\nmissing now: {gone:#?}");
    }
}

/// Without the counters that each mount has.
fn mounts() -> String {
    let text = read_to_string("/proc/self/mounts").unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').nth(1))
        .fold(String::new(), |all, point| all + point + "\n")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
