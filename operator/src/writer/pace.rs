//! When a status may be written: not often, and after a failure not by all policies at once.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use hearth_policy::PolicyStatus;
use tokio::time::Instant;

use crate::index::PolicyId;
use crate::status::differ_in_amount_only;

/// Between two writes of one policy's status.
const APART: Duration = Duration::from_secs(5);
/// Between two where only how much it matches has changed, as it does all the time.
const AMOUNTS_APART: Duration = Duration::from_secs(60);
/// After a failure at first, doubled with each further one …
const BACKOFF: Duration = Duration::from_secs(5);
/// … up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Pace {
    wrote: HashMap<PolicyId, Wrote>,
    random: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Wrote {
    at: Instant,
    failures: u32,
}

impl Pace {
    /// When the next write may be made, perhaps long ago; `None`: it is the first.
    pub(super) fn next(&self, id: &PolicyId, before: &PolicyStatus, after: &PolicyStatus) -> Option<Instant> {
        let Wrote { at, failures } = *self.wrote.get(id)?;
        let wait = match failures {
            0 if differ_in_amount_only(before, after) => AMOUNTS_APART,
            0 => APART,
            failures => self.backoff(id, failures),
        };
        Some(at + wait)
    }

    /// One was made or has failed; when the next may be.
    pub(super) fn wrote(&mut self, id: PolicyId, done: bool, at: Instant) -> Instant {
        // Of policies that are no more.
        self.wrote.retain(|_, wrote| at - wrote.at < AMOUNTS_APART + MAX_BACKOFF);
        let failures = match self.wrote.get(&id) {
            _ if done => 0,
            Some(wrote) => wrote.failures.saturating_add(1),
            None => 1,
        };
        let wait = if done { APART } else { self.backoff(&id, failures) };
        self.wrote.insert(id, Wrote { at, failures });
        at + wait
    }

    /// From the whole to one and a half times it, at random.
    fn backoff(&self, id: &PolicyId, failures: u32) -> Duration {
        let whole = MAX_BACKOFF.min(BACKOFF * 2_u32.saturating_pow(failures.saturating_sub(1).min(8)));
        let part = u32::try_from(self.random.hash_one((id, failures)) % 1000).unwrap_or(0);
        whole + whole * part / 2000
    }
}
