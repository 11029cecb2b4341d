//! Helm, and the chart that users install by it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::{Cluster, text};

/// The folder of Helm; `scripts/setup-helm.sh` puts it there.
const BIN: &str = "HEARTH_HELM";
/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/hearth");

/// Helm as the administrator of a cluster.
pub struct Helm<'a> {
    cluster: &'a Cluster,
    program: PathBuf,
}

impl<'a> Helm<'a> {
    /// For this cluster.
    ///
    /// # Panics
    /// It is not set up.
    pub fn of(cluster: &'a Cluster) -> Self {
        let folder = std::env::var_os(BIN).map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| panic!("{BIN} is not set: run make e2e, or make test"));
        Self { cluster, program: folder.join("helm") }
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs it.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", self.cluster.kubeconfig());
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.cluster.state().join("helm"));
        }
        command.output().expect("helm runs")
    }

    /// What it prints.
    ///
    /// # Panics
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "helm {}: {}", arguments.join(" "), text(&output));
        String::from_utf8(output.stdout).expect("helm prints text")
    }
}
