//! ClickHouse's HTTP interface over the engine.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::answer::{self, Measured};
use crate::browser;
use crate::engine::{Engine, Place, Running, Statement};
use crate::exception::{Exception, code};
use crate::format::{Reading, WRITING_SETTINGS};
use crate::listen::{Flushes, Tracked};
use crate::metrics::{Metrics, QueryEnd};
use crate::request::{self, Arguments, MAX_FORM_BYTES};
use crate::spool::Spool;
use crate::wire::{self, BlockReader, ContentEncoding};

/// What requests are held to.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request, as sent and decompressed.
    pub max_body: usize,
    /// The setting `max_result_bytes` of an answer that is made whole, unless the request has it.
    pub max_result_bytes: u64,
    /// How long a client may be silent within its request, or take nothing of its answer.
    pub client_timeout: Duration,
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

/// Answers on `listener` until `stop` resolves and the requests under way have ended.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (patience, cut) = (server.limits.client_timeout, server.engine.cut().clone());
    let listener = Tracked { listener, patience, cut };
    let service = router(server).into_make_service_with_connect_info::<Flushes>();
    axum::serve(listener, service).with_graceful_shutdown(stop).await
}

fn router(server: Arc<Server>) -> Router {
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
            answer::refused(&exception, &server.engine, "")
        }
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], server.metrics.text())
}

async fn query(
    State(server): State<Arc<Server>>,
    ConnectInfo(flushes): ConnectInfo<Flushes>,
    request: Request,
) -> Response {
    let measured = Measured::begin(&server);
    let (parts, body) = request.into_parts();
    let mut query_id = String::new();
    match answer(&server, parts, body, &mut query_id).await {
        Ok(Asked::Nothing) => measured.end(QueryEnd::Ok, "Ok.\n".into_response()),
        Ok(Asked::Statement(running)) => answer::respond(*running, measured, &query_id, flushes).await,
        Err(exception) => {
            let response = answer::refused(&exception, &server.engine, &query_id);
            measured.end(QueryEnd::Error, response)
        }
    }
}

enum Asked {
    Nothing,
    Statement(Box<Running>),
}

/// Receives a request and starts its statement.
async fn answer(
    server: &Arc<Server>,
    parts: Parts,
    body: Body,
    query_id: &mut String,
) -> Result<Asked, Exception> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map_err(|error| Exception::new(code::BAD_ARGUMENTS, error.body_text()))?;
    let arguments = Arguments::parse(pairs, &parts.headers)?;
    *query_id = arguments.query_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    authenticate(server.credentials.as_ref(), &arguments)?;

    let boundary = request::multipart_boundary(&parts.headers).map(str::to_owned);
    let encodings = content_encodings(&parts.headers)?;
    let is_plain = boundary.is_none() && !arguments.decompress && encodings.is_empty();
    let place = server.engine.place().await?;
    let mut text = Spool::new(server.limits.max_body, server.engine.data_dir().to_owned());
    if is_plain {
        // The usual way needs no second spool.
        push_query(&mut text, &arguments)?;
    }
    let text = text.receive(body, server.limits.client_timeout).await?;

    // Now that it was received whole, an INSERT is made whether its client stays or not.
    let (server, method, query_id) = (Arc::clone(server), parts.method, query_id.clone());
    let started = tokio::spawn(async move {
        let (arguments, text) = if is_plain {
            (arguments, text)
        } else {
            blocking(move || decode(arguments, text, boundary.as_deref(), &encodings)).await?
        };
        start(&server, arguments, text, &method, query_id, place)
    });
    started.await.unwrap_or_else(|error| Err(Exception::new(code::UNKNOWN_EXCEPTION, error)))
}

/// The statement with the data to insert: as in ClickHouse, the body follows
/// the URL's `query` after a line feed, or is the whole statement.
fn push_query(text: &mut Spool, arguments: &Arguments) -> Result<(), Exception> {
    let Some(query) = &arguments.query else { return Ok(()) };
    text.push(query.trim_end().as_bytes())?;
    text.push(b"\n")
}

fn content_encodings(headers: &HeaderMap) -> Result<Vec<ContentEncoding>, Exception> {
    let names = headers.get_all(header::CONTENT_ENCODING).iter();
    let names = names.flat_map(|value| value.to_str().unwrap_or("?").split(',')).map(str::trim);
    names
        .filter(|name| !name.eq_ignore_ascii_case("identity"))
        .map(|name| {
            ContentEncoding::named(name).ok_or_else(|| {
                let text = format_args!("content encoding {name}; use gzip, zstd or lz4");
                Exception::new(code::NOT_IMPLEMENTED, text)
            })
        })
        .collect()
}

/// Undoes the encodings of a body, which was received whole.
fn decode(
    mut arguments: Arguments,
    raw: Spool,
    boundary: Option<&str>,
    encodings: &[ContentEncoding],
) -> Result<(Arguments, Spool), Exception> {
    let mut text = raw.sibling();
    let failed = |error| wire::decoding_failed(&error);
    let mut body: Box<dyn Read> = raw.into_reader(0).map_err(failed)?;
    for encoding in encodings.iter().rev() {
        body = wire::decoder(*encoding, body).map_err(failed)?;
    }
    if arguments.decompress && boundary.is_none() {
        body = Box::new(BlockReader::new(body));
    }
    if let Some(boundary) = boundary {
        let mut form = Vec::new();
        body.take(MAX_FORM_BYTES as u64 + 1).read_to_end(&mut form).map_err(failed)?;
        request::add_multipart(&form, boundary, &mut arguments)?;
        text.push(arguments.query.as_deref().unwrap_or_default().as_bytes())?;
    } else {
        push_query(&mut text, &arguments)?;
        text.push_decoded(body)?;
    }
    Ok((arguments, text))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Exception> + Send + 'static,
) -> Result<T, Exception> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Exception::new(code::UNKNOWN_EXCEPTION, error)))
}

fn start(
    server: &Server,
    arguments: Arguments,
    text: Spool,
    method: &Method,
    query_id: String,
    place: Place,
) -> Result<Asked, Exception> {
    if text.head().iter().all(u8::is_ascii_whitespace) {
        // As ClickHouse answers who only looks whether it is there.
        return match *method {
            Method::GET => Ok(Asked::Nothing),
            _ => Err(Exception::new(code::SYNTAX_ERROR, "empty query")),
        };
    }
    server.metrics.request_bytes.inc_by(text.length() as u64);
    let Arguments {
        query: _,
        database,
        default_format,
        query_id: _,
        decompress: _,
        encoding,
        whole,
        client_protocol_version,
        user: _,
        password: _,
        params,
        mut settings,
    } = arguments;
    if *method != Method::POST {
        // The engine's `readonly` lets SYSTEM, KILL and everything through that writes files.
        if !Reading::of(text.head()).is_read {
            return Err(Exception::new(code::READONLY, "this statement needs the method POST"));
        }
        change_nothing(&mut settings)?;
    }
    let statement = Statement {
        text,
        format: default_format.unwrap_or_else(|| "TabSeparated".into()),
        database,
        settings,
        params,
        query_id,
        encoding,
        whole,
        client_protocol_version,
        max_result_bytes: server.limits.max_result_bytes,
    };
    let running = server.engine.start_statement(statement, place)?;
    Ok(Asked::Statement(Box::new(running)))
}

/// A link must not change anything, whatever it asks for. 2 still lets the query bring settings.
fn change_nothing(settings: &mut Vec<(String, String)>) -> Result<(), Exception> {
    if let Some((name, _)) = settings.iter().find(|(name, _)| WRITING_SETTINGS.contains(&name.as_str())) {
        return Err(Exception::new(code::READONLY, format_args!("{name} needs the method POST")));
    }
    let mut asked = settings.iter().filter(|(name, _)| name == "readonly").peekable();
    if asked.peek().is_none() {
        settings.push(("readonly".into(), "2".into()));
        return Ok(());
    }
    match asked.find(|(_, value)| value != "1" && value != "2") {
        None => Ok(()),
        Some((_, value)) => {
            let text = format_args!("readonly = {value} needs the method POST; use 1 or 2, or POST");
            Err(Exception::new(code::READONLY, text))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of `readonly` in a link on the left, those the engine is given on the right.
    fn check(asked: &[&str], expected: Result<&[&str], u32>) {
        let mut settings = asked.iter().map(|value| ("readonly".into(), (*value).into())).collect();
        let given = change_nothing(&mut settings).map_err(|exception| exception.code);
        let given = given.map(|()| settings.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>());
        assert_eq!(given, expected.map(<[_]>::to_vec), "{asked:?}");
    }

    #[test]
    fn a_link_changes_nothing() {
        check(&[], Ok(&["2"]));
        check(&["1"], Ok(&["1"]));
        check(&["2"], Ok(&["2"]));
        check(&["0"], Err(code::READONLY));
        check(&["00"], Err(code::READONLY));
        check(&["2", "0"], Err(code::READONLY));
        let mut settings = vec![("output_format_schema".into(), "x".into())];
        assert!(change_nothing(&mut settings).is_err());
    }
}
