//! What can go wrong in a pass.

use crate::api::WriteError;
use crate::certificates::issue::IssueError;
use crate::certificates::objects::{MANAGED_BY, MANAGER};

/// Why a certificate could not be taken into use.
pub type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// Why a pass ended early; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server refused, or could not be reached.
    #[error("{object} could not be {done}: {error}")]
    Api {
        /// Kind, namespace and name.
        object: String,
        /// What was to be done.
        done: &'static str,
        /// Why not.
        error: WriteError,
    },
    /// An object of somebody else has the name of one of ours.
    #[error(
        "{0} is there already and was not made by an operator: it has no label {MANAGED_BY}={MANAGER}; delete it, or \
         bring certificates by --tls-cert instead of --issue-certificates"
    )]
    Foreign(String),
    /// Nothing could be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// It cannot be served.
    #[error("this operator's certificate cannot be served: {0}")]
    Serve(#[from] ServeError),
    /// Steps without an end.
    #[error("the objects change as fast as they are written: is another operator of this name at work?")]
    Unsettled,
}

impl KeepError {
    /// Somebody else has written first.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { error, .. } if error.code() == Some(409))
    }
}
