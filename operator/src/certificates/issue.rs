//! Makes CAs and what they sign: ECDSA on P-256, by ring.

use std::collections::BTreeSet;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::plan::{Unix, Validity};
use super::read::{self, Pair, Unreadable};

/// So long before now a certificate becomes valid: whoever verifies it may have a clock that is behind.
pub const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// The last second that a certificate can name: the end of the year 9999.
const LAST: Unix = 253_402_300_799;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Before 1970 or after 9999.
    #[error("this machine's clock is wrong: {0} seconds since 1970 cannot stand in a certificate")]
    Clock(Unix),
    /// The library could not.
    #[error("a certificate could not be made: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// What it made does not read.
    #[error("a certificate was made that cannot be used: {0}")]
    Unreadable(#[from] Unreadable),
}

/// A new CA with a new key.
///
/// # Errors
/// The clock is far off, or the library fails.
pub fn authority(namespace: &str, life: Duration, now: Unix) -> Result<Pair, IssueError> {
    let key = KeyPair::generate()?;
    let mut params = params("Hearth CA", namespace, validity(life, now)?)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok(read::pair(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?.authority()?)
}

/// A certificate with a new key for a server of these names. It does not outlive its CA.
///
/// # Errors
/// The clock is far off, or the library fails.
pub fn leaf(ca: &Pair, names: &BTreeSet<String>, life: Duration, now: Unix) -> Result<Pair, IssueError> {
    let key = KeyPair::generate()?;
    let Validity { from, until } = validity(life, now)?;
    let valid = Validity { from, until: until.min(ca.certificate.facts().valid.until) };
    let mut params = params("Hearth", "", valid)?;
    params.subject_alt_names =
        CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let ca_key = KeyPair::from_pem(ca.key.secret())?;
    let issuer = Issuer::from_ca_cert_der(&ca.certificate.der().into(), ca_key)?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(read::pair(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?)
}

fn validity(life: Duration, now: Unix) -> Result<Validity, IssueError> {
    let seconds = |duration: Duration| Unix::try_from(duration.as_secs()).unwrap_or(Unix::MAX);
    Ok(Validity { from: now.saturating_sub(seconds(BACKDATED)), until: now.saturating_add(seconds(life)) })
}

/// The serial number is left to the library: 159 bits of a hash of the key, and each key is new.
fn params(common_name: &str, organization: &str, valid: Validity) -> Result<CertificateParams, IssueError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if !organization.is_empty() {
        name.push(DnType::OrganizationName, organization);
    }
    let time = |unix: Unix| {
        let since = u64::try_from(unix).ok().filter(|_| unix <= LAST).ok_or(IssueError::Clock(unix))?;
        Ok::<_, IssueError>(date_time_ymd(1970, 1, 1) + Duration::from_secs(since))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = time(valid.from)?;
    params.not_after = time(valid.until)?;
    Ok(params)
}

#[cfg(test)]
mod tests;
