//! Runs statements: the only part of the query core that does IO.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clickhouse::{Client, Row, RowOwned, RowRead};
use hearth_profile::tree::Tree;
use serde::Deserialize;

use super::build::{self, Stacks};
use super::empty::Seen;
use super::error::{Exceeded, Limit};
use super::filter::Expr;
use super::plan;
use super::quality::{self, LossRow, Quality};
use super::request::{Request, Subject, TOTAL, TimeRange};
use super::scope::Scope;
use super::source::{self, Need, Sources};
use super::statement::{Statement, Value};
use super::{Limits, QueryError, empty};
use crate::rollup::Coverage;
use crate::rollup::coverage::HOUR;

/// Most app services in a list.
pub const MAX_APPS: u64 = 10_000;

/// Bytes of one statement's text; ClickHouse's own default is 256 KiB.
const MAX_QUERY_BYTES: u64 = 4 << 20;

/// Answers questions from ClickHouse.
#[derive(Clone)]
pub struct Store {
    client: Client,
    /// For what is no part of an answer, and not held to its bounds.
    coverage: Client,
    limits: Limits,
}

/// What a question for a flame graph found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Something.
    Flame(Flame),
    /// Nothing, and why.
    Empty(String),
}

/// A tree and what must be known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flame {
    /// Root, threads or processes, frames.
    pub tree: Tree,
    /// How far it can be trusted.
    pub quality: Quality,
    /// The same, and what else must be known of it. Sentences; usually none.
    pub notes: Vec<String>,
}

/// An app service of a range.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct App {
    /// Its name.
    pub app_service: String,
    /// Samples taken.
    pub samples: u64,
    /// Microseconds.
    pub value: i64,
    /// Those of `value` that come from rollups.
    pub rolled_up: i64,
}

#[derive(Row, Deserialize)]
struct StackRow {
    stack_id: [u8; 16],
    frames: String,
}

/// A row of [`plan::first_and_last`].
#[derive(Row, Deserialize)]
struct FirstAndLast {
    first: u32,
    last: u32,
    rows_there: u64,
}

#[derive(Row, Deserialize)]
struct One {
    #[serde(rename = "one")]
    _one: u8,
}

impl Store {
    /// Answers through `client`, within `limits`.
    pub fn new(client: Client, limits: Limits) -> Self {
        let client = client
            .with_setting("max_execution_time", limits.max_execution_seconds.to_string())
            .with_setting("timeout_overflow_mode", "throw")
            // Nothing that is asked here writes; 2 lets a statement bring settings.
            .with_setting("readonly", "2")
            // Machine code for a statement is made while the fourth one like it waits (50 ms after every
            // start), and makes these no faster.
            .with_setting("compile_expressions", "0")
            .with_setting("compile_aggregate_expressions", "0")
            // Whoever went away, and a statement that we gave up, must not cost any more.
            // ClickHouse ends only those that are read-only.
            .with_setting("cancel_http_readonly_queries_on_client_close", "1");
        let coverage = client.clone();
        let client = client
            .with_setting("max_result_rows", limits.max_rows.to_string())
            .with_setting("max_result_bytes", limits.max_bytes.to_string())
            // What is thrown away after grouping costs as much as what is answered.
            .with_setting("max_rows_to_group_by", limits.max_rows.to_string())
            .with_setting("max_memory_usage", limits.max_memory.to_string())
            // A filter may be as long as a request's body, and its values twice as long when they are quoted.
            .with_setting("max_query_size", MAX_QUERY_BYTES.to_string())
            // Throw, and do not cut: a cut answer would be silently wrong.
            .with_setting("result_overflow_mode", "throw")
            .with_setting("group_by_overflow_mode", "throw");
        Self { client, coverage, limits }
    }

    /// The flame graph that is asked for, of what is in the scope, or the reason why there is none.
    ///
    /// # Errors
    /// If the answer exceeds a limit, or ClickHouse does not give one.
    pub async fn flame(&self, scope: &Scope, request: &Request) -> Result<Answer, QueryError> {
        let (sources, mut notes) = self.sources(scope, request.range, Need::of(request)).await?;
        let (tree, lost) = tokio::try_join!(self.tree(request, &sources), self.lost(request, &sources))?;
        match tree {
            Some((tree, quality)) => {
                let quality = Quality { lost, ..quality };
                notes.extend(quality.notes());
                Ok(Answer::Flame(Flame { tree, quality, notes }))
            }
            None => Ok(Answer::Empty(self.reason(request, &sources, &lost).await?)),
        }
    }

    /// The tree, if there are rows, and all of its quality but what was lost.
    async fn tree(
        &self,
        request: &Request,
        sources: &Sources,
    ) -> Result<Option<(Tree, Quality)>, QueryError> {
        let app = match &request.subject {
            Subject::Total => {
                let rows: Vec<build::TotalRow> = self.rows(&plan::total(request, sources)).await?;
                if rows.is_empty() {
                    return Ok(None);
                }
                let build = move || (build::total_tree(TOTAL, &rows), Quality::of_total(&rows));
                return Ok(Some(off_runtime(build).await));
            }
            Subject::App(app) => app.clone(),
        };
        let mut rows: Vec<build::AppRow> = self.rows(&plan::app(request, sources, &app)).await?;
        if rows.is_empty() {
            return Ok(None);
        }
        // Stacks are stored before the rows that name them: asked in this order, none is missing.
        let stacks = self.stacks(&plan::stacks(request, sources, &app)).await?;
        if stacks.differ_by_process(&rows) {
            // Rows may have come since: so these are for the tree and for its quality.
            stacks.tell_apart(&mut rows, self.rows(&plan::app_by_process(request, sources, &app)).await?);
        }
        let max_kernel_frames = request.max_kernel_frames;
        let build = move || {
            let tree = build::app_tree(&app, &rows, &stacks, max_kernel_frames);
            (tree, Quality::of_app(&rows, &stacks))
        };
        Ok(Some(off_runtime(build).await))
    }

    /// What the agents of the answer's nodes lost; of an answer without rows, on
    /// whatever node there might have been something. `Total`, also of some nodes, is
    /// of one that lost every sample it took, too. Whoever may not see whole nodes is
    /// told of those alone that have rows in the answer.
    pub(super) async fn lost(
        &self,
        request: &Request,
        sources: &Sources,
    ) -> Result<BTreeMap<String, u64>, QueryError> {
        let of_nodes = request.filter.as_ref().and_then(Expr::of_nodes);
        let losses: Vec<LossRow> = self.rows(&plan::losses(request, sources, of_nodes.as_ref())).await?;
        // Mostly there are none, and then the nodes need not be found.
        let all = losses.is_empty() || request.subject == Subject::Total && request.filter == of_nodes;
        let all = all || !sources.scope().has_nodes();
        let nodes = if all { Vec::new() } else { self.rows(&plan::nodes(request, sources)).await? };
        Ok(quality::lost(losses, nodes))
    }

    /// Seconds of a window.
    pub fn window_seconds(&self) -> u32 {
        self.limits.window_seconds
    }

    /// Why `request` found nothing in `sources`. It may be that it was [`Store::lost`].
    pub(super) async fn reason(
        &self,
        request: &Request,
        sources: &Sources,
        lost: &BTreeMap<String, u64>,
    ) -> Result<String, QueryError> {
        let seen = self.seen(request, sources).await?;
        let reason = empty::reason(request, sources, &seen);
        let parts = [Some(reason), sources.missing_note(), quality::lost_note(lost), sources.scope().note()];
        Ok(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }

    /// The tables that answer a range, and what is to be known of it: without a
    /// look at what there is if raw rows do.
    pub(super) async fn sources(
        &self,
        scope: &Scope,
        asked: TimeRange,
        need: Need,
    ) -> Result<(Sources, Vec<String>), QueryError> {
        let window = self.limits.window_seconds;
        let range = asked.aligned(window);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let raw = Sources::raw(scope.clone(), range);
        let sources = if source::wants_rollups(range, now) {
            let coverage = self.in_time(Coverage::read(&self.coverage));
            let (coverage, seen) = tokio::try_join!(coverage, self.first_and_last(scope, range))?;
            seen.map_or(raw, |seen| Sources::choose(scope.clone(), range, seen, need, &coverage))
        } else {
            raw
        };
        let notes = sources.notes(asked, window);
        Ok((sources, notes))
    }

    /// The hours of a range outside of which the scope has nothing; none if it has nothing at all. What is stored
    /// of others must not be known by what is asked and said then.
    async fn first_and_last(&self, scope: &Scope, range: TimeRange) -> Result<Option<TimeRange>, QueryError> {
        if scope.has_nodes() {
            return Ok(Some(range));
        }
        let hours = TimeRange {
            until: (range.until - range.until % HOUR).saturating_add(HOUR - 1),
            ..range.aligned(HOUR)
        };
        let found: Vec<FirstAndLast> = self.rows(&plan::first_and_last(scope, hours)).await?;
        let found = found.into_iter().find(|found| found.rows_there > 0);
        Ok(found.map(|FirstAndLast { first, last, .. }| TimeRange { from: first, until: last }))
    }

    /// What there is instead, no more than the reason needs: an app by its key,
    /// then the range, and all that is stored only if that gave no hint.
    async fn seen(&self, request: &Request, sources: &Sources) -> Result<Seen, QueryError> {
        let mut seen = Seen::default();
        if let Subject::App(app) = &request.subject {
            seen.asked = self.rows_in_time(&plan::seen_app(request, sources, app)).await?;
            if seen.asked.as_ref().is_none_or(|app| !app.is_empty()) {
                return Ok(seen);
            }
        }
        seen.in_range = self.rows_in_time(&plan::seen(request, sources, MAX_APPS)).await?;
        let enough = match &request.subject {
            Subject::Total => seen.in_range.as_ref().is_some_and(|apps| !apps.is_empty()),
            Subject::App(_) => seen.in_range.as_ref().is_some_and(|apps| empty::resembles(request, apps)),
        };
        if !enough {
            seen.ever = self.rows_in_time(&plan::seen_ever(request, sources, MAX_APPS)).await?;
        }
        Ok(seen)
    }

    /// The rows; `None` if they are too many, or take too long.
    async fn rows_in_time<T: RowOwned + RowRead>(
        &self,
        statement: &Statement,
    ) -> Result<Option<Vec<T>>, QueryError> {
        match self.rows(statement).await {
            Ok(rows) => Ok(Some(rows)),
            Err(error @ QueryError::TooMuch(_)) => {
                tracing::debug!("the reason of an empty answer stays incomplete: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The app services of a range, as far as they are in the scope, the hottest first, at most [`MAX_APPS`], and notes.
    ///
    /// # Errors
    /// As [`Store::flame`].
    pub async fn apps(&self, scope: &Scope, range: TimeRange) -> Result<(Vec<App>, Vec<String>), QueryError> {
        let (sources, mut notes) = self.sources(scope, range, Need::default()).await?;
        let everything = Request::of_everything(sources.range());
        let (apps, losses) = (plan::apps(&sources, MAX_APPS + 1), plan::losses(&everything, &sources, None));
        let (mut apps, losses): (Vec<App>, _) = tokio::try_join!(self.rows(&apps), self.rows(&losses))?;
        if apps.len() as u64 > MAX_APPS {
            apps.truncate(MAX_APPS as usize);
            notes.push(format!("only the {MAX_APPS} hottest are listed"));
        }
        if apps.is_empty() {
            notes.push(self.no_apps(&sources).await?);
        }
        let of = |value: &dyn Fn(&App) -> i64| sum(apps.iter().map(value));
        let lost = quality::lost(losses, Vec::new());
        notes.extend(quality::notes_of_rows(of(&|app| app.rolled_up), of(&|app| app.value), &lost));
        Ok((apps, notes))
    }

    /// Why [`plan::apps`] found nothing.
    async fn no_apps(&self, sources: &Sources) -> Result<String, QueryError> {
        let request = Request::of_everything(sources.range());
        let seen = self.seen(&request, sources).await?;
        Ok(empty::no_apps(&request, sources, &seen))
    }

    /// Whether ClickHouse answers within two seconds.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ready(&self) -> Result<(), QueryError> {
        let query = self.client.query("SELECT 1 AS one").fetch_one::<One>();
        let answer = tokio::time::timeout(Duration::from_secs(2), query).await;
        match answer.unwrap_or(Err(clickhouse::error::Error::TimedOut)) {
            Ok(One { .. }) => Ok(()),
            Err(error) => Err(QueryError::of(error, &self.limits)),
        }
    }

    pub(super) async fn stacks(&self, statement: &Statement) -> Result<Stacks, QueryError> {
        let rows: Vec<StackRow> = self.rows(statement).await?;
        let stacks = rows.into_iter().map(|StackRow { stack_id, frames }| (stack_id, frames));
        Ok(off_runtime(move || stacks.collect()).await)
    }

    pub(super) async fn rows<T: RowOwned + RowRead>(
        &self,
        statement: &Statement,
    ) -> Result<Vec<T>, QueryError> {
        let mut query = self.client.query(statement.sql());
        for value in statement.values() {
            query = match value {
                Value::Text(text) => query.bind(text.as_str()),
                Value::Int(number) => query.bind(number),
            };
        }
        self.in_time(query.fetch_all::<T>()).await
    }

    /// ClickHouse looks at its clock only between blocks; what does not come back
    /// a while after the limit is not coming back.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, clickhouse::error::Error>>,
    ) -> Result<T, QueryError> {
        let Limits { max_execution_seconds, grace, .. } = self.limits;
        let patience = Duration::from_secs(max_execution_seconds) + grace;
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer.map_err(|error| QueryError::of(error, &self.limits)),
            Err(_) => Err(QueryError::TooMuch(Exceeded {
                limit: Limit::Seconds,
                most: Some(max_execution_seconds),
                source: None,
            })),
        }
    }
}

pub(super) fn sum(values: impl Iterator<Item = i64>) -> i64 {
    values.fold(0, i64::saturating_add)
}

/// Runs what takes a while on a thread for it, so that a large tree does not
/// keep the runtime from receiving samples.
pub(crate) async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// What comes of a task that nobody aborts.
pub(crate) async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody will read the answer.
            Err(_) => std::future::pending().await,
        },
    }
}
