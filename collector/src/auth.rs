//! A bearer token from a file, for collectors without Kubernetes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use crate::http::refused;

/// Asked for by probes, which bring no token; they say nothing about anybody.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];

/// The token that a request must bring.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

/// Why a token file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("--token-file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// A short token is guessed.
    #[error("--token-file {0}: the token is shorter than 16 bytes")]
    Short(PathBuf),
}

impl Token {
    /// The first line of a file.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| TokenError::Read { path: path.into(), source })?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < 16 {
            return Err(TokenError::Short(path.into()));
        }
        Ok(Self(token.as_bytes().into()))
    }

    /// Lets through only requests with `Authorization: Bearer TOKEN`.
    pub fn protect(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self, check))
    }

    /// In time that depends on the given text only.
    fn matches(&self, given: &[u8]) -> bool {
        let differences = given.iter().enumerate().fold(0, |differences, (at, byte)| {
            differences | (byte ^ self.0.get(at).copied().unwrap_or(!byte))
        });
        differences == 0 && given.len() == self.0.len()
    }
}

async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if OPEN_PATHS.contains(&request.uri().path()) || given.is_some_and(|given| token.matches(given)) {
        return next.run(request).await;
    }
    let error = "a bearer token is needed: send the header Authorization: Bearer TOKEN".to_owned();
    let headers = [(header::WWW_AUTHENTICATE, "Bearer")];
    (headers, refused(request.uri(), StatusCode::UNAUTHORIZED, error)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_matches() {
        let token = Token(b"0123456789abcdef".as_slice().into());
        assert!(token.matches(b"0123456789abcdef"));
        for wrong in ["", "0", "0123456789abcdeF", "0123456789abcdef0", "1123456789abcdef"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
    }
}
