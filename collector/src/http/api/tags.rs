//! `GET /api/v1/tags`, and `GET /api/v1/tags/{tag}/values?event=&filter=&from=&until=&limit=`:
//! what can be filtered by.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::parameters::Parameters;
use super::super::reply::ApiError;
use super::super::{QueryState, Reader};
use super::{Clock, Question, UNIT, question_about};
use crate::query::filter::{TAGS, Tag};
use crate::query::request::Invalid;
use crate::query::tags::{About, about};
use crate::query::values::{MAX_VALUES, TagValue, TagValues, USUAL_VALUES};
use crate::query::{Subject, TimeRange};

#[derive(Serialize)]
struct Tags {
    tags: Vec<ListedTag>,
}

#[derive(Serialize)]
struct ListedTag {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    collected: bool,
    description: String,
}

#[derive(Serialize)]
struct Values {
    tag: &'static str,
    from: u32,
    until: u32,
    unit: &'static str,
    values: Vec<TagValue>,
    notes: Vec<String>,
}

/// Every tag.
pub async fn tags(RawQuery(query): RawQuery) -> Response {
    if let Err(invalid) = Parameters::parse(query.as_deref().unwrap_or_default(), &[]) {
        return ApiError::from(invalid).into_response();
    }
    let tags = TAGS
        .iter()
        .map(|tag| {
            let About { kind, collected, description } = about(tag);
            ListedTag { name: tag.name, kind, collected, description }
        })
        .collect();
    Json(Tags { tags }).into_response()
}

/// The values of one tag.
pub async fn values(
    State(state): State<QueryState>,
    reader: Reader,
    tag: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let Ok(Path(tag)) = tag else {
        return ApiError::from(Invalid::new("tag", "is not percent-encoded UTF-8")).into_response();
    };
    respond(&state, &reader, &tag, &query).await.unwrap_or_else(IntoResponse::into_response)
}

async fn respond(state: &QueryState, reader: &Reader, tag: &str, query: &str) -> Result<Response, ApiError> {
    let tag = named(tag)?;
    let mut parameters = Parameters::parse(query, &["event", "filter", "from", "until", "limit"])?;
    let Question { request, filter: _ } = question_about(Subject::Total, &mut parameters, Clock::of(state))?;
    let limit = limit(parameters.integer("limit", "how many values to list")?)?;
    let _permit = state.permit(reader).await?;
    let TagValues { values, notes } = state.store.tag_values(&reader.scope, &request, tag, limit).await?;
    let TimeRange { from, until } = request.range;
    Ok(Json(Values { tag: tag.name, from, until, unit: UNIT, values, notes }).into_response())
}

fn named(name: &str) -> Result<&'static Tag, ApiError> {
    TAGS.iter().find(|tag| tag.name == name).ok_or_else(|| {
        let name: String = name.chars().take(64).collect();
        let known: Vec<&str> = TAGS.iter().map(|tag| tag.name).collect();
        ApiError::NotFound(format!("no tag {name:?}: the tags are {}", known.join(", ")))
    })
}

fn limit(asked: Option<i64>) -> Result<u32, Invalid> {
    let Some(asked) = asked else { return Ok(USUAL_VALUES) };
    u32::try_from(asked).ok().filter(|limit| (1..=MAX_VALUES).contains(limit)).ok_or_else(|| {
        Invalid::new("limit", format!("is {asked}: give a number of values from 1 to {MAX_VALUES}"))
    })
}
