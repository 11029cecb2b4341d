//! The first policy: once, at the first install. A user who deletes it does not get it again.
//!
//! That it was created is remembered by an annotation of the lease, the one object that is always there and is
//! ours alone.

use std::sync::Arc;
use std::time::Duration;

use hearth_policy::{ClusterProfilingPolicy, ClusterProfilingPolicySpec};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::{info, warn};

use crate::api::{WriteError, write};
use crate::hub::{Hub, Leadership};
use crate::lease;
use crate::metrics::{Metrics, Write};

/// Name of the policy.
pub const NAME: &str = "hearth-default";
/// On the lease: the policy has been created.
pub const ANNOTATION: &str = "hearth.dev/default-policy";
/// Between looks whether we lead.
const LOOK: Duration = Duration::from_secs(1);
/// Between attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Waits until this process leads, and creates the policy unless that was ever done.
pub async fn install(client: Client, leases: Api<Lease>, hub: Arc<Hub>, metrics: Arc<Metrics>) {
    loop {
        if hub.leadership() != Leadership::Leading {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        match once(&client, &leases, &metrics).await {
            Ok(()) => return,
            Err(error) => warn!("ClusterProfilingPolicy/{NAME} could not be created: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn once(client: &Client, leases: &Api<Lease>, metrics: &Metrics) -> Result<(), WriteError> {
    let lease = write(metrics, Write::Install, leases.get(lease::NAME)).await?;
    if lease.metadata.annotations.is_some_and(|annotations| annotations.contains_key(ANNOTATION)) {
        return Ok(());
    }
    let policies: Api<ClusterProfilingPolicy> = Api::all(client.clone());
    // Without regex and selectors: Hearth itself.
    let policy = ClusterProfilingPolicy::new(NAME, ClusterProfilingPolicySpec::default());
    let params = PostParams::default();
    match write(metrics, Write::Install, policies.create(&params, &policy)).await {
        Ok(_) => info!("ClusterProfilingPolicy/{NAME} is created: Hearth profiles itself"),
        Err(error) if error.code() == Some(409) => {}
        Err(error) => return Err(error),
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: "created"}}}));
    write(metrics, Write::Install, leases.patch(lease::NAME, &PatchParams::default(), &patch)).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
