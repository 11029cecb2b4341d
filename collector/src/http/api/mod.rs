//! `GET /api/v1/…`: our own API, for scripts, the plugin and the page.
//!
//! Every parameter is checked, an unknown one refused; a range that is not
//! given is the last 15 minutes.

pub mod apps;
pub mod diff;
pub mod flamegraph;
pub mod tags;
pub mod timeline;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;

use super::QueryState;
use super::parameters::Parameters;
use super::reply::{NOTE, QUALITY, note_header, quality_header};
use crate::query::filter::{self, Expr};
use crate::query::request::{EVENT_TYPES, Invalid, LANGUAGE_TYPES, known_type};
use crate::query::time::utc;
use crate::query::{Request, Subject, TimeRange};

/// What a range is when it is not given: so many seconds until now.
pub const DEFAULT_RANGE_SECONDS: i64 = 15 * 60;

/// What a range that is not given is made from.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// Unix seconds.
    now: i64,
    /// Seconds of a window.
    window: u32,
}

impl Clock {
    fn of(state: &QueryState) -> Self {
        Self { now: super::now(), window: state.store.window_seconds() }
    }
}

/// Most characters of a filter that a title shows.
const SHOWN_FILTER_CHARS: usize = 200;

/// A question, and what answers to it show of it.
#[derive(Debug, Clone)]
struct Question {
    request: Request,
    /// The filter as it was written; empty if there is none.
    filter: String,
}

impl Question {
    /// `redis-server, 2024-02-21 05:37:00 UTC to 2024-02-21 05:52:00 UTC, where pod_ns = 'app'`.
    fn title(&self) -> String {
        let TimeRange { from, until } = self.request.range;
        let title = format!("{}, {} to {}", self.request.subject.name(), utc(from), utc(until));
        if self.request.filter.is_none() {
            return title;
        }
        let filter = self.filter.trim().replace(|c: char| c.is_control(), " ");
        let mut shown: String = filter.chars().take(SHOWN_FILTER_CHARS).collect();
        if shown.len() < filter.len() {
            shown.push('…');
        }
        format!("{title}, where {shown}")
    }
}

/// Unit of all values.
const UNIT: &str = "microseconds";

/// A question by `app_service`, `event`, `filter`, `from` and `until`.
fn question(parameters: &mut Parameters, clock: Clock) -> Result<Question, Invalid> {
    let Some(app_service) = parameters.take("app_service") else {
        return Err(Invalid::new("app_service", "is missing: give a process name, or Total for all of them"));
    };
    let subject = Subject::parse("app_service", &app_service)?;
    question_about(subject, parameters, clock)
}

/// As [`question`], with the subject known.
fn question_about(subject: Subject, parameters: &mut Parameters, clock: Clock) -> Result<Question, Invalid> {
    let event = parameters.take("event").unwrap_or_else(|| EVENT_TYPES[0].to_owned());
    let event = known_type("event", &event, EVENT_TYPES)?;
    let text = parameters.take("filter").unwrap_or_default();
    let filter = parsed_filter("filter", &text)?;
    let range = range(parameters, clock)?;
    let language = LANGUAGE_TYPES[0];
    let request = Request { subject, range, event, language, filter, max_kernel_frames: None };
    Ok(Question { request, filter: text })
}

fn parsed_filter(field: &'static str, text: &str) -> Result<Option<Expr>, Invalid> {
    filter::parse(text).map_err(|e| Invalid::new(field, format!("is not understood {e}")))
}

fn range(parameters: &mut Parameters, Clock { now, window }: Clock) -> Result<TimeRange, Invalid> {
    let until = parameters.integer("until", "Unix seconds")?;
    let from = parameters.integer("from", "Unix seconds")?;
    let until = until.unwrap_or(now);
    let from = from.unwrap_or_else(|| {
        let from = until.saturating_sub(DEFAULT_RANGE_SECONDS);
        // Nobody asked for a start within a window: so none is moved, and no note says so.
        (from - from.rem_euclid(i64::from(window.max(1)))).max(1)
    });
    TimeRange::parse(("from", from), ("until", until))
}

/// One of `known` by its name; the first if none is given.
fn choice<T: Copy>(
    parameters: &mut Parameters,
    field: &'static str,
    known: &[(&str, T)],
) -> Result<T, Invalid> {
    let Some(given) = parameters.take(field) else { return Ok(known[0].1) };
    let found = known.iter().find(|(name, _)| *name == given);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let given: String = given.chars().take(64).collect();
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        Invalid::new(field, format!("is {given:?}: use {}", names.join(", ")))
    })
}

/// What every answer with a profile carries; its quality, if the body has none.
fn finished(mut response: Response, notes: &[String], quality: Option<&impl Serialize>) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(note) = note_header(notes) {
        headers.insert(NOTE, note);
    }
    if let Some(quality) = quality.and_then(quality_header) {
        headers.insert(QUALITY, quality);
    }
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check_title(filter: &str, expected: &str) {
        let mut parameters =
            Parameters::parse(&format!("from=1&until=2&filter={filter}"), &["from", "until", "filter"])
                .unwrap();
        let clock = Clock { now: 10_000, window: 10 };
        let question = question_about(Subject::App("a".to_owned()), &mut parameters, clock).unwrap();
        let range = "a, 1970-01-01 00:00:01 UTC to 1970-01-01 00:00:02 UTC";
        assert_eq!(question.title(), format!("{range}{expected}"));
    }

    #[test]
    fn a_title_says_its_filter() {
        check_title("", "");
        check_title("%20", "");
        check_title("%20pod%3D'x'%0Aand%09pod_ns%3D'<y>'%20", ", where pod='x' and pod_ns='<y>'");
        let fits = format!("pod='{}'", "é".repeat(SHOWN_FILTER_CHARS - 6));
        check_title(&fits, &format!(", where {fits}"));
        let long = format!("pod='{}'", "é".repeat(SHOWN_FILTER_CHARS - 5));
        check_title(&long, &format!(", where pod='{}…", "é".repeat(SHOWN_FILTER_CHARS - 5)));
    }
}
