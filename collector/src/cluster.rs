//! Which Kubernetes cluster this is: the UID of its namespace `kube-system`, which no other cluster has and
//! which lives as long as the cluster.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config};

/// Where the data directory keeps what was found, for a start without the API server.
const FILE: &str = "cluster";
/// Between two questions to an API server that does not answer.
const PAUSE: Duration = Duration::from_secs(5);

/// Why the cluster is not known.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// It does not change by asking again.
    #[error("may not read the namespace kube-system: give --cluster NAME, or the right to get it ({0})")]
    Forbidden(String),
    /// The service account's files are broken.
    #[error("service account: {0}")]
    Account(String),
}

/// The cluster in whose pod this process runs; `None` outside of Kubernetes. Waits for an API server that is
/// away, unless the data directory knows the answer.
///
/// # Errors
/// It may not be asked.
pub async fn of_this_pod(data_dir: Option<&Path>) -> Result<Option<String>, ClusterError> {
    let Ok(config) = Config::incluster() else { return Ok(None) };
    let client = Client::try_from(config).map_err(|error| ClusterError::Account(error.to_string()))?;
    let ask = || async {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.get("kube-system").await.map(|namespace| namespace.metadata.uid.unwrap_or_default())
    };
    found(ask, data_dir.map(|dir| dir.join(FILE)), PAUSE).await.map(Some)
}

async fn found<F: Future<Output = kube::Result<String>>>(
    ask: impl Fn() -> F,
    file: Option<PathBuf>,
    pause: Duration,
) -> Result<String, ClusterError> {
    loop {
        match ask().await {
            Ok(uid) => {
                if let Some(file) = &file
                    && let Err(error) = std::fs::write(file, &uid)
                {
                    tracing::warn!("{}: {error}: the next start needs the API server", file.display());
                }
                return Ok(uid);
            }
            Err(kube::Error::Api(status)) if status.code == 401 || status.code == 403 => {
                return Err(ClusterError::Forbidden(status.message.clone()));
            }
            Err(error) => {
                let known = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
                if let Some(uid) = known.filter(|uid| !uid.is_empty()) {
                    tracing::info!(
                        "the API server does not answer ({error}): the cluster is {uid}, as before"
                    );
                    return Ok(uid);
                }
                tracing::warn!("waiting for the API server, to know which cluster this is: {error}");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status { code, message: "no".into(), ..Default::default() }))
    }

    /// The answers of the API server in turn, and what comes of them.
    async fn check(answers: &[Result<&str, u16>], file: Option<PathBuf>) -> Result<String, String> {
        let asked = AtomicUsize::new(0);
        let ask = || async {
            let answer = answers[asked.fetch_add(1, Ordering::Relaxed)];
            answer.map(str::to_owned).map_err(refused)
        };
        found(ask, file, Duration::ZERO).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_waited_for() {
        assert_eq!(check(&[Err(503), Err(500), Ok("u1")], None).await.unwrap(), "u1");
        let refused = check(&[Err(503), Err(403)], None).await.unwrap_err();
        assert_eq!(
            refused,
            "may not read the namespace kube-system: give --cluster NAME, or the right to get it (no)"
        );
    }

    #[tokio::test]
    async fn what_was_found_is_known_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        assert_eq!(check(&[Ok("u1")], Some(file.clone())).await.unwrap(), "u1");
        assert_eq!(check(&[Err(503)], Some(file.clone())).await.unwrap(), "u1");
        assert_eq!(check(&[Ok("u2")], Some(file)).await.unwrap(), "u2");
    }
}
