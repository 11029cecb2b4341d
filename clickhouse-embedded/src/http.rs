//! ClickHouse's HTTP interface over the engine.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::BodyExt;

use crate::browser;
use crate::engine::{Answer, Engine, Statement};
use crate::exception::{Exception, code};
use crate::kill;
use crate::metrics::{Metrics, Outcome, OutcomeLabels};
use crate::request::{self, AnswerEncoding, Arguments};
use crate::wire;

/// Answers smaller than this are not worth a frame.
const MIN_FRAME_BYTES: usize = 1024;

/// What requests are held to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request, as sent and decompressed.
    pub max_body: usize,
    /// The setting `max_result_bytes` of a request that does not bring its own.
    pub max_result_bytes: u64,
}

/// Who may ask; `None` lets everybody.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The only user.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// What the handlers share.
#[derive(Debug)]
pub struct Server {
    /// Runs the statements.
    pub engine: Arc<Engine>,
    /// See there.
    pub limits: Limits,
    /// See there.
    pub credentials: Option<Credentials>,
    /// See there.
    pub metrics: Metrics,
}

/// All routes.
pub fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/", get(query).post(query))
        .route("/ping", get(|| async { "Ok.\n" }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), refuse_pages))
        .with_state(server)
}

async fn refuse_pages(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    // A page whose name points here does not know the password.
    match browser::refusal(request.headers(), server.credentials.is_none()) {
        None => next.run(request).await,
        Some(reason) => {
            let exception = Exception::new(code::ACCESS_DENIED, reason);
            exception_response(&exception, server.engine.version())
        }
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], server.metrics.text())
}

async fn query(State(server): State<Arc<Server>>, request: Request) -> Response {
    let metrics = &server.metrics;
    metrics.in_flight.inc();
    let outcome = answer(&server, request).await;
    metrics.in_flight.dec();
    let label = if outcome.is_ok() { Outcome::Ok } else { Outcome::Error };
    metrics.queries.get_or_create(&OutcomeLabels { outcome: label }).inc();
    outcome.unwrap_or_else(|exception| exception_response(&exception, server.engine.version()))
}

async fn answer(server: &Server, request: Request) -> Result<Response, Exception> {
    let (parts, body) = request.into_parts();
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|error| Exception::new(code::BAD_ARGUMENTS, error.body_text()))?;
    let mut arguments = Arguments::parse(pairs, &parts.headers)?;
    authenticate(server.credentials.as_ref(), &arguments)?;
    let sql = statement_text(&mut arguments, &parts.headers, body, server.limits.max_body).await?;
    if sql.iter().all(u8::is_ascii_whitespace) {
        // As ClickHouse answers who only looks whether it is there.
        return match parts.method {
            Method::GET => Ok("Ok.\n".into_response()),
            _ => Err(Exception::new(code::SYNTAX_ERROR, "empty query")),
        };
    }
    server.metrics.request_bytes.inc_by(sql.len() as u64);

    let Arguments {
        query: _,
        database,
        default_format,
        query_id,
        decompress: _,
        encoding,
        user: _,
        password: _,
        params,
        mut settings,
    } = arguments;
    add_default_settings(&mut settings, &parts.method, &server.limits);
    let format = default_format.unwrap_or_else(|| "TabSeparated".into());
    let shown_format = (!names_format(&sql)).then(|| format.clone());

    kill::stop_in_the_midst_of(&sql);
    let started = Instant::now();
    let statement = Statement { sql, format, database, settings, params };
    let answer = server.engine.run(statement).await?;
    server.metrics.seconds.observe(started.elapsed().as_secs_f64());
    server.metrics.result_bytes.inc_by(answer.result.as_ref().len() as u64);
    Ok(answer_response(answer, encoding, query_id, shown_format))
}

/// The statement with the data to insert: as in ClickHouse, the body follows
/// the URL's `query` after a line feed, or is the whole statement.
async fn statement_text(
    arguments: &mut Arguments,
    headers: &HeaderMap,
    body: Body,
    max_body: usize,
) -> Result<Vec<u8>, Exception> {
    let boundary = request::multipart_boundary(headers);
    let encoding = headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let is_plain = boundary.is_none() && !arguments.decompress && encoding.is_none();

    let mut sql = Vec::new();
    if let Some(query) = &arguments.query {
        sql.extend_from_slice(query.trim_end().as_bytes());
        sql.push(b'\n');
    }
    if is_plain {
        // The usual way needs no second buffer.
        read_body(body, &mut sql, max_body).await?;
        return Ok(sql);
    }

    let mut raw = Vec::new();
    read_body(body, &mut raw, max_body).await?;
    match encoding {
        None => {}
        Some(b"lz4") => {
            let mut decoded = Vec::new();
            wire::decompress_frame(&raw, &mut decoded, max_body)?;
            raw = decoded;
        }
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            return Err(Exception::new(
                code::NOT_IMPLEMENTED,
                format_args!("content encoding {other}; use lz4"),
            ));
        }
    }
    if let Some(boundary) = boundary {
        request::add_multipart(&raw, boundary, arguments)?;
        return Ok(arguments.query.as_deref().unwrap_or_default().as_bytes().to_vec());
    }
    if arguments.decompress {
        wire::decompress_blocks(&raw, &mut sql, max_body)?;
    } else {
        sql.append(&mut raw);
    }
    Ok(sql)
}

async fn read_body(mut body: Body, out: &mut Vec<u8>, max_body: usize) -> Result<(), Exception> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Exception::new(code::NETWORK_ERROR, format_args!("reading the request: {error}"))
        })?;
        if let Ok(data) = frame.into_data() {
            if data.len() > max_body.saturating_sub(out.len()) {
                return Err(wire::too_large(max_body));
            }
            out.extend_from_slice(&data);
        }
    }
    Ok(())
}

fn authenticate(wanted: Option<&Credentials>, arguments: &Arguments) -> Result<(), Exception> {
    let Some(Credentials { user, password }) = wanted else { return Ok(()) };
    let given_user = arguments.user.as_deref().unwrap_or("default");
    let given_password = arguments.password.as_deref().unwrap_or_default();
    // Both are compared whatever the first says, in time that depends on the
    // given text's length only.
    if equal(given_user, user) & equal(given_password, password) {
        return Ok(());
    }
    Err(Exception::new(
        code::AUTHENTICATION_FAILED,
        format_args!(
            "{given_user}: Authentication failed: password is incorrect, or there is no user with such name"
        ),
    ))
}

fn equal(given: &str, wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    let differences = given
        .bytes()
        .enumerate()
        .fold(0, |differences, (at, byte)| differences | (byte ^ wanted.get(at).copied().unwrap_or(!byte)));
    differences == 0 && given.len() == wanted.len()
}

fn add_default_settings(settings: &mut Vec<(String, String)>, method: &Method, limits: &Limits) {
    let has = |settings: &[(String, String)], wanted: &str| settings.iter().any(|(name, _)| name == wanted);
    if !has(settings, "max_result_bytes") {
        settings.push(("max_result_bytes".into(), limits.max_result_bytes.to_string()));
    }
    // A link must not change anything. 2 still lets the query bring settings.
    if *method == Method::GET && !has(settings, "readonly") {
        settings.push(("readonly".into(), "2".into()));
    }
}

/// Whether the statement may choose its own format; a guess that errs on yes.
fn names_format(sql: &[u8]) -> bool {
    sql.windows(6).any(|word| word.eq_ignore_ascii_case(b"format"))
}

fn answer_response(
    answer: Answer,
    encoding: AnswerEncoding,
    query_id: Option<String>,
    format: Option<String>,
) -> Response {
    let Answer { result, summary, elapsed } = answer;
    let summary = format!(
        r#"{{"read_rows":"{}","read_bytes":"{}","written_rows":"{}","written_bytes":"{}","elapsed_ns":"{}"}}"#,
        summary.rows_read,
        summary.bytes_read,
        summary.rows_written,
        summary.bytes_written,
        elapsed.as_nanos(),
    );
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| {
        // What a header cannot hold (a line feed in a query id) is left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("content-type", content_type(format.as_deref()));
    set("x-clickhouse-summary", &summary);
    if let Some(query_id) = query_id {
        set("x-clickhouse-query-id", &query_id);
    }
    if let Some(format) = format {
        set("x-clickhouse-format", &format);
    }
    let body = match encoding {
        AnswerEncoding::Lz4Frame if result.as_ref().len() >= MIN_FRAME_BYTES => {
            set("content-encoding", "lz4");
            Bytes::from(wire::compress_frame(result.as_ref()))
        }
        AnswerEncoding::Blocks => Bytes::from(wire::compress_blocks(result.as_ref())),
        AnswerEncoding::Plain | AnswerEncoding::Lz4Frame => Bytes::from_owner(result),
    };
    (headers, body).into_response()
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

fn exception_response(exception: &Exception, version: &str) -> Response {
    let status = exception.status();
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!(code = exception.code, "query failed: {}", exception.message);
    }
    let headers = [
        ("content-type", HeaderValue::from_static("text/plain; charset=UTF-8")),
        ("x-clickhouse-exception-code", HeaderValue::from(exception.code)),
    ];
    let text = format!("{} (version {version} (official build))\n", exception.message);
    (status, headers, text).into_response()
}
