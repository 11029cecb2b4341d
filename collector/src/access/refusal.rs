//! Requests that are not let through, and what whoever asked is told.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hearth_identity::Denied;
use serde_json::{Map, Value, json};

use super::front_proxy::Untrusted;
use super::metrics::Reason;
use super::namespaces::MAX_NAMESPACES;
use super::paths::{GROUP, NAMES, Profiles, RESOURCE, VERSION};
use crate::http::refused;

/// Shown of a name that somebody else chose, at most.
const SHOWN_CHARS: usize = 256;
/// Of an error of our own API, at most.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// When an API server that is away may be back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Why a request is not let through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing says who asks.
    NoCredentials,
    /// Something says so, and is not believed.
    Untrusted(Untrusted),
    /// The token is nobody's.
    BadToken(Denied),
    /// Who asks may not see this.
    Forbidden {
        /// Who asks.
        user: String,
        /// What was asked for.
        profiles: Profiles,
    },
    /// Who asks may see nothing of what is stored.
    NoNamespace {
        /// Who asks.
        user: String,
        /// By which name.
        name: &'static str,
    },
    /// Who asks may see nothing of the namespaces that were asked for, and there are too many to ask for each.
    TooManyNamespaces,
    /// Who asks, or what they may, is not known.
    Away,
}

impl Refusal {
    /// By which it is counted; `None` if it is the answer's limit, and no lack of a right.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self {
            Self::NoCredentials => Some(Reason::NoCredentials),
            Self::Untrusted(_) => Some(Reason::ProxyUntrusted),
            Self::BadToken(_) => Some(Reason::BadToken),
            Self::Forbidden { .. } | Self::NoNamespace { .. } => Some(Reason::Forbidden),
            Self::TooManyNamespaces => None,
            Self::Away => Some(Reason::ApiServerAway),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::Untrusted(_) | Self::BadToken(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::NoNamespace { .. } => StatusCode::FORBIDDEN,
            Self::TooManyNamespaces => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Away => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NoCredentials => "nothing says who asks: send Authorization: Bearer TOKEN, with a token that the \
                                    API server takes, or ask through the API server, as kubectl get --raw does"
                .to_owned(),
            Self::Untrusted(untrusted) => untrusted.to_string(),
            Self::BadToken(denied) => format!("the bearer token is refused: {denied}"),
            Self::Forbidden { user, profiles: Profiles { namespace, name } } => {
                let (place, binding) = match namespace {
                    Some(namespace) => (format!("in the namespace {namespace:?}"), "a RoleBinding there"),
                    None => ("at the cluster scope".to_owned(), "a ClusterRoleBinding"),
                };
                format!(
                    "{RESOURCE}.{GROUP} {name:?} is forbidden: User {:?} cannot get resource {RESOURCE:?} in API \
                     group {GROUP:?} {place}: {binding}, to a role with get on {RESOURCE}, allows it",
                    shown(user)
                )
            }
            Self::NoNamespace { user, name } => format!(
                "{RESOURCE}.{GROUP} {name:?} is forbidden: User {:?} cannot get resource {RESOURCE:?} in API group \
                 {GROUP:?} at the cluster scope, nor in any namespace that has profiles: a RoleBinding in a namespace, \
                 to a role with get on {RESOURCE}, allows it",
                shown(user)
            ),
            Self::TooManyNamespaces => format!(
                "more than {MAX_NAMESPACES} namespaces have profiles, too many to ask for your right in each, and you have none in \
                 those that were asked for: ask for one, /apis/{GROUP}/{VERSION}/namespaces/NAMESPACE/{RESOURCE}/NAME"
            ),
            Self::Away => "the API server does not say who you are, or what you may see: try again".to_owned(),
        }
    }

    /// The answer to a request for an aggregated path.
    pub(super) fn into_status(self) -> Response {
        let (code, headers) = (self.status(), self.headers());
        let details = match &self {
            Self::Forbidden { profiles, .. } => {
                json!({ "name": profiles.name, "group": GROUP, "kind": RESOURCE })
            }
            _ => Value::Null,
        };
        (headers, status(code, &self.message(), details)).into_response()
    }

    /// The answer to a request for a path of our own.
    pub(super) fn into_own(self, uri: &Uri) -> Response {
        (self.headers(), refused(uri, self.status(), self.message())).into_response()
    }

    fn headers(&self) -> HeaderMap {
        let header = match self.status() {
            StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => (header::RETRY_AFTER, RETRY_AFTER),
            _ => return HeaderMap::new(),
        };
        HeaderMap::from_iter([header])
    }
}

/// That there is no such path.
pub(super) fn nowhere() -> Response {
    let message = format!(
        "no such path: GET /apis/{GROUP}/{VERSION}/namespaces/NAMESPACE/{RESOURCE}/NAME, or /apis/{GROUP}/{VERSION}/\
         {RESOURCE}/NAME for the whole cluster, where NAME is one of {}",
        NAMES.join(", ")
    );
    status(StatusCode::NOT_FOUND, &message, Value::Null)
}

/// That a path is only read.
pub(super) fn only_read(method: &Method) -> Response {
    let message = format!("{method} is not answered at this path: it can only be read, by GET");
    let allow = [(header::ALLOW, HeaderValue::from_static("GET,HEAD"))];
    (allow, status(StatusCode::METHOD_NOT_ALLOWED, &message, Value::Null)).into_response()
}

/// Our own API's answer as one of an aggregated path. Kubernetes' clients show an error only where it is a `Status`: what
/// ours says stays beside it.
pub(super) async fn answered(response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    // The other one is the text that `go tool pprof` shows.
    if response.status().is_success() || !is_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let body = match axum::body::to_bytes(body, MAX_ERROR_BYTES).await {
        Ok(body) => body,
        Err(error) => return status(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), Value::Null),
    };
    let both = serde_json::from_slice::<Map<String, Value>>(&body).ok().and_then(|own| {
        let mut both = status_object(parts.status, own.get("error")?.as_str()?);
        both.extend(own);
        serde_json::to_vec(&both).ok()
    });
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, both.map_or_else(|| body.into(), Body::from))
}

/// What Kubernetes' clients show of an error.
fn status(code: StatusCode, message: &str, details: Value) -> Response {
    let mut status = status_object(code, message);
    if !details.is_null() {
        status.insert("details".to_owned(), details);
    }
    (code, Json(status)).into_response()
}

fn status_object(code: StatusCode, message: &str) -> Map<String, Value> {
    let reason = match code {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "Invalid",
    };
    let fields = [
        ("kind", json!("Status")),
        ("apiVersion", json!("v1")),
        ("metadata", json!({})),
        ("status", json!("Failure")),
        ("message", json!(message)),
        ("reason", json!(reason)),
        ("code", json!(code.as_u16())),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

fn shown(user: &str) -> String {
    user.chars().take(SHOWN_CHARS).collect()
}
