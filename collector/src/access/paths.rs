//! What a path on the HTTPS port is for.
//!
//! The API server authorizes an aggregated request by its path before it passes it on: `…/profiles/NAME` is
//! `get` of `profiles` with that name, whatever stood below it would be a subresource, which a role names one by
//! one. So there is nothing below: a tag is a parameter here, not a part of the path.

use axum::http::Uri;
use axum::http::uri::PathAndQuery;

use super::discovery::Document;
use crate::http::{decode, deepflow, encode};
use crate::query::request::Invalid;

/// The group of the aggregated API.
pub const GROUP: &str = "query.hearth.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Its only resource, on which rights are given.
pub const RESOURCE: &str = "profiles";
/// What of it can be asked for: names of the resource, each answered as `/api/v1/NAME` is, and `values` as
/// `/api/v1/tags/{tag}/values`.
pub const NAMES: [&str; 6] = ["flamegraph", "timeline", "diff", "apps", "tags", VALUES];

const VALUES: &str = "values";
/// Of our own API, which answers.
const OWN: &str = "/api/v1";

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// What is the same for everybody, and says nothing of anybody.
    Document(Document),
    /// Whether the collector works; the path at the inner router.
    Health(&'static str),
    /// Profiles, by a right of the namespace or of the cluster.
    Profiles(Profiles),
    /// The API as it is on the other port.
    Own,
    /// Nothing that there is.
    Nowhere,
}

/// What an aggregated path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profiles {
    /// `None`: the cluster.
    pub namespace: Option<String>,
    /// One of [`NAMES`].
    pub name: &'static str,
}

impl Target {
    /// What `path` is for.
    pub fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/livez" => return Self::Health("/healthz"),
            "/readyz" => return Self::Health("/readyz"),
            // The answers of these do not depend on who asks: they are for the port of --metrics.
            "/metrics" => return Self::Nowhere,
            _ => {}
        }
        if let Some(document) = Document::of(path) {
            return Self::Document(document);
        }
        let first = path.split('/').nth(1).unwrap_or_default();
        if first != "apis" && first != "openapi" {
            return Self::Own;
        }
        Profiles::of(path).map_or(Self::Nowhere, Self::Profiles)
    }
}

impl Profiles {
    fn of(path: &str) -> Option<Self> {
        let below = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?.strip_prefix('/')?;
        let below = below.strip_prefix(VERSION)?.strip_prefix('/')?;
        let parts: Vec<&str> = below.splitn(5, '/').collect();
        let (namespace, name) = match parts[..] {
            [RESOURCE, name] => (None, name),
            ["namespaces", namespace, RESOURCE, name] if is_namespace(namespace) => {
                (Some(namespace.to_owned()), name)
            }
            _ => return None,
        };
        let name = NAMES.into_iter().find(|known| *known == name)?;
        Some(Self { namespace, name })
    }

    /// Where our own API answers this.
    ///
    /// # Errors
    /// No tag is given whose values are asked for.
    pub fn own(&self, query: &str) -> Result<Uri, Invalid> {
        let own = if self.name == VALUES {
            let (tag, rest) = tag(query)?;
            format!("{OWN}/tags/{}/values?{}", encode(&tag), rest.join("&"))
        } else {
            format!("{OWN}/{}?{query}", self.name)
        };
        let own = PathAndQuery::try_from(own).map_err(|_| Invalid::new("query", "is not percent-encoded"))?;
        Ok(Uri::from(own))
    }
}

/// The tag of a query, and the rest of it.
fn tag(query: &str) -> Result<(String, Vec<&str>), Invalid> {
    let (tags, rest): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.split('=').next() == Some("tag"));
    match tags[..] {
        [] => Err(Invalid::new("tag", "is missing: give the name of a tag, as …/profiles/tags lists them")),
        [tag] => {
            let tag = decode(tag.strip_prefix("tag=").unwrap_or_default());
            let tag = tag.ok_or_else(|| Invalid::new("tag", "is not percent-encoded UTF-8"))?;
            Ok((tag, rest))
        }
        _ => Err(Invalid::new("tag", "is given twice: give it once")),
    }
}

/// The name of profiles by whose right a path of our own API is answered; `None` for paths that tell nothing.
pub fn name_of_own(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some("apps"),
        deepflow::PATH => Some("flamegraph"),
        _ => {
            let below = path.strip_prefix(OWN)?.strip_prefix('/')?;
            let is_values = below.starts_with("tags/") && below.ends_with("/values");
            let name = if is_values { VALUES } else { below };
            NAMES.into_iter().find(|known| *known == name && (is_values || name != VALUES))
        }
    }
}

/// Whether a namespace can have this name: a DNS label.
pub fn is_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// A path, and what it is for: the namespace (`*`: the cluster) and the name, or another word.
    fn check(path: &str, expected: &str) {
        let is_for = match Target::of(path) {
            Target::Document(document) => format!("{document:?}"),
            Target::Health(inner) => format!("health {inner}"),
            Target::Profiles(Profiles { namespace, name }) => {
                format!("{} {name}", namespace.as_deref().unwrap_or("*"))
            }
            Target::Own => "own".to_owned(),
            Target::Nowhere => "nowhere".to_owned(),
        };
        assert_eq!(is_for, expected, "{path}");
    }

    #[test]
    fn a_name_of_profiles_is_in_a_namespace_or_in_the_cluster() {
        check("/apis/query.hearth.dev/v1alpha1/profiles/flamegraph", "* flamegraph");
        check("/apis/query.hearth.dev/v1alpha1/namespaces/app/profiles/flamegraph", "app flamegraph");
        for name in NAMES {
            check(
                &format!("/apis/query.hearth.dev/v1alpha1/namespaces/a-1/profiles/{name}"),
                &format!("a-1 {name}"),
            );
        }
    }

    #[test]
    fn nothing_that_is_like_it_is_it() {
        for path in [
            "profiles",
            "profiles/",
            "profiles/flame",
            "profiles/flamegraph/",
            "profiles/Flamegraph",
            "profiles/flamegraph/log",
            "profiles/tags/pod/values",
            "profile/flamegraph",
            "/profiles/flamegraph",
            "namespaces/profiles/flamegraph",
            "namespaces//profiles/flamegraph",
            "namespaces/app",
            "namespaces/app/profiles",
            "namespaces/app/profiles/flamegraph/x",
            "namespaces/app/x/profiles/flamegraph",
            "namespaces/a%2Fb/profiles/flamegraph",
            "namespaces/../profiles/flamegraph",
            "namespaces/App/profiles/flamegraph",
            "namespaces/-a/profiles/flamegraph",
            "namespaces/a/profiles/flame%67raph",
            "namespaces/a/profiles/x/../flamegraph",
        ] {
            check(&format!("/apis/query.hearth.dev/v1alpha1/{path}"), "nowhere");
        }
        check("/apis/query.hearth.dev/v1/profiles/flamegraph", "nowhere");
        check("/apis/query.hearth.device/v1alpha1/profiles/flamegraph", "nowhere");
        check("/apis/apps/v1", "nowhere");
        check("/openapi/v4", "nowhere");
        check(
            &format!("/apis/query.hearth.dev/v1alpha1/namespaces/{}/profiles/apps", "a".repeat(64)),
            "nowhere",
        );
    }

    #[test]
    fn the_rest_is_for_everybody_or_as_on_the_other_port() {
        check("/apis", "Groups");
        check("/apis/query.hearth.dev", "Group");
        check("/apis/query.hearth.dev/v1alpha1", "Resources");
        check("/openapi/v2", "OpenApi2");
        check("/openapi/v3", "OpenApi3");
        check("/healthz", "health /healthz");
        check("/livez", "health /healthz");
        check("/readyz", "health /readyz");
        check("/metrics", "nowhere");
        for path in ["/", "/style.css", "/api/v1/apps", "/v1/profile/ProfileTracing", "/x", "*", "", "//apis"]
        {
            check(path, "own");
        }
    }

    fn check_own(name: &'static str, query: &str, expected: &str) {
        let own = Profiles { namespace: None, name }.own(query);
        let own = own.map_or_else(|invalid| invalid.to_string(), |uri| uri.to_string());
        assert_eq!(own, expected, "{name}?{query}");
    }

    #[test]
    fn each_is_answered_by_our_own_api() {
        check_own(
            "flamegraph",
            "app_service=a&filter=x%3D1",
            "/api/v1/flamegraph?app_service=a&filter=x%3D1",
        );
        check_own("tags", "", "/api/v1/tags?");
        check_own("values", "tag=pod&limit=5", "/api/v1/tags/pod/values?limit=5");
        check_own(
            "values",
            "limit=5&tag=k8s.label.a%2Fb+c&from=1",
            "/api/v1/tags/k8s.label.a%2Fb%20c/values?limit=5&from=1",
        );
        let missing = "tag is missing: give the name of a tag, as …/profiles/tags lists them";
        check_own("values", "", missing);
        check_own("values", "tags=pod", missing);
        check_own("values", "tag=a&tag=b", "tag is given twice: give it once");
        check_own("values", "tag=%ff", "tag is not percent-encoded UTF-8");
        check_own("values", "tag", "/api/v1/tags//values?");
        check_own("values", "tag=..%2F..", "/api/v1/tags/..%2F../values?");
    }

    #[test]
    fn a_path_of_our_own_is_by_the_same_right_as_its_name() {
        for name in NAMES {
            let own = Profiles { namespace: None, name }.own("tag=pod").unwrap();
            assert_eq!(name_of_own(own.path()), Some(name));
        }
        assert_eq!(name_of_own("/v1/profile/ProfileTracing"), Some("flamegraph"));
        assert_eq!(name_of_own("/"), Some("apps"));
        for path in
            ["/style.css", "/api/v1", "/api/v1/", "/api/v1/values", "/api/v1/apps/", "/api/v2/apps", "/x"]
        {
            assert_eq!(name_of_own(path), None, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_asked_is_always_what_a_right_is_given_on(path in "/apis/query.hearth.dev/v1alpha1/[a-z/.%-]{0,40}") {
            if let Target::Profiles(Profiles { namespace, name }) = Target::of(&path) {
                // The way back: there is but one path for each.
                let namespace = namespace.map_or_else(String::new, |namespace| format!("namespaces/{namespace}/"));
                let back = format!("/apis/{GROUP}/{VERSION}/{namespace}{RESOURCE}/{name}");
                proptest::prop_assert_eq!(path, back);
            }
        }
    }

    #[test]
    fn names_that_a_namespace_can_have() {
        for name in ["a", "kube-system", "0", "a--b", &"a".repeat(63)] {
            assert!(is_namespace(name), "{name}");
        }
        for name in ["", "-", "a-", "-a", "A", "a.b", "a_b", "ä", "a b", &"a".repeat(64)] {
            assert!(!is_namespace(name), "{name}");
        }
    }
}
