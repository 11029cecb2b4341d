//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser};

use crate::pods::watch::PodArgs;
use crate::remote::{Credentials, Remote, RemoteError};

/// Samples the processes that a policy names and streams their stacks to a collector.
///
/// Needs root, or the capabilities BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH, SYSLOG and
/// CHECKPOINT_RESTORE, in the host's pid namespace.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "hearth-node-agent",
    version,
    after_help = "Examples:\n  \
        # profile this machine by a policy, with a collector beside it\n  \
        hearth-node-agent --policy policy.yaml --collector http://127.0.0.1:20417\n\n  \
        # the policy changed: it is read again by itself, and on SIGHUP\n  \
        kill -HUP $(pidof hearth-node-agent)\n\n  \
        # a node of a cluster: its policies come from the operator\n  \
        hearth-node-agent --operator https://hearth-operator.hearth:20418 --node $NODE_NAME \\\n    \
            --collector https://hearth-collector.hearth:20417 \\\n    \
            --ca /etc/hearth/ca/ca.crt --token-file /var/run/secrets/hearth/token\n\n  \
        # check a policy file without sampling anything\n  \
        hearth-node-agent --policy policy.yaml --check\n\n\
        HEARTH_LOG sets how much is logged: error, warn, info, debug [info].\n\
        Exit codes: 0 stopped or checked, 1 failure, 2 bad usage or policy."
)]
pub struct Cli {
    /// Where the policies come from.
    #[command(flatten)]
    pub source: Source,

    /// How pods are told.
    #[command(flatten)]
    pub pods: PodArgs,

    /// The collector's gRPC address.
    #[arg(
        long,
        value_name = "URL",
        env = "HEARTH_AGENT_COLLECTOR",
        default_value = "http://127.0.0.1:20417"
    )]
    pub collector: String,

    /// Whom the agent believes, and how it proves who it is.
    #[command(flatten)]
    pub credentials: Credentials,

    /// The name of this node in every row, and for the operator: in Kubernetes `spec.nodeName` of
    /// the agent's pod [default: the host name].
    #[arg(long, value_name = "NAME", env = "HEARTH_AGENT_NODE")]
    pub node: Option<String>,

    /// The name of the cluster in every row; without Kubernetes only.
    #[arg(long, value_name = "NAME", env = "HEARTH_AGENT_CLUSTER", default_value = "")]
    pub cluster: String,

    /// The highest rate any policy gets, in samples per second and CPU.
    #[arg(
        long,
        value_name = "HERTZ",
        env = "HEARTH_AGENT_MAX_FREQUENCY",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub max_frequency: u32,

    /// Samples are summed over this long: 1s to 60s, a divisor of a minute.
    #[arg(
        long,
        value_name = "DURATION",
        env = "HEARTH_AGENT_WINDOW",
        default_value = "10s",
        value_parser = window
    )]
    pub window: u32,

    /// Where the agent keeps what it must know after a restart: the operator's last configuration
    /// and what it told of other objects, whether the machine went down while it sampled, when policies with
    /// a `duration` were first accepted. One agent at a time has it: the next waits 15 s for its end [default: /var/lib/hearth/NODE].
    #[arg(long, value_name = "DIR", env = "HEARTH_AGENT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Sample again after the machine went down twice while the agent sampled. With an operator,
    /// change the node's annotation hearth.dev/resume instead.
    #[arg(long, env = "HEARTH_AGENT_RESUME", conflicts_with = "operator")]
    pub resume: bool,

    /// While this file is there, nothing is sampled.
    #[arg(long, value_name = "FILE", env = "HEARTH_AGENT_OFF_FILE", default_value = "/run/hearth/off")]
    pub off_file: PathBuf,

    /// What the agent may take of the CPUs, in percent of a core for each CPU: beyond it for 30 s
    /// the rate is halved.
    #[arg(
        long,
        value_name = "PERCENT",
        env = "HEARTH_AGENT_MAX_CPU_SHARE",
        default_value = "5",
        value_parser = percent
    )]
    pub max_cpu_share: f64,

    /// What waits for the collector is kept in this many bytes of memory; beyond it the
    /// oldest is dropped and counted as lost.
    #[arg(long, value_name = "BYTES", env = "HEARTH_AGENT_QUEUE_BYTES", default_value_t = 32 << 20)]
    pub queue_bytes: usize,

    /// Where /metrics, /healthz and /readyz are served. A taken port is replaced by a free one.
    #[arg(long, value_name = "ADDR", env = "HEARTH_AGENT_METRICS", default_value = "127.0.0.1:20419")]
    pub metrics: SocketAddr,

    /// Read the policy file, say what is wrong with it, and end.
    #[arg(long, env = "HEARTH_AGENT_CHECK", conflicts_with = "operator")]
    pub check: bool,
}

/// Where the policies come from: one of the two.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// The policies: YAML documents of kind ProfilingPolicy or ClusterProfilingPolicy. Read
    /// again when it changes and on SIGHUP; a file with errors leaves the old policies in force.
    #[arg(long, value_name = "FILE", env = "HEARTH_AGENT_POLICY")]
    pub policy: Option<PathBuf>,

    /// In Kubernetes: the operator's gRPC address. While it is away, the node goes on by what it
    /// had last, which is kept in the state folder.
    #[arg(long, value_name = "URL", env = "HEARTH_AGENT_OPERATOR")]
    pub operator: Option<String>,
}

impl Cli {
    /// What clap cannot see.
    ///
    /// # Errors
    /// An address that cannot be used so.
    pub fn check(&self) -> Result<(), RemoteError> {
        Remote::new("--collector", &self.collector, &self.credentials)?;
        if let Some(operator) = &self.source.operator {
            Remote::new("--operator", operator, &self.credentials)?;
        }
        Ok(())
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        Ok(_) | Err(_) => Err("write a number above 0 and up to 100, such as 5".to_owned()),
    }
}

fn window(text: &str) -> Result<u32, String> {
    let seconds = hearth_policy::Interval::parse(text).map_err(|error| error.to_string())?.seconds();
    if seconds == 0 || seconds > 60 || 60 % seconds != 0 {
        return Err("write 1s, 2s, 3s, 4s, 5s, 6s, 10s, 12s, 15s, 20s, 30s or 60s".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_flag_has_an_environment_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            assert!(argument.get_env().is_some(), "{} has none", argument.get_id());
        }
    }

    #[test]
    fn help_has_examples_and_names_the_variable_of_the_log() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("HEARTH_LOG"), "{help}");
    }

    #[test]
    fn policies_come_from_one_place() {
        let error = |arguments: &[&str]| {
            let parsed = Cli::try_parse_from([&["agent"], arguments].concat());
            parsed.unwrap_err().to_string()
        };
        let none = error(&[]);
        assert!(none.contains("--policy") && none.contains("--operator"), "{none}");
        for both in [
            &["--policy", "p", "--operator", "http://o"][..],
            &["--operator", "http://o", "--resume"],
            &["--operator", "http://o", "--check"],
        ] {
            let text = error(both);
            assert!(text.contains("cannot be used with"), "{text}");
        }
    }

    #[test]
    fn both_addresses_are_checked_before_anything_begins() {
        let check = |arguments: &str, expected: &str| {
            let cli = Cli::try_parse_from(["agent"].into_iter().chain(arguments.split(' '))).unwrap();
            let text = cli.check().map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            assert!(text.starts_with(expected), "{arguments}: {text}");
        };
        check("--policy p", "ok");
        check("--policy p --collector https://c", "--collector https://c needs --ca");
        check("--operator https://o", "--operator https://o needs --ca");
        check("--operator http://o --token-file t", "--token-file is not sent in the clear");
        check("--operator https://o --collector https://c --ca f --token-file t", "ok");
    }

    #[test]
    fn a_share_is_a_percentage() {
        let parse = |share: &str| Cli::try_parse_from(["agent", "--policy", "p", "--max-cpu-share", share]);
        assert_eq!(parse("0.5").unwrap().max_cpu_share, 0.5);
        for bad in ["0", "101", "-1", "NaN", "a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_window_divides_a_minute() {
        let parse = |window: &str| Cli::try_parse_from(["agent", "--policy", "p", "--window", window]);
        assert_eq!(parse("10s").unwrap().window, 10);
        assert_eq!(parse("1m").unwrap().window, 60);
        for bad in ["0s", "7s", "61s", "10", "1h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
