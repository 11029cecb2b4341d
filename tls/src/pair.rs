//! A certificate and its key, as PEM.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt as _;

/// No chain or bundle is near this; a larger file is some other file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A certificate with those between it and its CA, and its key. The key is in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM, the server's own certificate first.
    pub certificate: String,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { certificate, key: _ } = self;
        f.debug_struct("Pair").field("certificate", certificate).finish_non_exhaustive()
    }
}

/// A certificate, a key or a bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be what was asked for.
    #[error("{} is over {MAX_FILE_BYTES} bytes: give a PEM file of certificates or a key", path.display())]
    TooLarge {
        /// As given.
        path: PathBuf,
    },
    /// It begins as PEM and goes on otherwise.
    #[error("the {what} is no PEM: {reason}")]
    Pem {
        /// The part.
        what: &'static str,
        /// What is wrong; never the content.
        reason: String,
    },
    /// There is none.
    #[error("there is no {what}: give PEM, with -----BEGIN {begins}-----")]
    Missing {
        /// The part.
        what: &'static str,
        /// How it begins in PEM.
        begins: &'static str,
    },
    /// The key is of another certificate.
    #[error("the key is not that of the certificate: give the key that it was issued for")]
    OtherKey,
    /// TLS cannot use it.
    #[error("the {what} cannot be used")]
    Unusable {
        /// The part.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Pair {
    /// Reads both files.
    ///
    /// # Errors
    /// One cannot be read, or is too large.
    pub async fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { certificate: read(certificate).await?, key: read(key).await? })
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.certificate, "certificate")
    }

    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => {
                TlsError::Missing { what: "key", begins: "PRIVATE KEY" }
            }
            error => pem_error("key", &error),
        })
    }
}

/// A text file of bounded length.
pub(crate) async fn read(path: &Path) -> Result<String, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).await.map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(text)
}

/// The CAs of a PEM bundle.
pub(crate) fn roots(bundle: &str) -> Result<RootCertStore, TlsError> {
    let what = "CA certificate";
    let mut roots = RootCertStore::empty();
    for ca in certificates(bundle, what)? {
        roots.add(ca).map_err(|error| TlsError::Unusable { what, source: error.into() })?;
    }
    Ok(roots)
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| pem_error(what, &error))?;
    if all.is_empty() {
        return Err(TlsError::Missing { what, begins: "CERTIFICATE" });
    }
    Ok(all)
}

/// The library's errors quote the line that they mean, which may be a part of a key.
fn pem_error(what: &'static str, error: &rustls::pki_types::pem::Error) -> TlsError {
    use rustls::pki_types::pem::Error;
    let reason = match error {
        Error::MissingSectionEnd { .. } => "a section does not end",
        Error::IllegalSectionStart { .. } => "a section does not begin properly",
        Error::Base64Decode(_) => "a section is not base64",
        _ => "it is malformed",
    };
    TlsError::Pem { what, reason: reason.to_owned() }
}
