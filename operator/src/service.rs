//! The operator as a whole: what `main` starts, and how it stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use hearth_identity::Agents;
use hearth_identity::api_server::client;
use hearth_tls::ServerTls;
use hearth_tls::http::serve_machines;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::certificates::{Keeper, Lives, Names, Readiness};
use crate::cli::{Cli, own_namespace};
use crate::grpc::Service;
use crate::grpc::port::{Port, Tls, serving_first};
use crate::http;
use crate::hub::Hub;
use crate::install::install;
use crate::lease::{self, Elector};
use crate::metrics::Metrics;
use crate::watch::follow_all;
use crate::writer::Writer;

/// How often it is looked whether a policy's duration is over.
const CLOCK_TICK: Duration = Duration::from_secs(1);
/// How long open streams and requests may take at the stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Works until `stop`; then gives the lease back and ends the streams.
pub async fn run(cli: Cli, stop: CancellationToken) -> anyhow::Result<()> {
    let Cli {
        grpc,
        tls_cert,
        tls_key,
        agent_account,
        agent_audience,
        advertise,
        namespace,
        metrics: metrics_address,
        pod_name,
        issue_certificates,
        operator_service,
        collector_service,
        ca_life,
        certificate_life,
        // It has been checked.
        grpc_insecure: _,
    } = cli;
    let brought = match tls_cert.zip(tls_key) {
        Some((cert, key)) => Some(
            ServerTls::followed(cert, key, stop.clone().cancelled_owned())
                .await
                .context("--tls-cert and --tls-key")?,
        ),
        None => None,
    };
    let grpc = Port::bind(grpc)?;
    let http = bind("--metrics", metrics_address).await?;
    let address = advertise.map_or_else(|| grpc.local_addr().map(|address| address.to_string()), Ok);
    let address = address.context("--grpc has no address")?;
    let pod = pod_name.map_or_else(host_name, Ok)?;
    let namespace = namespace.unwrap_or_else(own_namespace);
    let client = client().await?;
    let agents = agent_account.map(|account| {
        info!("agents are {account}, by tokens for the audience {agent_audience:?}");
        Agents::new(client.clone(), account, agent_audience)
    });

    let scheme = if brought.is_some() || issue_certificates { "https" } else { "http" };

    let hub = Arc::new(Hub::new(unix_seconds));
    let metrics = Arc::new(Metrics::default());
    let leases = Api::namespaced(client.clone(), &namespace);
    let holder = lease::holder(&pod, &address);
    info!("agents connect to {scheme}://{address}, metrics on http://{}/metrics", http.local_addr()?);
    info!("the lease is {namespace}/{}, and we are {holder}", lease::NAME);

    let elector = Elector::new(leases.clone(), holder, Arc::clone(&hub), Arc::clone(&metrics));
    let electing = tokio::spawn(elector.run(stop.clone()));
    let (tls, readiness, keeper) = if issue_certificates {
        let names = Names { namespace: namespace.clone(), operator_service, collector_service };
        let lives = Lives { ca: ca_life, certificate: certificate_life };
        let (readiness, (serve, first)) = (Readiness::waiting(), serving_first());
        let shared = (Arc::clone(&hub), Arc::clone(&metrics));
        let keeper =
            Keeper::new(client.clone(), names, lives, shared, unix_seconds, readiness.clone(), serve);
        (Tls::First(first), readiness, Some(keeper))
    } else {
        (brought.map_or(Tls::None, Tls::Brought), Readiness::default(), None)
    };
    let service = Service::new(Arc::clone(&hub), Arc::clone(&metrics), agents);
    let serving = tokio::spawn(grpc.serve(tls, service, metrics.tls_refused.clone(), stop.clone()));
    let router = http::router(Arc::clone(&metrics), Arc::clone(&hub), readiness);
    let refusals = metrics.tls_refused.of_another_port();
    let until = stop.clone();
    let answering = tokio::spawn(async move {
        serve_machines(http, refusals, router, until).await;
        Ok::<_, Infallible>(())
    });
    let writer = Writer::new(Arc::clone(&hub), client.clone(), pod, Arc::clone(&metrics));

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        // None of these ends by itself, but by a fault of ours; without it nothing works.
        () = follow_all(client.clone(), Arc::clone(&hub), Arc::clone(&metrics)) => Err("watches"),
        () = writer.run() => Err("the writer of statuses"),
        () = tick(&hub) => Err("the clock"),
        () = keep(keeper) => Err("the keeper of certificates"),
        () = install_and_wait(client, leases, Arc::clone(&hub), Arc::clone(&metrics)) => Err("the install"),
    };
    stop.cancel();
    // The lease first: with the lead the streams end, each with the reason.
    electing.await.context("the elector failed")?;
    within("gRPC", serving).await?;
    within("HTTP", answering).await?;
    ended.map_err(|what| anyhow::anyhow!("{what} ended"))
}

async fn keep(keeper: Option<Keeper>) {
    match keeper {
        Some(keeper) => keeper.run().await,
        None => std::future::pending().await,
    }
}

async fn install_and_wait(
    client: Client,
    leases: Api<k8s_openapi::api::coordination::v1::Lease>,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
) {
    install(client, leases, hub, metrics).await;
    std::future::pending().await
}

/// Wakes whom the end of a policy's duration touches.
async fn tick(hub: &Hub) {
    let mut last = hub.now();
    loop {
        tokio::time::sleep(CLOCK_TICK).await;
        let now = hub.now();
        let ended = hub.lock().index.next_end(last).is_some_and(|end| end <= now);
        if ended {
            hub.time_passed();
        }
        last = now;
    }
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({flag})"))
}

async fn within<E: Into<anyhow::Error>>(
    what: &str,
    task: tokio::task::JoinHandle<Result<(), E>>,
) -> anyhow::Result<()> {
    match tokio::time::timeout(STOP_PATIENCE, task).await {
        Ok(ended) => ended.with_context(|| format!("{what} failed"))?.map_err(Into::into),
        Err(_) => {
            warn!("{what} has not ended within {STOP_PATIENCE:?}: what is open is cut");
            Ok(())
        }
    }
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the host's name")?;
    let name = name.trim();
    anyhow::ensure!(!name.is_empty(), "this host has no name: give one with --pod-name");
    Ok(name.to_owned())
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
