//! The `APIService` by which the API server reaches the collector: which CAs it trusts there. It is made by whoever
//! installs Hearth; only its `caBundle` is ours.

use k8s_openapi::ByteString;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::Patch;
use serde_json::{Value, json};

use super::Names;
use super::plan::Fingerprint;
use super::read;

/// Its name.
pub(super) const NAME: &str = "v1alpha1.query.hearth.dev";

/// Which CAs it has now; `None` where they are none of our business: it leads to another service, or its author
/// has switched verification off.
pub(super) fn bundle(service: &APIService, names: &Names) -> Option<Vec<Fingerprint>> {
    let spec = service.spec.as_ref()?;
    let target = spec.service.as_ref()?;
    let ours = target.name.as_ref() == Some(&names.collector_service)
        && target.namespace.as_ref() == Some(&names.namespace);
    if !ours || spec.insecure_skip_tls_verify == Some(true) {
        return None;
    }
    // What cannot be read is written anew.
    let certificates = spec.ca_bundle.as_ref().and_then(|bundle| read::certificates(&bundle.0).ok());
    Some(certificates.iter().flatten().map(|certificate| certificate.facts().id).collect())
}

/// Gives it these CAs, unless somebody has changed it meanwhile.
pub(super) fn patch(service: &APIService, bundle: String) -> Patch<Value> {
    Patch::Merge(json!({
        "metadata": {"resourceVersion": service.metadata.resource_version},
        "spec": {"caBundle": ByteString(bundle.into_bytes())},
    }))
}
