//! A server's certificate and whom it believes, both replaceable.

use std::cmp::Ordering;
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, InconsistentKeys, ServerConfig};
use tracing::{info, warn};

use crate::certificate::{Validity, date, now, validity};
use crate::listener::Peer;
use crate::pair::{Pair, TlsError, roots};
use crate::provider;

/// The files of a mounted Secret change within a minute or two; these are small and cheap to read.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(10);

/// What is spoken within TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2 alone.
    Grpc,
    /// HTTP/2 and HTTP/1.1.
    Https,
}

/// The certificate of a server, and the CAs whose clients it believes. All clones are one.
#[derive(Clone)]
pub struct ServerTls {
    state: Arc<RwLock<State>>,
}

struct State {
    key: Arc<CertifiedKey>,
    validity: Validity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    grpc: Arc<ServerConfig>,
    https: Arc<ServerConfig>,
}

impl ServerTls {
    /// Serves with this certificate and asks for none.
    ///
    /// # Errors
    /// The pair cannot be used.
    pub fn new(pair: &Pair) -> Result<Self, TlsError> {
        let state = State::new(certified(pair)?, None)?;
        warn_of(state.validity);
        Ok(Self { state: Arc::new(RwLock::new(state)) })
    }

    /// Serves with the certificate in these files, and follows them until `stop`, see [`Self::follow_files`].
    ///
    /// # Errors
    /// They hold no pair that can be used.
    pub async fn followed(
        certificate: PathBuf,
        key: PathBuf,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self, TlsError> {
        let tls = Self::new(&Pair::read(&certificate, &key).await?)?;
        tokio::spawn(tls.clone().follow_files(certificate, key, stop));
        Ok(tls)
    }

    /// Serves new connections with this certificate; those that are open go on.
    ///
    /// # Errors
    /// The pair cannot be used; the one before stays.
    pub fn replace(&self, pair: &Pair) -> Result<(), TlsError> {
        let key = certified(pair)?;
        self.change(|state| State::new(key, state.clients.clone()))?;
        warn_of(self.validity());
        Ok(())
    }

    /// Asks new connections for a certificate of one of these CAs, a PEM bundle. A client may have none; one that
    /// has another is refused. `None`: none is asked for.
    ///
    /// # Errors
    /// The bundle cannot be used; the one before stays.
    pub fn trust_clients(&self, bundle: Option<&str>) -> Result<(), TlsError> {
        let clients = bundle.map(client_verifier).transpose()?;
        self.change(|state| State::new(state.key.clone(), clients))
    }

    /// Whether the client's certificate is good now: a connection may outlive it, or the trust in its CA.
    pub fn trusts(&self, peer: &Peer) -> bool {
        let clients = self.read(|state| state.clients.clone());
        let (Some(clients), Some((own, others))) = (clients, peer.certificates().split_first()) else {
            return false;
        };
        clients.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }

    /// That of the certificate in use.
    pub fn validity(&self) -> Validity {
        self.read(|state| state.validity)
    }

    /// Reads both files again every few seconds until `stop`, and serves with what they hold. While it cannot be
    /// used, such as between the writing of one and the other, the certificate before stays, and the log says why.
    pub async fn follow_files(self, certificate: PathBuf, key: PathBuf, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut ticks = tokio::time::interval(FOLLOW_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None;
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = ticks.tick() => {}
            }
            let read = Pair::read(&certificate, &key).await;
            let outcome = match read {
                Ok(pair) if last.as_ref() == Some(&Ok(pair.clone())) => continue,
                Ok(pair) => self.replace(&pair).map(|()| pair),
                Err(error) => Err(error),
            };
            let outcome = outcome.map_err(|error| with_causes(&error));
            if last.as_ref() == Some(&outcome) {
                continue;
            }
            match &outcome {
                Ok(_) => {
                    let until = date(self.validity().until);
                    info!("serving with the certificate in {}, good until {until}", certificate.display());
                }
                Err(error) => warn!(
                    "the certificate in {} with the key in {} cannot be used, the one before stays: {error}",
                    certificate.display(),
                    key.display()
                ),
            }
            last = Some(outcome);
        }
    }

    pub(crate) fn config(&self, protocols: Protocols) -> Arc<ServerConfig> {
        self.read(|state| match protocols {
            Protocols::Grpc => state.grpc.clone(),
            Protocols::Https => state.https.clone(),
        })
    }

    // A state is replaced as a whole, so none is half changed by a panic.
    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&State) -> Result<State, TlsError>) -> Result<(), TlsError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = change(&state)?;
        Ok(())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("validity", &self.validity()).finish_non_exhaustive()
    }
}

impl State {
    fn new(key: Arc<CertifiedKey>, clients: Option<Arc<dyn ClientCertVerifier>>) -> Result<Self, TlsError> {
        let validity = key.cert.first().and_then(|own| validity(own));
        let validity = validity.ok_or_else(|| TlsError::Unusable {
            what: "certificate",
            source: "it says not when it is valid".into(),
        })?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable("choice of TLS versions", error))?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut grpc = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
        grpc.session_storage = Arc::new(NoServerSessionStorage {});
        grpc.send_tls13_tickets = 0;
        grpc.alpn_protocols = vec![b"h2".to_vec()];
        let mut https = grpc.clone();
        https.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Self { key, validity, clients, grpc: Arc::new(grpc), https: Arc::new(https) })
    }
}

fn certified(pair: &Pair) -> Result<Arc<CertifiedKey>, TlsError> {
    match CertifiedKey::from_der(pair.chain()?, pair.private_key()?, &provider()) {
        Ok(key) => Ok(Arc::new(key)),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(TlsError::OtherKey),
        Err(error) => Err(unusable("certificate or its key", error)),
    }
}

fn client_verifier(bundle: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider());
    builder
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Unusable { what: "CA certificate of clients", source: error.into() })
}

fn unusable(what: &'static str, error: Error) -> TlsError {
    TlsError::Unusable { what, source: error.into() }
}

/// Clients refuse a certificate out of its time, and say so only to themselves.
fn warn_of(validity: Validity) {
    match validity.against(now()) {
        Ordering::Less => {
            warn!("the certificate expired at {}: clients refuse it; renew it", date(validity.until));
        }
        Ordering::Greater => {
            warn!("the certificate is not valid before {}: clients refuse it till then", date(validity.from));
        }
        Ordering::Equal => {}
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
