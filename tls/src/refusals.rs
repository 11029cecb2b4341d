//! Connections that did not come about: counted, and said in the log, which nobody can flood.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::certificate::{Validity, now};

/// A reason is logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A certificate has expired.
    Expired,
    /// A certificate is not valid yet.
    NotYetValid,
    /// A certificate is of a CA that the other side does not trust.
    UnknownCa,
    /// A certificate is refused for something else, such as a name that is not in it.
    BadCertificate,
    /// What came is no TLS, or none that both can speak.
    BadProtocol,
    /// The handshake took too long.
    Timeout,
    /// There are too many connections, or handshakes with one address.
    TooMany,
    /// The client went away, as a probe does that only looks whether the port is open.
    Closed,
    /// Anything else.
    Other,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Expired,
        Self::NotYetValid,
        Self::UnknownCa,
        Self::BadCertificate,
        Self::BadProtocol,
        Self::Timeout,
        Self::TooMany,
        Self::Closed,
        Self::Other,
    ];

    /// The label's value.
    pub fn text(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::UnknownCa => "unknown_ca",
            Self::BadCertificate => "bad_certificate",
            Self::BadProtocol => "bad_protocol",
            Self::Timeout => "timeout",
            Self::TooMany => "too_many",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.text(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

/// The refused connections of a program's ports. All clones are one.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    counts: Family<Labels, Counter>,
    logged: Arc<Mutex<HashMap<Reason, Logged>>>,
}

/// When a reason was last logged, and how often not since.
#[derive(Debug)]
struct Logged {
    at: Instant,
    unsaid: u64,
}

/// One refusal: the reason, and what the log says of it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

impl Refusals {
    /// Makes them a metric, `tls_refused`, of a registry that has the program's prefix.
    pub fn register(&self, registry: &mut Registry) {
        for reason in Reason::ALL {
            self.of(reason);
        }
        registry.register(
            "tls_refused",
            "Connections refused before their first request, by reason",
            self.counts.clone(),
        );
    }

    /// The same counts for another port, whose refusals have a line of their own in the log.
    #[must_use]
    pub fn of_another_port(&self) -> Self {
        Self { counts: self.counts.clone(), logged: Arc::default() }
    }

    /// How many for this reason.
    pub fn of(&self, reason: Reason) -> u64 {
        self.counts.get_or_create(&Labels { reason }).get()
    }

    pub(crate) fn count(&self, client: SocketAddr, Refused { reason, detail }: &Refused) {
        self.counts.get_or_create(&Labels { reason: *reason }).inc();
        if *reason == Reason::Closed {
            debug!("{client} connected and went away: {detail}");
            return;
        }
        match self.unsaid(*reason) {
            Some(0) => warn!("refused a connection from {client}: {detail}"),
            Some(unsaid) => {
                warn!(
                    "refused a connection from {client}, and {unsaid} for the like reason before: {detail}"
                );
            }
            None => debug!("refused a connection from {client}: {detail}"),
        }
    }

    /// How many of this reason the log has left out, if it is to say something now.
    fn unsaid(&self, reason: Reason) -> Option<u64> {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        match logged.get_mut(&reason) {
            Some(last) if now - last.at < LOG_INTERVAL => {
                last.unsaid += 1;
                None
            }
            last => {
                let unsaid = last.map_or(0, |last| last.unsaid);
                logged.insert(reason, Logged { at: now, unsaid: 0 });
                Some(unsaid)
            }
        }
    }
}

impl Refused {
    /// What a handshake ended with; `own`: that of the server's certificate.
    pub(crate) fn of(error: &io::Error, own: Validity) -> Self {
        let Some(tls) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
            let reason = match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Reason::Closed,
                _ => Reason::Other,
            };
            return Self { reason, detail: error.to_string() };
        };
        match tls {
            Error::InvalidCertificate(found) => {
                Self { reason: of_certificate(found), detail: format!("its certificate is refused: {found}") }
            }
            Error::AlertReceived(alert) => Self::of_alert(*alert, own),
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerIncompatible(_)
            | Error::PeerMisbehaved(_)
            | Error::NoApplicationProtocol
            | Error::DecryptError
            | Error::PeerSentOversizedRecord => Self {
                reason: Reason::BadProtocol,
                detail: format!("this port speaks TLS 1.2 and 1.3, and what came is not that ({tls})"),
            },
            other => Self { reason: Reason::Other, detail: other.to_string() },
        }
    }

    /// What the client says of our certificate.
    fn of_alert(alert: AlertDescription, own: Validity) -> Self {
        let (reason, what) = match alert {
            // There is no alert of its own for one that is not valid yet.
            AlertDescription::CertificateExpired if own.against(now()) == Ordering::Greater => {
                (Reason::NotYetValid, "finds this server's certificate not valid yet, which it is not")
            }
            AlertDescription::CertificateExpired => (
                Reason::Expired,
                "finds this server's certificate out of its time: renew it, or set the clocks",
            ),
            // A CA of the same name and another key.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => (
                Reason::UnknownCa,
                "does not trust the CA of this server's certificate: give it that CA (--ca)",
            ),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied => {
                (Reason::BadCertificate, "refuses this server's certificate, perhaps because of its name")
            }
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::IllegalParameter
            | AlertDescription::UnexpectedMessage => {
                (Reason::BadProtocol, "speaks no TLS that this server speaks")
            }
            AlertDescription::UserCanceled | AlertDescription::CloseNotify => (Reason::Closed, "went away"),
            _ => (Reason::Other, "refuses"),
        };
        Self { reason, detail: format!("it {what} (alert {alert:?})") }
    }
}

/// What is wrong with a certificate, of the other side.
pub(crate) fn of_certificate(error: &CertificateError) -> Reason {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Reason::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Reason::NotYetValid,
        // A CA of the same name and another key gives a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Reason::UnknownCa,
        _ => Reason::BadCertificate,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_says_a_reason_once_in_ten_seconds_and_how_often_it_did_not() {
        let refusals = Refusals::default();
        assert_eq!(refusals.unsaid(Reason::Expired), Some(0));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(refusals.unsaid(Reason::Expired), None);
        assert_eq!(refusals.unsaid(Reason::Expired), None);
        assert_eq!(refusals.unsaid(Reason::Timeout), Some(0), "each reason has its own time");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(refusals.unsaid(Reason::Expired), Some(2));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(refusals.unsaid(Reason::Expired), Some(0));
    }

    #[test]
    fn all_reasons_are_there_from_the_start() {
        let mut registry = Registry::with_prefix("hearth_program");
        Refusals::default().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for reason in Reason::ALL {
            let line = format!("hearth_program_tls_refused_total{{reason=\"{}\"}} 0\n", reason.text());
            assert!(text.contains(&line), "{line}: {text}");
        }
    }
}
