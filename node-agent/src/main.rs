//! `hearth-node-agent`: wires the command line to the library.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use hearth_node_agent::cli::Cli;
use hearth_node_agent::service::{Failure, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // kube says of each request that it failed; what matters of that is said where it is known for how long.
    let filter = EnvFilter::try_from_env("HEARTH_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client::client::builder=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();

    // Sampling has a thread of its own: one more is enough for the collector's stream and the metrics.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(Failure::Other(anyhow::Error::new(error).context("cannot start the runtime"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Policy(error)) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
