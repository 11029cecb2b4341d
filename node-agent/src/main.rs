//! `hearth-node-agent`: wires the command line to the library.

use std::process::ExitCode;

use clap::Parser;
use hearth_node_agent::cli::Cli;
use hearth_node_agent::service::{Failure, run};
use hearth_program::{USAGE, start_log};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(refused) = cli.check() {
        eprintln!("error: {refused}");
        return ExitCode::from(USAGE);
    }
    start_log();

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
            ExitCode::from(USAGE)
        }
        Err(Failure::Other(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
