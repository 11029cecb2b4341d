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

use super::QueryState;
use super::parameters::Parameters;
use super::reply::{NOTE, note_header};
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

/// Unit of all values.
const UNIT: &str = "microseconds";

/// A question by `app_service`, `event`, `filter`, `from` and `until`.
fn question(parameters: &mut Parameters, clock: Clock) -> Result<Request, Invalid> {
    let Some(app_service) = parameters.take("app_service") else {
        return Err(Invalid::new("app_service", "is missing: give a process name, or Total for all of them"));
    };
    let subject = Subject::parse("app_service", &app_service)?;
    question_about(subject, parameters, clock)
}

/// As [`question`], with the subject known.
fn question_about(subject: Subject, parameters: &mut Parameters, clock: Clock) -> Result<Request, Invalid> {
    let event = parameters.take("event").unwrap_or_else(|| EVENT_TYPES[0].to_owned());
    let event = known_type("event", &event, EVENT_TYPES)?;
    let filter = parsed_filter("filter", &parameters.take("filter").unwrap_or_default())?;
    let range = range(parameters, clock)?;
    let language = LANGUAGE_TYPES[0];
    Ok(Request { subject, range, event, language, filter, max_kernel_frames: None })
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

/// `redis-server, 2024-02-21 05:37:00 UTC to 2024-02-21 05:52:00 UTC`.
fn title(request: &Request) -> String {
    let TimeRange { from, until } = request.range;
    format!("{}, {} to {}", request.subject.name(), utc(from), utc(until))
}

/// What every answer with a profile carries.
fn finished(mut response: Response, notes: &[String]) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(note) = note_header(notes) {
        headers.insert(NOTE, note);
    }
    response
}
