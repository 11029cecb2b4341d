//! Asks the API server, seldom.
//!
//! What an attacker can make of it is bounded: answers are kept in two caches of fixed size, at most
//! [`REVIEWS`] questions of a kind are out at once, and a bounded number waits for its turn, for a bounded time. Tokens,
//! which anybody can make up, do not take the turns of rights, which are asked for those alone whose token is good.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::api_server::said;
use crate::cache::{Cache, Keep};
use crate::claims::Claims;

/// Bytes of a token. Those of service accounts have some 1,200.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// How long a good answer holds: so long a token works after it was revoked, and a right after it was taken.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long a bad one does: whoever was just given a right need not wait long.
const BAD_FOR: Duration = Duration::from_secs(5);
/// How long one question may take, and how long it may wait for its turn before.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers that are kept, of each kind: twice as many as a cluster has nodes at most.
const ANSWERS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Questions of a kind that are out at once.
const REVIEWS: usize = 64;
/// Tokens of agents that are out or wait for their turn: all nodes may come at once.
const WAITING_AGENTS: usize = 10_000;
/// Tokens of users that are out or wait for their turn. Users are few, and known for a minute.
const WAITING_USERS: usize = 256;
/// Rights that are out or wait for their turn: a request asks for 16 at once.
const WAITING_RIGHTS: usize = 10_000;
/// Between two log lines on an API server that does not answer.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Bytes that are passed on of what the API server says about a token.
const MAX_SAID_BYTES: usize = 300;

/// Who the API server says that somebody is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The user's name.
    pub user: String,
    /// Groups that it is in.
    pub groups: Vec<String>,
    /// Tells it from others of the same name at other times; may be empty.
    pub uid: String,
    /// What else authorizers and we want to know of it.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// Such as `get`.
    pub verb: String,
    /// API group; may be empty.
    pub group: String,
    /// Its resource, in plural.
    pub resource: String,
    /// Where; `None`: in the whole cluster.
    pub namespace: Option<String>,
    /// Of which object; empty: of any.
    pub name: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It cannot be one.
    #[error("the token is empty, longer than {MAX_TOKEN_BYTES} bytes, or has characters that no token has")]
    Malformed,
    /// The API server says so, with this text.
    #[error("the API server does not take the token: {0}")]
    Refused(String),
    /// It is good, and not for us.
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    /// Nobody knows.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The API server could not be asked, which says nothing about whoever calls. The text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the API server cannot be asked: {0}")]
pub struct Unavailable(String);

/// Has tokens and rights reviewed by the API server. Cheap to clone; clones share what is known.
#[derive(Clone)]
pub struct Reviewer(Arc<Inner>);

struct Inner {
    client: Client,
    /// `None`: the API server's own.
    audience: Option<String>,
    tokens: Cache<Result<Arc<Caller>, Denied>>,
    rights: Cache<Result<bool, Unavailable>>,
    of_tokens: Turns,
    of_rights: Turns,
    warned: Mutex<Option<Instant>>,
}

/// The turns of one kind of review.
struct Turns {
    /// Those that are out, too.
    waiting: Semaphore,
    most_waiting: usize,
    out: Semaphore,
}

impl Turns {
    fn new(most_waiting: usize) -> Self {
        Self { waiting: Semaphore::new(most_waiting), most_waiting, out: Semaphore::new(REVIEWS) }
    }
}

impl Reviewer {
    /// Of agents, whose tokens are for this audience.
    pub fn agents(client: Client, audience: &str) -> Self {
        Self::new(client, Some(audience.to_owned()), WAITING_AGENTS)
    }

    /// Of users, whose tokens are for the API server.
    pub fn users(client: Client) -> Self {
        Self::new(client, None, WAITING_USERS)
    }

    fn new(client: Client, audience: Option<String>, waiting_tokens: usize) -> Self {
        Self(Arc::new(Inner {
            client,
            audience,
            tokens: Cache::new(ANSWERS),
            rights: Cache::new(ANSWERS),
            of_tokens: Turns::new(waiting_tokens),
            of_rights: Turns::new(WAITING_RIGHTS),
            warned: Mutex::new(None),
        }))
    }

    /// Whose token this is. What is known holds for a minute at most, and never past the token's own end.
    ///
    /// # Errors
    /// Nobody's, or not for our audience; or the API server cannot be asked.
    pub async fn token(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        if !may_be_token(token) {
            return Err(Denied::Malformed);
        }
        let ask = || {
            let (inner, token) = (Arc::clone(&self.0), token.to_owned());
            async move {
                let answer = inner.review_token(&token).await;
                let keep = match &answer {
                    Ok(_) => Keep::Good(good_until(Claims::of(&token).and_then(|claims| claims.ends()))),
                    Err(Denied::Unavailable(_)) => Keep::Not,
                    Err(_) => Keep::Bad(Instant::now() + BAD_FOR),
                };
                (answer, keep)
            }
        };
        self.0.tokens.get(blake3::hash(token.as_bytes()).into(), ask).await
    }

    /// Whether somebody may do that. Known for a minute at most; a no for seconds.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn may(&self, caller: &Caller, ask: &Ask) -> Result<bool, Unavailable> {
        let spec = access(caller.clone(), ask.clone());
        let key = serde_json::to_vec(&spec).map_err(|error| Unavailable(error.to_string()))?;
        let ask = || {
            let inner = Arc::clone(&self.0);
            async move {
                let answer = inner.review_access(spec).await;
                let keep = match &answer {
                    Ok(true) => Keep::Good(good_until(None)),
                    Ok(false) => Keep::Bad(Instant::now() + BAD_FOR),
                    Err(_) => Keep::Not,
                };
                (answer, keep)
            }
        };
        self.0.rights.get(blake3::hash(&key).into(), ask).await
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").field("audience", &self.0.audience).finish_non_exhaustive()
    }
}

impl Inner {
    async fn review_token(&self, token: &str) -> Result<Arc<Caller>, Denied> {
        let audiences = self.audience.clone().map(|audience| vec![audience]);
        let review = TokenReview {
            spec: TokenReviewSpec { audiences, token: token.to_owned() },
            ..TokenReview::default()
        };
        let api = Api::all(self.client.clone());
        let review = self.ask(&self.of_tokens, api.create(&PostParams::default(), &review)).await?;
        let TokenReviewStatus { audiences, authenticated, error, user } = review.status.unwrap_or_default();
        let user = match (authenticated, user) {
            (Some(true), Some(user)) => user,
            (Some(true), None) | (Some(false) | None, _) => {
                let said = error.filter(|said| !said.is_empty());
                let mut said = said.unwrap_or_else(|| "it gives no reason".to_owned());
                said.truncate(said.floor_char_boundary(MAX_SAID_BYTES));
                return Err(Denied::Refused(said));
            }
        };
        // An API server that knows no audiences names none: then the token is for that server.
        if let Some(audience) = &self.audience
            && !audiences.unwrap_or_default().contains(audience)
        {
            return Err(Denied::Audience(audience.clone()));
        }
        let UserInfo { extra, groups, uid, username } = user;
        match username {
            Some(user) if !user.is_empty() => Ok(Arc::new(Caller {
                user,
                groups: groups.unwrap_or_default(),
                uid: uid.unwrap_or_default(),
                extra: extra.unwrap_or_default(),
            })),
            Some(_) | None => Err(Denied::Refused("it names no user".to_owned())),
        }
    }

    async fn review_access(&self, spec: SubjectAccessReviewSpec) -> Result<bool, Unavailable> {
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api = Api::all(self.client.clone());
        let review = self.ask(&self.of_rights, api.create(&PostParams::default(), &review)).await?;
        Ok(review.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }

    /// Awaits a review in its turn.
    async fn ask<T>(
        &self,
        turns: &Turns,
        review: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Unavailable> {
        let Turns { waiting, most_waiting, out } = turns;
        let _waiting = waiting
            .try_acquire()
            .map_err(|_| self.unavailable(format!("{most_waiting} reviews are waiting")))?;
        let turn = timeout(PATIENCE, out.acquire()).await;
        let _turn = match turn {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) | Err(_) => {
                return Err(self.unavailable(format!(
                    "{REVIEWS} reviews are out, and none has been answered within {PATIENCE:?}"
                )));
            }
        };
        match timeout(PATIENCE, review).await {
            Ok(Ok(review)) => Ok(review),
            Ok(Err(error)) => {
                let mut text = said(&error);
                if matches!(&error, kube::Error::Api(status) if status.code == 403) {
                    text += ": bind the ClusterRole system:auth-delegator to our service account";
                }
                Err(self.unavailable(text))
            }
            Err(_) => Err(self.unavailable(format!("no answer within {PATIENCE:?}"))),
        }
    }

    fn unavailable(&self, text: String) -> Unavailable {
        let unavailable = Unavailable(text);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            warn!("who calls is not known: {unavailable}");
        }
        unavailable
    }
}

/// Whether it is a `b64token` (RFC 6750), as every bearer token is, of bounded length.
fn may_be_token(token: &str) -> bool {
    let of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let body = token.trim_end_matches('=');
    token.len() <= MAX_TOKEN_BYTES && !body.is_empty() && body.bytes().all(of_token)
}

fn access(caller: Caller, ask: Ask) -> SubjectAccessReviewSpec {
    let Caller { user, groups, uid, extra } = caller;
    let Ask { verb, group, resource, namespace, name } = ask;
    SubjectAccessReviewSpec {
        user: Some(user),
        groups: Some(groups),
        uid: Some(uid),
        extra: Some(extra),
        resource_attributes: Some(ResourceAttributes {
            verb: Some(verb),
            group: Some(group),
            resource: Some(resource),
            namespace,
            name: Some(name),
            ..ResourceAttributes::default()
        }),
        non_resource_attributes: None,
    }
}

fn good_until(end: Option<Instant>) -> Instant {
    let until = Instant::now() + GOOD_FOR;
    end.map_or(until, |end| end.min(until))
}
