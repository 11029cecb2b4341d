//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, value_parser};
use hearth_identity::Account;
use hearth_program::{GrpcOpen, GrpcPort, check_grpc, duration};

use crate::query::Limits;
use crate::rollup::{LEAST_MINUTE, LEAST_RAW};
use crate::schema::Retention;

/// Receives profiles, stores them in ClickHouse, answers questions about them.
#[derive(Debug, Parser)]
#[command(name = "hearth-collector", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the DDL of the tables
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema(SchemaArgs),
}

/// Which DDL.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Replicated tables, and tables over all shards, instead of those of one server
    #[arg(long, env = "HEARTH_COLLECTOR_REPLICATED", requires = "clickhouse_cluster")]
    pub replicated: bool,
    /// Name of the ClickHouse cluster, as its servers' remote_servers has it
    #[arg(long, visible_alias = "cluster", env = "HEARTH_COLLECTOR_CLICKHOUSE_CLUSTER", requires = "replicated", value_parser = cluster)]
    pub clickhouse_cluster: Option<String>,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionArgs,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, Args)]
pub struct RetentionArgs {
    /// How long raw rows are kept: 72h, 3d; at least 3h
    #[arg(long, env = "HEARTH_COLLECTOR_RETENTION_RAW", default_value = "72h", value_parser = retention_raw)]
    pub retention_raw: Duration,
    /// How long rows by the minute are kept: 14d; at least 26h
    #[arg(long, env = "HEARTH_COLLECTOR_RETENTION_MINUTE", default_value = "14d", value_parser = retention)]
    pub retention_minute: Duration,
    /// How long rows by the hour, and what was lost, are kept: 90d
    #[arg(long, env = "HEARTH_COLLECTOR_RETENTION_HOUR", default_value = "90d", value_parser = retention)]
    pub retention_hour: Duration,
}

/// How to serve.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address of the API and the page
    #[arg(long, env = "HEARTH_COLLECTOR_HTTP", default_value = "127.0.0.1:20416")]
    pub http: SocketAddr,
    /// Address that agents send to
    #[arg(long, env = "HEARTH_COLLECTOR_GRPC", default_value = "127.0.0.1:20417")]
    pub grpc: SocketAddr,
    /// File with the bearer token that --http asks for; needed beyond the loopback addresses
    #[arg(long, env = "HEARTH_COLLECTOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Address where /metrics, /healthz and /readyz are served as well, without a token
    #[arg(long, env = "HEARTH_COLLECTOR_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Use this ClickHouse, such as https://clickhouse:8443, instead of the embedded one
    #[arg(long, env = "HEARTH_COLLECTOR_CLICKHOUSE_URL", required_unless_present = "data_dir",
          conflicts_with_all = ["data_dir", "libchdb", "clickhouse_http"])]
    pub clickhouse_url: Option<String>,
    /// File with the CA, in PEM, of that ClickHouse's certificate, for https:// URLs
    #[arg(long, env = "HEARTH_COLLECTOR_CLICKHOUSE_CA", requires = "clickhouse_url")]
    pub clickhouse_ca: Option<PathBuf>,
    /// User of that ClickHouse
    #[arg(long, env = "HEARTH_COLLECTOR_CLICKHOUSE_USER", requires = "clickhouse_url")]
    pub clickhouse_user: Option<String>,
    /// File with that user's password
    #[arg(long, env = "HEARTH_COLLECTOR_CLICKHOUSE_PASSWORD_FILE", requires = "clickhouse_url")]
    pub clickhouse_password_file: Option<PathBuf>,
    /// Run the embedded ClickHouse, with its data here
    #[arg(long, env = "HEARTH_COLLECTOR_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the embedded ClickHouse; its password is in DATA_DIR/clickhouse-password
    #[arg(long, env = "HEARTH_COLLECTOR_CLICKHOUSE_HTTP", default_value = "127.0.0.1:8123")]
    pub clickhouse_http: SocketAddr,
    /// Engine of the embedded ClickHouse [beside hearth-clickhouse, else where scripts/setup-chdb.sh puts it]
    #[arg(long, env = "HEARTH_COLLECTOR_LIBCHDB")]
    pub libchdb: Option<PathBuf>,
    /// Address of the aggregated API and of the API for bearer tokens, by TLS: the API server says who asks, and what
    /// they may see
    #[arg(long, env = "HEARTH_COLLECTOR_HTTPS", requires = "tls_cert")]
    pub https: Option<SocketAddr>,
    /// Certificate of --grpc and --https in PEM, with those between it and its CA; both files are read again when
    /// they change
    #[arg(long, env = "HEARTH_COLLECTOR_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of --tls-cert, in PEM
    #[arg(long, env = "HEARTH_COLLECTOR_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Take agents of other hosts also where they need not prove who they are or nothing is encrypted: for
    /// networks that you trust
    #[arg(long, env = "HEARTH_COLLECTOR_GRPC_INSECURE")]
    pub grpc_insecure: bool,
    /// The service account that agents must have: each proves by its pod's token which node it is on
    #[arg(long, value_name = "NAMESPACE/NAME", env = "HEARTH_COLLECTOR_AGENT_ACCOUNT")]
    pub agent_account: Option<Account>,
    /// The audience of those tokens
    #[arg(long, env = "HEARTH_COLLECTOR_AGENT_AUDIENCE", default_value = "hearth",
          value_parser = NonEmptyStringValueParser::new())]
    pub agent_audience: String,
    /// pod_cluster of all rows [in a pod: the UID of the namespace kube-system, else what each agent says]
    #[arg(long, env = "HEARTH_COLLECTOR_CLUSTER")]
    pub cluster: Option<String>,
    /// Length of the agents' windows: a query begins at the start of one
    #[arg(long, env = "HEARTH_COLLECTOR_WINDOW", default_value = "10s", value_parser = window)]
    pub window: Duration,
    /// What a query may take.
    #[command(flatten)]
    pub query: QueryArgs,
    /// Between two looks for hours and days that are to be rolled up
    #[arg(long, env = "HEARTH_COLLECTOR_ROLLUP_CHECK", default_value = "60s", value_parser = short_time, hide = true)]
    pub rollup_check: Duration,
    /// How long an hour or a day is over before it is rolled up
    #[arg(long, env = "HEARTH_COLLECTOR_ROLLUP_AFTER", default_value = "5m", value_parser = short_time, hide = true)]
    pub rollup_after: Duration,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionArgs,
}

/// What a query may take. Beyond it there is an error that says so, never a cut answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct QueryArgs {
    /// Most rows of a query, one for each stack and thread: some 600 bytes each in the collector
    #[arg(long, env = "HEARTH_COLLECTOR_QUERY_MAX_ROWS", default_value = "500000",
          value_parser = value_parser!(u64).range(1..=100_000_000))]
    pub query_max_rows: u64,
    /// Most bytes of rows or stacks that a query gets from ClickHouse: 64MiB, 1GiB
    #[arg(long, env = "HEARTH_COLLECTOR_QUERY_MAX_BYTES", default_value = "256MiB", value_parser = size)]
    pub query_max_bytes: u64,
    /// Most memory that a query's statement takes in ClickHouse: 512MiB, 4GiB
    #[arg(long, env = "HEARTH_COLLECTOR_QUERY_MAX_MEMORY", default_value = "1GiB", value_parser = size)]
    pub query_max_memory: u64,
    /// How long a query's statement may run
    #[arg(long, env = "HEARTH_COLLECTOR_QUERY_TIMEOUT", default_value = "30s", value_parser = short_time)]
    pub query_timeout: Duration,
    /// Queries answered at once; one more waits a second for its turn
    #[arg(long, env = "HEARTH_COLLECTOR_QUERY_CONCURRENT", default_value = "4",
          value_parser = value_parser!(u16).range(1..=1000))]
    pub query_concurrent: u16,
}

const EXAMPLES: &str = "\
Examples:
  hearth-collector --data-dir /var/lib/hearth              with the embedded ClickHouse
  hearth-collector --clickhouse-url https://clickhouse:8443 --clickhouse-ca /etc/hearth/clickhouse-ca.crt \\
                   --clickhouse-user hearth --clickhouse-password-file /etc/hearth/password
  hearth-collector --data-dir /var/lib/hearth --https 0.0.0.0:20443 --tls-cert tls.crt --tls-key tls.key
                                                           in Kubernetes, for whoever has the right
  hearth-collector schema --retention-raw 7d               the tables it makes
  curl 'http://127.0.0.1:20416/api/v1/flamegraph?app_service=Total&format=folded'

HEARTH_LOG sets how much is logged: error, warn, info, debug [info].
Exit codes: 0 stopped, 1 failure, 2 usage.";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  hearth-collector schema > schema.sql
  hearth-collector schema --retention-raw 7d | clickhouse-client --multiquery
  hearth-collector schema --replicated --clickhouse-cluster prod";

/// A command line that parses and is refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Everybody on the network could read all profiles.
    #[error("--http {0} is not a loopback address: give --token-file, or listen on 127.0.0.1")]
    HttpWithoutToken(SocketAddr),
    /// Everybody on the network could write.
    #[error(transparent)]
    GrpcOpen(#[from] GrpcOpen),
    /// There is no other protocol.
    #[error("--clickhouse-url {0} must begin with https://, or http:// for a network that you trust")]
    ClickhouseScheme(String),
    /// Anybody could say that they are it.
    #[error("--clickhouse-url {0} needs --clickhouse-ca, the file with the CA of its certificate")]
    ClickhouseWithoutCa(String),
    /// Nothing would be verified by it.
    #[error(
        "--clickhouse-ca is of no use for --clickhouse-url {0}: begin that with https://, or leave the CA out"
    )]
    ClickhouseCaWithoutTls(String),
    /// Everybody on the network could read along.
    #[error("--clickhouse-http {0} is not a loopback address: the embedded ClickHouse has no TLS")]
    ClickhouseWithoutTls(SocketAddr),
    /// Its address must be known before it starts.
    #[error("--clickhouse-http {0}: give the port")]
    ClickhousePort(SocketAddr),
    /// What is finer is not kept longer: rollups are made from it, and answer for what it no longer can.
    #[error("{finer} keeps longer than {coarser}: give {coarser} at least as long a time")]
    Retention {
        /// The flag of the finer rows.
        finer: &'static str,
        /// The flag of the coarser rows.
        coarser: &'static str,
    },
}

impl RetentionArgs {
    /// What clap cannot see.
    pub fn check(&self) -> Result<(), Refused> {
        let Self { retention_raw, retention_minute, retention_hour } = *self;
        if retention_raw > retention_minute {
            return Err(Refused::Retention { finer: "--retention-raw", coarser: "--retention-minute" });
        }
        if retention_minute > retention_hour {
            return Err(Refused::Retention { finer: "--retention-minute", coarser: "--retention-hour" });
        }
        Ok(())
    }
}

impl ServeArgs {
    /// What clap cannot see.
    pub fn check(&self) -> Result<(), Refused> {
        if !self.http.ip().is_loopback() && self.token_file.is_none() {
            return Err(Refused::HttpWithoutToken(self.http));
        }
        check_grpc(GrpcPort {
            address: self.grpc,
            tls: self.tls_cert.is_some(),
            account: self.agent_account.is_some(),
            insecure: self.grpc_insecure,
        })?;
        if let Some(url) = &self.clickhouse_url {
            let refused = match (url.split_once("://"), &self.clickhouse_ca) {
                (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => None,
                (Some(("http", _)), Some(_)) => Some(Refused::ClickhouseCaWithoutTls(url.clone())),
                (Some(("https", _)), None) => Some(Refused::ClickhouseWithoutCa(url.clone())),
                (Some(_) | None, _) => Some(Refused::ClickhouseScheme(url.clone())),
            };
            if let Some(refused) = refused {
                return Err(refused);
            }
        }
        if !self.clickhouse_http.ip().is_loopback() {
            return Err(Refused::ClickhouseWithoutTls(self.clickhouse_http));
        }
        if self.clickhouse_http.port() == 0 {
            return Err(Refused::ClickhousePort(self.clickhouse_http));
        }
        self.retention.check()
    }
}

impl QueryArgs {
    /// How long an answer may take until it is read: one of several statements, each as long as it may be.
    pub fn answer_patience(self) -> Duration {
        self.query_timeout * 4 + Duration::from_secs(60)
    }

    /// The bounds of a question, for windows of this length.
    pub fn limits(self, window_seconds: u32) -> Limits {
        let Self { query_max_rows, query_max_bytes, query_max_memory, query_timeout, query_concurrent } =
            self;
        Limits {
            max_rows: query_max_rows,
            max_bytes: query_max_bytes,
            max_memory: query_max_memory,
            max_execution_seconds: query_timeout.as_secs(),
            concurrent: query_concurrent.into(),
            window_seconds,
            ..Limits::default()
        }
    }
}

impl From<RetentionArgs> for Retention {
    fn from(args: RetentionArgs) -> Self {
        let RetentionArgs { retention_raw: raw, retention_minute: minute, retention_hour: hour } = args;
        Self { raw, minute, hour }
    }
}

fn retention_raw(text: &str) -> Result<Duration, String> {
    kept(text, LEAST_RAW, "72h")
}

fn retention(text: &str) -> Result<Duration, String> {
    kept(text, LEAST_MINUTE, "14d")
}

/// With less than `least` nothing would ever be rolled up.
fn kept(text: &str, least: Duration, example: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(3650 * 86_400);
    duration(text).filter(|duration| (least..=most).contains(duration)).ok_or_else(|| {
        let hours = least.as_secs() / 3600;
        format!("is not a time from {hours}h to 3650d, such as {example}")
    })
}

/// It stands between quotes in the DDL.
fn cluster(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("is not a name of letters, digits, _, - and .".to_owned())
    }
}

/// Other windows would not begin at multiples of their length, from which questions are answered.
fn window(text: &str) -> Result<Duration, String> {
    let divides_an_hour = |window: &Duration| 3600_u64.is_multiple_of(window.as_secs());
    short_time(text)
        .ok()
        .filter(divides_an_hour)
        .ok_or_else(|| "is not a whole part of an hour from 1s to 1h, such as 10s".to_owned())
}

fn short_time(text: &str) -> Result<Duration, String> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
    duration(text)
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| "is not a time from 1s to 1h, such as 10s".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let parse = |(unit, shift): &(&str, u32)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << shift)
    };
    units
        .iter()
        .find_map(parse)
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "is not a size from 1MiB to 1024GiB, such as 256MiB".to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Arguments, and a part of what is said about them ("ok" if they are taken).
    fn check(arguments: &str, expected: &str) {
        let arguments = std::iter::once("hearth-collector").chain(arguments.split_whitespace());
        let outcome = match Cli::try_parse_from(arguments) {
            Err(error) => error.to_string(),
            Ok(Cli { command, serve }) => {
                let checked = match command {
                    Some(Command::Schema(schema)) => schema.retention.check(),
                    None => serve.check(),
                };
                checked.map_or_else(|refused| refused.to_string(), |()| "ok".into())
            }
        };
        assert!(outcome.contains(expected), "{outcome}");
    }

    #[test]
    fn what_is_taken_and_what_is_not() {
        check("--data-dir d", "ok");
        check("--clickhouse-url http://c:8123", "ok");
        check("--clickhouse-url https://c:8443 --clickhouse-ca ca.crt", "ok");
        check("--clickhouse-url https://c:8443", "--clickhouse-url https://c:8443 needs --clickhouse-ca");
        check("--clickhouse-url http://c:8123 --clickhouse-ca ca.crt", "begin that with https://");
        check("--clickhouse-url c:8123", "--clickhouse-url c:8123 must begin with https://");
        check("--clickhouse-url tcp://c:9000", "must begin with https://");
        check("--clickhouse-url http://c:8123 --clickhouse-http 127.0.0.1:1", "cannot be used with");
        check("", "--clickhouse-url <CLICKHOUSE_URL>");
        check("--data-dir d --clickhouse-url http://c:8123", "cannot be used with");
        check("--data-dir d --http 0.0.0.0:1", "give --token-file");
        check("--data-dir d --http 0.0.0.0:1 --token-file t", "ok");
        check("--data-dir d --http [::1]:1", "ok");
        check("--data-dir d --grpc 0.0.0.0:1", "--grpc 0.0.0.0:1 is not a loopback address");
        check("--data-dir d --grpc 0.0.0.0:1 --grpc-insecure", "ok");
        check("--data-dir d --grpc 0.0.0.0:1 --tls-cert c --tls-key k", "agents need not prove who they are");
        check("--data-dir d --https 0.0.0.0:1 --tls-cert c --tls-key k", "ok");
        check("--data-dir d --https 0.0.0.0:1", "--tls-cert <TLS_CERT>");
        check("--data-dir d --https 0.0.0.0:1 --tls-cert c", "--tls-key <TLS_KEY>");
        check("--data-dir d --tls-cert c", "--tls-key <TLS_KEY>");
        check("--data-dir d --tls-key k", "--tls-cert <TLS_CERT>");
        check("--data-dir d --grpc 0.0.0.0:1 --tls-cert c --tls-key k --agent-account a/b", "ok");
        check("--data-dir d --agent-account hearth/hearth-node-agent", "ok");
        check("--data-dir d --agent-account hearth-node-agent", "write NAMESPACE/NAME");
        check("--data-dir d --agent-audience=", "--agent-audience");
        check("--data-dir d --clickhouse-http 0.0.0.0:1", "no TLS");
        check("--data-dir d --clickhouse-http 127.0.0.1:0", "give the port");
        check("--data-dir d --retention-raw 2h", "from 3h");
        check("--data-dir d --retention-raw 3µ", "from 3h");
        check("--data-dir d --retention-raw 3h --retention-minute 26h --retention-hour 26h", "ok");
        check("--data-dir d --retention-raw 3h --retention-minute 25h", "from 26h to 3650d");
        check("--data-dir d --retention-raw 3h --retention-minute 25h", "--retention-minute");
        check("--data-dir d --retention-raw 7d --window 30s", "ok");
        for window in ["0s", "7s", "25m", "2h", "x"] {
            check(&format!("--data-dir d --window {window}"), "a whole part of an hour from 1s to 1h");
        }
        check("--data-dir d --window 1h", "ok");
        check("--data-dir d --query-max-rows 0", "0 is not in 1..=100000000");
        check("--data-dir d --query-max-memory 4GiB --query-timeout 2m --query-concurrent 16", "ok");
        for size in ["0MiB", "1023KiB", "1025GiB", "5", "5MB", "-1MiB", "99999999999999999999MiB"] {
            check(&format!("--data-dir d --query-max-bytes={size}"), "from 1MiB to 1024GiB");
        }
        check("--data-dir d --query-timeout 0s", "from 1s");
        check("--data-dir d --query-concurrent 0", "0 is not in 1..=1000");
    }

    #[test]
    fn the_bounds_of_a_query_are_what_the_flags_say() {
        let limits = |arguments: &[&str]| {
            let usual = ["hearth-collector", "--data-dir", "d"];
            let cli = Cli::try_parse_from(usual.iter().chain(arguments)).unwrap();
            cli.serve.query.limits(10)
        };
        assert_eq!(limits(&[]), Limits::default());
        let flags = "--query-max-rows 7 --query-max-bytes 2MiB --query-max-memory 3GiB --query-timeout 4m --query-concurrent 5";
        let expected = Limits {
            max_rows: 7,
            max_bytes: 2 << 20,
            max_memory: 3 << 30,
            max_execution_seconds: 240,
            concurrent: 5,
            ..Limits::default()
        };
        assert_eq!(limits(&flags.split(' ').collect::<Vec<_>>()), expected);
    }

    #[test]
    fn what_is_coarser_is_kept_at_least_as_long() {
        check("--data-dir d --retention-raw 14d", "ok");
        check("--data-dir d --retention-raw 15d", "--retention-raw keeps longer than --retention-minute");
        check("--data-dir d --retention-minute 91d", "--retention-minute keeps longer than --retention-hour");
        check("schema --retention-raw 90d --retention-minute 90d", "ok");
        check("schema --retention-hour 10d", "--retention-minute keeps longer than --retention-hour");
    }

    #[test]
    fn replicated_tables_need_a_cluster_and_a_cluster_needs_them() {
        check("schema --replicated --clickhouse-cluster prod-1", "ok");
        check("schema --replicated --cluster prod", "ok");
        check("schema --replicated", "--clickhouse-cluster <CLICKHOUSE_CLUSTER>");
        check("schema --clickhouse-cluster prod", "--replicated");
        check("schema --replicated --clickhouse-cluster it's", "letters, digits");
    }

    #[test]
    fn help_has_examples_and_names_the_variable_of_the_log() {
        let command = Cli::command();
        let help = command.clone().render_long_help().to_string();
        assert!(help.contains("HEARTH_LOG"), "{help}");
        for mut command in command.get_subcommands().chain([&command]).cloned() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }

    #[test]
    fn every_flag_has_its_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        let subcommands = command.get_subcommands().flat_map(clap::Command::get_arguments);
        for argument in command
            .get_arguments()
            .chain(subcommands)
            .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        {
            let flag = argument.get_long().unwrap();
            let variable = format!("HEARTH_COLLECTOR_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), variable, "{flag}");
        }
    }
}
