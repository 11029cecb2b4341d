//! Connections of a client.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower::Service;

use crate::certificate::date;
use crate::pair::{TlsError, read, roots};
use crate::provider;
use crate::refusals::{Reason, of_certificate};

/// Connects tonic's clients by TLS (`Endpoint::connect_with_connector_lazy`). The CAs to trust are read from
/// their file for each connection.
#[derive(Clone, Debug)]
pub struct Connector {
    ca: Arc<PathBuf>,
    name: Option<ServerName<'static>>,
}

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL names no host.
    #[error("{url} names no host")]
    Host {
        /// As given.
        url: String,
    },
    /// The name to verify is no name.
    #[error("{name:?} is neither a host name nor an address")]
    Name {
        /// As given.
        name: String,
    },
    /// The CAs cannot be used.
    #[error("the CAs to trust, --ca {}, cannot be used", path.display())]
    Ca {
        /// Their file.
        path: PathBuf,
        /// Why.
        source: TlsError,
    },
    /// There is nobody.
    #[error("cannot connect to {to}")]
    Connect {
        /// Host and port.
        to: String,
        /// Why.
        source: io::Error,
    },
    /// The server's certificate is out of its time.
    #[error(
        "the certificate of {to} expired{when}: the server must renew it, unless this machine's clock is wrong"
    )]
    Expired {
        /// Host and port.
        to: String,
        /// " at …", if it is known.
        when: String,
    },
    /// The server's certificate is not yet in its time.
    #[error(
        "the certificate of {to} is not valid yet{when}: wait for that, unless this machine's clock is wrong"
    )]
    NotYetValid {
        /// Host and port.
        to: String,
        /// ", but from … on", if it is known.
        when: String,
    },
    /// The server's CA is none of those in the file.
    #[error("the certificate of {to} is of a CA that is not in --ca {}: add the CA that issued it", ca.display())]
    UnknownCa {
        /// Host and port.
        to: String,
        /// The file of CAs.
        ca: PathBuf,
    },
    /// The server is another.
    #[error(
        "the certificate of {to} is not for {name}{presented}: use a URL with a name that it is for, or issue it for {name}"
    )]
    WrongName {
        /// Host and port.
        to: String,
        /// What it should be for.
        name: String,
        /// ", but for …", if it is known.
        presented: String,
    },
    /// The server's certificate is refused for something else.
    #[error("the certificate of {to} cannot be trusted: {reason}")]
    BadCertificate {
        /// Host and port.
        to: String,
        /// Why.
        reason: String,
    },
    /// The server went away, or was full.
    #[error("{to} broke off the TLS handshake")]
    BrokeOff {
        /// Host and port.
        to: String,
        /// How.
        source: io::Error,
    },
    /// TLS failed otherwise.
    #[error("{to} speaks no TLS that this agent speaks: is it a port without TLS?")]
    Protocol {
        /// Host and port.
        to: String,
        /// Why.
        source: io::Error,
    },
}

impl Connector {
    /// Trusts the CAs in this file, a PEM bundle, and no others.
    pub fn new(ca: PathBuf) -> Self {
        Self { ca: Arc::new(ca), name: None }
    }

    /// Verifies this name, whatever the URL's host is.
    ///
    /// # Errors
    /// It is neither a host name nor an address.
    pub fn with_server_name(self, name: &str) -> Result<Self, ConnectError> {
        Ok(Self { name: Some(server_name(name)?), ..self })
    }

    async fn connect(self, url: Uri) -> Result<TokioIo<TlsStream<TcpStream>>, ConnectError> {
        let host = url.host().ok_or_else(|| ConnectError::Host { url: url.to_string() })?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_u16().unwrap_or(443);
        let to = url.authority().map_or_else(|| host.to_owned(), ToString::to_string);
        let name = self.name.map_or_else(|| server_name(host), Ok)?;
        let config = config(&read(&self.ca).await.map_err(|source| ca_error(&self.ca, source))?)
            .map_err(|source| ca_error(&self.ca, source))?;
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|source| ConnectError::Connect { to: to.clone(), source })?;
        // Without it small messages are only slower.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("{to}: no TCP_NODELAY: {error}");
        }
        let connecting = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
        match connecting.await {
            Ok(stream) => Ok(TokioIo::new(stream)),
            Err(error) => Err(explain(error, to, &name, &self.ca)),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::Name { name: name.to_owned() })
}

fn ca_error(path: &std::path::Path, source: TlsError) -> ConnectError {
    ConnectError::Ca { path: path.to_owned(), source }
}

/// For a client with connections of its own, which trusts the CAs in this file, a PEM bundle, and no others: as they
/// are now.
///
/// # Errors
/// They cannot be used.
pub async fn client_config(ca: &std::path::Path) -> Result<ClientConfig, TlsError> {
    trusting(&read(ca).await?)
}

fn config(bundle: &str) -> Result<ClientConfig, TlsError> {
    let mut config = trusting(bundle)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn trusting(bundle: &str) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Unusable { what: "choice of TLS versions", source: error.into() })?
        .with_root_certificates(roots(bundle)?)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What went wrong in a handshake, and what to do.
fn explain(error: io::Error, to: String, name: &ServerName<'_>, ca: &std::path::Path) -> ConnectError {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    let found = match tls {
        Some(Error::InvalidCertificate(found)) => found,
        Some(_) => return ConnectError::Protocol { to, source: error },
        None => return ConnectError::BrokeOff { to, source: error },
    };
    let at = |time: &rustls::pki_types::UnixTime| date(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match of_certificate(found) {
        Reason::Expired => {
            let when = match found {
                CertificateError::ExpiredContext { not_after, .. } => format!(" at {}", at(not_after)),
                _ => String::new(),
            };
            ConnectError::Expired { to, when }
        }
        Reason::NotYetValid => {
            let when = match found {
                CertificateError::NotValidYetContext { not_before, .. } => {
                    format!(", but from {} on", at(not_before))
                }
                _ => String::new(),
            };
            ConnectError::NotYetValid { to, when }
        }
        Reason::UnknownCa => ConnectError::UnknownCa { to, ca: ca.to_owned() },
        _ => match found {
            CertificateError::NotValidForNameContext { presented, .. } => ConnectError::WrongName {
                to,
                name: name.to_str().into_owned(),
                presented: format!(", but for {}", presented.join(", ")),
            },
            CertificateError::NotValidForName => {
                ConnectError::WrongName { to, name: name.to_str().into_owned(), presented: String::new() }
            }
            other => ConnectError::BadCertificate { to, reason: other.to_string() },
        },
    }
}
