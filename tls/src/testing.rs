//! CAs and certificates for tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::Pair;

const HOUR: Duration = Duration::from_secs(3600);

/// When a certificate is good.
#[derive(Clone, Copy, Debug)]
pub enum Valid {
    /// For an hour before and after now.
    Now,
    /// Until an hour ago.
    Expired,
    /// In an hour.
    NotYet,
    /// Just so.
    Between(SystemTime, SystemTime),
}

/// A CA.
#[derive(Debug)]
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    /// A new one, with a key of its own also if another has the name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's, for these names and addresses, good now.
    pub fn server(&self, names: &[&str]) -> Pair {
        self.server_valid(names, Valid::Now)
    }

    /// A server's, for these names and addresses.
    pub fn server_valid(&self, names: &[&str], valid: Valid) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        self.issue(CertificateParams::new(names).unwrap(), ExtendedKeyUsagePurpose::ServerAuth, valid)
    }

    /// A client's of this common name, good now.
    pub fn client(&self, common_name: &str) -> Pair {
        self.client_valid(common_name, Valid::Now)
    }

    /// A client's of this common name.
    pub fn client_valid(&self, common_name: &str, valid: Valid) -> Pair {
        self.issue_client(&[common_name], valid)
    }

    /// A client's of all these common names.
    pub fn client_named(&self, common_names: &[&str]) -> Pair {
        self.issue_client(common_names, Valid::Now)
    }

    fn issue_client(&self, common_names: &[&str], valid: Valid) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (n, name) in common_names.iter().enumerate() {
            // The library keeps one value of a type; the second comes by the type's number.
            let kind = if n == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *name);
        }
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth, valid)
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose, valid: Valid) -> Pair {
        let now = SystemTime::now();
        let (from, until) = match valid {
            Valid::Now => (now - HOUR, now + HOUR),
            Valid::Expired => (now - 2 * HOUR, now - HOUR),
            Valid::NotYet => (now + HOUR, now + 2 * HOUR),
            Valid::Between(from, until) => (from, until),
        };
        (params.not_before, params.not_after) = (from.into(), until.into());
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}
