//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;
use hearth_identity::Account;
use hearth_program::{GrpcOpen, GrpcPort, check_grpc, duration};

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
        # in a pod, with certificates that it makes for itself and the collector\n  \
        hearth-operator --grpc 0.0.0.0:20418 --issue-certificates --agent-account hearth/hearth-node-agent \\\n    \
            --advertise $POD_IP:20418 --pod-name $POD_NAME\n\n  \
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

    /// The service account that agents must have: each proves by its pod's token which node it is on.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "HEARTH_OPERATOR_AGENT_ACCOUNT")]
    pub agent_account: Option<Account>,

    /// The audience of those tokens.
    #[arg(long, value_name = "AUDIENCE", env = "HEARTH_OPERATOR_AGENT_AUDIENCE", default_value = "hearth",
          value_parser = NonEmptyStringValueParser::new())]
    pub agent_audience: String,

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

    /// Make a CA and certificates for the operator and the collector, keep them in this operator's namespace, renew
    /// them at two thirds of their time, and serve agents by TLS.
    #[arg(long, env = "HEARTH_OPERATOR_ISSUE_CERTIFICATES", conflicts_with = "tls_cert")]
    pub issue_certificates: bool,

    /// The Service by which agents reach the operator. Its CA is in the Secret and the ConfigMap NAME-ca.
    #[arg(
        long,
        value_name = "NAME",
        env = "HEARTH_OPERATOR_OPERATOR_SERVICE",
        default_value = "hearth-operator",
        value_parser = service
    )]
    pub operator_service: String,

    /// The Service by which agents and the API server reach the collector. Its certificate is in the Secret NAME-tls.
    #[arg(
        long,
        value_name = "NAME",
        env = "HEARTH_OPERATOR_COLLECTOR_SERVICE",
        default_value = "hearth-collector",
        value_parser = service
    )]
    pub collector_service: String,

    /// How long a CA is valid that is made from now on: at least three times --certificate-life, so that what it has
    /// signed can end before it does.
    #[arg(
        long,
        value_name = "TIME",
        env = "HEARTH_OPERATOR_CA_LIFE",
        default_value = "8760h",
        value_parser = life
    )]
    pub ca_life: Duration,

    /// How long a certificate is valid that is made from now on, from 1h: a third of it has to be enough for kubelets
    /// to bring the next one to the collector's pod.
    #[arg(
        long,
        value_name = "TIME",
        env = "HEARTH_OPERATOR_CERTIFICATE_LIFE",
        default_value = "720h",
        value_parser = life
    )]
    pub certificate_life: Duration,
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Everybody could speak to the port.
    #[error(transparent)]
    Grpc(#[from] GrpcOpen),
    /// What a CA has signed could not end before it does.
    #[error(
        "--ca-life {}h is less than three times --certificate-life {}h: give a longer one, or a shorter \
         --certificate-life",
        hours(.ca),
        hours(.certificate)
    )]
    Lives {
        /// As given.
        ca: Duration,
        /// As given.
        certificate: Duration,
    },
}

fn hours(duration: &Duration) -> u64 {
    duration.as_secs() / 3600
}

impl Cli {
    /// What clap cannot see.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), Refused> {
        check_grpc(GrpcPort {
            address: self.grpc,
            tls: self.tls_cert.is_some() || self.issue_certificates,
            account: self.agent_account.is_some(),
            insecure: self.grpc_insecure,
        })?;
        let Self { ca_life: ca, certificate_life: certificate, .. } = *self;
        if self.issue_certificates && ca < certificate * 3 {
            return Err(Refused::Lives { ca, certificate });
        }
        Ok(())
    }
}

/// As the API server takes it, and no longer than what is made of it may be.
fn service(name: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let fits = (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|byte| inner(*byte));
    if fits {
        Ok(name.to_owned())
    } else {
        Err("is not the name of a Service, such as hearth-operator".to_owned())
    }
}

fn life(text: &str) -> Result<Duration, String> {
    // Ten years at most: nobody remembers for longer what is to be done then.
    let (least, most) = (Duration::from_secs(3600), Duration::from_secs(3650 * 86_400));
    duration(text)
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| "is not a time from 1h to 87600h, such as 720h".to_owned())
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
        let outcome = match Cli::try_parse_from(arguments) {
            Ok(cli) => cli.check().map_or_else(|refused| refused.to_string(), |()| "ok".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(outcome.contains(expected), "{outcome}");
    }

    #[test]
    fn a_ca_lives_three_times_as_long_as_what_it_signs() {
        check("--issue-certificates", "ok");
        check("--issue-certificates --certificate-life 1h --ca-life 3h", "ok");
        check("--issue-certificates --ca-life 90d", "ok");
        check(
            "--issue-certificates --ca-life 89d",
            "--ca-life 2136h is less than three times --certificate-life 720h",
        );
        check("--certificate-life 59m", "is not a time from 1h to 87600h, such as 720h");
        check("--certificate-life never", "is not a time from 1h to 87600h, such as 720h");
        check("--ca-life 87601h", "is not a time from 1h to 87600h, such as 720h");
    }

    #[test]
    fn services_have_names_that_the_api_server_takes() {
        check("--operator-service prod-hearth-operator --collector-service c2", "ok");
        for name in ["Hearth", "-a", "a-", "a.b", "", &"a".repeat(64)] {
            let arguments = ["hearth-operator", &format!("--operator-service={name}")];
            let refused = Cli::try_parse_from(arguments).unwrap_err().to_string();
            assert!(refused.contains("is not the name of a Service"), "{name}: {refused}");
        }
    }

    #[test]
    fn a_network_is_listened_to_only_where_that_is_asked_for() {
        check("", "ok");
        check("--grpc 0.0.0.0:1", "--grpc 0.0.0.0:1 is not a loopback address");
        check("--grpc 0.0.0.0:1 --grpc-insecure", "ok");
        check("--grpc 0.0.0.0:1 --tls-cert c --tls-key k", "agents need not prove who they are");
        check("--grpc 0.0.0.0:1 --tls-cert c --tls-key k --grpc-insecure", "ok");
        check("--grpc 0.0.0.0:1 --issue-certificates", "agents need not prove who they are");
        check("--issue-certificates --tls-cert c --tls-key k", "cannot be used with '--tls-cert <FILE>'");
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
    fn an_account_of_agents_has_a_namespace() {
        let parse = |account| Cli::try_parse_from(["hearth-operator", "--agent-account", account]);
        assert_eq!(parse("a/b").unwrap().agent_account.unwrap().to_string(), "a/b");
        let refused = parse("b").unwrap_err().to_string();
        assert!(refused.contains("--agent-account") && refused.contains("write NAMESPACE/NAME"), "{refused}");
    }

    #[test]
    fn help_has_examples_and_names_the_variable_of_the_log() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("HEARTH_LOG"), "{help}");
    }
}
