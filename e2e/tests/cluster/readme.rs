//! The README's section on Kubernetes, followed to the letter: its commands, one after the other, by a shell.

use std::process::Command;

use hearth_e2e::Cluster;
use hearth_e2e::cluster::text;
use hearth_e2e::daemon::{binary, wait_for};
use hearth_e2e::hearth::build_images_as;
use hearth_e2e::helm::Helm;
use libtest_mimic::Trial;

use crate::on_cluster;
use crate::profiles::Workload;

const README: &str = include_str!("../../../README.md");
const SECTION: &str = "## On Kubernetes\n";
/// What the README calls its reader's registry, and the Deployment to be looked at.
const REGISTRY: &str = "registry.example.com/hearth";
const DEPLOYMENT: &str = "web";
/// Builds of a release, and for the reader's own registry: the tests' builds are there in their place.
const BUILDS: [&str; 2] =
    ["HEARTH_REGISTRY=registry.example.com/hearth make images", "cargo install --path kubectl-hearth"];
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn tests() -> Vec<Trial> {
    vec![on_cluster("readme::its_kubernetes_section_ends_in_a_flame_graph", |cluster| {
        build_images_as(cluster, REGISTRY, "latest");
        let reader = Reader::of(cluster);
        let commands = commands();
        let built = commands.iter().filter(|command| BUILDS.contains(command)).count();
        assert_eq!(built, BUILDS.len(), "{commands:?}");
        let rest: Vec<&str> = commands.into_iter().filter(|command| !BUILDS.contains(command)).collect();
        assert!(rest.iter().any(|command| command.starts_with("helm install ")), "{rest:?}");
        let (flame, before) = rest.split_last().unwrap();
        before.iter().for_each(|command| drop(reader.types(command)));
        // The first window is stored ten seconds after its beginning.
        wait_for("a flame graph", || {
            let printed = reader.try_to_type(flame).ok()?;
            printed.contains(&reader.workload.inner).then(|| println!("$ {flame}\n{printed}"))
        });
    })]
}

/// The commands of the section's code blocks, without their comments.
fn commands() -> Vec<&'static str> {
    let section = README.split_once(SECTION).expect("the README has the section").1;
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let commands = blocks.flat_map(str::lines).map(|line| line.split(" #").next().unwrap().trim());
    commands.filter(|command| !command.is_empty()).collect()
}

/// Somebody with a cluster that gives volumes, and a Deployment to look at.
struct Reader<'a> {
    cluster: &'a Cluster,
    workload: Workload,
    /// Where the programs are that the README takes for granted.
    path: tempfile::TempDir,
}

impl<'a> Reader<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let folder = cluster.state().join("readme");
        std::fs::create_dir_all(&folder).unwrap();
        cluster.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: readme}}\n\
             spec:\n  capacity: {{storage: 20Gi}}\n  accessModes: [ReadWriteOnce]\n  local: {{path: {}}}\n\
             \x20 nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions:\n\
             \x20   [{{key: kubernetes.io/hostname, operator: In, values: [node1]}}]}}]}}}}\n",
            folder.display(),
        ));
        let workload = Workload::new(cluster, "nginx");
        cluster.apply(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {DEPLOYMENT}, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: {DEPLOYMENT}}}}}\n  template:\n\
             \x20   metadata: {{labels: {{app: {DEPLOYMENT}}}}}\n\
             \x20   spec: {{containers: [{{name: main, image: \"{}\"}}]}}\n",
            workload.image,
        ));
        let path = tempfile::tempdir().unwrap();
        let helm = Helm::of(cluster);
        let programs = [("kubectl", cluster.kubectl_path()), ("helm", helm.program().to_owned())];
        for (name, program) in programs.into_iter().chain([("kubectl-hearth", binary("kubectl-hearth"))]) {
            std::os::unix::fs::symlink(program, path.path().join(name)).unwrap();
        }
        Self { cluster, workload, path }
    }

    /// What the command prints.
    fn types(&self, command: &str) -> String {
        println!("$ {command}");
        self.try_to_type(command).unwrap_or_else(|said| panic!("{command}: {said}"))
    }

    fn try_to_type(&self, command: &str) -> Result<String, String> {
        let path = format!("{}:{}", self.path.path().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-ec", command]).current_dir(ROOT).env("PATH", path);
        shell.env("KUBECONFIG", self.cluster.kubeconfig()).env("HELM_CACHE_HOME", self.path.path());
        let output = shell.output().unwrap();
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }
}

impl Drop for Reader<'_> {
    /// Those after it install Hearth by its manifests.
    fn drop(&mut self) {
        Helm::of(self.cluster).output(&[
            "uninstall",
            "hearth",
            "-n",
            "hearth",
            "--ignore-not-found",
            "--wait",
        ]);
        let kinds =
            ["profilingpolicies.profiling.hearth.dev", "clusterprofilingpolicies.profiling.hearth.dev"];
        let deployment = format!("deployment/{DEPLOYMENT}");
        for what in
            [&["namespace", "hearth"][..], &["pv", "readme"], &[&deployment], &["crd", kinds[0], kinds[1]]]
        {
            let delete = ["delete", "--ignore-not-found", "--timeout=60s"];
            self.cluster.kubectl_with(&[&delete[..], what].concat(), "");
        }
    }
}
