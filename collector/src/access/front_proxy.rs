//! The API server's front proxy: who it is, and what it says of the caller.
//!
//! It brings who asks in headers, as it has authenticated them already. Anybody can send such headers, so they are
//! believed only on a connection that shows the front proxy's certificate. That is looked at for every request: a
//! connection may live longer than its certificate, and than the trust in the CA that signed it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderName};
use hearth_identity::Caller;
use hearth_tls::{Peer, ServerTls, TlsError, Validity, validity};
use percent_encoding::percent_decode_str;
use tokio::sync::Notify;

use crate::http::now;

const CAS: &str = "requestheader-client-ca-file";
/// What is not believed of anybody where it is not known what the front proxy calls its headers.
const USUAL_HEADERS: &str = "x-remote-";
/// Shown of a name that somebody else chose, at most.
const SHOWN_CHARS: usize = 64;

/// Who the front proxy is, as the API server publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Sign its certificate. PEM.
    pub cas: String,
    /// Common names that the certificate may have; none listed: any.
    pub names: Vec<String>,
    /// Name the user, the first that is there.
    pub user: Vec<HeaderName>,
    /// Name the user's UID.
    pub uid: Vec<HeaderName>,
    /// Each of their values is a group.
    pub group: Vec<HeaderName>,
    /// What the names of headers with anything else begin with, in lower case.
    pub extra: Vec<String>,
}

/// Why there is no front proxy.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The API server was not told of one.
    #[error("it has no {0}: the API server is not set up for aggregated APIs, see its flag --{0}")]
    Missing(&'static str),
    /// Not what the API server writes.
    #[error("{key}: {reason}")]
    Broken {
        /// Of the ConfigMap.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Its CAs are no certificates.
    #[error("{CAS}: {0}")]
    Cas(#[from] TlsError),
}

/// Why headers of a front proxy are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It is not known who the front proxy is.
    #[error("the API server's front proxy is not known: {0}")]
    Unknown(Arc<str>),
    /// Whoever connected did not show a certificate.
    #[error("only the API server's front proxy may say who asks: this connection has no client certificate")]
    NoCertificate,
    /// They showed one that is not the front proxy's.
    #[error("only the API server's front proxy may say who asks: this connection's client certificate {0}")]
    Certificate(String),
    /// The front proxy says what nobody understands.
    #[error("the front proxy's header {0} is not UTF-8")]
    Header(HeaderName),
}

impl Settings {
    /// Reads `data` of the ConfigMap `extension-apiserver-authentication`.
    ///
    /// # Errors
    /// The API server has no front proxy, or somebody wrote something else there.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        const USER: &str = "requestheader-username-headers";
        let cas = data.get(CAS).filter(|cas| !cas.trim().is_empty()).ok_or(SettingsError::Missing(CAS))?;
        let user = headers(data, USER)?;
        if user.is_empty() {
            return Err(SettingsError::Missing(USER));
        }
        Ok(Self {
            cas: cas.clone(),
            names: list(data, "requestheader-allowed-names")?,
            user,
            uid: headers(data, "requestheader-uid-headers")?,
            group: headers(data, "requestheader-group-headers")?,
            extra: list(data, "requestheader-extra-headers-prefix")?
                .into_iter()
                .map(|prefix| prefix.to_ascii_lowercase())
                .collect(),
        })
    }

    /// Whom the headers name; nobody without a user.
    fn caller(&self, headers: &HeaderMap) -> Result<Option<Caller>, Untrusted> {
        let first = |names: &[HeaderName]| -> Result<Option<String>, Untrusted> {
            Ok(values(headers, names)?.into_iter().next())
        };
        let Some(user) = first(&self.user)? else { return Ok(None) };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra {
            for name in headers.keys() {
                let Some(key) = name.as_str().strip_prefix(prefix.as_str()) else { continue };
                let key =
                    percent_decode_str(key).decode_utf8().map_err(|_| Untrusted::Header(name.clone()))?;
                extra
                    .entry(key.into_owned())
                    .or_default()
                    .extend(values(headers, std::slice::from_ref(name))?);
            }
        }
        let (uid, groups) = (first(&self.uid)?.unwrap_or_default(), values(headers, &self.group)?);
        Ok(Some(Caller { user, uid, groups, extra }))
    }

    /// Whether a header is one by which the front proxy says who asks.
    fn is_of_proxy(&self, name: &HeaderName) -> bool {
        [&self.user, &self.uid, &self.group].into_iter().any(|names| names.contains(name))
            || self.extra.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()))
    }
}

/// A list as the ConfigMap has it, a JSON array; none without the key.
fn list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, SettingsError> {
    let Some(text) = data.get(key) else { return Ok(Vec::new()) };
    let broken = |error: serde_json::Error| SettingsError::Broken { key, reason: error.to_string() };
    let list: Vec<String> = serde_json::from_str(text).map_err(broken)?;
    let trimmed = list.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    Ok(trimmed.map(str::to_owned).collect())
}

fn headers(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<HeaderName>, SettingsError> {
    let name = |name: String| {
        let broken = |_| SettingsError::Broken { key, reason: format!("{name:?} is no name of a header") };
        HeaderName::from_bytes(name.as_bytes()).map_err(broken)
    };
    list(data, key)?.into_iter().map(name).collect()
}

/// All values of these headers that say something.
fn values(headers: &HeaderMap, names: &[HeaderName]) -> Result<Vec<String>, Untrusted> {
    let named =
        names.iter().flat_map(|name| headers.get_all(name).into_iter().map(move |value| (name, value)));
    named
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| {
            let text = std::str::from_utf8(value.as_bytes()).map_err(|_| Untrusted::Header(name.clone()))?;
            Ok(text.to_owned())
        })
        .collect()
}

/// Who is the front proxy now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trusted(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tls: ServerTls,
    settings: RwLock<Result<Arc<Settings>, Arc<str>>>,
    doubted: Notify,
}

impl Trusted {
    /// Nobody on the connections of `tls` is, for this reason.
    pub fn nobody(tls: ServerTls, why: &str) -> Self {
        let settings = RwLock::new(Err(why.into()));
        Self(Arc::new(Shared { tls, settings, doubted: Notify::new() }))
    }

    /// From now on this one is; whoever connects is asked for its certificate.
    ///
    /// # Errors
    /// Its CAs are no certificates. Whoever was it before still is.
    pub fn set(&self, settings: Settings) -> Result<(), SettingsError> {
        self.0.tls.trust_clients(Some(&settings.cas))?;
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Ok(Arc::new(settings));
        Ok(())
    }

    /// From now on nobody is, for this reason.
    pub fn forget(&self, why: &str) {
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Err(why.into());
        // A certificate that is not asked for cannot be refused.
        if let Err(error) = self.0.tls.trust_clients(None) {
            tracing::error!("clients are still asked for certificates: {error}");
        }
    }

    /// Why nobody is, if nobody is.
    pub fn missing(&self) -> Option<Arc<str>> {
        self.settings().err()
    }

    /// Returns when somebody was not believed since the last call: it may be that the API server has a new
    /// certificate.
    pub async fn doubted(&self) {
        self.0.doubted.notified().await;
    }

    /// Whom the headers name; `None` if they name nobody.
    ///
    /// # Errors
    /// They are not believed.
    pub fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Option<Caller>, Untrusted> {
        let settings = match self.settings() {
            Ok(settings) => settings,
            Err(_) if !headers.keys().any(is_usual) => return Ok(None),
            Err(why) => return Err(self.doubt(Untrusted::Unknown(why))),
        };
        if !settings.user.iter().any(|name| headers.contains_key(name)) {
            return Ok(None);
        }
        let Some(certificate) = peer.certificates().first() else {
            return Err(self.doubt(Untrusted::NoCertificate));
        };
        if !self.0.tls.trusts(peer) {
            return Err(self.doubt(Untrusted::Certificate(fault(validity(certificate), now()))));
        }
        let name = peer.common_name().unwrap_or_default();
        if !settings.names.is_empty() && !settings.names.contains(&name) {
            let shown: String = name.chars().take(SHOWN_CHARS).collect();
            let fault = format!("is of {shown:?}, which is no name of the front proxy");
            return Err(self.doubt(Untrusted::Certificate(fault)));
        }
        settings.caller(headers)
    }

    /// Takes out all that a front proxy might say, so that nothing behind can take it for the truth.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let settings = self.settings().ok();
        let of_proxy = |name: &HeaderName| {
            is_usual(name) || settings.as_ref().is_some_and(|settings| settings.is_of_proxy(name))
        };
        let names: Vec<HeaderName> = headers.keys().filter(|name| of_proxy(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }

    fn settings(&self) -> Result<Arc<Settings>, Arc<str>> {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn doubt(&self, untrusted: Untrusted) -> Untrusted {
        self.0.doubted.notify_one();
        untrusted
    }
}

fn is_usual(name: &HeaderName) -> bool {
    name.as_str().starts_with(USUAL_HEADERS)
}

/// What is wrong with a certificate that was good when the connection began.
fn fault(validity: Option<Validity>, now: i64) -> String {
    match validity {
        Some(Validity { until, .. }) if until < now => "is expired",
        Some(Validity { from, .. }) if now < from => "is not valid yet",
        Some(_) | None => "is not signed by the front proxy's CA",
    }
    .to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// As the API server writes it.
    fn data() -> BTreeMap<String, String> {
        [
            ("client-ca-file", "of users' certificates"),
            (CAS, "PEM"),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn changed(key: &str, value: &str) -> BTreeMap<String, String> {
        let mut data = data();
        match value {
            "" => data.remove(key),
            value => data.insert(key.to_owned(), value.to_owned()),
        };
        data
    }

    /// Header lines, and whom they name.
    fn check(settings: &Settings, lines: &[(&str, &[u8])], expected: &str) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        let text = match settings.caller(&headers) {
            Ok(Some(Caller { user, groups, uid, extra })) => format!("{user} {groups:?} {uid:?} {extra:?}"),
            Ok(None) => "nobody".to_owned(),
            Err(untrusted) => untrusted.to_string(),
        };
        assert_eq!(text, expected, "{lines:?}");
    }

    #[test]
    fn the_headers_say_who_asks() {
        let settings = Settings::parse(&data()).unwrap();
        check(&settings, &[("x-remote-user", b"jane")], r#"jane [] "" {}"#);
        check(
            &settings,
            &[
                ("x-remote-user", b"jane"),
                ("x-remote-uid", b"7"),
                ("x-remote-group", b"dev"),
                ("x-remote-group", b"system:authenticated"),
                ("x-remote-extra-scopes", b"a"),
                ("x-remote-extra-scopes", b"b"),
                ("x-remote-extra-example.com%2fa+b%25", "\u{e9}".as_bytes()),
                ("x-remote-else", b"x"),
            ],
            "jane [\"dev\", \"system:authenticated\"] \"7\" {\"example.com/a+b%\": [\"é\"], \"scopes\": [\"a\", \"b\"]}",
        );
        check(&settings, &[], "nobody");
        check(&settings, &[("x-remote-group", b"system:masters")], "nobody");
        check(&settings, &[("x-remote-user", b""), ("x-remote-group", b"dev")], "nobody");
        let not_utf8 = "the front proxy's header x-remote-user is not UTF-8";
        check(&settings, &[("x-remote-user", b"\xff")], not_utf8);
    }

    #[test]
    fn their_names_are_the_api_servers_choice() {
        let mut data = changed("requestheader-username-headers", r#"["X-Who", " X-Remote-User "]"#);
        data.insert("requestheader-extra-headers-prefix".to_owned(), r#"["X-More-", "X-Also-"]"#.to_owned());
        let settings = Settings::parse(&data).unwrap();
        check(&settings, &[("x-remote-user", b"a"), ("x-who", b"b")], r#"b [] "" {}"#);
        check(&settings, &[("x-remote-user", b"a"), ("x-who", b"")], r#"a [] "" {}"#);
        let more: &[(&str, &[u8])] =
            &[("x-who", b"b"), ("x-also-k", b"1"), ("x-more-k", b"2"), ("x-remote-extra-k", b"3")];
        check(&settings, more, r#"b [] "" {"k": ["2", "1"]}"#);
    }

    #[test]
    fn nothing_that_a_front_proxy_may_say_goes_further() {
        let left = |trusted: &Trusted| {
            let names = ["x-who", "x-more-k", "x-remote-user", "x-remote-extra-k", "x-remote-else", "accept"];
            let mut headers: HeaderMap = names
                .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
                .into_iter()
                .collect();
            trusted.strip(&mut headers);
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(" ")
        };
        let ca = hearth_tls::testing::Ca::new("ca");
        let tls = ServerTls::new(&ca.server(&["localhost"])).unwrap();
        let trusted = Trusted::nobody(tls, "nobody");
        assert_eq!(left(&trusted), "x-who x-more-k accept");
        let mut data = changed("requestheader-username-headers", r#"["X-Who"]"#);
        data.insert("requestheader-extra-headers-prefix".to_owned(), r#"["X-More-"]"#.to_owned());
        data.insert(CAS.to_owned(), ca.pem());
        trusted.set(Settings::parse(&data).unwrap()).unwrap();
        assert_eq!(left(&trusted), "accept");
        data.insert(CAS.to_owned(), "no PEM".to_owned());
        let broken = trusted.set(Settings::parse(&data).unwrap()).unwrap_err().to_string();
        let expected = "requestheader-client-ca-file: there is no CA certificate: give PEM, with -----BEGIN CERTIFICATE-----";
        assert_eq!(broken, expected);
    }

    /// A change of the ConfigMap, and what is wrong with it.
    fn check_parse(key: &str, value: &str, expected: &str) {
        let parsed = Settings::parse(&changed(key, value));
        assert_eq!(parsed.map_or_else(|error| error.to_string(), |_| "ok".to_owned()), expected, "{key}");
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let missing = |key| {
            format!("it has no {key}: the API server is not set up for aggregated APIs, see its flag --{key}")
        };
        check_parse(CAS, "", &missing(CAS));
        check_parse(CAS, " \n", &missing(CAS));
        check_parse("requestheader-username-headers", "", &missing("requestheader-username-headers"));
        check_parse("requestheader-username-headers", "[]", &missing("requestheader-username-headers"));
        check_parse(
            "requestheader-group-headers",
            r#"["a b"]"#,
            r#"requestheader-group-headers: "a b" is no name of a header"#,
        );
        check_parse(
            "requestheader-allowed-names",
            "x",
            "requestheader-allowed-names: expected value at line 1 column 1",
        );
        for may_be_missing in ["requestheader-uid-headers", "requestheader-allowed-names", "client-ca-file"] {
            check_parse(may_be_missing, "", "ok");
        }
    }

    #[test]
    fn the_fault_of_a_certificate_is_its_time_or_its_ca() {
        let validity = Some(Validity { from: 10, until: 20 });
        assert_eq!(fault(validity, 21), "is expired");
        assert_eq!(fault(validity, 9), "is not valid yet");
        assert_eq!(fault(validity, 15), "is not signed by the front proxy's CA");
        assert_eq!(fault(None, 15), "is not signed by the front proxy's CA");
    }
}
