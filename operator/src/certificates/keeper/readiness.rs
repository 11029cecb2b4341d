//! What the operator waits for before it serves.

use std::sync::{Arc, Mutex, PoisonError};

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Readiness {
    /// Not ready.
    pub fn waiting() -> Self {
        let readiness = Self::default();
        readiness.set(Some("this operator has no certificate to serve with yet".to_owned()));
        readiness
    }

    /// Why it is not ready, if it is not.
    pub fn why_not(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
