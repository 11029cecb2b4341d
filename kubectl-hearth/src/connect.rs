//! From the command line's flags to a client: as kubectl does it, or to a collector alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hearth_program::{is_loopback, with_causes};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::error::Failure;
use crate::surface::{Access, Surface};
use crate::time::Span;

/// Whom to ask, and as whom: kubectl's own flags, and `--server`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// The namespace [default: the context's]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// All namespaces, which needs a right on the whole cluster
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The kubeconfig [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Ask as this user; the API server decides whether you may
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Ask as a member of this group; may be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// How long one request may take
    #[arg(long, global = true, value_name = "TIME", default_value = "60s")]
    pub request_timeout: Option<Span>,
    /// Ask this collector, without Kubernetes
    #[arg(long, global = true, value_name = "URL",
          conflicts_with_all = ["kubeconfig", "context", "cluster", "user", "impersonate", "impersonate_groups"])]
    pub server: Option<String>,
    /// With --server: a file with the token that it asks for
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
    /// With --server https://…: certificates to trust [default: the system's]
    #[arg(long, global = true, value_name = "FILE", requires = "server")]
    pub ca: Option<PathBuf>,
    /// Where Hearth runs, for what is said about its agents
    #[arg(long, global = true, value_name = "NAME", default_value = "hearth")]
    pub hearth_namespace: String,
}

/// Connects nowhere yet: the first request does.
pub(crate) async fn surface(connection: &Connection) -> Result<Surface, Failure> {
    let mut config = match &connection.server {
        Some(url) => of_server(connection, url)?,
        None => of_kubeconfig(connection).await?,
    };
    // A collector that is away is news for the user now, not after minutes of trying.
    config.default_retry = false;
    let timeout = Duration::from_secs(connection.request_timeout.unwrap_or(Span(60)).0.unsigned_abs());
    config.connect_timeout = Some(timeout.min(Duration::from_secs(10)));
    // Every request is timed as a whole.
    config.read_timeout = None;
    let access = if connection.server.is_some() { Access::Server } else { Access::Kubernetes };
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = Client::try_from(config).map_err(|error| {
        crate::error::credentials(&error)
            .map_or_else(|| Failure::NoCluster(with_causes(&error)), Failure::Credentials)
    })?;
    Ok(Surface { client, access, url, timeout })
}

fn of_server(connection: &Connection, url: &str) -> Result<Config, Failure> {
    let refused = |problem: &str| {
        Failure::Usage(format!(
            "--server {url}: {problem}: write http://127.0.0.1:20416 or https://HOST:PORT"
        ))
    };
    let uri: axum::http::Uri = url.parse().map_err(|_| refused("is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
        return Err(refused("has no http:// or https:// and host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Failure::Usage(
            "--server has a password in it: put the token into a file for --token-file".into(),
        ));
    }
    let in_clear = uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback);
    let mut config = Config::new(uri);
    if let Some(path) = &connection.token_file {
        if in_clear {
            return Err(Failure::Usage(
                "--token-file would go in the clear to another host: write https://HOST:PORT".to_owned(),
            ));
        }
        config.auth_info = AuthInfo { token: Some(token(path)?.into()), ..AuthInfo::default() };
    }
    if let Some(path) = &connection.ca {
        read(path)?;
        config.root_cert_file = Some(path.clone());
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|cause| Failure::File { path: path.display().to_string(), cause })
}

/// The library's own reader of such a file wants it without a line's end.
fn token(path: &Path) -> Result<String, Failure> {
    let token = String::from_utf8(read(path)?).unwrap_or_default();
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = "has no token: it must be one line of visible ASCII characters";
        return Err(Failure::Usage(format!("--token-file {} {problem}", path.display())));
    }
    Ok(token.to_owned())
}

async fn of_kubeconfig(connection: &Connection) -> Result<Config, Failure> {
    let Connection { context, cluster, user, impersonate, impersonate_groups, .. } = connection;
    if impersonate.is_none() && !impersonate_groups.is_empty() {
        return Err(Failure::Usage("--as-group needs --as: whose groups are they?".to_owned()));
    }
    let options =
        KubeConfigOptions { context: context.clone(), cluster: cluster.clone(), user: user.clone() };
    let read = match &connection.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let mut config = match read {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(no_cluster)?,
        // In a pod, as kubectl does.
        Err(error) if connection.kubeconfig.is_none() && is_missing(&error) => {
            Config::incluster().map_err(|_| no_cluster(error))?
        }
        Err(error) => return Err(no_cluster(error)),
    };
    if impersonate.is_some() {
        config.auth_info.impersonate.clone_from(impersonate);
        config.auth_info.impersonate_groups = Some(impersonate_groups.clone());
    }
    Ok(config)
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn no_cluster(error: KubeconfigError) -> Failure {
    Failure::NoCluster(with_causes(&error))
}
