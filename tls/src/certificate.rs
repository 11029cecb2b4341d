//! What a certificate says.

use std::cmp::Ordering;

use rustls::pki_types::UnixTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// From when to when a certificate may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: i64,
    /// Not after.
    pub until: i64,
}

impl Validity {
    /// Whether it lies before this time, around it or after it.
    pub(crate) fn against(self, unix_seconds: i64) -> Ordering {
        if unix_seconds > self.until {
            Ordering::Less
        } else if unix_seconds < self.from {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }
}

/// In seconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// The subject's common name of a certificate in DER; `None` without one, or with several: which of them would
/// be meant is for an attacker to choose.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    names.next().is_none().then(|| name.to_owned())
}

/// The validity of a certificate in DER.
pub fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(Validity { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
}

/// A time as people and logs write it.
pub(crate) fn date(unix_seconds: i64) -> String {
    x509_parser::time::ASN1Time::from_timestamp(unix_seconds)
        .map_or_else(|_| format!("{unix_seconds} s after 1970"), |time| time.to_string())
}
