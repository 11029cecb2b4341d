//! `GET /api/v1/…`: our own API, for scripts, the plugin and the page.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hearth_profile::write;
use hearth_profile::write::json::{Json as FlatTree, JsonNode};
use hearth_profile::write::svg::Labels;
use serde::Serialize;

use super::parameters::Parameters;
use super::reply::{ApiError, NOTE, note_header};
use super::{QueryState, now, page};
use crate::query::filter;
use crate::query::request::{EVENT_TYPES, Invalid, LANGUAGE_TYPES, known_type};
use crate::query::store::{App, MAX_APPS, off_runtime};
use crate::query::time::utc;
use crate::query::{Answer, Flame, Request, Subject, TimeRange};

/// What a range is when it is not given: so many seconds until now.
pub const DEFAULT_RANGE_SECONDS: i64 = 15 * 60;

/// The SVG needs its own script and style, and nothing from anywhere.
const SVG_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                          base-uri 'none'; form-action 'none'";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Folded,
    Json,
    Svg,
}

#[derive(Serialize)]
struct Flamegraph<'a> {
    #[serde(flatten)]
    tree: FlatTree<'a>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Apps {
    from: u32,
    until: u32,
    unit: &'static str,
    apps: Vec<ListedApp>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ListedApp {
    name: String,
    samples: u64,
    value: i64,
}

/// `GET /api/v1/flamegraph?app_service=&event=&filter=&from=&until=&format=`.
///
/// An empty answer is a success with a note: no nodes, no lines, or a drawing
/// that holds the reason.
pub async fn flamegraph(State(state): State<QueryState>, RawQuery(query): RawQuery) -> Response {
    respond(&state, query.as_deref().unwrap_or_default()).await.unwrap_or_else(IntoResponse::into_response)
}

/// `GET /api/v1/apps?from=&until=`: the app services of a range, the hottest first.
pub async fn apps(State(state): State<QueryState>, RawQuery(query): RawQuery) -> Response {
    list(&state, query.as_deref().unwrap_or_default()).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: &QueryState, query: &str) -> Result<Response, ApiError> {
    let (request, format) = parse(query, now())?;
    let _permit = state.permit()?;
    let answer = state.store.flame(&request).await?;
    off_runtime(move || write_answer(&request, format, answer)).await
}

async fn list(state: &QueryState, query: &str) -> Result<Response, ApiError> {
    let mut parameters = Parameters::parse(query, &["from", "until"])?;
    let range = range(&mut parameters, now())?;
    let _permit = state.permit()?;
    let apps = state.store.apps(range).await?;
    let mut notes = Vec::new();
    if apps.len() as u64 == MAX_APPS {
        notes.push(format!("only the {MAX_APPS} hottest are listed"));
    }
    let apps = apps
        .into_iter()
        .map(|App { app_service: name, samples, value }| ListedApp { name, samples, value })
        .collect();
    let TimeRange { from, until } = range;
    Ok(Json(Apps { from, until, unit: "microseconds", apps, notes }).into_response())
}

fn parse(query: &str, now: i64) -> Result<(Request, Format), Invalid> {
    let known = ["app_service", "event", "filter", "from", "until", "format"];
    let mut parameters = Parameters::parse(query, &known)?;
    let Some(app_service) = parameters.take("app_service") else {
        return Err(Invalid::new("app_service", "is missing: give a process name, or Total for all of them"));
    };
    let subject = Subject::parse("app_service", &app_service)?;
    let event = parameters.take("event").unwrap_or_else(|| EVENT_TYPES[0].to_owned());
    let event = known_type("event", &event, EVENT_TYPES)?;
    let filter = filter::parse(&parameters.take("filter").unwrap_or_default())
        .map_err(|e| Invalid::new("filter", format!("is not understood {e}")))?;
    let range = range(&mut parameters, now)?;
    let format = match parameters.take("format").as_deref() {
        None | Some("json") => Format::Json,
        Some("folded") => Format::Folded,
        Some("svg") => Format::Svg,
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            return Err(Invalid::new("format", format!("is {other:?}: use json, folded or svg")));
        }
    };
    let language = LANGUAGE_TYPES[0];
    Ok((Request { subject, range, event, language, filter, max_kernel_frames: None }, format))
}

fn range(parameters: &mut Parameters, now: i64) -> Result<TimeRange, Invalid> {
    let until = parameters.integer("until")?;
    let from = parameters.integer("from")?;
    let until = until.unwrap_or(now);
    let from = from.unwrap_or_else(|| until.saturating_sub(DEFAULT_RANGE_SECONDS).max(1));
    TimeRange::parse(("from", from), ("until", until))
}

fn write_answer(request: &Request, format: Format, answer: Answer) -> Result<Response, ApiError> {
    let (flame, notes) = match answer {
        Answer::Flame(Flame { tree, notes }) => (Some(tree), notes),
        Answer::Empty(reason) => (None, vec![reason]),
    };
    let mut response = match format {
        Format::Json => {
            let tree = flame.as_ref().map_or(
                FlatTree { unit: "microseconds", nodes: Vec::<JsonNode<'_>>::new() },
                write::json::json,
            );
            Json(Flamegraph { tree, notes: &notes }).into_response()
        }
        Format::Folded => {
            let text = flame.as_ref().map(write::folded::folded).unwrap_or_default();
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
        }
        Format::Svg => {
            let TimeRange { from, until } = request.range;
            let title = format!("{}, {} to {}", request.subject.name(), utc(from), utc(until));
            let notes = notes.join("; ");
            let svg = match &flame {
                Some(tree) => write::svg::svg(tree, Labels { title: &title, subtitle: &notes })
                    .map_err(crate::query::QueryError::Draw)?,
                None => page::empty_svg(&title, &notes),
            };
            let headers =
                [(header::CONTENT_TYPE, "image/svg+xml"), (header::CONTENT_SECURITY_POLICY, SVG_POLICY)];
            (headers, svg).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(note) = note_header(&notes) {
        headers.insert(NOTE, note);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 10_000;

    fn check(query: &str, expected: &str) {
        let text = match parse(query, NOW) {
            Ok((Request { subject, range, event, filter, .. }, format)) => {
                format!(
                    "{} {}..{} {event} {} {format:?}",
                    subject.name(),
                    range.from,
                    range.until,
                    filter.is_some()
                )
            }
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(text, expected, "{query}");
    }

    #[test]
    fn parameters_have_defaults() {
        check("app_service=redis", "redis 9100..10000 on-cpu false Json");
        check("app_service=redis&until=5000", "redis 4100..5000 on-cpu false Json");
        check("app_service=redis&until=5", "redis 1..5 on-cpu false Json");
        check(
            "app_service=a%20b%2Bc&from=1&until=2&format=svg&event=on-cpu&filter=pod%3D'x'",
            "a b+c 1..2 on-cpu true Svg",
        );
    }

    #[test]
    fn bad_parameters_are_named() {
        check("", "app_service is missing: give a process name, or Total for all of them");
        check("app_service=", "app_service is empty: give a process name, or Total for all of them");
        check("app_service=a&from=x", "from is \"x\", not an integer: give Unix seconds");
        check("app_service=a&from=0", "from is 0: give Unix seconds, greater than 0");
        check("app_service=a&from=5&until=4", "until is 4, before from 5: swap them, or give a later one");
        check("app_service=a&format=pdf", "format is \"pdf\": use json, folded or svg");
        check("app_service=a&event=wall", "event is \"wall\", which is not stored: use on-cpu");
        check(
            "app_service=a&filter=cpu",
            "filter is not understood at position 4: expected =, !=, <, <=, >, >=, IN, LIKE, REGEXP, NOT or IS, \
             found the end",
        );
    }
}
