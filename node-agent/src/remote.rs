//! How the agent reaches the operator and the collector: by TLS or in the clear, with a token or without.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hearth_program::is_loopback;
use hearth_tls::{ConnectError, Connector};
use tokio::io::AsyncReadExt as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

/// Service account tokens have one to two kilobytes.
const MAX_TOKEN_BYTES: u64 = 16 << 10;
/// How the message of a status begins that ends a stream because its token does.
const TOKEN_EXPIRED: &str = "token expired";

/// Whom the agent believes, and how it proves who it is.
#[derive(Clone, Debug, Default, Args)]
pub struct Credentials {
    /// The CAs to trust for https:// addresses of operator and collector, in PEM; those of the system are not. Read
    /// again for each connection.
    #[arg(long, value_name = "FILE", env = "HEARTH_AGENT_CA")]
    pub ca: Option<PathBuf>,

    /// The agent's service account token, which operator and collector ask for. Read again for each stream;
    /// never sent in the clear to another host.
    #[arg(long, value_name = "FILE", env = "HEARTH_AGENT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// An address that cannot be used so.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It is no URL.
    #[error("{flag} {url:?} is no URL such as https://hearth.example:1234")]
    Url {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        url: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// It is another protocol's.
    #[error("{flag} {url:?} must begin with https:// or http://")]
    Scheme {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        url: String,
    },
    /// Its host is none that a certificate could be for.
    #[error("{flag} {url:?} cannot be verified")]
    Host {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        url: String,
        /// What is wrong with it.
        source: ConnectError,
    },
    /// Nobody could be trusted.
    #[error("{flag} {url} needs --ca FILE with the CAs to trust: those of the system are not used")]
    NoCa {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        url: String,
    },
    /// Everybody on the network could take the token.
    #[error(
        "--token-file is not sent in the clear to another host, as {flag} {url} asks for: \
         use https:// with --ca, or leave out --token-file"
    )]
    TokenInTheClear {
        /// The flag that gave it.
        flag: &'static str,
        /// As given.
        url: String,
    },
    /// A standby's word must not take the agent off TLS, or onto it.
    #[error("the leader {leader:?} has another scheme than {flag} {url}")]
    Leader {
        /// The flag that gave the address.
        flag: &'static str,
        /// As given.
        url: String,
        /// What a standby says.
        leader: String,
    },
}

/// A gRPC server, and what the agent shows it.
#[derive(Clone, Debug)]
pub struct Remote {
    flag: &'static str,
    url: String,
    endpoint: Endpoint,
    /// `None`: in the clear.
    tls: Option<Connector>,
    token_file: Option<PathBuf>,
}

impl Remote {
    /// The server at `url`, which `flag` gave. It is not connected to.
    ///
    /// # Errors
    /// The address cannot be used with these credentials.
    pub fn new(flag: &'static str, url: &str, credentials: &Credentials) -> Result<Self, RemoteError> {
        let given = || url.to_owned();
        let is_tls = is_tls(url).ok_or_else(|| RemoteError::Scheme { flag, url: given() })?;
        let endpoint = endpoint(flag, url)?;
        let host = host(endpoint.uri());
        let Credentials { ca, token_file } = credentials;
        let tls =
            match ca {
                Some(ca) if is_tls => Some(
                    Connector::new(ca.clone())
                        .with_server_name(host)
                        .map_err(|source| RemoteError::Host { flag, url: given(), source })?,
                ),
                None if is_tls => return Err(RemoteError::NoCa { flag, url: given() }),
                Some(_) | None => None,
            };
        let remote = Self { flag, url: given(), endpoint, tls, token_file: token_file.clone() };
        remote.keeps_the_token()
    }

    /// As given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same service at an address that a standby tells, `HOST:PORT`. By TLS the name of the configured URL
    /// is verified, as the certificates of all replicas have it, and not that of the address.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn at_leader(&self, leader: &str) -> Result<Self, RemoteError> {
        let url = match (leader.contains("://"), &self.tls) {
            (true, _) => leader.to_owned(),
            (false, Some(_)) => format!("https://{leader}"),
            (false, None) => format!("http://{leader}"),
        };
        if is_tls(&url) != Some(self.tls.is_some()) {
            let leader = leader.to_owned();
            return Err(RemoteError::Leader { flag: self.flag, url: self.url.clone(), leader });
        }
        let endpoint = endpoint(self.flag, &url)?;
        Self { url, endpoint, ..self.clone() }.keeps_the_token()
    }

    /// Connects when the first call is made, and again after a connection broke.
    pub fn channel(&self) -> Channel {
        match &self.tls {
            // tonic has no TLS of its own here, so https:// is the connector's to keep.
            Some(tls) => self.endpoint.connect_with_connector_lazy(tls.clone()),
            None => self.endpoint.connect_lazy(),
        }
    }

    /// A call with the token as its file has it now.
    ///
    /// # Errors
    /// The file has no token.
    pub async fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some(path) = &self.token_file {
            let bearer = bearer(path).await.map_err(|reason| {
                Status::unavailable(format!("--token-file {}: {reason}", path.display()))
            })?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }

    fn keeps_the_token(self) -> Result<Self, RemoteError> {
        if self.tls.is_none() && self.token_file.is_some() && !is_loopback(host(self.endpoint.uri())) {
            return Err(RemoteError::TokenInTheClear { flag: self.flag, url: self.url });
        }
        Ok(self)
    }
}

/// Whether a stream ended because its token did, and another is to be opened with the next token.
pub fn is_token_expired(status: &Status) -> bool {
    status.code() == Code::Unauthenticated && status.message().starts_with(TOKEN_EXPIRED)
}

/// What a stream that ended so says of its server, for the log.
pub fn outcome(status: &Status) -> &'static str {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => "does not let this agent in",
        _ => "is not reached",
    }
}

/// `None`: neither of the two schemes.
fn is_tls(url: &str) -> Option<bool> {
    let (scheme, _) = url.split_once("://")?;
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

/// A dead server is noticed within 30 s, whether or not anything is said.
fn endpoint(flag: &'static str, url: &str) -> Result<Endpoint, RemoteError> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|source| RemoteError::Url {
        flag,
        url: url.to_owned(),
        source,
    })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

/// An IPv6 address without its brackets.
fn host(url: &Uri) -> &str {
    url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// What the token's file makes of a call; why not. Nothing of the token is in a reason.
async fn bearer(path: &Path) -> Result<MetadataValue<Ascii>, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut token = String::new();
    file.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token).await.map_err(failed)?;
    if token.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("is over {MAX_TOKEN_BYTES} bytes, which no token is"));
    }
    let token = token.trim();
    if token.is_empty() {
        return Err("is empty".to_owned());
    }
    let mut bearer = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "has characters that no token has".to_owned())?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
