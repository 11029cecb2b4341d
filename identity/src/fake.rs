//! An API server for tests: it knows tokens and rights, counts what it is asked, and can be away.

#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test stops at the first surprise")]

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::codegen::http::{Request, Response};

use crate::{Account, Caller};

/// The audience of tokens for the API server itself.
const OWN_AUDIENCE: &str = "https://kubernetes.default.svc";

/// Cheap to clone; all clones are one server.
#[derive(Debug, Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    mood: watch::Sender<Mood>,
}

/// How requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// By what it knows.
    Answers,
    /// No connection.
    Away,
    /// With this code, such as 403 for a client that may not ask.
    Refuses(u16),
    /// Not before the mood changes.
    Hangs,
}

#[derive(Debug, Default)]
struct State {
    /// Who has a token, and whom it is for.
    tokens: HashMap<String, (Caller, String)>,
    /// User, namespace (empty: the cluster), name (empty: all).
    rights: Vec<(String, String, String)>,
    token_reviews: usize,
    access_reviews: usize,
    made: u64,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self { state: Arc::default(), mood: watch::channel(Mood::Answers).0 }
    }
}

impl FakeApi {
    /// A client of it.
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(io::Error::other)?;
                let (code, answer) = api.answer(parts.uri.path(), &body).await?;
                let answer = Body::from(serde_json::to_vec(&answer)?);
                Response::builder().status(code).body(answer).map_err(io::Error::other)
            }
        });
        Client::new(service, "default")
    }

    /// From now on it answers so.
    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// It takes a token as this caller's, for its own audience.
    pub fn know(&self, token: &str, caller: Caller) {
        self.know_for(token, caller, OWN_AUDIENCE);
    }

    /// As [`FakeApi::know`], for another audience.
    pub fn know_for(&self, token: &str, caller: Caller, audience: &str) {
        self.state.lock().unwrap().tokens.insert(token.to_owned(), (caller, audience.to_owned()));
    }

    /// It takes a token no more.
    pub fn forget(&self, token: &str) {
        self.state.lock().unwrap().tokens.remove(token);
    }

    /// The token that a pod of this account gets on this node, for so long. Each is another one.
    pub fn agent_token(
        &self,
        account: &Account,
        audience: &str,
        node: Option<&str>,
        life: Duration,
    ) -> String {
        let node = node.map(|node| vec![node.to_owned()]);
        let caller = Caller {
            user: account.user(),
            groups: vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()],
            uid: "1".to_owned(),
            extra: node
                .map(|node| ("authentication.kubernetes.io/node-name".to_owned(), node))
                .into_iter()
                .collect(),
        };
        let made = {
            let mut state = self.state.lock().unwrap();
            state.made += 1;
            state.made
        };
        let token = forged_token(&account.user(), audience, life, &made.to_string());
        self.know_for(&token, caller, audience);
        token
    }

    /// Lets a user see profiles: in a namespace, or with none in the cluster; by this name, or with none by any.
    pub fn grant(&self, user: &str, namespace: Option<&str>, name: Option<&str>) {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        self.state.lock().unwrap().rights.push((user.to_owned(), text(namespace), text(name)));
    }

    /// How many tokens were reviewed.
    pub fn token_reviews(&self) -> usize {
        self.state.lock().unwrap().token_reviews
    }

    /// How often it was asked what somebody may.
    pub fn access_reviews(&self) -> usize {
        self.state.lock().unwrap().access_reviews
    }

    async fn answer(&self, path: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        let mut review: Value = serde_json::from_slice(body)?;
        let status = {
            let mut state = self.state.lock().unwrap();
            match path {
                "/apis/authentication.k8s.io/v1/tokenreviews" => state.token(&review["spec"]),
                "/apis/authorization.k8s.io/v1/subjectaccessreviews" => state.access(&review["spec"]),
                _ => return Ok((404, failure(404))),
            }
        };
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Hangs).await.map_err(io::Error::other)?;
        match mood {
            Mood::Away => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")),
            Mood::Refuses(code) => Ok((code, failure(code))),
            Mood::Answers | Mood::Hangs => {
                review["status"] = status;
                Ok((201, review))
            }
        }
    }
}

/// A token as [`FakeApi::agent_token`] makes it, that no API server knows.
pub fn forged_token(subject: &str, audience: &str, life: Duration, id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({ "sub": subject, "aud": [audience], "exp": (now + life).as_secs(), "jti": id });
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

impl State {
    fn token(&mut self, spec: &Value) -> Value {
        self.token_reviews += 1;
        let asked = spec["audiences"][0].as_str().unwrap_or(OWN_AUDIENCE);
        match self.tokens.get(spec["token"].as_str().unwrap_or_default()) {
            Some((caller, audience)) if audience == asked => {
                let Caller { user, groups, uid, extra } = caller;
                let user = json!({ "username": user, "groups": groups, "uid": uid, "extra": extra });
                json!({ "authenticated": true, "user": user, "audiences": [audience] })
            }
            Some((_, audience)) => {
                let error =
                    format!("token audiences [{audience:?}] is invalid for the target audiences [{asked:?}]");
                json!({ "authenticated": false, "error": error })
            }
            None => json!({ "authenticated": false, "error": "invalid bearer token" }),
        }
    }

    fn access(&mut self, spec: &Value) -> Value {
        self.access_reviews += 1;
        let attributes = &spec["resourceAttributes"];
        let text = |key: &str| attributes[key].as_str().unwrap_or_default();
        let asks = [text("verb"), text("group"), text("resource")] == ["get", "query.hearth.dev", "profiles"];
        let allowed = asks
            && self.rights.iter().any(|(user, namespace, name)| {
                spec["user"] == **user
                    // A right in the cluster is one in each of its namespaces.
                    && (namespace.is_empty() || namespace == text("namespace"))
                    && (name.is_empty() || name == text("name"))
            });
        json!({ "allowed": allowed })
    }
}

fn failure(code: u16) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Scripted", "message": "scripted",
    })
}
