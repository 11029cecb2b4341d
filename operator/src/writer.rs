//! Writes statuses and tells of trouble by Events; the leader alone.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hearth_policy::PolicyStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::json;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::pace::Pace;
use crate::api::{write, write_or_warn};
use crate::hub::Hub;
use crate::index::{Change, PolicyId};
use crate::metrics::{Metrics, Write};
use crate::status::{Aggregator, Assessment, transitions};

/// The field manager of statuses: one for the one place that writes them, else two would take turns in
/// removing what the other wrote.
const FIELD_MANAGER: &str = "hearth-operator-status";
/// How long changes are gathered before they are looked at: an edit is applied within it by most nodes, and
/// needs one write instead of two.
const GATHER: Duration = Duration::from_secs(1);
/// Writes at a time.
const CONCURRENT_WRITES: usize = 8;
/// A new leader speaks of nodes when this share of them reported, in percent …
const ENOUGH_PERCENT: usize = 95;
/// … or after this long.
const ENOUGH_WAITED: Duration = Duration::from_secs(60);
/// Bytes of an Event's note that the API server takes.
const MAX_NOTE_BYTES: usize = 1024;

/// Writes statuses.
pub struct Writer {
    hub: Arc<Hub>,
    client: Client,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    aggregator: Aggregator,
    pace: Pace,
    lead: Option<Lead>,
}

/// The time in which this process leads.
#[derive(Debug, Clone, Copy)]
struct Lead {
    term: u64,
    since: Instant,
    settled: bool,
}

impl Writer {
    /// Writes as `pod`.
    pub fn new(hub: Arc<Hub>, client: Client, pod: String, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter { controller: "hearth-operator".to_owned(), instance: Some(pod) };
        Self {
            hub,
            recorder: Recorder::new(client.clone(), reporter),
            client,
            metrics,
            aggregator: Aggregator::default(),
            pace: Pace::default(),
            lead: None,
        }
    }

    /// Writes until it is dropped.
    pub async fn run(mut self) {
        let mut next: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.hub.statuses_touched() => {}
                () = sleep_until(next) => {}
            }
            tokio::time::sleep(GATHER).await;
            next = self.round().await;
        }
    }

    /// Writes what is due; when to look again although nothing has changed.
    async fn round(&mut self) -> Option<Instant> {
        let term = self.hub.term()?;
        let now = Instant::now();
        // A lead that was lost and won again since the last look is a new one: its nodes have left.
        if self.lead.is_none_or(|lead| lead.term != term) {
            self.lead = Some(Lead { term, since: now, settled: false });
            self.aggregator = Aggregator::default();
        }
        let (Assessment { differ, again }, unsettled_until) = self.assess(now)?;
        let unix = self.hub.now();
        let again = again.map(|again| now + Duration::from_secs(u64::try_from(again - unix).unwrap_or(0)));
        let mut next = [again, unsettled_until].into_iter().flatten().min();
        let mut due = Vec::new();
        for (id, status) in differ {
            let state = self.hub.lock();
            let Some(policy) = state.index.policy(&id) else { continue };
            match self.pace.next(&id, policy.status(), &status).filter(|&at| at > now) {
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => due.push((id, policy.uid().to_owned(), policy.status().clone(), status)),
            }
        }
        let this = &*self;
        let writes = due.into_iter().map(|(id, uid, before, status)| async move {
            let written = this.write(&id, &uid, &before, status).await;
            (id, written)
        });
        let outcomes: Vec<(PolicyId, bool)> =
            futures::stream::iter(writes).buffer_unordered(CONCURRENT_WRITES).collect().await;
        for (id, written) in outcomes {
            let at = self.pace.wrote(id, written, Instant::now());
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next
    }

    /// `None`: not all is listed yet; that it is wakes us, and the wait for nodes begins then.
    fn assess(&mut self, now: Instant) -> Option<(Assessment, Option<Instant>)> {
        let state = self.hub.lock();
        if !state.index.configs_known() {
            self.lead = None;
            return None;
        }
        let lead = self.lead.as_mut()?;
        if !lead.settled {
            let (mut known, mut reported) = (0, 0);
            for (name, _) in state.index.nodes() {
                known += 1;
                reported += usize::from(state.nodes.get(name).is_some_and(|node| node.reported()));
            }
            lead.settled = reported * 100 >= known * ENOUGH_PERCENT || now >= lead.since + ENOUGH_WAITED;
        }
        let wait = (!lead.settled).then(|| lead.since + ENOUGH_WAITED);
        let assessment = self.aggregator.assess(&state.index, &state.nodes, self.hub.now(), lead.settled);
        Some((assessment, wait))
    }

    /// Whether it is done.
    async fn write(&self, id: &PolicyId, uid: &str, before: &PolicyStatus, status: PolicyStatus) -> bool {
        if self.hub.term().is_none() {
            return true;
        }
        let (resource, reference) = of(id, uid);
        let api: Api<DynamicObject> = match id.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let patch = Patch::Apply(json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": id.name()},
            "status": status,
        }));
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api.patch_status(id.name(), &params, &patch);
        match write(&self.metrics, Write::Status, written).await {
            Ok(object) => {
                let has = object.data.get("status").cloned().map(serde_json::from_value);
                // What it has may be more than we wrote; that it cannot be read would be new with the next watch.
                let has = has.and_then(Result::ok).unwrap_or_else(|| status.clone());
                self.hub.change(|index| {
                    index.set_status(id, uid, has);
                    Change::Nothing
                });
                self.tell(&reference, before, &status).await;
                true
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                // The watch will say so.
                debug!("{id} has gone or was created anew: its status is not written");
                false
            }
            Err(error) => {
                warn!("the status of {id} could not be written: {error}");
                false
            }
        }
    }

    async fn tell(&self, reference: &ObjectReference, before: &PolicyStatus, after: &PolicyStatus) {
        for transition in transitions(before, after) {
            let mut note = transition.note;
            let end = (0..=note.len().min(MAX_NOTE_BYTES)).rev().find(|&i| note.is_char_boundary(i));
            note.truncate(end.unwrap_or(0));
            let event = Event {
                type_: if transition.warning { EventType::Warning } else { EventType::Normal },
                reason: transition.reason.to_owned(),
                note: Some(note),
                action: "Profile".to_owned(),
                secondary: None,
            };
            let published = self.recorder.publish(&event, reference);
            write_or_warn(&self.metrics, Write::Event, "an Event", published).await;
        }
    }
}

fn of(id: &PolicyId, uid: &str) -> (ApiResource, ObjectReference) {
    use hearth_policy::{ClusterProfilingPolicy, Kind, ProfilingPolicy};
    let resource = match id.kind() {
        Kind::ProfilingPolicy => ApiResource::erase::<ProfilingPolicy>(&()),
        Kind::ClusterProfilingPolicy => ApiResource::erase::<ClusterProfilingPolicy>(&()),
    };
    let reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        name: Some(id.name().to_owned()),
        namespace: id.namespace().map(ToOwned::to_owned),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    (resource, reference)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
