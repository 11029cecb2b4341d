//! `GET /api/v1/diff?app_service=&event=&filter=&from=&until=&base_app_service=&base_filter=&base_from=&base_until=&normalize=&format=`:
//! two profiles compared.
//!
//! What the base has other than the profile that is compared is said by the
//! `base_` parameters, at least one of them; the rest is the same.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hearth_profile::diff::{self, Diff, Scale};
use hearth_profile::tree::{Tree, TreeBuilder};
use hearth_profile::write::diff::DiffNode;
use hearth_profile::write::{self, Labels};
use serde::Serialize;

use super::super::parameters::Parameters;
use super::super::reply::ApiError;
use super::super::{QueryState, Reader};
use super::{Clock, Question, UNIT, choice, finished, parsed_filter, question};
use crate::query::request::Invalid;
use crate::query::store::off_runtime;
use crate::query::{Answer, Flame, Quality, Subject, TimeRange};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Folded,
    Html,
}

#[derive(Debug)]
struct Comparison {
    base: Question,
    new: Question,
    scale: Scale,
    format: Format,
}

#[derive(Serialize)]
struct Body<'a> {
    unit: &'static str,
    normalized: bool,
    base: Side<'a>,
    new: Side<'a>,
    nodes: Vec<DiffNode<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Side<'a> {
    app_service: &'a str,
    filter: &'a str,
    from: u32,
    until: u32,
    quality: Option<&'a Quality>,
}

/// The quality of formats that have no place for it.
#[derive(Serialize)]
struct Qualities<'a> {
    base: Option<&'a Quality>,
    new: Option<&'a Quality>,
}

/// The handler.
pub async fn diff(State(state): State<QueryState>, reader: Reader, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    respond(&state, &reader, &query).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: &QueryState, reader: &Reader, query: &str) -> Result<Response, ApiError> {
    let comparison = parse(query, Clock::of(state))?;
    let _permit = state.permit(reader).await?;
    let base = state.store.flame(&reader.scope, &comparison.base.request).await?;
    let new = state.store.flame(&reader.scope, &comparison.new.request).await?;
    Ok(off_runtime(move || write_answer(&comparison, base, new)).await)
}

fn parse(query: &str, clock: Clock) -> Result<Comparison, Invalid> {
    const BASE: [&str; 4] = ["base_app_service", "base_filter", "base_from", "base_until"];
    let own = ["app_service", "event", "filter", "from", "until", "normalize", "format"];
    let mut parameters = Parameters::parse(query, &[&own[..], &BASE[..]].concat())?;
    let new = question(&mut parameters, clock)?;
    let scale = [("false", Scale::Absolute), ("true", Scale::EqualTotals)];
    let scale = choice(&mut parameters, "normalize", &scale)?;
    let formats = [("json", Format::Json), ("folded", Format::Folded), ("html", Format::Html)];
    let format = choice(&mut parameters, "format", &formats)?;

    let mut base = new.clone();
    let mut differs = false;
    if let Some(app_service) = parameters.take("base_app_service") {
        base.request.subject = Subject::parse("base_app_service", &app_service)?;
        differs = true;
    }
    if let Some(filter) = parameters.take("base_filter") {
        base.request.filter = parsed_filter("base_filter", &filter)?;
        base.filter = filter;
        differs = true;
    }
    let from = parameters.integer("base_from", "Unix seconds")?;
    let until = parameters.integer("base_until", "Unix seconds")?;
    base.request.range = match (from, until) {
        (Some(from), Some(until)) => TimeRange::parse(("base_from", from), ("base_until", until))?,
        (None, None) if differs => base.request.range,
        (Some(_), None) => return Err(Invalid::new("base_until", "is missing: give it with base_from")),
        (None, Some(_)) => return Err(Invalid::new("base_from", "is missing: give it with base_until")),
        (None, None) => {
            let problem = "is missing: say what to compare with, by base_from and base_until, \
                           base_filter or base_app_service";
            return Err(Invalid::new("base_from", problem));
        }
    };
    Ok(Comparison { base, new, scale, format })
}

fn write_answer(comparison: &Comparison, base_answer: Answer, new_answer: Answer) -> Response {
    let Comparison { base, new, scale: asked, format } = comparison;
    let (base_tree, base_quality, base_notes) = parts(base_answer);
    let (new_tree, new_quality, mut notes) = parts(new_answer);
    notes.extend(base_notes.into_iter().map(|note| format!("base: {note}")));
    let nothing = base_tree.is_none() && new_tree.is_none();
    let tree = |tree: Option<Tree>, of: &Question| {
        tree.unwrap_or_else(|| TreeBuilder::new(of.request.subject.name()).finish())
    };
    let diff: Diff = diff::diff(&tree(base_tree, base), &tree(new_tree, new), *asked);
    if diff.scale != *asked {
        notes.push("the base is not scaled to equal totals: one of both has no time".to_owned());
    }
    let normalized = diff.scale == Scale::EqualTotals;
    let qualities = Qualities { base: base_quality.as_ref(), new: new_quality.as_ref() };
    let response = match format {
        Format::Json => {
            let nodes = if nothing { Vec::new() } else { write::diff::json(&diff) };
            let (base, new) = (side(base, qualities.base), side(new, qualities.new));
            Json(Body { unit: UNIT, normalized, base, new, nodes, notes: &notes }).into_response()
        }
        Format::Folded => ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], write::diff::folded(&diff))
            .into_response(),
        Format::Html => {
            let scaled = if normalized { ", scaled to equal totals" } else { "" };
            let title = format!("{} compared with {}{scaled}", new.title(), base.title());
            let page = write::html::diff_html(&diff, Labels { title: &title, notes: &notes });
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CONTENT_SECURITY_POLICY, write::html::POLICY),
            ];
            (headers, page).into_response()
        }
    };
    let elsewhere = (!nothing && *format != Format::Json).then_some(&qualities);
    finished(response, &notes, elsewhere)
}

fn parts(answer: Answer) -> (Option<Tree>, Option<Quality>, Vec<String>) {
    match answer {
        Answer::Flame(Flame { tree, quality, notes }) => (Some(tree), Some(quality), notes),
        Answer::Empty(reason) => (None, None, vec![reason]),
    }
}

fn side<'a>(question: &'a Question, quality: Option<&'a Quality>) -> Side<'a> {
    let Question { request, filter } = question;
    let TimeRange { from, until } = request.range;
    Side { app_service: request.subject.name(), filter, from, until, quality }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: Clock = Clock { now: 10_000, window: 10 };

    fn check(query: &str, expected: &str) {
        let show = |Question { request, filter }: &Question| {
            let TimeRange { from, until } = request.range;
            assert_eq!(request.filter.is_some(), !filter.is_empty());
            let filter = if filter.is_empty() { String::new() } else { format!(" where {filter}") };
            format!("{} {from}..{until}{filter}", request.subject.name())
        };
        let text = match parse(query, CLOCK) {
            Ok(Comparison { base, new, scale, format }) => {
                format!("{} with {}, {scale:?} {format:?}", show(&new), show(&base))
            }
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(text, expected, "{query}");
    }

    #[test]
    fn the_base_is_the_same_but_for_what_is_said() {
        check("app_service=a&base_from=1&base_until=2", "a 9100..10000 with a 1..2, Absolute Json");
        check(
            "app_service=a&from=5&until=6&filter=pod%3D'x'&base_filter=&format=html&normalize=true",
            "a 5..6 where pod='x' with a 5..6, EqualTotals Html",
        );
        check(
            "app_service=a&from=5&until=6&filter=pod%3D'x'&base_app_service=b&format=folded&normalize=false",
            "a 5..6 where pod='x' with b 5..6 where pod='x', Absolute Folded",
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        check(
            "app_service=a",
            "base_from is missing: say what to compare with, by base_from and base_until, base_filter or base_app_service",
        );
        check("app_service=a&base_from=1", "base_until is missing: give it with base_from");
        check("app_service=a&base_until=1", "base_from is missing: give it with base_until");
        check(
            "app_service=a&base_from=2&base_until=1",
            "base_until is 1, before base_from 2: swap them, or give a later one",
        );
        check(
            "app_service=a&base_app_service=",
            "base_app_service is empty: give a process name, or Total for all of them",
        );
        let filter = parse("app_service=a&base_filter=(", CLOCK).map(|_| ()).map_err(|e| e.to_string());
        assert!(filter.is_err_and(|e| e.starts_with("base_filter is not understood at position 2: ")));
        check(
            "app_service=a&base_from=1&base_until=2&format=svg",
            "format is \"svg\": use json, folded, html",
        );
        check("app_service=a&normalize=1", "normalize is \"1\": use false, true");
    }
}
