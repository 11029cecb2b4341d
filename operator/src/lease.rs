//! Who leads: a Lease of coordination.k8s.io that one process holds and renews.
//!
//! Others judge by their own clock: a lease is free when they have not seen it renewed for as long as it says,
//! whatever times are written in it. A holder that could not renew in time ceases to lead before others may take it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::{WRITE_PATIENCE, WriteError, write};
use crate::hub::{Hub, Leadership};
use crate::metrics::{Metrics, Write};

/// Name of the lease.
pub const NAME: &str = "hearth-operator";
/// How long a lease that is not renewed holds.
pub const TTL: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// A holder that has not renewed for so long ceases to lead: 5 s before others may take the lease.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often others look, and how soon after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Holds the lease, or waits for it.
pub struct Elector {
    api: Api<Lease>,
    holder: String,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    /// Another holder's lease, and since when it has not changed.
    observed: Option<(Option<LeaseSpec>, Instant)>,
    /// When the lease was last renewed by us, while we lead.
    renewed: Option<Instant>,
    /// The API server could not be asked the last time.
    failing: bool,
}

/// What a process is called in the lease.
pub fn holder(pod: &str, address: &str) -> String {
    format!("{pod}@{address}")
}

/// The address in it.
fn address(holder: &str) -> Option<String> {
    holder.rsplit_once('@').map(|(_, address)| address.to_owned())
}

fn holder_of(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

impl Elector {
    /// Tells the hub whether it holds the lease under the name `holder`.
    pub fn new(api: Api<Lease>, holder: String, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { api, holder, hub, metrics, observed: None, renewed: None, failing: false }
    }

    /// Runs until `stop`; then gives the lease back.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wait = self.turn().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => break,
            }
        }
        if self.renewed.is_some() {
            // First cease to lead, then let others.
            self.hub.set_leadership(Leadership::Standby(None));
            match write(&self.metrics, Write::Lease, self.release()).await {
                Ok(()) => info!("the lease is given back"),
                Err(error) => warn!("the lease could not be given back, others wait {TTL:?} for it: {error}"),
            }
        }
    }

    /// Tries once; how long to wait then.
    async fn turn(&mut self) -> Duration {
        let started = Instant::now();
        let deadline = self.renewed.map(|renewed| renewed + DEADLINE);
        let metrics = Arc::clone(&self.metrics);
        let attempt = write(&metrics, Write::Lease, self.attempt(started));
        let attempt = match deadline {
            Some(deadline) => {
                tokio::time::timeout_at(deadline, attempt).await.unwrap_or(Err(WriteError::Timeout))
            }
            None => attempt.await,
        };
        if attempt.is_ok() {
            self.failing = false;
        }
        match attempt {
            Ok(Leadership::Leading) => {
                if self.renewed.replace(started).is_none() {
                    info!("leading");
                    self.hub.set_leadership(Leadership::Leading);
                }
                RENEW
            }
            Ok(standby) => {
                if self.renewed.take().is_some() {
                    warn!("another operator has taken the lease: standing by");
                }
                self.stand_by(standby);
                RETRY
            }
            Err(error) => {
                match deadline {
                    Some(deadline) if Instant::now() >= deadline => {
                        warn!("the lease could not be renewed for {DEADLINE:?}: standing by: {error}");
                        self.renewed = None;
                        self.stand_by(Leadership::Standby(None));
                    }
                    Some(_) => warn!("the lease could not be renewed: {error}"),
                    // Two that reach for it at once: one of them is told so.
                    None if error.code() == Some(409) => debug!("another operator was first"),
                    // Once: it is tried every two seconds, for as long as it takes.
                    None if self.failing => debug!("the lease could not be read or taken: {error}"),
                    None => {
                        self.failing = true;
                        warn!("the lease could not be read or taken, and is tried again: {error}");
                    }
                }
                RETRY.min(deadline.map_or(RETRY, |deadline| deadline - Instant::now()))
            }
        }
    }

    fn stand_by(&self, standby: Leadership) {
        if self.hub.leadership() != standby {
            if let Leadership::Standby(Some(leader)) = &standby {
                info!("standing by: {leader} leads");
            }
            self.hub.set_leadership(standby);
        }
    }

    /// Creates, renews or takes the lease where that is possible.
    async fn attempt(&mut self, now: Instant) -> kube::Result<Leadership> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(Leadership::Leading);
        };
        let other = holder_of(&lease);
        if other != self.holder && !other.is_empty() && !self.expired(&lease, now) {
            return Ok(Leadership::Standby(address(other)));
        }
        self.observed = None;
        // What is read is written back with its version: whoever changes it in between wins.
        let taken = Lease { spec: Some(self.spec(lease.spec.as_ref())), ..lease };
        self.api.replace(NAME, &PostParams::default(), &taken).await?;
        Ok(Leadership::Leading)
    }

    /// Another's lease has not changed for as long as it says.
    fn expired(&mut self, lease: &Lease, now: Instant) -> bool {
        match &self.observed {
            Some((spec, since)) if *spec == lease.spec => {
                let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let ttl = seconds.and_then(|n| u64::try_from(n).ok()).map_or(TTL, Duration::from_secs);
                now >= *since + ttl
            }
            Some(_) | None => {
                self.observed = Some((lease.spec.clone(), now));
                false
            }
        }
    }

    /// Ours, after that of whoever held it before.
    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let before = before.cloned().unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.holder);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(TTL.as_secs()).ok(),
            renew_time: now.clone(),
            acquire_time: if ours { before.acquire_time } else { now },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..before
        }
    }

    async fn release(&self) -> kube::Result<()> {
        let Some(lease) = self.api.get_opt(NAME).await?.filter(|lease| holder_of(lease) == self.holder)
        else {
            return Ok(());
        };
        let spec = LeaseSpec { holder_identity: None, ..lease.spec.unwrap_or_default() };
        self.api.replace(NAME, &PostParams::default(), &Lease { spec: Some(spec), ..lease }).await?;
        Ok(())
    }
}

// Read and written in one attempt, so an attempt has as long as one write.
const _: () = assert!(WRITE_PATIENCE.as_secs() + RENEW.as_secs() <= DEADLINE.as_secs());
const _: () = assert!(DEADLINE.as_secs() < TTL.as_secs());

#[cfg(test)]
mod tests;
