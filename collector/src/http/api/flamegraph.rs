//! `GET /api/v1/flamegraph?app_service=&event=&filter=&from=&until=&format=`: one profile in many formats.
//!
//! An empty answer is a success with a note: no nodes, no lines, or a picture
//! that holds the reason. Only as pprof it is an error, because `go tool pprof`
//! shows the text of an error and nothing of an empty profile.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use hearth_profile::tree::TreeBuilder;
use hearth_profile::write::json::{Json as FlatTree, JsonNode};
use hearth_profile::write::{self, Labels};
use serde::Serialize;

use super::super::parameters::Parameters;
use super::super::reply::ApiError;
use super::super::{QueryState, Reader};
use super::{Clock, Question, UNIT, choice, finished, question};
use crate::query::labelled::Labelled;
use crate::query::request::Invalid;
use crate::query::store::off_runtime;
use crate::query::{Answer, Flame, Quality, QueryError};

/// The SVG needs its own script and style, and nothing from anywhere.
const SVG_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                          base-uri 'none'; form-action 'none'";

/// What is written from a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TreeFormat {
    Folded,
    Html,
    Json,
    NestedSet,
    Speedscope,
    Svg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Tree(TreeFormat),
    /// Written from samples.
    Pprof,
}

/// By name; the first is the usual one.
const FORMATS: [(&str, Format); 7] = [
    ("json", Format::Tree(TreeFormat::Json)),
    ("folded", Format::Tree(TreeFormat::Folded)),
    ("svg", Format::Tree(TreeFormat::Svg)),
    ("html", Format::Tree(TreeFormat::Html)),
    ("pprof", Format::Pprof),
    ("speedscope", Format::Tree(TreeFormat::Speedscope)),
    ("nested-set", Format::Tree(TreeFormat::NestedSet)),
];

#[derive(Serialize)]
struct Flamegraph<'a> {
    #[serde(flatten)]
    tree: FlatTree<'a>,
    quality: Option<&'a Quality>,
    notes: &'a [String],
}

/// The handler.
pub async fn flamegraph(
    State(state): State<QueryState>,
    reader: Reader,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    respond(&state, &reader, &query).await.unwrap_or_else(|error| error.into_response_to(&query))
}

async fn respond(state: &QueryState, reader: &Reader, query: &str) -> Result<Response, ApiError> {
    let (question, format) = parse(query, Clock::of(state))?;
    let _permit = state.permit(reader).await?;
    match format {
        Format::Tree(format) => {
            let answer = state.store.flame(&reader.scope, &question.request).await?;
            off_runtime(move || write_answer(&question, format, answer)).await
        }
        Format::Pprof => match state.store.pprof(&reader.scope, &question.request).await? {
            Labelled::Pprof(file, quality) => {
                let headers = [
                    (header::CONTENT_TYPE, "application/octet-stream"),
                    (header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb.gz\""),
                ];
                Ok(finished((headers, file).into_response(), &[], Some(&quality)))
            }
            Labelled::Empty(reason) => Err(ApiError::NotFound(reason)),
        },
    }
}

fn parse(query: &str, clock: Clock) -> Result<(Question, Format), Invalid> {
    let known = ["app_service", "event", "filter", "from", "until", "format"];
    let mut parameters = Parameters::parse(query, &known)?;
    let question = question(&mut parameters, clock)?;
    Ok((question, choice(&mut parameters, "format", &FORMATS)?))
}

fn write_answer(question: &Question, format: TreeFormat, answer: Answer) -> Result<Response, ApiError> {
    let (flame, quality, mut notes) = match answer {
        Answer::Flame(Flame { tree, quality, notes }) => (Some(tree), Some(quality), notes),
        Answer::Empty(reason) => (None, None, vec![reason]),
    };
    let title = question.title();
    let labels = Labels { title: &title, notes: &notes };
    // What has no other place for the reason shows a root without any time.
    let root = || TreeBuilder::new(question.request.subject.name()).finish();
    let response = match format {
        TreeFormat::Json => {
            let nothing = FlatTree { unit: UNIT, nodes: Vec::<JsonNode<'_>>::new() };
            let tree = flame.as_ref().map_or(nothing, write::json::json);
            Json(Flamegraph { tree, quality: quality.as_ref(), notes: &notes }).into_response()
        }
        TreeFormat::NestedSet => {
            let rows = flame.as_ref().map(write::nested_set::nested_set).unwrap_or_default();
            Json(rows).into_response()
        }
        TreeFormat::Speedscope => {
            let name = [std::slice::from_ref(&title), &notes].concat().join("; ");
            Json(write::speedscope::speedscope(&flame.unwrap_or_else(root), &name)).into_response()
        }
        TreeFormat::Folded => {
            typed("text/plain; charset=utf-8", flame.as_ref().map(write::folded::folded).unwrap_or_default())
        }
        TreeFormat::Html => {
            let page = write::html::html(&flame.unwrap_or_else(root), labels);
            guarded("text/html; charset=utf-8", write::html::POLICY, page)
        }
        TreeFormat::Svg => {
            let svg = match &flame {
                Some(tree) => {
                    let drawing = write::svg::svg(tree, labels).map_err(QueryError::from)?;
                    notes = drawing.notes;
                    drawing.svg
                }
                None => write::svg::empty(labels),
            };
            guarded("image/svg+xml", SVG_POLICY, svg)
        }
    };
    let elsewhere = quality.as_ref().filter(|_| format != TreeFormat::Json);
    Ok(finished(response, &notes, elsewhere))
}

fn typed(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

fn guarded(content_type: &'static str, policy: &'static str, text: String) -> Response {
    let headers: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, content_type), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Request;

    const CLOCK: Clock = Clock { now: 10_000, window: 10 };

    fn check(query: &str, expected: &str) {
        let text = match parse(query, CLOCK) {
            Ok((question, format)) => {
                let Request { subject, range, event, filter, .. } = question.request;
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
        check("app_service=redis", "redis 9100..10000 on-cpu false Tree(Json)");
        check("app_service=redis&until=5000", "redis 4100..5000 on-cpu false Tree(Json)");
        check("app_service=redis&until=5005", "redis 4100..5005 on-cpu false Tree(Json)");
        check("app_service=redis&until=5", "redis 1..5 on-cpu false Tree(Json)");
        check(
            "app_service=a%20b%2Bc&from=1&until=2&format=svg&event=on-cpu&filter=pod%3D'x'",
            "a b+c 1..2 on-cpu true Tree(Svg)",
        );
    }

    #[test]
    fn bad_parameters_are_named() {
        check("", "app_service is missing: give a process name, or Total for all of them");
        check("app_service=", "app_service is empty: give a process name, or Total for all of them");
        check("app_service=a&from=x", "from is \"x\", not an integer: give Unix seconds");
        check("app_service=a&from=0", "from is 0: give Unix seconds, greater than 0");
        check("app_service=a&from=5&until=4", "until is 4, before from 5: swap them, or give a later one");
        check(
            "app_service=a&format=pdf",
            "format is \"pdf\": use json, folded, svg, html, pprof, speedscope, nested-set",
        );
        check("app_service=a&event=wall", "event is \"wall\", which is not stored: use on-cpu");
        check(
            "app_service=a&filter=cpu",
            "filter is not understood at position 4: expected =, !=, <, <=, >, >=, IN, LIKE, REGEXP, NOT or IS, \
             found the end",
        );
    }
}
