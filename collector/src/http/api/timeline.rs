//! `GET /api/v1/timeline?app_service=&event=&filter=&from=&until=&step=`: CPU time by step.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::parameters::Parameters;
use super::super::reply::ApiError;
use super::super::{QueryState, Reader};
use super::{Clock, Question, UNIT, question};
use crate::query::TimeRange;
use crate::query::timeline::{Point, Steps, Timeline};

#[derive(Serialize)]
struct Answer {
    from: u32,
    until: u32,
    step: u32,
    unit: &'static str,
    points: Vec<Point>,
    notes: Vec<String>,
}

/// The handler.
pub async fn timeline(
    State(state): State<QueryState>,
    reader: Reader,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    respond(&state, &reader, &query).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: &QueryState, reader: &Reader, query: &str) -> Result<Response, ApiError> {
    let known = ["app_service", "event", "filter", "from", "until", "step"];
    let mut parameters = Parameters::parse(query, &known)?;
    let Question { request, filter: _ } = question(&mut parameters, Clock::of(state))?;
    let step = parameters.integer("step", "seconds")?;
    let steps = Steps::new(request.range, state.store.window_seconds(), step)?;
    let _permit = state.permit(reader).await?;
    let Timeline { range, points, notes } = state.store.timeline(&reader.scope, &request, steps).await?;
    let TimeRange { from, until } = range;
    Ok(Json(Answer { from, until, step: steps.step, unit: UNIT, points, notes }).into_response())
}
