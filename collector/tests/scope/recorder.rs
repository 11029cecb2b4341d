//! Passes statements on to the engine, and keeps them.

use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use clickhouse::Client;

use crate::common::engine_url;

type Statements = Arc<Mutex<Vec<String>>>;

/// In front of the engine.
pub(crate) struct Recorder {
    url: String,
    statements: Statements,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let statements = Statements::default();
        let state = (reqwest::Client::new(), Arc::clone(&statements));
        let router = axum::Router::new().fallback(pass).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, statements }
    }

    pub(crate) fn client(&self) -> Client {
        Client::default().with_url(&self.url)
    }

    /// What was asked since it was looked at last: some are asked at once, so in no order of theirs.
    pub(crate) fn taken(&self) -> Vec<String> {
        let mut taken = std::mem::take(&mut *self.statements.lock().unwrap());
        taken.sort_unstable();
        taken
    }
}

async fn pass(
    State((engine, statements)): State<(reqwest::Client, Statements)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    statements.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
    let request = engine.request(parts.method, format!("{}{}", engine_url(), parts.uri)).body(body);
    let answer = request.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| name.as_str().starts_with("x-clickhouse"))
    {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
