//! Who asks.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use super::refused;
use crate::query::Scope;

/// What whoever asks may see. The port that a request came in by puts it into the request's
/// extensions; without it no handler of questions answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Whose rows.
    pub scope: Scope,
    /// With whom others share the turns; `None`: nobody is told from others.
    pub caller: Option<Arc<str>>,
}

impl Reader {
    /// Whoever reaches the port, each like the other.
    pub fn anybody(scope: Scope) -> Self {
        Self { scope, caller: None }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "a question came in by a port that knows no reader");
            let error = "who asks is not known: see the collector's log".to_owned();
            refused(&parts.uri, StatusCode::INTERNAL_SERVER_ERROR, error)
        })
    }
}
