//! Wires the command line to the library.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use hearth_clickhouse::cli::Cli;
use hearth_clickhouse::engine::Engine;
use hearth_clickhouse::http::{Server, serve};
use hearth_clickhouse::metrics::Metrics;
use hearth_program::{asked_to_stop, start_log};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// How long the stop may take in all.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How long reads may take once we are asked to stop; INSERTs have all of it.
const READ_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(&cli));
    // A query that outlived the stop must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> anyhow::Result<()> {
    let asked = asked_to_stop().context("cannot catch SIGTERM and SIGINT")?;
    let credentials = cli.credentials()?;
    // The port first: taking it is cheap, starting the engine is not.
    let listener = TcpListener::bind(cli.http).await.with_context(|| format!("--http {}", cli.http))?;
    let address = listener.local_addr().context("--http")?;

    tracing::info!("starting the engine on {}", cli.data_dir.display());
    let engine =
        Engine::start(&cli.data_dir, cli.libchdb.as_deref(), cli.max_concurrent, cli.queue_timeout())?;
    tracing::info!("ClickHouse {} answers on http://{address}/", engine.version());
    let server = Arc::new(Server {
        engine: Arc::clone(&engine),
        limits: cli.limits(),
        credentials,
        metrics: Metrics::default(),
    });

    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, server, async {
        stopping.await.expect("the sender is dropped only after sending");
    }));
    tokio::select! {
        signal = asked => tracing::info!("{signal}: finishing running queries"),
        () = stdin_end(cli.stop_with_stdin) => {
            tracing::info!("the process that started us is gone: finishing running queries");
        }
    }
    stop.send(()).expect("the server lives until it is told to stop");
    // Idle keep-alive connections end at once.
    let deadline = Instant::now() + STOP_PATIENCE;
    let ended = async {
        let served = tokio::time::timeout_at(deadline, serving).await;
        tokio::time::timeout_at(deadline, engine.idle()).await.map(|()| served.is_ok())
    };
    let ended = tokio::select! {
        ended = ended => ended,
        never = engine.end_reads(READ_PATIENCE) => match never {},
    };
    match ended {
        Ok(true) => {}
        Ok(false) => tracing::warn!("some clients did not finish within {STOP_PATIENCE:?}"),
        // Parts are written whole, so what is cut off here is lost, not broken.
        Err(_) => anyhow::bail!("a statement did not end within {STOP_PATIENCE:?}"),
    }
    engine.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Resolves when standard input ends; never unless `wanted`.
async fn stdin_end(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: the runtime could not stop while one of its own reads.
    std::thread::spawn(move || {
        let outcome = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        if let Err(error) = outcome {
            tracing::warn!("reading standard input: {error}");
        }
        // Nobody listens any more when another signal was faster.
        drop(ended);
    });
    // The sender is dropped, never used: the error is the news.
    end.await.expect_err("nothing is ever sent");
}
