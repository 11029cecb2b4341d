//! Certificates in files that change, as a mounted Secret's do. Time is the tests', so that none is waited for.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hearth_tls::testing::{Ca, Valid};
use hearth_tls::{Pair, ServerTls};

/// A certificate that is told from others by its end, in seconds since 1970.
fn until(ca: &Ca, seconds: u64) -> Pair {
    let from = SystemTime::UNIX_EPOCH;
    ca.server_valid(&["hearth"], Valid::Between(from, from + Duration::from_secs(seconds)))
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("live").join(name)
    }

    /// As the kubelet does: a new folder, then the link to it in one step.
    fn put(&self, name: &str, pair: &Pair) {
        let at = |name: &str| self.folder.path().join(name);
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("tls.crt"), &pair.certificate).unwrap();
        std::fs::write(at(name).join("tls.key"), &pair.key).unwrap();
        std::os::unix::fs::symlink(name, at("next")).unwrap();
        std::fs::rename(at("next"), at("live")).unwrap();
    }

    async fn follow(&self) -> ServerTls {
        let (certificate, key) = (self.path("tls.crt"), self.path("tls.key"));
        ServerTls::followed(certificate, key, std::future::pending()).await.unwrap()
    }
}

async fn serves(tls: &ServerTls, until: i64) {
    let seen = async {
        while tls.validity().until != until {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await;
    assert!(seen.is_ok(), "it serves what is good until {}", tls.validity().until);
}

/// Longer than the files are left alone.
async fn a_look_later() {
    tokio::time::sleep(Duration::from_secs(25)).await;
}

#[tokio::test(start_paused = true)]
async fn a_swapped_secret_is_served_without_a_restart() {
    let (ca, files) = (Ca::new("hearth"), Files::new());
    files.put("1", &until(&ca, 1000));
    let tls = files.follow().await;
    assert_eq!(tls.validity().until, 1000);
    files.put("2", &until(&ca, 2000));
    serves(&tls, 2000).await;
    files.put("3", &until(&ca, 3000));
    serves(&tls, 3000).await;
}

#[tokio::test(start_paused = true)]
async fn files_that_cannot_be_used_leave_the_certificate_before() {
    let (ca, files) = (Ca::new("hearth"), Files::new());
    files.put("1", &until(&ca, 1000));
    let tls = files.follow().await;
    for (name, pair) in [
        ("other-key", Pair { key: until(&ca, 1).key, ..until(&ca, 2000) }),
        ("no-certificate", Pair { certificate: String::new(), ..until(&ca, 2000) }),
        ("no-pem", Pair { key: "-----BEGIN PRIVATE KEY-----\n!".to_owned(), ..until(&ca, 2000) }),
    ] {
        files.put(name, &pair);
        a_look_later().await;
        assert_eq!(tls.validity().until, 1000, "{name}");
    }
    std::fs::remove_file(files.path("tls.crt")).unwrap();
    a_look_later().await;
    assert_eq!(tls.validity().until, 1000);
    files.put("good", &until(&ca, 2000));
    serves(&tls, 2000).await;
}

#[tokio::test]
async fn a_start_with_files_that_cannot_be_used_says_why() {
    let (ca, files) = (Ca::new("hearth"), Files::new());
    let good = until(&ca, 1000);
    let check = async |expected: &str| {
        let (certificate, key) = (files.path("tls.crt"), files.path("tls.key"));
        let error = ServerTls::followed(certificate, key, std::future::pending()).await.unwrap_err();
        let text = error.to_string().replace(&files.path("").display().to_string(), "");
        assert_eq!(text, expected);
    };
    check("cannot read tls.crt").await;
    files.put("1", &Pair { key: good.certificate.clone(), ..good.clone() });
    check("there is no key: give PEM, with -----BEGIN PRIVATE KEY-----").await;
    files.put("2", &Pair { certificate: good.key.clone(), ..good.clone() });
    check("there is no certificate: give PEM, with -----BEGIN CERTIFICATE-----").await;
    files.put("3", &Pair { key: until(&ca, 1).key, ..good.clone() });
    check("the key is not that of the certificate: give the key that it was issued for").await;
    files.put("4", &Pair { certificate: "x".repeat((1 << 20) + 1), ..good });
    check("tls.crt is over 1048576 bytes: give a PEM file of certificates or a key").await;
}

#[test]
fn a_key_is_in_no_log() {
    let pair = until(&Ca::new("hearth"), 1000);
    assert!(!format!("{pair:?}{:?}", ServerTls::new(&pair).unwrap()).contains("PRIVATE KEY"));
    let cut = Pair { key: pair.key.replace("-----END", "secret"), ..pair };
    let error = ServerTls::new(&cut).unwrap_err();
    assert_eq!(error.to_string(), "the key is no PEM: a section does not end");
    assert!(!format!("{error:?}").contains("secret"));
}

#[test]
fn a_common_name_is_one_or_none() {
    let der = |pair: &Pair| {
        use rustls::pki_types::pem::PemObject as _;
        rustls::pki_types::CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()
    };
    let ca = Ca::new("hearth");
    assert_eq!(hearth_tls::common_name(&der(&ca.client("front-proxy"))).as_deref(), Some("front-proxy"));
    assert_eq!(hearth_tls::common_name(&der(&ca.client_named(&["one", "two"]))), None);
    assert_eq!(hearth_tls::common_name(&der(&ca.client_named(&[]))), None);
    assert_eq!(hearth_tls::common_name(b"no certificate"), None);
}
