//! The collector's API, reached through the API server or directly.

use std::time::Duration;

use axum::http::{HeaderMap, Request, StatusCode, header};
use hearth_program::with_causes;
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Failure, credentials};

/// The aggregated API of a collector.
pub(crate) const API: &str = "query.hearth.dev/v1alpha1";
/// Bytes of an answer. A flame graph at the collector's usual limits has a tenth of it.
const MAX_BYTES: usize = 256 << 20;
/// Characters of an answer that is not understood.
const SHOWN_CHARS: usize = 300;

/// Whom questions go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// The API server, which passes them on.
    Kubernetes,
    /// A collector.
    Server,
}

/// Asks questions.
#[derive(Clone)]
pub(crate) struct Surface {
    pub(crate) client: Client,
    pub(crate) access: Access,
    pub(crate) url: String,
    pub(crate) timeout: Duration,
}

/// Whose profiles are asked for: by whose right, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Pods of one namespace.
    Namespace(String),
    /// Everything of the cluster.
    Cluster,
}

/// A question: what of the API, and its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    place: Place,
    name: &'static str,
    tag: Option<&'static str>,
    parameters: Vec<(&'static str, String)>,
}

/// An answer with a success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

#[derive(Deserialize)]
struct ApiError {
    error: String,
}

#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    message: String,
}

impl Question {
    pub(crate) fn new(place: &Place, name: &'static str) -> Self {
        Self { place: place.clone(), name, tag: None, parameters: Vec::new() }
    }

    /// The values of a tag.
    pub(crate) fn values(place: &Place, tag: &'static str) -> Self {
        Self { tag: Some(tag), ..Self::new(place, "values") }
    }

    /// Adds a parameter; an empty value is none.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.parameters.push((name, value));
        }
        self
    }

    fn path(&self, access: &Access) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let base = match (access, &self.place, self.tag) {
            (Access::Server, _, Some(tag)) => format!("/api/v1/tags/{tag}/values"),
            (Access::Server, _, None) => format!("/api/v1/{}", self.name),
            (Access::Kubernetes, place, tag) => {
                if let Some(tag) = tag {
                    query.append_pair("tag", tag);
                }
                aggregated(place, self.name)
            }
        };
        query.extend_pairs(&self.parameters);
        let query = query.finish();
        if query.is_empty() { base } else { format!("{base}?{query}") }
    }
}

/// Where the API server has one of the API's questions.
pub(crate) fn aggregated(place: &Place, name: &str) -> String {
    match place {
        Place::Namespace(namespace) => format!("/apis/{API}/namespaces/{namespace}/profiles/{name}"),
        Place::Cluster => format!("/apis/{API}/profiles/{name}"),
    }
}

impl Surface {
    /// The answer.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let (status, headers, body) = self.get(&question.path(&self.access)).await?;
        if status.is_success() {
            return Ok(Answer { headers, body });
        }
        Err(self.refusal(status, &body, &question.place))
    }

    /// The answer, read.
    pub(crate) async fn read<T: DeserializeOwned>(&self, question: &Question) -> Result<T, Failure> {
        let answer = self.ask(question).await?;
        serde_json::from_slice(&answer.body).map_err(|error| Failure::Unexpected {
            url: format!("{}{}", self.url, question.path(&self.access)),
            problem: format!("something else than expected ({error})"),
        })
    }

    /// A GET, whatever its answer is.
    pub(crate) async fn get(&self, path: &str) -> Result<(StatusCode, HeaderMap, Vec<u8>), Failure> {
        let request = Request::get(path).header(header::ACCEPT, "*/*").body(Body::empty());
        let request = request.map_err(|error| Failure::Usage(format!("{path}: {error}")))?;
        let answered = async {
            let response = self.client.send(request).await.map_err(|error| self.unreachable(&error))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_BYTES)
                .collect()
                .await
                .map_err(|error| self.not_reached(format!("the answer broke off: {error}")))?;
            Ok((parts.status, parts.headers, body.to_bytes().to_vec()))
        };
        self.in_time(answered).await
    }

    /// Within `--request-timeout`.
    pub(crate) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let timeout = || Failure::Timeout { url: self.url.clone(), seconds: self.timeout.as_secs() };
        tokio::time::timeout(self.timeout, answer).await.unwrap_or_else(|_| Err(timeout()))
    }

    /// Why there was no answer at all.
    pub(crate) fn unreachable(&self, error: &kube::Error) -> Failure {
        let said = || match error {
            // Its own words are the library's name for what failed.
            kube::Error::Service(cause) => with_causes(cause.as_ref()),
            kube::Error::HyperError(cause) => with_causes(cause),
            error => with_causes(error),
        };
        credentials(error).map_or_else(|| self.not_reached(said()), Failure::Credentials)
    }

    fn not_reached(&self, cause: String) -> Failure {
        let remedy = match self.access {
            Access::Kubernetes => "is it the right context (kubectl config current-context), and up?",
            Access::Server => "is the collector there, and its --http or --https at this address?",
        };
        Failure::Unreachable { url: self.url.clone(), cause, remedy }
    }

    pub(crate) fn unauthorized(&self, said: String) -> Failure {
        let remedy = match self.access {
            Access::Kubernetes => "log in again, or choose another user by --user or --context",
            Access::Server => "give a token that it takes by --token-file",
        };
        Failure::Unauthorized { url: self.url.clone(), said, remedy }
    }

    /// What an answer without success says.
    fn refusal(&self, status: StatusCode, body: &[u8], place: &Place) -> Failure {
        // The API's own words, whoever passed them on.
        let own = serde_json::from_slice::<ApiError>(body).ok().map(|body| body.error);
        let kubernetes = serde_json::from_slice::<Status>(body).ok().filter(|status| status.kind == "Status");
        let text: String = String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARS).collect();
        let said = own.clone().or(kubernetes.map(|status| status.message)).unwrap_or(text);
        match status {
            StatusCode::UNAUTHORIZED => self.unauthorized(said),
            StatusCode::FORBIDDEN if said.contains("cannot impersonate") => Failure::Forbidden {
                said,
                remedy: "leave --as and --as-group out, or ask for that right".to_owned(),
            },
            StatusCode::FORBIDDEN => Failure::Forbidden { said, remedy: self.right(place) },
            _ if own.is_some() => Failure::Refused(said),
            StatusCode::NOT_FOUND if self.access == Access::Kubernetes => Failure::NotInstalled(API),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
                if self.access == Access::Kubernetes =>
            {
                Failure::CollectorAway(said)
            }
            // As go tool pprof is answered: a line of text.
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY
                if !said.is_empty() && !said.starts_with('<') =>
            {
                Failure::Refused(said)
            }
            _ => Failure::Unexpected { url: self.url.clone(), problem: format!("{status} ({said})") },
        }
    }

    fn right(&self, place: &Place) -> String {
        match (&self.access, place) {
            (Access::Server, _) => "ask for a token with that right".to_owned(),
            (Access::Kubernetes, Place::Namespace(namespace)) => format!(
                "ask for a RoleBinding in the namespace {namespace} to a role that may get \
                 profiles.query.hearth.dev, such as the ClusterRole view"
            ),
            (Access::Kubernetes, Place::Cluster) => {
                "this is about the whole cluster: ask for a ClusterRoleBinding \
                 to a role that may get profiles.query.hearth.dev, or stay in a namespace by -n"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(question: &Question, aggregated: &str, own: &str) {
        assert_eq!(
            question.path(&Access::Kubernetes),
            format!("/apis/query.hearth.dev/v1alpha1/{aggregated}")
        );
        assert_eq!(question.path(&Access::Server), format!("/api/v1/{own}"));
    }

    #[test]
    fn a_question_has_its_path_on_both_ways() {
        let shop = Place::Namespace("shop".to_owned());
        check(&Question::new(&shop, "apps"), "namespaces/shop/profiles/apps", "apps");
        let flame = Question::new(&Place::Cluster, "flamegraph");
        let flame = flame.with("app_service", "a&b c").with("filter", "");
        check(&flame, "profiles/flamegraph?app_service=a%26b+c", "flamegraph?app_service=a%26b+c");
        let values = Question::values(&shop, "app_service").with("limit", 3);
        check(
            &values,
            "namespaces/shop/profiles/values?tag=app_service&limit=3",
            "tags/app_service/values?limit=3",
        );
    }
}
