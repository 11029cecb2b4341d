//! The way to the API server.

use hearth_program::with_causes;
use kube::{Client, Config};

/// There is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum NoApiServer {
    /// Nothing says where it is.
    #[error("cannot find the API server: run in a pod with a service account, or set KUBECONFIG")]
    Unknown(#[source] kube::config::InferConfigError),
    /// What says so is broken.
    #[error("cannot make a client of the API server")]
    Unusable(#[source] kube::Error),
}

/// A client as a pod has it, or by KUBECONFIG. Nothing is asked yet.
///
/// # Errors
/// There is neither.
pub async fn client() -> Result<Client, NoApiServer> {
    let mut config = Config::infer().await.map_err(NoApiServer::Unknown)?;
    // Each retry here would be one more layer of them: whoever asks has its own, with less of a herd.
    config.default_retry = false;
    Client::try_from(config).map_err(NoApiServer::Unusable)
}

/// What went wrong, in the API server's own words if it has answered: the library adds its whole answer.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        // What could not be reached, and why, stands in the causes.
        other => with_causes(other),
    }
}
