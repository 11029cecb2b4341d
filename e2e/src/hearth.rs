//! Hearth on a cluster, by the manifests that its users apply.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{Cluster, text};
use crate::collector::{Collector, libchdb};
use crate::daemon::{binary, wait_for};

const NAMESPACE: &str = "hearth";

/// What every image stands on here: the libraries that a release's base has.
pub struct Base(TempDir);

impl Base {
    /// The libraries that these programs name, found as the loader finds them.
    pub fn of(programs: &[&Path]) -> Self {
        let base = tempfile::tempdir().expect("a temporary folder can be made");
        for program in programs {
            let output = Command::new("ldd").arg(program).output().expect("ldd runs");
            for library in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let Some(relative) = library.strip_prefix('/') else { continue };
                let to = base.path().join(relative);
                std::fs::create_dir_all(to.parent().expect("it is in a folder"))
                    .expect("the base can be written");
                std::fs::copy(library, to).expect("the library can be copied");
            }
        }
        Self(base)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Makes the images by the Dockerfiles of `deploy/images`, from the binaries that were built for the tests.
pub fn build_images(cluster: &Cluster) {
    let binaries =
        ["hearth-operator", "hearth-collector", "hearth-clickhouse", "hearth-node-agent"].map(binary);
    let engine = libchdb();
    let mut programs: Vec<&Path> = binaries.iter().map(PathBuf::as_path).collect();
    programs.push(&engine);
    let base = Base::of(&programs);
    let context = tempfile::tempdir().expect("a temporary folder can be made");
    for program in programs {
        let name = program.file_name().expect("a file");
        let to = context.path().join(name);
        // They are large, and most often on the same file system.
        std::fs::hard_link(program, &to)
            .or_else(|_| std::fs::copy(program, &to).map(drop))
            .expect("the context can be written");
    }
    for name in ["operator", "collector", "node-agent"] {
        let recipe = format!("{}/../deploy/images/{name}.Dockerfile", env!("CARGO_MANIFEST_DIR"));
        let reference = format!("kc.local/hearth-{name}:test");
        let (context, base) = (context.path().to_str(), base.path().to_str());
        let arguments = ["build", &reference, &recipe, context.expect("text"), base.expect("text")];
        let output = cluster.kcluster(arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// An image with one program, which runs as its first process.
pub fn program_image(cluster: &Cluster, reference: &str, program: &Path, arguments: &[&str]) {
    let base = Base::of(&[program]);
    let name = program.file_name().and_then(|name| name.to_str()).expect("a name of text");
    std::fs::copy(program, base.path().join(name)).expect("the image's folder can be written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(base.path().join(name), executable).expect("its mode can be set");
    let command = format!("/{name}");
    cluster.image(reference, base.path(), &[&[command.as_str()], arguments].concat());
}

/// Installs the CRDs, once or again.
pub fn install_kinds(cluster: &Cluster) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
    cluster.kubectl(&["apply", "-f", folder]);
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", folder]);
}

/// Applies the manifests and waits until everything is ready.
pub fn install(cluster: &Cluster, overlay: &str) {
    build_images(cluster);
    std::fs::create_dir_all(cluster.state().join("collector")).expect("the volume can be made");
    cluster.kubectl(&["apply", "-k", overlay]);
    for workload in
        ["deployment/hearth-operator", "statefulset/hearth-collector", "daemonset/hearth-node-agent"]
    {
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "status", workload, "--timeout=120s"]);
    }
}

/// A port of this machine that leads to one of a pod.
pub struct Forwarded {
    child: Child,
    /// Here.
    pub address: SocketAddr,
}

impl Forwarded {
    /// Leads to `port` of a pod or workload in Hearth's namespace.
    pub fn to(cluster: &Cluster, target: &str, port: u16) -> Self {
        let mut command = cluster.kubectl_command();
        command.args(["-n", NAMESPACE, "port-forward", target, &format!(":{port}")]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut line).expect("kubectl prints text");
        // Forwarding from 127.0.0.1:40123 -> 20416
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("kubectl port-forward {target}: {line:?}"));
        // It prints a line for each connection.
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(drop));
        Self { child, address }
    }

    /// The collector of the cluster.
    pub fn collector(cluster: &Cluster) -> (Self, Collector) {
        let forwarded = Self::to(cluster, "statefulset/hearth-collector", 20416);
        let collector = Collector::at(forwarded.address);
        (forwarded, collector)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        // It may have ended with its pod.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The metrics of one node's agent, asked at its pod's address: also while the API server is away.
pub struct AgentMetrics {
    endpoint: Collector,
}

impl AgentMetrics {
    /// Of the agent that runs on a node now.
    pub fn of(cluster: &Cluster, node: &str) -> Self {
        let address = wait_for("the node's agent", || {
            let field = format!("--field-selector=spec.nodeName={node},status.phase=Running");
            let path = "jsonpath={.items[0].status.podIP}";
            let app = "app.kubernetes.io/name=hearth-node-agent";
            let output =
                cluster.kubectl_with(&["-n", NAMESPACE, "get", "pods", "-l", app, &field, "-o", path], "");
            String::from_utf8_lossy(&output.stdout).parse::<IpAddr>().ok()
        });
        Self { endpoint: Collector::at(SocketAddr::from((address, 20419))) }
    }

    /// A metric by its name and labels, as it is written; empty if there is none.
    pub fn get(&self, name: &str) -> String {
        let text = self.endpoint.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_default().to_owned()
    }

    /// A counter; 0 if it never counted.
    pub fn count(&self, name: &str) -> u64 {
        self.get(name).parse().unwrap_or(0)
    }
}
