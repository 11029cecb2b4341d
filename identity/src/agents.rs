//! Which node an agent speaks for, proven by the token of its pod.

use std::sync::Arc;

use kube::Client;
use tokio::time::Instant;
use tonic::codegen::http::{HeaderMap, header};
use tonic::{Code, Status};

use crate::account::Account;
use crate::claims::Claims;
use crate::reviewer::{Denied, MAX_TOKEN_BYTES, Reviewer, Unavailable};

/// Where the API server says on which node the pod of a token runs: from Kubernetes 1.32 on.
const NODE: &str = "authentication.kubernetes.io/node-name";
/// Bytes that are quoted of what an agent says.
const MAX_QUOTED_BYTES: usize = 253;

/// An agent whose node is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The node that its pod runs on.
    pub node: Arc<str>,
    /// When its token ends, and with it what the token proves.
    pub expires: Instant,
}

/// Proves agents: their service account, the audience of their token, their node.
#[derive(Debug, Clone)]
pub struct Agents {
    account: Account,
    audience: String,
    reviewer: Reviewer,
}

/// Why an agent is not taken. The text is for the agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It shows none.
    #[error("no token: an agent must send `authorization: Bearer TOKEN` (its flag --token-file)")]
    NoToken,
    /// It is not one that the API server made.
    #[error("bad token: {0}")]
    BadToken(String),
    /// Its time is over.
    #[error("token expired: open another stream with a fresh one")]
    Expired,
    /// It is for somebody else.
    #[error("other audience: the token is for {found:?}, and must be for {expected:?}")]
    OtherAudience {
        /// Whom it is for.
        found: String,
        /// Whom it must be for.
        expected: String,
    },
    /// It is not an agent's.
    #[error("other account: the token is that of {found:?}, and agents are {expected:?}")]
    OtherAccount {
        /// Whose it is.
        found: String,
        /// Whose it must be.
        expected: String,
    },
    /// It does not say on which node its pod is.
    #[error(
        "no node: the token names none; it must be that of a pod (a projected volume), on Kubernetes >= 1.32"
    )]
    NoNode,
    /// The agent says that it is on another node than its pod.
    #[error("other node: the agent says that it is on {said:?}, and its token that it is on {proven:?}")]
    OtherNode {
        /// What the agent says.
        said: String,
        /// What its token says.
        proven: String,
    },
    /// The API server does not answer: nothing is said about the agent.
    #[error("the token cannot be reviewed now: come again later")]
    Unavailable(Unavailable),
}

/// [`Refused`] in one word, for counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// See [`Refused::NoToken`].
    NoToken,
    /// See [`Refused::BadToken`].
    BadToken,
    /// See [`Refused::Expired`].
    Expired,
    /// See [`Refused::OtherAudience`].
    OtherAudience,
    /// See [`Refused::OtherAccount`].
    OtherAccount,
    /// See [`Refused::NoNode`].
    NoNode,
    /// See [`Refused::OtherNode`].
    OtherNode,
    /// See [`Refused::Unavailable`].
    Unavailable,
}

impl Agents {
    /// Agents are `account`, and their tokens are for `audience`.
    pub fn new(client: Client, account: Account, audience: String) -> Self {
        let reviewer = Reviewer::agents(client, &audience);
        Self { account, audience, reviewer }
    }

    /// Which node the sender of these headers speaks for.
    ///
    /// # Errors
    /// None, or it is not known.
    pub async fn node_of(&self, headers: &HeaderMap) -> Result<Agent, Refused> {
        let token = bearer(headers).ok_or(Refused::NoToken)?;
        // What the token says itself only ever refuses it: with a reason, and without a question. What it says is
        // believed once the API server has taken the whole of it.
        let claims = Claims::of(token)
            .ok_or_else(|| Refused::BadToken(format!("it is no JWT of at most {MAX_TOKEN_BYTES} bytes")))?;
        let expires =
            claims.ends().ok_or_else(|| Refused::BadToken("it does not say when it ends".to_owned()))?;
        if expires <= Instant::now() {
            return Err(Refused::Expired);
        }
        if !claims.audiences.contains(&self.audience) {
            return Err(self.other_audience(claims.audiences.join(", ")));
        }
        self.check_user(claims.subject.unwrap_or_default())?;

        let caller = self.reviewer.token(token).await.map_err(|denied| match denied {
            Denied::Malformed | Denied::Refused(_) => Refused::BadToken(denied.to_string()),
            Denied::Audience(_) => self.other_audience("none that the API server confirms".to_owned()),
            Denied::Unavailable(unavailable) => Refused::Unavailable(unavailable),
        })?;
        self.check_user(caller.user.clone())?;
        match caller.extra.get(NODE).map(Vec::as_slice) {
            Some([node]) if !node.is_empty() => Ok(Agent { node: Arc::from(&**node), expires }),
            Some(_) | None => Err(Refused::NoNode),
        }
    }

    fn check_user(&self, user: String) -> Result<(), Refused> {
        let expected = self.account.user();
        if user == expected {
            return Ok(());
        }
        Err(Refused::OtherAccount { found: quoted(user), expected })
    }

    fn other_audience(&self, found: String) -> Refused {
        Refused::OtherAudience { found: quoted(found), expected: self.audience.clone() }
    }
}

impl Agent {
    /// Whether it may say that it is on this node.
    ///
    /// # Errors
    /// It is on another.
    pub fn is_on(&self, node: &str) -> Result<(), Refused> {
        if node == &*self.node {
            return Ok(());
        }
        Err(Refused::OtherNode { said: quoted(node.to_owned()), proven: self.node.to_string() })
    }
}

impl Refused {
    /// In one word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoToken => Reason::NoToken,
            Self::BadToken(_) => Reason::BadToken,
            Self::Expired => Reason::Expired,
            Self::OtherAudience { .. } => Reason::OtherAudience,
            Self::OtherAccount { .. } => Reason::OtherAccount,
            Self::NoNode => Reason::NoNode,
            Self::OtherNode { .. } => Reason::OtherNode,
            Self::Unavailable(_) => Reason::Unavailable,
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused.reason() {
            Reason::NoToken | Reason::BadToken | Reason::Expired | Reason::OtherAudience => {
                Code::Unauthenticated
            }
            Reason::OtherAccount | Reason::NoNode | Reason::OtherNode => Code::PermissionDenied,
            Reason::Unavailable => Code::Unavailable,
        };
        Self::new(code, refused.to_string())
    }
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn quoted(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_QUOTED_BYTES));
    text
}
