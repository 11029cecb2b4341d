//! An API server for tests: objects by path, versions, conflicts, and failures as scripted.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What happens to a request instead of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The server answers with this code.
    Code(u16),
    /// It never answers.
    Hang,
    /// It does what it is asked to, and the answer never arrives.
    Lost,
}

/// Who asks: a service account of the namespace `hearth`.
const ACCOUNT: &str = "system:serviceaccount:hearth:hearth-operator";

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<String>,
    /// For requests whose log line begins so; each is used once.
    faults: VecDeque<(&'static str, Fault)>,
    /// For the request after so many.
    later: Option<(usize, Fault)>,
    broken: Option<Fault>,
}

/// Cheap to clone; all clones are one server.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

impl FakeApi {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = match api.answer(&parts.method, parts.uri.path(), body) {
                    Ok(answer) => answer,
                    Err(()) => std::future::pending().await,
                };
                let response =
                    Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> Result<(StatusCode, Value), ()> {
        let mut state = self.0.lock().unwrap();
        let line = format!("{method} {path}");
        let scripted = state.faults.iter().position(|(begin, _)| line.starts_with(begin));
        let scripted = scripted.and_then(|i| state.faults.remove(i)).map(|(_, fault)| fault);
        let later = match state.later.take() {
            Some((0, fault)) => Some(fault),
            Some((n, fault)) => {
                state.later = Some((n - 1, fault));
                None
            }
            None => None,
        };
        let fault = scripted.or(later).or(state.broken);
        state.log.push(line);
        match fault {
            Some(Fault::Hang) => Err(()),
            Some(Fault::Code(code)) => Ok(status(code)),
            Some(Fault::Lost) => {
                state.done(method, path, body);
                Err(())
            }
            None => Ok(state.done(method, path, body)),
        }
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// The next request that begins so fails.
    pub(crate) fn fail(&self, begin: &'static str, fault: Fault) {
        self.0.lock().unwrap().faults.push_back((begin, fault));
    }

    /// The request after the next `n` fails.
    pub(crate) fn fail_after(&self, n: usize, fault: Fault) {
        self.0.lock().unwrap().later = Some((n, fault));
    }

    /// All requests fail from now on, or no longer.
    pub(crate) fn set_broken(&self, fault: Option<Fault>) {
        self.0.lock().unwrap().broken = fault;
    }

    /// Requests since the last look that begin so.
    pub(crate) fn take_log(&self, begin: &str) -> Vec<String> {
        let log = std::mem::take(&mut self.0.lock().unwrap().log);
        log.into_iter().filter(|line| line.starts_with(begin)).collect()
    }
}

impl State {
    fn done(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        self.version += 1;
        let version = self.version.to_string();
        let name = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let done = |object: &mut Value| {
            object["metadata"]["resourceVersion"] = json!(version);
            (StatusCode::OK, object.clone())
        };
        // Named, and of another version than this one.
        let stale = |object: &Value, named: &Value| {
            !named.is_null() && object["metadata"]["resourceVersion"] != *named
        };
        match *method {
            Method::GET => {
                self.objects.get(&name).map_or_else(|| status(404), |object| (StatusCode::OK, object.clone()))
            }
            Method::POST if path.ends_with("/selfsubjectreviews") => {
                let user = json!({"username": ACCOUNT, "uid": "uid-of-account"});
                (StatusCode::CREATED, json!({"metadata": {}, "status": {"userInfo": user}}))
            }
            Method::POST => {
                let name = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&name) {
                    return status(409);
                }
                done(self.objects.entry(name).or_insert(body))
            }
            Method::PUT => match self.objects.get_mut(&name) {
                None => status(404),
                Some(object)
                    if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] =>
                {
                    status(409)
                }
                Some(object) => {
                    *object = body;
                    done(object)
                }
            },
            Method::PATCH => match self.objects.get_mut(&name) {
                None => status(404),
                Some(object) if stale(object, &body["metadata"]["resourceVersion"]) => status(409),
                Some(object) => {
                    if let Some(new) = body.get("status") {
                        object["status"] = new.clone();
                    }
                    if body.get("spec").is_some() {
                        merge(&mut object["spec"], &body["spec"]);
                    }
                    merge(&mut object["metadata"], &body["metadata"]);
                    done(object)
                }
            },
            _ => status(405),
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    let Some(from) = from.as_object() else { return };
    for (key, value) in from {
        if value.is_object() {
            if !into[key].is_object() {
                into[key] = json!({});
            }
            merge(&mut into[key], value);
        } else {
            into[key] = value.clone();
        }
    }
}

fn status(code: u16) -> (StatusCode, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "scripted",
    });
    (StatusCode::from_u16(code).unwrap(), status)
}
