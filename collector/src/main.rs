//! Wires the command line to the library.

use std::process::ExitCode;

use clap::Parser as _;
use hearth_collector::cli::{Cli, Command, SchemaArgs};
use hearth_collector::{schema, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a command line that makes no sense; clap's own.
const USAGE: u8 = 2;

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
    tracing_subscriber::fmt()
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: storing what is queued, then stopping");
        stop.cancel();
    });
    Ok(())
}
