//! The CA and the certificates: made, kept, and renewed before they end.
//!
//! ```text
//!  objects ──read──► facts ──plan──► one step ──issue──► objects, written if nobody changed them meanwhile
//!     ▲                                                      │
//!     └──────────────────────── read again ◄─────────────────┘
//! ```
//!
//! [`plan`] is pure: no client, no clock, no keys. A pass takes one step at a time and reads everything again after
//! it, so that it may be killed between any two.

mod api_service;
pub mod issue;
pub mod keeper;
mod objects;
pub mod plan;
pub mod read;

pub use keeper::{Keeper, Readiness, Serve, ServeError};

use std::collections::BTreeSet;
use std::time::Duration;

/// What the objects and the certificates are called after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Where the objects are, and the services.
    pub namespace: String,
    /// The service of the operator.
    pub operator_service: String,
    /// That of the collector.
    pub collector_service: String,
}

/// How long what is made from now on is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// A CA.
    pub ca: Duration,
    /// A certificate that it signs.
    pub certificate: Duration,
}

impl Names {
    /// The Secret with the CA, and the ConfigMap with what is to be trusted.
    pub fn authority(&self) -> String {
        format!("{}-ca", self.operator_service)
    }

    /// The Secret with the collector's certificate.
    pub fn collector_certificate(&self) -> String {
        format!("{}-tls", self.collector_service)
    }

    /// What a certificate of the operator is for.
    pub fn of_operator(&self) -> BTreeSet<String> {
        self.of(&self.operator_service)
    }

    /// What one of the collector is for.
    pub fn of_collector(&self) -> BTreeSet<String> {
        self.of(&self.collector_service)
    }

    fn of(&self, service: &str) -> BTreeSet<String> {
        let Self { namespace, .. } = self;
        BTreeSet::from([
            service.to_owned(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            // By `kubectl port-forward`, and within the pod.
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ])
    }
}
