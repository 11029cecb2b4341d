//! Certificates and keys as they stand in objects: written by somebody, and so perhaps by somebody else.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use rcgen::KeyPair;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::plan::{Facts, Fingerprint, Leaf, Validity};

/// Bytes of a text that are looked at.
const MAX_BYTES: usize = 64 << 10;
/// Certificates of a bundle.
const MAX_CERTIFICATES: usize = 32;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why a certificate or key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is none.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// More than anybody needs.
    #[error("it is longer than {MAX_BYTES} bytes or has more than {MAX_CERTIFICATES} certificates")]
    TooLong,
    /// It is not text.
    #[error("it is not UTF-8")]
    NotText,
    /// It is no certificate.
    #[error("it is not a certificate in PEM: {0}")]
    Certificate(&'static str),
    /// It is no private key. What the library says of it is left out: it was a key, perhaps.
    #[error("it is not a private key in PEM")]
    Key,
    /// They are two pairs' halves.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// It may not sign certificates.
    #[error("it is not the certificate of a CA")]
    NotAnAuthority,
    /// It is not a time.
    #[error("{0} is not a time in RFC 3339")]
    Time(&'static str),
}

/// A certificate, and what matters here of what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    pem: String,
    der: Vec<u8>,
    facts: Facts,
    names: BTreeSet<String>,
    public_key: Vec<u8>,
    authority: bool,
}

/// A private key in PEM; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What is shown.
    pub certificate: Certificate,
    /// What is not.
    pub key: Key,
}

/// Reads the one certificate that is in a text.
///
/// # Errors
/// There is not exactly one.
pub fn certificate(text: &[u8]) -> Result<Certificate, Unreadable> {
    let mut certificates = certificates(text)?;
    match (certificates.pop(), certificates.is_empty()) {
        (Some(certificate), true) => Ok(certificate),
        (Some(_), false) => Err(Unreadable::Certificate("there is more than one")),
        (None, _) => Err(Unreadable::Certificate("there is none")),
    }
}

/// Reads all certificates of a text that has nothing else in it.
///
/// # Errors
/// It has, or is too long.
pub fn certificates(text: &[u8]) -> Result<Vec<Certificate>, Unreadable> {
    if text.len() > MAX_BYTES {
        return Err(Unreadable::TooLong);
    }
    let text = str::from_utf8(text).map_err(|_| Unreadable::NotText)?;
    let blocks: Vec<&str> =
        text.split_inclusive(END).map(str::trim).filter(|block| !block.is_empty()).collect();
    if blocks.len() > MAX_CERTIFICATES {
        return Err(Unreadable::TooLong);
    }
    blocks.into_iter().map(one).collect()
}

fn one(block: &str) -> Result<Certificate, Unreadable> {
    if !block.starts_with(BEGIN) {
        return Err(Unreadable::Certificate("there is other text around it"));
    }
    let broken = |_| Unreadable::Certificate("it is damaged");
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(block.as_bytes()).map_err(|error| broken(error.to_string()))?;
    let (rest, parsed) =
        X509Certificate::from_der(&pem.contents).map_err(|error| broken(error.to_string()))?;
    if !rest.is_empty() {
        return Err(Unreadable::Certificate("there is something behind it"));
    }
    let constraints = parsed.basic_constraints().map_err(|error| broken(error.to_string()))?;
    let usage = parsed.key_usage().map_err(|error| broken(error.to_string()))?;
    let valid = Validity {
        from: parsed.validity().not_before.timestamp(),
        until: parsed.validity().not_after.timestamp(),
    };
    Ok(Certificate {
        pem: format!("{block}\n"),
        facts: Facts { id: Fingerprint(*blake3::hash(&pem.contents).as_bytes()), valid },
        names: names(&parsed)?,
        public_key: parsed.public_key().subject_public_key.data.to_vec(),
        authority: constraints.is_some_and(|constraints| constraints.value.ca)
            && usage.is_some_and(|usage| usage.value.key_cert_sign()),
        der: pem.contents,
    })
}

fn names(parsed: &X509Certificate<'_>) -> Result<BTreeSet<String>, Unreadable> {
    let damaged = |_| Unreadable::Certificate("its names are damaged");
    let Some(extension) = parsed.subject_alternative_name().map_err(damaged)? else {
        return Ok(BTreeSet::new());
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(v4), _) => IpAddr::from(v4).to_string(),
            (_, Ok(v6)) => IpAddr::from(v6).to_string(),
            _ => "an address of odd length".to_owned(),
        },
        // Nothing of ours has one: it is never among the names that are wanted.
        other => format!("{other:?}"),
    };
    Ok(extension.value.general_names.iter().map(name).collect())
}

/// Reads a certificate and its key.
///
/// # Errors
/// One of them cannot be read, or they do not belong together.
pub fn pair(certificate_text: &[u8], key_text: &[u8]) -> Result<Pair, Unreadable> {
    let certificate = certificate(certificate_text)?;
    if key_text.len() > MAX_BYTES {
        return Err(Unreadable::TooLong);
    }
    let text = str::from_utf8(key_text).map_err(|_| Unreadable::NotText)?;
    let key = KeyPair::from_pem(text).map_err(|_| Unreadable::Key)?;
    if key.public_key_raw() != certificate.public_key {
        return Err(Unreadable::OtherKey);
    }
    Ok(Pair { certificate, key: Key(text.to_owned()) })
}

impl Pair {
    /// This one, if it may sign others.
    ///
    /// # Errors
    /// It may not.
    pub fn authority(self) -> Result<Self, Unreadable> {
        self.certificate.clone().authority()?;
        Ok(self)
    }
}

impl Certificate {
    /// This one, if it is a CA's that is signed by itself.
    ///
    /// # Errors
    /// It is not.
    pub fn authority(self) -> Result<Self, Unreadable> {
        if self.authority && self.signed_by(&self) { Ok(self) } else { Err(Unreadable::NotAnAuthority) }
    }

    /// In PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// As it is sent.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Which, and when it is valid.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What it is for.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Whether that one's key has signed this one.
    pub fn signed_by(&self, other: &Self) -> bool {
        // Both were read before: that they are read again costs microseconds, and no self-reference.
        let (Ok((_, this)), Ok((_, other))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&other.der))
        else {
            return false;
        };
        this.issuer() == other.subject() && this.verify_signature(Some(other.public_key())).is_ok()
    }

    /// What the plan needs to know of a certificate that is for `wanted`.
    pub fn leaf<'a>(
        &self,
        authorities: impl IntoIterator<Item = &'a Self>,
        wanted: &BTreeSet<String>,
    ) -> Leaf {
        let issuer = authorities.into_iter().find(|authority| self.signed_by(authority));
        Leaf {
            valid: self.facts.valid,
            issuer: issuer.map(|authority| authority.facts.id),
            names_fit: self.names == *wanted,
        }
    }
}

impl Key {
    /// For writing it where keys belong.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { facts, names, .. } = self;
        f.debug_struct("Certificate").field("facts", facts).field("names", names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
