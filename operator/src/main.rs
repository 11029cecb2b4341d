//! `hearth-operator`: wires the command line to the library.

use std::process::ExitCode;

use clap::Parser as _;
use hearth_operator::cli::Cli;
use hearth_operator::service::run;
use hearth_program::{USAGE, asked_to_stop, start_log};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(refused) = cli.check() {
        eprintln!("error: {refused}");
        return ExitCode::from(USAGE);
    }
    start_log();
    let stop = CancellationToken::new();
    let outcome = match stop_on_signals(stop.clone()) {
        Ok(()) => run(cli, stop).await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let asked = asked_to_stop()?;
    tokio::spawn(async move {
        let signal = asked.await;
        tracing::info!("{signal}: giving the lease back, then stopping");
        stop.cancel();
    });
    Ok(())
}
