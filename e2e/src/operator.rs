//! `hearth-operator` as a process of this machine, which reaches the API server by a kubeconfig.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::collector::free_port;
use crate::daemon::{Daemon, bound_to_us};

/// A running operator; killed when dropped.
pub struct Operator {
    daemon: Daemon,
}

/// How operators of one test are called, and where they listen: another process of the same identity is the
/// same container, started again.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    grpc: SocketAddr,
    metrics: SocketAddr,
    issues_certificates: bool,
}

impl Identity {
    /// With ports that are free now.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), grpc: free_port(), metrics: free_port(), issues_certificates: false }
    }

    /// One that makes certificates, and serves by TLS.
    #[must_use]
    pub fn issuing_certificates(self) -> Self {
        Self { issues_certificates: true, ..self }
    }

    /// Its arguments, with its lease in `namespace`.
    pub fn arguments(&self, namespace: &str) -> Vec<String> {
        let Self { name, grpc, metrics, issues_certificates } = self;
        let (grpc, metrics) = (grpc.to_string(), metrics.to_string());
        let arguments =
            ["--namespace", namespace, "--pod-name", name, "--grpc", &grpc, "--metrics", &metrics];
        arguments
            .into_iter()
            .chain(issues_certificates.then_some("--issue-certificates"))
            .map(str::to_owned)
            .collect()
    }

    /// Where its metrics are.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// Where agents connect.
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// The same, by TLS.
    pub fn tls_url(&self) -> String {
        format!("https://{}", self.grpc)
    }
}

impl Operator {
    /// Starts `program` with its lease in `namespace`; its log is in `folder`.
    pub fn start(
        program: &Path,
        identity: &Identity,
        kubeconfig: &Path,
        namespace: &str,
        folder: &Path,
    ) -> Self {
        let mut command: Command = bound_to_us(program);
        command.env("KUBECONFIG", kubeconfig);
        command.args(identity.arguments(namespace));
        Self { daemon: Daemon::start(&identity.name, command, folder) }
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Its process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Ends it at once, without a word.
    pub fn kill(mut self) {
        self.daemon.signal(libc::SIGKILL);
        self.daemon.wait();
    }
}
