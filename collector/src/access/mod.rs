//! The HTTPS port: who asks, and what they may see.
//!
//! ```text
//! front proxy ──certificate, headers──► Caller ──SubjectAccessReview──► Scope ──► the other port's router
//! scripts ─────bearer token, review───►
//! ```
//!
//! A path of the aggregated API ([`paths`]) needs `get` on `profiles` in its namespace, or in the cluster. A path of
//! our own API is answered from the whole cluster to whoever has the right there, else from the namespaces in which
//! they have it ([`namespaces`]). What is behind gets a [`Reader`] and none of the credentials.

pub mod discovery;
pub mod follow;
pub mod front_proxy;
mod https;
mod metrics;
pub mod namespaces;
pub mod paths;
pub mod port;
mod refusal;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use hearth_identity::{Ask, Caller, Denied, Reviewer, bearer};
use hearth_tls::Peer;
use hearth_tls::http::Asked;
use tower::ServiceExt as _;

use crate::http::{self, QueryState, Reader, browser};
use crate::query::Scope;
use front_proxy::Trusted;
use namespaces::{Namespaces, Open, Unknown};
use paths::{GROUP, Profiles, RESOURCE, Target};
use refusal::Refusal;

pub use https::{Behind, Https};
pub use metrics::{AccessMetrics, Reason};

/// Answers the requests of the HTTPS port. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    cluster: Arc<str>,
    reviewer: Reviewer,
    trusted: Trusted,
    namespaces: Namespaces,
    own: Router,
    metrics: AccessMetrics,
}

impl Access {
    /// To rows of this cluster, by `state`; who asks is told by `trusted` and `reviewer`.
    pub fn new(
        state: QueryState,
        cluster: Arc<str>,
        reviewer: Reviewer,
        trusted: Trusted,
        metrics: AccessMetrics,
    ) -> Self {
        let namespaces = Namespaces::new(state.store.clone(), Arc::clone(&cluster), reviewer.clone());
        // Through kubectl proxy a browser has its user's rights.
        let own = browser::protect(http::for_readers(state), false);
        Self(Arc::new(Inner { cluster, reviewer, trusted, namespaces, own, metrics }))
    }

    /// What the port counts.
    pub fn metrics(&self) -> &AccessMetrics {
        &self.0.metrics
    }

    /// Answers a request of a connection.
    async fn answer(&self, asked: &Asked, request: Request) -> Response {
        let target = Target::of(request.uri().path());
        if target != Target::Own && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return refusal::only_read(request.method());
        }
        match target {
            Target::Document(document) => document.into_response(),
            Target::Health(path) => self.health(path).await,
            Target::Nowhere => refusal::nowhere(),
            Target::Profiles(profiles) => match self.may(asked, request.headers(), &profiles).await {
                Ok(reader) => match profiles.own(request.uri().query().unwrap_or_default()) {
                    Ok(uri) => refusal::answered(self.pass(request, Some(uri), Some(reader)).await).await,
                    Err(invalid) => refusal::answered(http::invalid(invalid)).await,
                },
                Err(refusal) => self.refuse(refusal, asked).into_status(),
            },
            Target::Own => match self.sees(asked, request.headers(), request.uri().path()).await {
                Ok(reader) => self.pass(request, None, reader).await,
                Err(Stopped::Refused(refusal)) => self.refuse(refusal, asked).into_own(request.uri()),
                Err(Stopped::Store(error)) => http::not_answered(request.uri(), &error),
            },
        }
    }

    /// Who asks; its connection is that of one who is proven then.
    async fn who(&self, asked: &Asked, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
        let caller = self.caller(asked.peer(), headers).await?;
        asked.proven();
        Ok(caller)
    }

    async fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Arc<Caller>, Refusal> {
        let untrusted = match self.0.trusted.caller(peer, headers) {
            Ok(Some(caller)) => return Ok(Arc::new(caller)),
            Ok(None) => None,
            Err(untrusted) => Some(untrusted),
        };
        // Headers that are not believed are no reason to refuse a token.
        match (bearer(headers), untrusted) {
            (Some(token), _) => self.0.reviewer.token(token).await.map_err(|denied| match denied {
                Denied::Unavailable(_) => Refusal::Away,
                denied => Refusal::BadToken(denied),
            }),
            (None, Some(untrusted)) => Err(Refusal::Untrusted(untrusted)),
            (None, None) => Err(Refusal::NoCredentials),
        }
    }

    /// What may be seen of an aggregated path.
    async fn may(&self, asked: &Asked, headers: &HeaderMap, profiles: &Profiles) -> Result<Reader, Refusal> {
        let caller = self.who(asked, headers).await?;
        if !self.has(&caller, profiles).await? {
            return Err(Refusal::Forbidden { user: caller.user.clone(), profiles: profiles.clone() });
        }
        let cluster = Arc::clone(&self.0.cluster);
        let scope = match &profiles.namespace {
            Some(namespace) => {
                Scope::Namespaces { cluster, namespaces: [namespace.clone()].into(), left_out: false }
            }
            None => Scope::Cluster(cluster),
        };
        Ok(reader(&caller, scope))
    }

    /// What may be seen of a path of our own; `None`: nothing is to be seen there.
    async fn sees(&self, asked: &Asked, headers: &HeaderMap, path: &str) -> Result<Option<Reader>, Stopped> {
        let caller = self.who(asked, headers).await?;
        let Some(name) = paths::name_of_own(path) else { return Ok(None) };
        let cluster = Arc::clone(&self.0.cluster);
        if self.has(&caller, &Profiles { namespace: None, name }).await? {
            return Ok(Some(reader(&caller, Scope::Cluster(cluster))));
        }
        let Open { namespaces, left_out } = self.0.namespaces.of(&caller, name).await?;
        if namespaces.is_empty() {
            // There may be a right in one of those that were left out.
            let none = Refusal::NoNamespace { user: caller.user.clone(), name };
            return Err(if left_out { Refusal::TooManyNamespaces } else { none }.into());
        }
        Ok(Some(reader(&caller, Scope::Namespaces { cluster, namespaces: namespaces.into(), left_out })))
    }

    async fn has(&self, caller: &Caller, profiles: &Profiles) -> Result<bool, Refusal> {
        self.0.reviewer.may(caller, &ask(profiles)).await.map_err(|_| Refusal::Away)
    }

    /// Has a request answered at `uri`, without what only we are to know.
    async fn pass(&self, mut request: Request, uri: Option<Uri>, reader: Option<Reader>) -> Response {
        self.0.trusted.strip(request.headers_mut());
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(uri) = uri {
            *request.uri_mut() = uri;
        }
        if let Some(reader) = reader {
            request.extensions_mut().insert(reader);
        }
        self.ask_own(request).await
    }

    /// Whether the collector works, and whether the API server's requests are believed.
    async fn health(&self, path: &'static str) -> Response {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static(path);
        let response = self.ask_own(request).await;
        match self.0.trusted.missing().filter(|_| response.status() == StatusCode::OK) {
            Some(why) => format!("ok\nrequests through the API server are refused: {why}\n").into_response(),
            None => response,
        }
    }

    async fn ask_own(&self, request: Request) -> Response {
        self.0.own.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    fn refuse(&self, refusal: Refusal, asked: &Asked) -> Refusal {
        if let Some(reason) = refusal.reason() {
            self.0.metrics.refused(reason);
        }
        if matches!(refusal, Refusal::Untrusted(_)) {
            // The front proxy shows its certificate when a connection begins: it may have begun too early.
            asked.end_connection();
        }
        tracing::debug!("refused a request: {refusal:?}");
        refusal
    }
}

/// Why a request for a path of our own is not answered.
enum Stopped {
    Refused(Refusal),
    Store(crate::query::QueryError),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unknown> for Stopped {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Unavailable => Self::Refused(Refusal::Away),
            Unknown::Store(error) => Self::Store(error),
        }
    }
}

fn reader(caller: &Caller, scope: Scope) -> Reader {
    Reader { scope, caller: Some(Arc::from(&*caller.user)) }
}

/// The right that profiles need.
fn ask(Profiles { namespace, name }: &Profiles) -> Ask {
    Ask {
        verb: "get".to_owned(),
        group: GROUP.to_owned(),
        resource: RESOURCE.to_owned(),
        namespace: namespace.clone(),
        name: (*name).to_owned(),
    }
}
