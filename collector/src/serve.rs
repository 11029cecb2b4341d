//! The collector as a whole: what `main` starts, and how it stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use clickhouse::Client;
use hearth_identity::{Agents, api_server};
use hearth_tls::http::{Limits, serve_machines, serve_router};
use hearth_tls::{Bounds, Listener, ServerTls};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::{AccessMetrics, Behind, Https};
use crate::auth::Token;
use crate::cli::ServeArgs;
use crate::cluster::{self, ClusterError};
use crate::embedded::{self, Embedded, EmbeddedConfig, Password};
use crate::external;
use crate::http::{self, HttpMetrics, QueryState, Reader};
use crate::ingest::Ingest;
use crate::ingest::limits::{MAX_CONNECTION_STREAMS, MAX_CONNECTIONS};
use crate::metrics::Metrics;
use crate::query::Scope;
use crate::rollup::{self, RollupMetrics};
use crate::schema::{self, SchemaError};
use crate::store::{Queue, Writer, WriterConfig};
use crate::store_check::{self, StoreError};

/// How long somebody else's ClickHouse may take to answer at our start.
const CLICKHOUSE_PATIENCE: Duration = Duration::from_secs(60);
/// How long what is queued may take to be stored at the stop.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);
/// How long a rollup is being built at most: what is older was left by a builder that died.
const ROLLUP_ABANDONED: Duration = Duration::from_secs(3600);
/// Connections of `--http`: those who ask, with what their browsers keep open, or all of them behind one proxy.
const READERS: Bounds = Bounds { connections: 512, unproven_per_address: 256, ..Bounds::USUAL };
/// How long a connection of `--http` may be idle: longer than proxies keep theirs, usually a minute, so that none asks on
/// one that is just being closed.
const READERS_IDLE: Duration = Duration::from_secs(75);
/// How long open requests may take at the stop.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// What is listened to.
struct Ports {
    http: TcpListener,
    grpc: TcpListener,
    /// That of gRPC.
    tls: Option<ServerTls>,
    https: Option<Https>,
    metrics: Option<TcpListener>,
}

/// Serves until `stop`, then stores what is queued and stops the engine.
pub async fn serve(args: ServeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let token = args.token_file.as_deref().map(Token::read).transpose()?;
    let certificate = args.tls_cert.clone().zip(args.tls_key.clone());
    let tls = match certificate.clone() {
        Some((cert, key)) => Some(
            ServerTls::followed(cert, key, stop.clone().cancelled_owned())
                .await
                .context("--tls-cert and --tls-key")?,
        ),
        None => None,
    };
    let agents = agents(&args).await?;
    // The ports first: taking them is cheap, starting the engine is not.
    let http = bind("--http", args.http).await?;
    let grpc = bind("--grpc", args.grpc).await?;
    let metrics = match args.metrics {
        Some(address) => Some(bind("--metrics", address).await?),
        None => None,
    };
    let https = match args.https {
        Some(address) => Some(Https::bind(address, certificate, stop.clone()).await?),
        None => None,
    };
    let ports = Ports { http, grpc, tls, https, metrics };
    let (client, embedded) = tokio::select! {
        store = open_store(&args) => store?,
        () = stop.cancelled() => return Ok(()),
    };
    let cluster = tokio::select! {
        cluster = name_of_cluster(&args) => cluster,
        () = stop.cancelled() => Ok(None),
    };
    let served = match cluster {
        Ok(cluster) => with_store(&args, cluster, token, agents, ports, client, stop).await,
        Err(error) => Err(error.into()),
    };
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    served
}

async fn with_store(
    args: &ServeArgs,
    cluster: Option<String>,
    token: Option<Token>,
    agents: Option<Agents>,
    Ports { http, grpc, tls, https, metrics: machines }: Ports,
    client: Client,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    schema::apply(&client, args.retention.into()).await.map_err(with_remedy)?;
    let client = client.with_database("profile");

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let rollup_metrics = RollupMetrics::register(&mut registry);
    let http_metrics = HttpMetrics::register(&mut registry);
    let access_metrics = AccessMetrics::register(&mut registry);
    let window_seconds = u32::try_from(args.window.as_secs()).context("--window")?;
    let limits = args.query.limits(window_seconds);
    let state = QueryState::new(client.clone(), limits, http_metrics, Arc::new(registry));
    let for_machines = http::for_machines(state.clone());
    let refusals = metrics.tls_refused.clone();
    let request = args.query.answer_patience();
    let behind = Behind {
        state: state.clone(),
        cluster: cluster.clone(),
        metrics: access_metrics,
        refusals: refusals.clone(),
        request,
    };
    let refusals_in_the_clear = refusals.of_another_port();
    let letting_in = https.map(|https| https.start(behind, stop.clone())).transpose()?;
    let router = for_everybody(state, token);

    let (queue, receiver) = Queue::new();
    let config = WriterConfig { cluster, stop_patience: FLUSH_PATIENCE };
    let rollups = rollup::Config {
        check: args.rollup_check,
        after: args.rollup_after,
        abandoned_after: ROLLUP_ABANDONED,
        retention: args.retention.into(),
    };
    let builder = rollup::Builder::new(client.clone(), rollups, rollup_metrics);
    let writer = Writer::new(client, config, metrics.clone(), receiver);
    let ingest = Ingest::new(queue, metrics, args.retention.retention_raw, stop.clone()).with_agents(agents);

    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("agents send to {scheme}://{}", grpc.local_addr().context("--grpc")?);
    tracing::info!("questions are answered on http://{}/", http.local_addr().context("--http")?);
    if let Some(machines) = &machines {
        tracing::info!("metrics on http://{}/metrics", machines.local_addr().context("--metrics")?);
    }
    let mut writing = tokio::spawn(writer.run(stop.clone()));
    let building = tokio::spawn(builder.run(stop.clone()));
    let receiving = tokio::spawn(
        tonic::transport::Server::builder()
            // A node that vanished must not hold its stream for ever.
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .max_concurrent_streams(Some(MAX_CONNECTION_STREAMS))
            .add_service(ingest.into_server())
            .serve_with_incoming_shutdown(
                Listener::grpc(grpc, tls, refusals).with_bounds(Bounds::held(MAX_CONNECTIONS)),
                stop.clone().cancelled_owned(),
            ),
    );
    let listener = Listener::plain(http, refusals_in_the_clear.of_another_port()).with_bounds(READERS);
    let limits = Limits { head: READERS_IDLE, request, ..Limits::default() };
    let answering = spawn(serve_router(listener, limits, router, stop.clone()));
    let telling =
        machines.map(|tcp| spawn(serve_machines(tcp, refusals_in_the_clear, for_machines, stop.clone())));

    let left = tokio::select! {
        // It ends by itself only by a fault of ours; without it nothing works.
        written = &mut writing => {
            stop.cancel();
            written
        }
        () = stop.cancelled() => writing.await,
    };
    let left = left.context("the writer failed")?;
    building.await.context("the builder of rollups failed")?;
    within(REQUEST_PATIENCE, receiving).await.context("gRPC")?;
    within(REQUEST_PATIENCE, answering).await.context("HTTP")?;
    if let Some(letting_in) = letting_in {
        within(REQUEST_PATIENCE, letting_in).await.context("HTTPS")?;
    }
    if let Some(telling) = telling {
        within(REQUEST_PATIENCE, telling).await.context("metrics")?;
    }
    // Not lost: unacknowledged, so the agents send them again.
    anyhow::ensure!(left == 0, "{left} batches could not be stored within {FLUSH_PATIENCE:?}");
    Ok(())
}

/// As a server that may fail.
fn spawn(server: impl Future<Output = ()> + Send + 'static) -> JoinHandle<Result<(), Infallible>> {
    tokio::spawn(async {
        server.await;
        Ok(())
    })
}

/// Who proves agents; `None`: nobody has to.
async fn agents(args: &ServeArgs) -> anyhow::Result<Option<Agents>> {
    let Some(account) = args.agent_account.clone() else { return Ok(None) };
    let client = api_server::client().await.context("--agent-account")?;
    tracing::info!("agents are {account}, by tokens for the audience {:?}", args.agent_audience);
    Ok(Some(Agents::new(client, account, args.agent_audience.clone())))
}

/// What is answered on `--http`: loopback, or whoever has the token.
fn for_everybody(state: QueryState, token: Option<Token>) -> Router {
    let router = http::router(state, Reader::anybody(Scope::All));
    // A page whose name points here does not know the token.
    let router = http::browser::protect(router, token.is_none());
    match token {
        Some(token) => token.protect(router),
        None => router,
    }
}

/// `pod_cluster` of all rows; `None`: what each agent says.
async fn name_of_cluster(args: &ServeArgs) -> Result<Option<String>, ClusterError> {
    match &args.cluster {
        Some(cluster) => Ok(Some(cluster.clone())),
        None => cluster::of_this_pod(args.data_dir.as_deref()).await,
    }
}

async fn open_store(args: &ServeArgs) -> anyhow::Result<(Client, Option<Embedded>)> {
    if let Some(url) = &args.clickhouse_url {
        let ca = args.clickhouse_ca.as_deref();
        let mut client = external::client(url, ca).await.context("--clickhouse-ca")?;
        if external::in_clear_text(url) {
            tracing::warn!(
                "--clickhouse-url {url}: profiles and the password are sent in clear text; use https:// and --clickhouse-ca"
            );
        }
        if let Some(user) = &args.clickhouse_user {
            client = client.with_user(user);
        }
        if let Some(path) = &args.clickhouse_password_file {
            let password = std::fs::read_to_string(path)
                .with_context(|| format!("--clickhouse-password-file {}", path.display()))?;
            client = client.with_password(password.trim_end_matches(['\r', '\n']));
        }
        wait_for(&client).await.with_context(|| format!("--clickhouse-url {url}"))?;
        return Ok((client, None));
    }
    let data_dir = args.data_dir.clone().context("--data-dir is missing")?;
    let password = Password::of(&data_dir)?;
    let password_file = password.file().display().to_string();
    let config = EmbeddedConfig {
        program: embedded::find_program(),
        data_dir,
        http: args.clickhouse_http,
        libchdb: args.libchdb.clone(),
        password: Some(password),
    };
    let embedded = Embedded::start(config).await?;
    tracing::info!("SQL is answered on {}/ with the password in {password_file}", embedded.url());
    Ok((embedded.client(), Some(embedded)))
}

/// Waits for a ClickHouse that is not there yet. What it refuses does not change
/// by waiting.
async fn wait_for(client: &Client) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut said = false;
    loop {
        let error = match store_check::check(client).await {
            Err(StoreError::Unreachable(error)) => error,
            done => return done,
        };
        // Not a last question that could take longer than that.
        if started.elapsed() + store_check::QUESTION_PATIENCE > CLICKHOUSE_PATIENCE {
            return Err(StoreError::Unreachable(error));
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!("ClickHouse does not answer yet, waiting for {CLICKHOUSE_PATIENCE:?}: {error}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn with_remedy(error: SchemaError) -> anyhow::Error {
    let remedy = match &error {
        SchemaError::Statement { source: clickhouse::error::Error::BadResponse(answer), .. } => {
            store_check::remedy(answer)
        }
        SchemaError::Statement { .. } | SchemaError::Newer { .. } => None,
    };
    match remedy {
        Some(remedy) => anyhow::Error::new(error).context(remedy),
        None => error.into(),
    }
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

/// The outcome of a server, or its end by force once the patience is over.
async fn within<E: std::error::Error + Send + Sync + 'static>(
    patience: Duration,
    server: JoinHandle<Result<(), E>>,
) -> anyhow::Result<()> {
    let abort = server.abort_handle();
    match tokio::time::timeout(patience, server).await {
        Ok(outcome) => Ok(outcome??),
        Err(_) => {
            tracing::warn!("some requests did not end within {patience:?}");
            abort.abort();
            Ok(())
        }
    }
}
