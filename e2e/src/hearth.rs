//! Hearth on a cluster, by the manifests that its users apply.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// What is in which image.
pub const IMAGES: [(&str, &[&str]); 3] = [
    ("operator", &["hearth-operator"]),
    ("collector", &["hearth-collector", "hearth-clickhouse"]),
    ("node-agent", &["hearth-node-agent"]),
];

/// Makes the images by the Dockerfiles of `deploy/images`, from the binaries that were built for the tests.
pub fn build_images(cluster: &Cluster) {
    build_images_as(cluster, "kc.local", "test");
}

/// The same, as images of this registry with this tag.
pub fn build_images_as(cluster: &Cluster, registry: &str, tag: &str) {
    let binaries = binary("hearth-operator");
    let folder = binaries.parent().expect("a binary is in a folder");
    for name in IMAGES.iter().flat_map(|(_, programs)| *programs) {
        binary(name);
    }
    build_images_of(cluster, folder, &libchdb(), registry, tag);
}

/// The same, of the binaries in a folder and this engine.
pub fn build_images_of(cluster: &Cluster, binaries: &Path, engine: &Path, registry: &str, tag: &str) {
    let programs = IMAGES.iter().flat_map(|(_, programs)| *programs).map(|name| binaries.join(name));
    let programs: Vec<PathBuf> = programs.chain([engine.to_owned()]).collect();
    let programs: Vec<&Path> = programs.iter().map(PathBuf::as_path).collect();
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
    for (name, _) in IMAGES {
        let recipe = format!("{}/../deploy/images/{name}.Dockerfile", env!("CARGO_MANIFEST_DIR"));
        let reference = format!("{registry}/hearth-{name}:{tag}");
        let (context, base) = (context.path().to_str(), base.path().to_str());
        let arguments = ["build", &reference, &recipe, context.expect("text"), base.expect("text")];
        let output = cluster.kcluster(arguments);
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// Name and bytes of each image, without its base.
pub fn image_sizes(binaries: &Path, engine: &Path) -> [(&'static str, u64); 3] {
    let bytes = |path: &Path| std::fs::metadata(path).expect("it was built").len();
    IMAGES.map(|(name, programs)| {
        let own: u64 = programs.iter().map(|program| bytes(&binaries.join(program))).sum();
        (name, own + if name == "collector" { bytes(engine) } else { 0 })
    })
}

/// An image with one program, which runs as its first process and has the mode that its file has.
pub fn program_image(cluster: &Cluster, reference: &str, program: &Path, arguments: &[&str]) {
    let base = Base::of(&[program]);
    let name = program.file_name().and_then(|name| name.to_str()).expect("a name of text");
    std::fs::copy(program, base.path().join(name)).expect("the image's folder can be written");
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

    /// The engine of that collector, for SQL.
    pub fn engine(cluster: &Cluster) -> (Self, Collector) {
        let forwarded = Self::to(cluster, "statefulset/hearth-collector", 8123);
        let collector = Collector::with_engine_at(forwarded.address, &cluster.state().join("collector/data"));
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

/// What selects the pods of agents.
const AGENTS: [&str; 4] = ["-n", NAMESPACE, "-l", "app.kubernetes.io/name=hearth-node-agent"];

/// A field of the pod of a node's agent, by its path such as `.metadata.uid`; `None`: no pod of it runs.
pub fn agent_pod(cluster: &Cluster, node: &str, field: &str) -> Option<String> {
    let selector = format!("--field-selector=spec.nodeName={node},status.phase=Running");
    let path = format!("jsonpath={{.items[0]{field}}}");
    let output = cluster.kubectl_with(&[&["get", "pods", &selector, "-o", &path], &AGENTS[..]].concat(), "");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the agent of a node has logged since it started.
pub fn agent_log(cluster: &Cluster, node: &str) -> String {
    let name = wait_for("the node's agent", || agent_pod(cluster, node, ".metadata.name"));
    cluster.kubectl(&["-n", NAMESPACE, "logs", &name])
}

/// What the agent of a node proves by that it runs there: a token of now.
pub fn agent_token(cluster: &Cluster, node: &str) -> String {
    let pod = wait_for("the node's agent", || agent_pod(cluster, node, ".metadata.name"));
    let bound = format!("--bound-object-name={pod}");
    let token =
        ["create", "token", "hearth-node-agent", "--audience=hearth", "--bound-object-kind=Pod", &bound];
    cluster.kubectl(&[&["-n", NAMESPACE], &token[..]].concat()).trim().to_owned()
}

/// The certificates that agents trust, as PEM.
pub fn authority(cluster: &Cluster) -> String {
    let path = "jsonpath={.data.ca\\.crt}";
    cluster.kubectl(&["-n", NAMESPACE, "get", "configmap", "hearth-operator-ca", "-o", path])
}

/// The addresses of the operators that run now.
pub fn operator_pods(cluster: &Cluster) -> Vec<IpAddr> {
    let path = "jsonpath={.items[*].status.podIP}";
    let operators = ["-l", "app.kubernetes.io/name=hearth-operator", "--field-selector=status.phase=Running"];
    let addresses =
        cluster.kubectl(&[&["-n", NAMESPACE, "get", "pods", "-o", path], &operators[..]].concat());
    addresses.split_whitespace().map(|address| address.parse().expect("an address")).collect()
}

/// The address of the collector's pod.
pub fn collector_pod(cluster: &Cluster) -> IpAddr {
    let path = "jsonpath={.status.podIP}";
    let address = cluster.kubectl(&["-n", NAMESPACE, "get", "pod", "hearth-collector-0", "-o", path]);
    address.parse().expect("the pod has an address")
}

/// What the operators that run now have logged.
pub fn operator_log(cluster: &Cluster) -> String {
    let operators = ["-l", "app.kubernetes.io/name=hearth-operator", "--tail=-1", "--prefix"];
    cluster.kubectl(&[&["-n", NAMESPACE, "logs"], &operators[..]].concat())
}

/// Deletes the pod of a node's agent, with whatever else the arguments ask for. Its DaemonSet makes another one.
pub fn delete_agent(cluster: &Cluster, node: &str, arguments: &[&str]) {
    let selector = format!("--field-selector=spec.nodeName={node}");
    cluster.kubectl(&[&["delete", "pods", &selector], &AGENTS[..], arguments].concat());
}

/// How often the containers of Hearth's pods were started again, by pod.
pub fn restarts(cluster: &Cluster) -> BTreeMap<String, String> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    let text = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", path]);
    let pods = text.lines().filter_map(|line| line.split_once(' '));
    pods.map(|(name, count)| (name.to_owned(), count.to_owned())).collect()
}

/// The metrics of one node's agent, asked at its pod's address: also while the API server is away.
pub struct AgentMetrics {
    endpoint: Collector,
}

impl AgentMetrics {
    /// Of the agent that runs on a node now, once it answers.
    pub fn of(cluster: &Cluster, node: &str) -> Self {
        let address = wait_for("the node's agent", || {
            let address: IpAddr = agent_pod(cluster, node, ".status.podIP")?.parse().ok()?;
            let address = SocketAddr::from((address, 20419));
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok().then_some(address)
        });
        Self { endpoint: Collector::at(address) }
    }

    /// The code of what `GET path` answers.
    pub fn status(&self, path: &str) -> u16 {
        self.endpoint.get(path).status
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
