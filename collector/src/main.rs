//! Wires the command line to the library.

use std::process::ExitCode;

use clap::Parser as _;
use hearth_collector::cli::{Cli, Command, SchemaArgs};
use hearth_collector::{schema, serve};
use hearth_program::{USAGE, asked_to_stop, start_log};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, serve: args } = Cli::parse();
    let checked = match &command {
        Some(Command::Schema(SchemaArgs { retention, .. })) => retention.check(),
        None => args.check(),
    };
    if let Err(refused) = checked {
        eprintln!("error: {refused}");
        return ExitCode::from(USAGE);
    }
    if let Some(Command::Schema(SchemaArgs { replicated: _, clickhouse_cluster, retention })) = command {
        let retention = retention.into();
        let ddl = clickhouse_cluster
            .map_or_else(|| schema::ddl(retention), |cluster| schema::cluster_ddl(retention, &cluster));
        print!("{ddl}");
        return ExitCode::SUCCESS;
    }
    start_log();
    let stop = CancellationToken::new();
    let outcome = match stop_on_signals(stop.clone()) {
        Ok(()) => serve::serve(args, stop).await,
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let asked = asked_to_stop()?;
    tokio::spawn(async move {
        let signal = asked.await;
        tracing::info!("{signal}: storing what is queued, then stopping");
        stop.cancel();
    });
    Ok(())
}
