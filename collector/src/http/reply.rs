//! Errors as answers, and what all answers share.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hearth_program::with_causes;
use serde::Serialize;

use super::deepflow;
use crate::query::QueryError;
use crate::query::request::Invalid;

/// Carries the notes of answers that have no other place for them.
pub(super) const NOTE: HeaderName = HeaderName::from_static("hearth-note");

/// Carries the quality of answers that have no other place for it, as JSON.
pub(super) const QUALITY: HeaderName = HeaderName::from_static("hearth-quality");
/// Makes `go tool pprof` show the text of an error.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The caller has to change something.
    Invalid(Invalid),
    /// What was asked for does not exist. The text says what does.
    NotFound(String),
    /// It was not looked at.
    Refused(StatusCode, String),
    /// The question could not be answered.
    Query(QueryError),
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, headers, error, field) = self.parts();
        (status, headers, Json(Body { error: &error, field })).into_response()
    }
}

impl ApiError {
    /// For whoever asked with this query: `go tool pprof` shows a text to its user.
    pub(super) fn into_response_to(self, query: &str) -> Response {
        // Also when another parameter is wrong.
        if query.split('&').all(|pair| pair != "format=pprof") {
            return self.into_response();
        }
        let (status, headers, error, _) = self.parts();
        // Text, because a string is `text/plain`.
        (status, headers, [(GO_PPROF, HeaderValue::from_static("1"))], format!("{error}\n")).into_response()
    }

    fn parts(self) -> (StatusCode, HeaderMap, String, Option<&'static str>) {
        match self {
            Self::Invalid(invalid) => {
                (StatusCode::BAD_REQUEST, HeaderMap::new(), invalid.to_string(), Some(invalid.field))
            }
            Self::NotFound(error) => (StatusCode::NOT_FOUND, HeaderMap::new(), error, None),
            Self::Refused(status, error) => (status, HeaderMap::new(), error, None),
            Self::Query(error) => {
                let (status, headers) = status_of(&error);
                (status, headers, error.advice(), None)
            }
        }
    }
}

/// The status of a failed question, and its headers. Logs what the caller is not told.
pub(super) fn status_of(error: &QueryError) -> (StatusCode, HeaderMap) {
    let (status, headers) = status_and_headers(error);
    tracing::warn!(status = status.as_u16(), "query not answered: {}", with_causes(error));
    (status, headers)
}

/// The same, and logs nothing.
pub(super) fn status_and_headers(error: &QueryError) -> (StatusCode, HeaderMap) {
    let mut headers = HeaderMap::new();
    let status = match error {
        QueryError::Busy => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            StatusCode::TOO_MANY_REQUESTS
        }
        QueryError::TooMuch(_) => StatusCode::UNPROCESSABLE_ENTITY,
        QueryError::Unavailable(_) => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            StatusCode::SERVICE_UNAVAILABLE
        }
        QueryError::Failed(_) | QueryError::Draw(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, headers)
}

/// The notes as a header's value; what a header cannot hold becomes `?`.
pub(super) fn note_header(notes: &[String]) -> Option<HeaderValue> {
    if notes.is_empty() {
        return None;
    }
    let text: String =
        notes.join("; ").chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
    HeaderValue::from_str(&text).ok()
}

/// The quality as a header's value: JSON on one line, of ASCII whatever the store says.
pub(super) fn quality_header(quality: &impl Serialize) -> Option<HeaderValue> {
    let json = serde_json::to_string(quality).ok()?;
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    HeaderValue::from_str(&text).ok()
}

/// That a request to `uri` was not looked at, as an error of the API that it is for.
pub(crate) fn refused(uri: &Uri, status: StatusCode, error: String) -> Response {
    match uri.path() {
        deepflow::PATH => deepflow::refuse(status, "FAIL", error),
        _ => ApiError::Refused(status, error).into_response_to(uri.query().unwrap_or_default()),
    }
}

/// That a request was wrong.
pub(crate) fn invalid(invalid: Invalid) -> Response {
    ApiError::from(invalid).into_response()
}

/// That the store did not answer what a request to `uri` needs.
pub(crate) fn not_answered(uri: &Uri, error: &QueryError) -> Response {
    let (status, headers) = status_of(error);
    (headers, refused(uri, status, error.advice())).into_response()
}

pub(super) async fn no_such_path() -> ApiError {
    let error = "no such path: see / for a page, GET /api/v1/apps, /api/v1/flamegraph, /api/v1/diff, \
                 /api/v1/timeline, /api/v1/tags and /api/v1/tags/{tag}/values, \
                 or POST /v1/profile/ProfileTracing";
    ApiError::NotFound(error.to_owned())
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Response {
    let error = format!("{method} is not answered at this path: the header Allow says what is");
    refused(&uri, StatusCode::METHOD_NOT_ALLOWED, error)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::query::Quality;

    #[test]
    fn a_header_holds_whatever_reasons_are_stored() {
        let reason = "ring-full é 🔥 \"\\ \n\u{7f}";
        let quality = Quality { lost: [(reason.to_owned(), 9)].into(), ..Quality::default() };
        let header = quality_header(&quality).unwrap();
        let json: serde_json::Value = serde_json::from_str(header.to_str().unwrap()).unwrap();
        assert_eq!(json, serde_json::to_value(&quality).unwrap());
    }
}
