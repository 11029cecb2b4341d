//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use hearth_program::{GrpcOpen, GrpcPort, check_grpc};

/// Where a pod finds the namespace that it runs in.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Where the lease is outside a pod.
const DEFAULT_NAMESPACE: &str = "hearth";

/// Watches policies, tells each node what to profile, and writes how it goes into their status.
///
/// Reaches the API server as a pod does, or by KUBECONFIG. Of several operators one leads; the others
/// stand by and tell agents where it is.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "hearth-operator",
    version,
    after_help = "Examples:\n  \
        # in a pod that agents reach by its address\n  \
        hearth-operator --grpc 0.0.0.0:20418 --grpc-insecure --advertise $POD_IP:20418 --pod-name $POD_NAME\n\n  \
        # on your own machine, against the cluster of your kubeconfig\n  \
        hearth-operator --namespace hearth\n\n\
        HEARTH_LOG sets how much is logged: error, warn, info, debug [info].\n\
        Exit codes: 0 stopped, 1 failure, 2 bad usage."
)]
pub struct Cli {
    /// Where agents connect.
    #[arg(long, value_name = "ADDR", env = "HEARTH_OPERATOR_GRPC", default_value = "127.0.0.1:20418")]
    pub grpc: SocketAddr,

    /// The certificate of --grpc in PEM, with those between it and its CA. Both files are read again when they change.
    #[arg(long, value_name = "FILE", env = "HEARTH_OPERATOR_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, in PEM.
    #[arg(long, value_name = "FILE", env = "HEARTH_OPERATOR_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Take agents of other hosts also where they need not prove who they are or nothing is encrypted: for networks
    /// that you trust.
    #[arg(long, env = "HEARTH_OPERATOR_GRPC_INSECURE")]
    pub grpc_insecure: bool,

    /// The address that a standby tells agents when this operator leads [default: that of --grpc].
    #[arg(long, value_name = "ADDR", env = "HEARTH_OPERATOR_ADVERTISE")]
    pub advertise: Option<String>,

    /// The namespace of the lease by which operators agree who leads [default: the pod's own, or hearth].
    #[arg(long, value_name = "NAMESPACE", env = "HEARTH_OPERATOR_NAMESPACE")]
    pub namespace: Option<String>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, value_name = "ADDR", env = "HEARTH_OPERATOR_METRICS", default_value = "127.0.0.1:20421")]
    pub metrics: SocketAddr,

    /// This operator's name in the lease and in Events, different for each [default: the host name].
    #[arg(long, value_name = "NAME", env = "HEARTH_OPERATOR_POD_NAME")]
    pub pod_name: Option<String>,
}

impl Cli {
    /// What clap cannot see.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), GrpcOpen> {
        check_grpc(GrpcPort {
            address: self.grpc,
            tls: self.tls_cert.is_some(),
            account: false,
            insecure: self.grpc_insecure,
        })
    }
}

/// The namespace that a pod runs in; outside a pod that of the manifests.
pub fn own_namespace() -> String {
    match std::fs::read_to_string(NAMESPACE_FILE) {
        Ok(namespace) if !namespace.trim().is_empty() => namespace.trim().to_owned(),
        // No pod, or one without a service account's files.
        Ok(_) | Err(_) => DEFAULT_NAMESPACE.to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_flag_has_an_environment_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            assert!(argument.get_env().is_some(), "{} has none", argument.get_id());
        }
    }

    fn check(arguments: &str, expected: &str) {
        let arguments = std::iter::once("hearth-operator").chain(arguments.split_whitespace());
        let outcome = Cli::try_parse_from(arguments).unwrap().check();
        let outcome = outcome.map_or_else(|refused| refused.to_string(), |()| "ok".to_owned());
        assert!(outcome.contains(expected), "{outcome}");
    }

    #[test]
    fn a_network_is_listened_to_only_where_that_is_asked_for() {
        check("", "ok");
        check("--grpc 0.0.0.0:1", "--grpc 0.0.0.0:1 is not a loopback address");
        check("--grpc 0.0.0.0:1 --grpc-insecure", "ok");
        check("--grpc 0.0.0.0:1 --tls-cert c --tls-key k", "agents need not prove who they are");
        check("--grpc 0.0.0.0:1 --tls-cert c --tls-key k --grpc-insecure", "ok");
    }

    #[test]
    fn a_certificate_needs_its_key_and_a_key_its_certificate() {
        let refused = |flag: &str| {
            let parsed = Cli::try_parse_from(["hearth-operator", flag, "f"]);
            parsed.unwrap_err().to_string()
        };
        assert!(refused("--tls-cert").contains("--tls-key <FILE>"));
        assert!(refused("--tls-key").contains("--tls-cert <FILE>"));
    }

    #[test]
    fn help_has_examples_and_names_the_variable_of_the_log() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("HEARTH_LOG"), "{help}");
    }
}
