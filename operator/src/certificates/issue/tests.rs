#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::certificates::Names;
use crate::certificates::read::Certificate;

const NOW: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn names() -> Names {
    Names {
        namespace: "profiling".to_owned(),
        operator_service: "hearth-operator".to_owned(),
        collector_service: "hearth-collector".to_owned(),
    }
}

/// As a client does that trusts these CAs; "ok", or what it says.
fn verify(leaf: &Certificate, trusted: &[&Certificate], name: &str, at: i64) -> String {
    let mut roots = RootCertStore::empty();
    trusted.iter().for_each(|ca| roots.add(CertificateDer::from(ca.der()).into_owned()).unwrap());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name).unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unsigned_abs()));
    let verified = verifier.verify_server_cert(&CertificateDer::from(leaf.der()), &[], &name, &[], at);
    verified.map_or_else(|error| error.to_string(), |_| "ok".to_owned())
}

#[test]
fn what_a_ca_signs_verifies_for_the_names_of_the_service() {
    let ca = authority("profiling", 24 * HOUR, NOW).unwrap();
    let other = authority("profiling", 24 * HOUR, NOW).unwrap();
    let leaf = leaf(&ca, &names().of_collector(), HOUR, NOW).unwrap().certificate;
    for name in [
        "hearth-collector",
        "hearth-collector.profiling",
        "hearth-collector.profiling.svc",
        "hearth-collector.profiling.svc.cluster.local",
        "localhost",
        "127.0.0.1",
    ] {
        assert_eq!(verify(&leaf, &[&ca.certificate], name, NOW), "ok", "{name}");
        // Both are called the same: whoever trusts both, as in a rotation, finds the right one.
        assert_eq!(verify(&leaf, &[&other.certificate, &ca.certificate], name, NOW), "ok", "{name}");
    }
    for name in ["hearth-operator", "hearth-collector.default.svc", "10.0.0.1"] {
        assert_ne!(verify(&leaf, &[&ca.certificate], name, NOW), "ok", "{name}");
    }
    assert_ne!(verify(&leaf, &[&other.certificate], "localhost", NOW), "ok");
}

#[test]
fn it_is_valid_for_clocks_that_are_five_minutes_behind_and_no_longer_than_it_should() {
    let ca = authority("profiling", 24 * HOUR, NOW).unwrap();
    let leaf = leaf(&ca, &names().of_operator(), HOUR, NOW).unwrap().certificate;
    assert_eq!(leaf.facts().valid, Validity { from: NOW - 300, until: NOW + 3600 });
    let at = |at| verify(&leaf, &[&ca.certificate], "hearth-operator", at);
    assert_eq!([NOW - 300, NOW + 3600].map(at), ["ok", "ok"]);
    assert!(at(NOW - 301).contains("not valid yet"), "{}", at(NOW - 301));
    assert!(at(NOW + 3601).contains("expired"), "{}", at(NOW + 3601));
}

#[test]
fn it_does_not_outlive_its_ca() {
    let ca = authority("profiling", 2 * HOUR, NOW).unwrap();
    let leaf = leaf(&ca, &names().of_operator(), 24 * HOUR, NOW + 3600).unwrap().certificate;
    assert_eq!(leaf.facts().valid, Validity { from: NOW + 3300, until: NOW + 7200 });
}

#[test]
fn each_has_its_own_key_and_number_and_may_do_one_thing() {
    let ca = authority("profiling", 24 * HOUR, NOW).unwrap();
    let make = || leaf(&ca, &names().of_operator(), HOUR, NOW).unwrap();
    let (a, b) = (make(), make());
    assert_ne!(a.key, b.key);
    let parse = |pair: &Pair| {
        let der = pair.certificate.der().to_vec();
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
        let usage = parsed.key_usage().unwrap().unwrap().value.to_string();
        let purpose = parsed.extended_key_usage().unwrap().map(|purpose| purpose.value.server_auth);
        (parsed.raw_serial_as_string(), usage, purpose, parsed.signature_algorithm.algorithm.to_id_string())
    };
    assert_ne!(parse(&a).0, parse(&b).0);
    // At least 64 bits of chance, as the CA/Browser Forum asks for.
    assert!(parse(&a).0.len() >= 3 * 16, "{}", parse(&a).0);
    let ecdsa_with_sha256 = "1.2.840.10045.4.3.2";
    assert_eq!(parse(&a).1, "Digital Signature");
    assert_eq!((parse(&a).2, &*parse(&a).3), (Some(true), ecdsa_with_sha256));
    assert_eq!(parse(&ca).1, "Key Cert Sign, CRL Sign");
    assert_eq!(parse(&ca).2, None);
}

#[test]
fn a_clock_that_is_far_off_is_said() {
    for now in [i64::MIN, -1, 299, LAST, i64::MAX] {
        let refused = authority("profiling", 24 * HOUR, now).unwrap_err().to_string();
        assert!(refused.starts_with("this machine's clock is wrong: "), "{refused}");
    }
    for now in [300, 2_524_608_000, LAST - 86_400] {
        let ca = authority("profiling", 24 * HOUR, now).unwrap();
        assert_eq!(ca.certificate.facts().valid, Validity { from: now - 300, until: now + 86_400 });
    }
}
