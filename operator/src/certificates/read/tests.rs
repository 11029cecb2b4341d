#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::certificates::issue::{authority, leaf};

const NOW: i64 = 1_800_000_000;
const LIFE: Duration = Duration::from_secs(86_400);

fn ca() -> Pair {
    authority("hearth", LIFE, NOW).unwrap()
}

fn said<T: fmt::Debug>(outcome: Result<T, Unreadable>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn a_bundle_is_certificates_and_nothing_else() {
    let (a, b) = (ca().certificate, ca().certificate);
    let both = format!("\n{}\n\n{}", a.pem(), b.pem().trim_end());
    assert_eq!(certificates(both.as_bytes()).unwrap(), [a.clone(), b.clone()]);
    assert_eq!(certificates(b"  \n").unwrap(), []);
    for (text, expected) in [
        (format!("# mine\n{}", a.pem()), "there is other text around it"),
        (format!("{}and more", a.pem()), "there is other text around it"),
        (a.pem().replace("MII", "MI!"), "it is damaged"),
        (a.pem()[..200].to_owned(), "it is damaged"),
        (format!("{BEGIN}\n{END}"), "it is damaged"),
    ] {
        let said = said(certificates(text.as_bytes()));
        assert_eq!(said, format!("it is not a certificate in PEM: {expected}"), "{text}");
    }
    assert_eq!(said(certificates(b"\xff")), "it is not UTF-8");
    assert!(said(certificates(a.pem().repeat(33).as_bytes())).starts_with("it is longer than 65536 bytes"));
    assert!(
        said(certificates(" ".repeat(MAX_BYTES + 1).as_bytes())).starts_with("it is longer than 65536 bytes")
    );
    assert_eq!(said(certificate(both.as_bytes())), "it is not a certificate in PEM: there is more than one");
    assert_eq!(said(certificate(b"")), "it is not a certificate in PEM: there is none");
}

#[test]
fn a_pair_belongs_together() {
    let (a, b) = (ca(), ca());
    let read = |certificate: &str, key: &str| pair(certificate.as_bytes(), key.as_bytes());
    assert_eq!(read(a.certificate.pem(), a.key.secret()).unwrap(), a);
    assert_eq!(said(read(a.certificate.pem(), b.key.secret())), "the key does not belong to the certificate");
    assert_eq!(said(read(a.certificate.pem(), "secret")), "it is not a private key in PEM");
    let damaged = a.key.secret().replacen("MIG", "MI!", 1);
    assert_eq!(said(read(a.certificate.pem(), &damaged)), "it is not a private key in PEM");
}

#[test]
fn a_key_is_in_no_debug_output() {
    let pair = ca();
    let shown = format!("{pair:?} {pair:#?}");
    let body = pair.key.secret().lines().nth(1).unwrap();
    assert!(shown.contains("Key(..)") && !shown.contains(body), "{shown}");
}

#[test]
fn who_signed_what_is_found_by_the_signature() {
    let (a, b) = (ca(), ca());
    let names = BTreeSet::from(["hearth-collector".to_owned(), "127.0.0.1".to_owned()]);
    let of_a = leaf(&a, &names, LIFE, NOW).unwrap().certificate;
    let known = [&b.certificate, &a.certificate];
    let read = of_a.leaf(known, &names);
    assert_eq!((read.issuer, read.names_fit), (Some(a.certificate.facts().id), true));
    assert_eq!(of_a.leaf([&b.certificate], &names).issuer, None);
    let others = BTreeSet::from(["hearth-collector".to_owned()]);
    assert!(!of_a.leaf(known, &others).names_fit);
}

#[test]
fn what_a_ca_signed_is_no_ca() {
    let a = ca();
    let signed = leaf(&a, &BTreeSet::from(["x".to_owned()]), LIFE, NOW).unwrap();
    assert_eq!(said(signed.authority()), "it is not the certificate of a CA");
    assert_eq!(a.clone().authority().unwrap(), a);
}

proptest! {
    #[test]
    fn no_damage_makes_it_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index, raw: Vec<u8>) {
        let ca = ca();
        let _ = (certificates(&raw), pair(&raw, &raw));
        let mut der = ca.certificate.der().to_vec();
        prop_assert_eq!(certificate(in_pem(&der).as_bytes()).unwrap().facts(), ca.certificate.facts());
        let position = at.index(der.len());
        der[position] = byte;
        for der in [&der[..], &der[..=cut.index(der.len())]] {
            let Ok(read) = certificate(in_pem(der).as_bytes()) else { continue };
            let _ = (read.signed_by(&ca.certificate), ca.certificate.signed_by(&read), read.authority());
        }
    }
}

fn in_pem(der: &[u8]) -> String {
    let base64 = serde_json::to_value(k8s_openapi::ByteString(der.to_vec())).unwrap();
    format!("{BEGIN}\n{}\n{END}\n", base64.as_str().unwrap())
}
