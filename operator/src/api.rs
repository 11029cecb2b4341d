//! Writes to the API server: each with its time, each counted.

use std::time::Duration;

use hearth_identity::api_server::said;
use tracing::warn;

use crate::metrics::{Metrics, Outcome, Write};

/// How long a write may take. A client that retries by itself would hold it for minutes; ours does not.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refused it, or could not be reached.
    #[error("{}", said(.0))]
    Api(#[from] kube::Error),
    /// No answer in time.
    #[error("no answer within {WRITE_PATIENCE:?}")]
    Timeout,
}

impl WriteError {
    /// The API server's status code, if it has answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout => None,
        }
    }
}

/// Awaits a write for at most [`WRITE_PATIENCE`] and counts how it went.
pub async fn write<T>(
    metrics: &Metrics,
    what: Write,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(WRITE_PATIENCE, request).await {
        Ok(Ok(done)) => {
            metrics.wrote(what, Outcome::Ok);
            Ok(done)
        }
        Ok(Err(error)) => {
            metrics.wrote(what, Outcome::Error);
            Err(error.into())
        }
        Err(_) => {
            metrics.wrote(what, Outcome::Timeout);
            Err(WriteError::Timeout)
        }
    }
}

/// As [`write`], where it is not needed for anything else: a failure is logged.
pub async fn write_or_warn<T>(
    metrics: &Metrics,
    what: Write,
    name: &str,
    request: impl Future<Output = kube::Result<T>>,
) {
    if let Err(error) = write(metrics, what, request).await {
        warn!("{name} could not be written: {error}");
    }
}
