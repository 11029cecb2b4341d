//! Keeps the objects and this replica's own certificate as the plan says.
//!
//! The holder of the lease writes. Writes are conditional (what is replaced must still be what was read), so that
//! two who both believe to hold it do not spoil each other's work: the second reads again. Every replica makes its
//! own certificate with the CA of the Secret, in memory.

mod error;
mod io;
mod readiness;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use self::error::{KeepError, ServeError};
use self::io::{Objects, Read};
pub use self::readiness::Readiness;
use super::issue;
use super::objects::rfc3339;
use super::plan::{Own, Step, Why, plan, plan_own};
use super::read::{Certificate, Pair};
use super::{Lives, Names};
use crate::hub::{Clock, Hub, Leadership};
use crate::metrics::{Metrics, Which};

/// Between looks when all is well.
const LOOK: Duration = Duration::from_secs(30);
/// The same while this replica has no certificate.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// And after a failure while it has one.
const RETRY: Duration = Duration::from_secs(5);
/// A replica that has waited for a certificate for so long makes what it lacks, though another holds the lease. That
/// one may be of a version that makes none: it leads until this one is ready, and this one is not before it has a
/// certificate.
const STAND_IN_AFTER: Duration = Duration::from_secs(30);
/// Steps of one pass; an installation takes five, a rotation three at most.
const MAX_STEPS: usize = 12;

/// Takes this replica's certificate into use.
pub type Serve = Box<dyn Fn(&Pair) -> Result<(), ServeError> + Send + Sync>;

/// Keeps them.
pub struct Keeper {
    objects: Objects,
    lives: Lives,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    serve: Serve,
    readiness: Readiness,
    /// What is served.
    own: Option<Certificate>,
    /// When it was first looked for what is not there.
    waiting: Option<Instant>,
    /// The last failure, as it was logged.
    failing: Option<String>,
}

impl Keeper {
    /// Hands this replica's certificates to `serve`, and says in `readiness` what they wait for.
    pub fn new(
        client: Client,
        names: Names,
        lives: Lives,
        (hub, metrics): (Arc<Hub>, Arc<Metrics>),
        clock: Clock,
        readiness: Readiness,
        serve: Serve,
    ) -> Self {
        let objects = Objects::new(client, names, Arc::clone(&metrics));
        let (own, waiting, failing) = (None, None, None);
        Self { objects, lives, hub, metrics, clock, serve, readiness, own, waiting, failing }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            let wait = self.turn().await;
            tokio::time::sleep(wait).await;
        }
    }

    /// One pass; how long to wait then.
    async fn turn(&mut self) -> Duration {
        self.waiting.get_or_insert_with(Instant::now);
        let passed = self.pass().await;
        if let Err(error) = &passed {
            self.metrics.certificates_failed();
            let said = error.to_string();
            if self.failing.as_ref() == Some(&said) {
                debug!("certificates: {said}");
            } else {
                warn!("certificates: {said}; it is tried again");
                self.failing = Some(said);
            }
        } else {
            self.failing = None;
        }
        let waits = passed.unwrap_or_else(|error| Some(error.to_string()));
        let served = self.own.as_ref().is_some_and(|own| own.facts().valid.covers((self.clock)()));
        if served {
            self.readiness.set(None);
        } else {
            let why =
                waits.as_deref().unwrap_or("it has expired, or is not valid yet by this machine's clock");
            self.readiness.set(Some(format!("this operator has no certificate to serve with: {why}")));
        }
        match (served, &self.failing) {
            (false, _) => LOOK_SOON,
            (true, Some(_)) => RETRY,
            (true, None) => LOOK,
        }
    }

    /// Takes steps until there is none left that is ours to take. What this replica's certificate waits for, if it
    /// does.
    async fn pass(&mut self) -> Result<Option<String>, KeepError> {
        for _ in 0..MAX_STEPS {
            let read = self.objects.read().await?;
            let waits = self.look(&read)?;
            if !self.may_write() {
                return Ok(waits);
            }
            let step = plan(&read.seen(), (self.clock)());
            if step == Step::Nothing {
                return Ok(waits);
            }
            match self.take(step, read).await {
                Err(error) if error.is_conflict() => debug!("somebody else was first: {error}"),
                taken => taken?,
            }
        }
        Err(KeepError::Unsettled)
    }

    /// The holder of the lease; or whoever has waited for long, until it has a certificate.
    fn may_write(&self) -> bool {
        let long = || self.waiting.is_some_and(|since| since.elapsed() >= STAND_IN_AFTER);
        self.hub.leadership() == Leadership::Leading || (self.own.is_none() && long())
    }

    /// Counts what is there, and renews this replica's own certificate.
    fn look(&mut self, read: &Read) -> Result<Option<String>, KeepError> {
        let now = (self.clock)();
        let seen = read.seen();
        if let Some(authorities) = &seen.authorities {
            self.metrics.certificate_expires(Which::Ca, authorities.current.valid.until);
        }
        if let Some(leaf) = &seen.leaf {
            self.metrics.certificate_expires(Which::Collector, leaf.valid.until);
        }
        let names = self.objects.names().of_operator();
        let own = self.own.as_ref().map(|own| own.leaf(read.authorities(), &names));
        match (plan_own(&seen, own.as_ref(), now), read.signer()) {
            (Own::Keep, _) => Ok(None),
            (Own::Wait(why), _) => Ok(Some(why.to_owned())),
            (Own::Make(_), None) => Ok(Some("there is no CA yet".to_owned())),
            (Own::Make(why), Some(signer)) => {
                let pair = issue::leaf(signer, &names, self.lives.certificate, now)?;
                (self.serve)(&pair)?;
                let until = pair.certificate.facts().valid.until;
                // At the first one there is nothing to explain.
                let why = if why == Why::Missing { String::new() } else { format!(": {why}") };
                info!("this operator has a certificate until {}{why}", shown(until));
                self.metrics.certificate_expires(Which::Operator, until);
                self.own = Some(pair.certificate);
                Ok(None)
            }
        }
    }

    async fn take(&self, step: Step, read: Read) -> Result<(), KeepError> {
        let now = (self.clock)();
        match step {
            Step::Nothing => Ok(()),
            Step::Authorities(layout, why) => {
                let namespace = &self.objects.names().namespace;
                let make = || issue::authority(namespace, self.lives.ca, now);
                self.objects.write_authorities(read, layout, make, why).await
            }
            Step::Publish(publication) => self.objects.publish(read, &publication).await,
            Step::Leaf(why) => {
                let Some(signer) = read.signer() else { return Ok(()) };
                let names = self.objects.names().of_collector();
                let pair = issue::leaf(signer, &names, self.lives.certificate, now)?;
                self.objects.write_leaf(read, &pair, why).await
            }
            Step::Aggregate(bundle) => self.objects.aggregate(read, &bundle).await,
        }
    }
}

/// For a line of the log.
fn shown(at: i64) -> String {
    rfc3339(at).unwrap_or_else(|| at.to_string())
}

/// Who owns what is made; looked up once.
#[derive(Debug, Clone)]
enum Owner {
    /// This account: with it go the objects.
    Account(OwnerReference),
    /// We are no service account of this namespace.
    Nobody,
}

#[cfg(test)]
mod tests;
