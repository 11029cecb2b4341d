//! `GET /api/v1/apps?from=&until=`: the app services of a range, the hottest first.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::parameters::Parameters;
use super::super::reply::ApiError;
use super::super::{QueryState, Reader};
use super::{Clock, UNIT, range};
use crate::query::TimeRange;
use crate::query::store::App;

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

/// The handler.
pub async fn apps(State(state): State<QueryState>, reader: Reader, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    list(&state, &reader, &query).await.unwrap_or_else(IntoResponse::into_response)
}

async fn list(state: &QueryState, reader: &Reader, query: &str) -> Result<Response, ApiError> {
    let mut parameters = Parameters::parse(query, &["from", "until"])?;
    let range = range(&mut parameters, Clock::of(state))?;
    let _permit = state.permit(reader).await?;
    let (apps, notes) = state.store.apps(&reader.scope, range).await?;
    let apps = apps
        .into_iter()
        .map(|App { app_service: name, samples, value, rolled_up: _ }| ListedApp { name, samples, value })
        .collect();
    let TimeRange { from, until } = range;
    Ok(Json(Apps { from, until, unit: UNIT, apps, notes }).into_response())
}
