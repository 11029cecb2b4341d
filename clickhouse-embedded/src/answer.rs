//! What a client is sent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::time::error::Elapsed;

use crate::engine::{Engine, Running};
use crate::exception::{Exception, code};
use crate::http::Server;
use crate::listen::Flushes;
use crate::metrics::{QueryEnd, QueryEndLabels};
use crate::output::{Event, Outcome};
use crate::wire::Encoding;

/// What is held of an answer before its status is sent: one that fails or ends
/// before has a proper status, as in ClickHouse (`http_response_buffer_size`).
const HELD_BYTES: usize = 1 << 20;
/// How long a client has to take an exception in the body before the cut that
/// follows it.
const CUT_PATIENCE: Duration = Duration::from_secs(30);

/// Counts a request, however it ends.
pub(crate) struct Measured {
    server: Arc<Server>,
    began: Instant,
    ended: QueryEnd,
}

impl Measured {
    pub(crate) fn begin(server: &Arc<Server>) -> Self {
        server.metrics.in_flight.inc();
        Self { server: Arc::clone(server), began: Instant::now(), ended: QueryEnd::Cancelled }
    }

    /// Ends with this response.
    pub(crate) fn end(mut self, ended: QueryEnd, response: Response) -> Response {
        self.ended = ended;
        response
    }

    fn answered(&mut self, outcome: &Outcome) {
        self.ended = QueryEnd::Ok;
        self.server.metrics.seconds.observe(self.began.elapsed().as_secs_f64());
        self.server.metrics.result_bytes.inc_by(outcome.result_bytes);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let metrics = &self.server.metrics;
        metrics.in_flight.dec();
        metrics.queries.get_or_create(&QueryEndLabels { outcome: self.ended }).inc();
    }
}

/// The response to a statement that runs.
pub(crate) async fn respond(
    mut running: Running,
    mut measured: Measured,
    query_id: &str,
    flushes: Flushes,
) -> Response {
    let server = Arc::clone(&measured.server);
    let mut headers = common_headers(&server.engine, query_id);
    set(&mut headers, "content-type", content_type(running.format.as_deref()));
    set(&mut headers, "x-clickhouse-format", running.format.as_deref().unwrap_or_default());
    set(&mut headers, "x-clickhouse-exception-tag", &running.tag);
    let encoding = running.encoding;
    let mut held = VecDeque::new();
    let mut held_bytes = 0;
    while held_bytes < HELD_BYTES {
        match running.next().await {
            Some(Event::Piece(piece)) => {
                held_bytes += piece.len();
                held.push_back(piece);
            }
            Some(Event::End(outcome)) => {
                measured.answered(&outcome);
                set(&mut headers, "x-clickhouse-summary", &summary(&outcome));
                if !held.is_empty() {
                    set_encoding(&mut headers, encoding);
                }
                let body = match held.len() {
                    0 | 1 => held.pop_front().unwrap_or_default(),
                    _ => Vec::from(held).concat().into(),
                };
                return (headers, body).into_response();
            }
            Some(Event::Failed { exception, in_body: _ }) => {
                return measured.end(QueryEnd::Error, refused(&exception, &server.engine, query_id));
            }
            None => {
                let exception = Exception::new(code::UNKNOWN_EXCEPTION, "the query ended without an answer");
                return measured.end(QueryEnd::Error, refused(&exception, &server.engine, query_id));
            }
        }
    }
    set_encoding(&mut headers, encoding);
    let flow = Flow { running, measured, held, flushes, is_broken: false };
    (headers, Body::from_stream(futures::stream::unfold(flow, Flow::next))).into_response()
}

/// A body under way.
struct Flow {
    running: Running,
    measured: Measured,
    held: VecDeque<Bytes>,
    flushes: Flushes,
    /// The exception was sent: what is left is to break the body off, so that
    /// nobody takes it for whole.
    is_broken: bool,
}

impl Flow {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.is_broken {
            // Late or not, the end is the same.
            let _: Result<(), Elapsed> = tokio::time::timeout(CUT_PATIENCE, self.flushes.flushed()).await;
            return Some((Err(io::Error::other("the query failed")), self));
        }
        if let Some(piece) = self.held.pop_front() {
            return Some((Ok(piece), self));
        }
        match self.running.next().await {
            Some(Event::Piece(piece)) => Some((Ok(piece), self)),
            Some(Event::End(outcome)) => {
                self.measured.answered(&outcome);
                None
            }
            Some(Event::Failed { exception, in_body }) => {
                tracing::info!(
                    code = exception.code,
                    "query failed within its answer: {}",
                    exception.message
                );
                self.measured.ended = QueryEnd::Error;
                self.is_broken = true;
                self.flushes.mark();
                Some((Ok(in_body), self))
            }
            None => Some((Err(io::Error::other("the query ended without an end")), self)),
        }
    }
}

/// The response to a request that failed before anything was sent.
pub(crate) fn refused(exception: &Exception, engine: &Engine, query_id: &str) -> Response {
    let status = exception.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(code = exception.code, "query failed: {}", exception.message);
    }
    let mut headers = common_headers(engine, query_id);
    set(&mut headers, "content-type", content_type(None));
    set(&mut headers, "x-clickhouse-exception-code", &exception.code.to_string());
    (status, headers, exception.text(engine.version())).into_response()
}

fn common_headers(engine: &Engine, query_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    set(&mut headers, "x-clickhouse-server-display-name", engine.display_name());
    set(&mut headers, "x-clickhouse-timezone", engine.time_zone());
    if !query_id.is_empty() {
        set(&mut headers, "x-clickhouse-query-id", query_id);
    }
    headers
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // What a header cannot hold (a line feed in a query id) is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn set_encoding(headers: &mut HeaderMap, encoding: Encoding) {
    if let Encoding::Content(encoding) = encoding {
        set(headers, "content-encoding", encoding.name());
    }
}

fn summary(outcome: &Outcome) -> String {
    let Outcome { summary, result_bytes, elapsed } = outcome;
    format!(
        r#"{{"read_rows":"{}","read_bytes":"{}","written_rows":"{}","written_bytes":"{}","result_bytes":"{}","elapsed_ns":"{}"}}"#,
        summary.rows_read,
        summary.bytes_read,
        summary.rows_written,
        summary.bytes_written,
        result_bytes,
        elapsed.as_nanos(),
    )
}

fn content_type(format: Option<&str>) -> &'static str {
    match format {
        Some("TabSeparated" | "TSV") => "text/tab-separated-values; charset=UTF-8",
        Some("JSON" | "JSONCompact") => "application/json; charset=UTF-8",
        Some("CSV") => "text/csv; charset=UTF-8",
        Some(_) => "application/octet-stream",
        None => "text/plain; charset=UTF-8",
    }
}
