//! `POST /v1/profile/ProfileTracing`: DeepFlow 6.5's request and answer;
//! `"format": "columns"` gives the answer of 6.6 and later.
//!
//! Stricter than DeepFlow where it would guess or be silent: an unknown type,
//! a reversed range or a filter it does not understand is refused, with the
//! field, the problem and the remedy in `DESCRIPTION`. Fields it does not know
//! are accepted, as DeepFlow does. One field is ours: `"quality": true` adds
//! the answer's [`Quality`] after `debug`.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hearth_profile::tree::Tree;
use hearth_profile::write;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{QueryState, Reader, reply};
use crate::query::filter;
use crate::query::request::{EVENT_TYPES, Invalid, LANGUAGE_TYPES, known_type};
use crate::query::store::off_runtime;
use crate::query::{Answer, Flame, Quality, QueryError, Request, Subject, TimeRange};

/// Where it is asked.
pub const PATH: &str = "/v1/profile/ProfileTracing";
/// Most bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// The answer's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A row per node, DeepFlow up to 6.5.
    Rows,
    /// Columns, DeepFlow from 6.6 on.
    Columns,
}

/// How the answer is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows or columns.
    pub format: Format,
    /// Whether its quality is asked for.
    pub quality: bool,
}

#[derive(Serialize)]
struct Envelope<R> {
    #[serde(rename = "OPT_STATUS")]
    status: &'static str,
    #[serde(rename = "DESCRIPTION")]
    description: String,
    result: Option<R>,
    // DeepFlow's clients expect the key; nothing of the inside is told in it.
    debug: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

/// The handler.
pub async fn profile_tracing(State(state): State<QueryState>, reader: Reader, body: Body) -> Response {
    let request = match to_bytes(body, MAX_BODY_BYTES).await {
        Ok(bytes) => parse(&bytes),
        Err(_) => Err(Invalid::new(
            "body",
            format!("could not be read whole: it may have at most {MAX_BODY_BYTES} bytes"),
        )),
    };
    let (request, shape) = match request {
        Ok(parsed) => parsed,
        Err(invalid) => {
            return refuse(StatusCode::BAD_REQUEST, "INVALID_POST_DATA", invalid.to_string());
        }
    };
    match answer(&state, &reader, &request, shape).await {
        Ok(response) => response,
        Err(error) => {
            let (status, headers) = reply::status_of(&error);
            let opt_status = match error {
                QueryError::TooMuch(_) => "RESOURCE_NUM_EXCEEDED",
                _ => "FAIL",
            };
            (headers, refuse(status, opt_status, error.advice())).into_response()
        }
    }
}

async fn answer(
    state: &QueryState,
    reader: &Reader,
    request: &Request,
    shape: Shape,
) -> Result<Response, QueryError> {
    let _permit = state.permit(reader).await?;
    Ok(match state.store.flame(&reader.scope, request).await? {
        Answer::Flame(Flame { tree, quality, notes }) => {
            let quality = shape.quality.then_some(quality);
            off_runtime(move || succeed(&tree, shape.format, notes.join("; "), quality)).await
        }
        Answer::Empty(reason) => refuse(StatusCode::OK, "SUCCESS", reason),
    })
}

fn succeed(tree: &Tree, format: Format, description: String, quality: Option<Quality>) -> Response {
    let status = "SUCCESS";
    match format {
        Format::Rows => {
            let result = Some(write::deepflow::rows(tree));
            Json(Envelope { status, description, result, debug: None, quality }).into_response()
        }
        Format::Columns => {
            let result = Some(write::columns::columns(tree));
            Json(Envelope { status, description, result, debug: None, quality }).into_response()
        }
    }
}

/// No answer, and why.
pub(super) fn refuse(http: StatusCode, status: &'static str, description: String) -> Response {
    let body = Envelope::<()> { status, description, result: None, debug: None, quality: None };
    (http, Json(body)).into_response()
}

/// Reads the body of a request.
///
/// # Errors
/// The first field that is wrong, and what to write instead.
pub fn parse(body: &[u8]) -> Result<(Request, Shape), Invalid> {
    let body: Value = serde_json::from_slice(body).map_err(|e| {
        // serde_json gives line and column.
        Invalid::new("body", format!("is not valid JSON: {e}"))
    })?;
    let Value::Object(fields) = body else {
        return Err(Invalid::new("body", format!("is {}, not a JSON object", kind(&body))));
    };
    let fields = Fields(fields);

    let subject = Subject::parse("app_service", fields.text("app_service", "a process name, or Total")?)?;
    let language = fields.text("profile_language_type", "eBPF")?;
    let language = known_type("profile_language_type", language, LANGUAGE_TYPES)?;
    let event = fields.text("profile_event_type", "on-cpu")?;
    let event = known_type("profile_event_type", event, EVENT_TYPES)?;
    let range = TimeRange::parse(
        ("time_start", fields.integer("time_start")?),
        ("time_end", fields.integer("time_end")?),
    )?;
    let filter = match fields.optional("tag_filter") {
        None => None,
        Some(value) => filter::parse(text("tag_filter", value, "a condition such as pod_ns = 'app'")?)
            .map_err(|e| Invalid::new("tag_filter", format!("is not understood {e}")))?,
    };
    let max_kernel_frames = match fields.optional("max_kernel_stack_depth") {
        None => None,
        Some(value) => kernel_frames(integer("max_kernel_stack_depth", value)?)?,
    };
    let format = match fields.optional("format") {
        None => Format::Rows,
        Some(value) => match text("format", value, "rows or columns")? {
            "rows" => Format::Rows,
            "columns" => Format::Columns,
            other => {
                let other: String = other.chars().take(64).collect();
                return Err(Invalid::new("format", format!("is {other:?}: use rows or columns")));
            }
        },
    };
    let quality = match fields.optional("quality") {
        None => false,
        Some(Value::Bool(quality)) => *quality,
        Some(other) => {
            let problem = format!("is {}: give true or false, without quotes", kind(other));
            return Err(Invalid::new("quality", problem));
        }
    };
    let shape = Shape { format, quality };
    Ok((Request { subject, range, event, language, filter, max_kernel_frames }, shape))
}

fn kernel_frames(depth: i64) -> Result<Option<u32>, Invalid> {
    match depth {
        -1 => Ok(None),
        // Deeper than any stack: nothing is cut.
        0.. => Ok(Some(u32::try_from(depth).unwrap_or(u32::MAX))),
        _ => Err(Invalid::new(
            "max_kernel_stack_depth",
            format!("is {depth}: give -1 to keep all kernel frames, or how many to keep"),
        )),
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn required(&self, field: &'static str, expected: &str) -> Result<&Value, Invalid> {
        self.0.get(field).ok_or_else(|| Invalid::new(field, format!("is missing: give {expected}")))
    }

    /// Null is as good as absent.
    fn optional(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    fn text(&self, field: &'static str, expected: &str) -> Result<&str, Invalid> {
        text(field, self.required(field, expected)?, expected)
    }

    fn integer(&self, field: &'static str) -> Result<i64, Invalid> {
        integer(field, self.required(field, "Unix seconds")?)
    }
}

fn text<'a>(field: &'static str, value: &'a Value, expected: &str) -> Result<&'a str, Invalid> {
    value.as_str().ok_or_else(|| {
        Invalid::new(field, format!("is {}, not a string: give {expected}, in quotes", kind(value)))
    })
}

fn integer(field: &'static str, value: &Value) -> Result<i64, Invalid> {
    value.as_i64().ok_or_else(|| {
        let remedy = if value.is_string() { "write it without quotes" } else { "give a whole number" };
        Invalid::new(field, format!("is {}, not an integer: {remedy}", kind(value)))
    })
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body in; what is asked, or the error, out.
    fn check(body: &str, expected: &str) {
        let text = match parse(body.as_bytes()) {
            Ok((Request { subject, range, event, language, filter, max_kernel_frames }, shape)) => {
                let Shape { format, quality } = shape;
                let quality = if quality { " with quality" } else { "" };
                format!(
                    "{} {}..{} {event} {language} {filter:?} {max_kernel_frames:?} {format:?}{quality}",
                    subject.name(),
                    range.from,
                    range.until
                )
            }
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(text, expected, "{body}");
    }

    /// The usual body with `change` instead of, or after, its fields.
    fn check_with(field: &str, json: &str, expected: &str) {
        let usual = [
            ("app_service", "\"redis\""),
            ("profile_language_type", "\"eBPF\""),
            ("profile_event_type", "\"on-cpu\""),
            ("tag_filter", "\"\""),
            ("time_start", "1708479421"),
            ("time_end", "1708480321"),
        ];
        let mut fields: Vec<String> = usual
            .iter()
            .filter(|(name, _)| *name != field)
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        if !json.is_empty() {
            fields.push(format!("\"{field}\":{json}"));
        }
        check(&format!("{{{}}}", fields.join(",")), expected);
    }

    #[test]
    fn the_documented_request_is_understood() {
        let expected = "redis 1708479421..1708480321 on-cpu eBPF None None Rows";
        check_with("debug", "true", expected);
        check_with("group_by", "\"x\"", expected);
        check_with("whatever", "[1]", expected);
        check_with("tag_filter", "", expected);
        check_with("tag_filter", "null", expected);
        check_with("max_kernel_stack_depth", "-1", expected);
        check_with("format", "\"rows\"", expected);
        check_with("quality", "false", expected);
        check_with("quality", "null", expected);
        check_with("quality", "true", &format!("{expected} with quality"));
        let columns = "redis 1708479421..1708480321 on-cpu eBPF None None Columns";
        check_with("format", "\"columns\"", columns);
        let kernel = "redis 1708479421..1708480321 on-cpu eBPF None Some(3) Rows";
        check_with("max_kernel_stack_depth", "3", kernel);
    }

    #[test]
    fn broken_json_is_told_where() {
        check("", "body is not valid JSON: EOF while parsing a value at line 1 column 0");
        check("{\n  \"tag_filter: \"\",\n}", "body is not valid JSON: expected `:` at line 2 column 17");
        check("[1]", "body is a list, not a JSON object");
        check("null", "body is null, not a JSON object");
        check(&"[".repeat(100_000), "body is not valid JSON: recursion limit exceeded at line 1 column 128");
    }

    proptest::proptest! {
        #[test]
        fn no_body_is_too_strange(body in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            proptest::prop_assert!(parse(&body).is_err());
        }
    }

    #[test]
    fn missing_fields_are_named() {
        check("{}", "app_service is missing: give a process name, or Total");
        check_with("profile_language_type", "", "profile_language_type is missing: give eBPF");
        check_with("profile_event_type", "", "profile_event_type is missing: give on-cpu");
        check_with("time_start", "", "time_start is missing: give Unix seconds");
        check_with("time_end", "", "time_end is missing: give Unix seconds");
    }

    #[test]
    fn wrong_types_are_named() {
        check_with(
            "app_service",
            "5",
            "app_service is 5, not a string: give a process name, or Total, in quotes",
        );
        check_with("time_start", "\"1\"", "time_start is a string, not an integer: write it without quotes");
        check_with("time_end", "1.5", "time_end is 1.5, not an integer: give a whole number");
        check_with("time_end", "null", "time_end is null, not an integer: give a whole number");
        check_with("quality", "1", "quality is 1: give true or false, without quotes");
        check_with("format", "1", "format is 1, not a string: give rows or columns, in quotes");
        check_with(
            "tag_filter",
            "{}",
            "tag_filter is an object, not a string: give a condition such as pod_ns = 'app', in quotes",
        );
    }

    #[test]
    fn wrong_values_are_told_the_right_ones() {
        check_with(
            "app_service",
            "\"\"",
            "app_service is empty: give a process name, or Total for all of them",
        );
        check_with(
            "profile_event_type",
            "\"off-cpu\"",
            "profile_event_type is \"off-cpu\", which is not stored: use on-cpu",
        );
        check_with(
            "profile_language_type",
            "\"Golang\"",
            "profile_language_type is \"Golang\", which is not stored: use eBPF",
        );
        check_with("time_start", "0", "time_start is 0: give Unix seconds, greater than 0");
        check_with(
            "time_end",
            "1708479420",
            "time_end is 1708479420, before time_start 1708479421: swap them, or give a later one",
        );
        check_with("format", "\"svg\"", "format is \"svg\": use rows or columns");
        check_with(
            "max_kernel_stack_depth",
            "-2",
            "max_kernel_stack_depth is -2: give -1 to keep all kernel frames, or how many to keep",
        );
        check_with(
            "tag_filter",
            "\"pod_ns = app\"",
            "tag_filter is not understood at position 10: expected text in quotes, as pod_ns is text, found app",
        );
    }
}
