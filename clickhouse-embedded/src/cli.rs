//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::http::{Credentials, Limits};

/// The ClickHouse engine behind ClickHouse's own HTTP interface.
#[derive(Debug, Parser)]
#[command(name = "hearth-clickhouse", version, after_help = EXAMPLES)]
pub struct Cli {
    /// Where the data lives; made if missing, locked while we run
    #[arg(long, env = "HEARTH_CLICKHOUSE_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one, which the log names
    #[arg(long, env = "HEARTH_CLICKHOUSE_HTTP", default_value = "127.0.0.1:8123")]
    pub http: SocketAddr,
    /// The engine [beside this program, else where scripts/setup-chdb.sh puts it]
    #[arg(long, env = "HEARTH_CLICKHOUSE_LIBCHDB")]
    pub libchdb: Option<PathBuf>,
    /// The only user
    #[arg(long, env = "HEARTH_CLICKHOUSE_USER", default_value = "default")]
    pub user: String,
    /// File with that user's password; without it everybody who reaches the port may ask
    #[arg(long, env = "HEARTH_CLICKHOUSE_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// Queries that run at once; more of them wait
    #[arg(long, env = "HEARTH_CLICKHOUSE_MAX_CONCURRENT", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub max_concurrent: u32,
    /// Seconds that a query waits for its turn before it is refused
    #[arg(long, env = "HEARTH_CLICKHOUSE_QUEUE_TIMEOUT", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub queue_timeout: u32,
    /// MiB of one request, as sent and decompressed
    #[arg(long, env = "HEARTH_CLICKHOUSE_MAX_BODY", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_body: u32,
    /// MiB of one result in a format that cannot be streamed (JSON, Parquet), or with wait_end_of_query=1
    #[arg(long, env = "HEARTH_CLICKHOUSE_MAX_RESULT", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub max_result: u32,
    /// Seconds that a client may be silent within its request, or take nothing of its answer
    #[arg(long, env = "HEARTH_CLICKHOUSE_CLIENT_TIMEOUT", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub client_timeout: u32,
    /// Stop when standard input ends: a parent that holds its other end takes us along however it dies
    #[arg(long, env = "HEARTH_CLICKHOUSE_STOP_WITH_STDIN")]
    pub stop_with_stdin: bool,
}

const EXAMPLES: &str = "\
Examples:
  hearth-clickhouse --data-dir /var/lib/hearth/clickhouse
  curl -d 'SELECT version()' http://127.0.0.1:8123/
  curl 'http://127.0.0.1:8123/?query=INSERT+INTO+t+FORMAT+CSV' --data-binary @rows.csv

HEARTH_LOG sets how much is logged: error, warn, info, debug [info].
Exit codes: 0 stopped, 1 failure, 2 usage.";

/// Why a command line that parses is refused.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Everybody on the network could read and write.
    #[error("--http {0} is not a loopback address: give --password-file, or listen on 127.0.0.1")]
    OpenToTheNetwork(SocketAddr),
    /// The password cannot be read.
    #[error("--password-file {path}: {source}")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
}

impl Cli {
    /// Who may ask. Without a password only a loopback address is taken.
    pub fn credentials(&self) -> Result<Option<Credentials>, CliError> {
        let Some(path) = &self.password_file else {
            return if self.http.ip().is_loopback() {
                Ok(None)
            } else {
                Err(CliError::OpenToTheNetwork(self.http))
            };
        };
        let password = std::fs::read_to_string(path)
            .map_err(|source| CliError::PasswordFile { path: path.clone(), source })?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Some(Credentials { user: self.user.clone(), password }))
    }

    /// How long a query waits for its turn.
    pub fn queue_timeout(&self) -> Duration {
        Duration::from_secs(self.queue_timeout.into())
    }

    /// What requests are held to.
    pub fn limits(&self) -> Limits {
        Limits {
            max_body: (self.max_body as usize) << 20,
            max_result_bytes: u64::from(self.max_result) << 20,
            client_timeout: Duration::from_secs(self.client_timeout.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_flag_has_its_variable() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let variable = format!("HEARTH_CLICKHOUSE_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().unwrap().to_str().unwrap(), variable, "{flag}");
        }
    }

    #[test]
    fn help_has_examples_and_names_the_variable_of_the_log() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("HEARTH_LOG"), "{help}");
    }
}
