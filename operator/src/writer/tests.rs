#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::Value;

use super::*;
use crate::fake_api::{FakeApi, Fault};
use crate::hub::Leadership;
use crate::index::tests::{id, object};
use crate::index::{NodeObject, PolicyObject, Resource};
use crate::nodes::{Counts, PolicyCount};

const PATH: &str = "/apis/profiling.hearth.dev/v1alpha1/clusterprofilingpolicies";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// A leading operator with one policy `p` and the node `a`, and an API server that has the policy.
struct World {
    api: FakeApi,
    hub: Arc<Hub>,
    generation: i64,
}

/// Wall time does not pass by itself.
fn clock() -> i64 {
    2000
}

impl World {
    fn new() -> Self {
        let world = Self { api: FakeApi::default(), hub: Arc::new(Hub::new(clock)), generation: 0 };
        for resource in Resource::ALL {
            world.hub.change(|index| index.set_synced(resource));
        }
        world.hub.change(|index| index.set_node("a", NodeObject::default()));
        world.hub.set_leadership(Leadership::Leading);
        world
    }

    fn with_policy() -> Self {
        let mut world = Self::new();
        world.edit("p", json!({}));
        world
    }

    fn start(&self) {
        let writer = Writer::new(Arc::clone(&self.hub), self.api.client(), "pod".to_owned(), Arc::default());
        tokio::spawn(writer.run());
    }

    /// The user creates or changes a policy.
    fn edit(&mut self, name: &str, spec: Value) {
        self.generation += 1;
        let path = format!("{PATH}/{name}");
        let status = self.api.get(&path).map(|object| object["status"].clone());
        self.api.put(&path, json!({"metadata": {"name": name, "uid": "uid"}, "status": status}));
        let status = status.and_then(|status| serde_json::from_value(status).ok());
        let object = PolicyObject { generation: self.generation, status, ..object(&id(name), spec) };
        self.hub.change(|index| index.set_policy(id(name), object));
    }

    /// The node applies what it shall, and `p` wins so many processes.
    fn node_counts(&self, processes: u32) {
        let (name, stream) = {
            let known = self.hub.lock().nodes.stream_of("a");
            known.map_or_else(
                || self.hub.connect("a", String::new()),
                |stream| ("a".into(), stream, Arc::default()),
            )
        }
        .into_pair();
        if let Ok(Some((nonce, _))) = self.hub.next_config(&name, stream) {
            self.hub.verdict(&name, stream, nonce, String::new()).unwrap();
        }
        let count = PolicyCount {
            policy: id("p"),
            pods: processes,
            processes,
            overridden: 0,
            selected_pods: 1,
            details: None,
        };
        let mut state = self.hub.lock();
        state.nodes.by_name("a").set_counts(Counts { policies: [count].into(), detached: None });
        drop(state);
        self.hub.time_passed();
    }

    fn writes(&self) -> usize {
        self.api.take_log("PATCH").iter().filter(|line| line.ends_with("/status")).count()
    }

    fn ready(&self, name: &str) -> String {
        let object = self.api.get(&format!("{PATH}/{name}")).unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        ready.map_or_else(String::new, |ready| ready["reason"].as_str().unwrap().to_owned())
    }
}

trait IntoPair<A, B> {
    fn into_pair(self) -> (A, B);
}

impl<A, B, C> IntoPair<A, B> for (A, B, C) {
    fn into_pair(self) -> (A, B) {
        (self.0, self.1)
    }
}

async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_once_and_never_again_while_nothing_changes() {
    let world = World::with_policy();
    world.node_counts(2);
    world.start();
    pass(3).await;
    assert_eq!((&*world.ready("p"), world.writes()), ("Ready", 1));
    // Looked at again, by this operator and by one that has just started.
    world.hub.time_passed();
    pass(100).await;
    world.start();
    world.hub.time_passed();
    pass(100).await;
    assert_eq!(world.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_policy_is_written_at_most_once_in_five_seconds() {
    let mut world = World::with_policy();
    world.node_counts(2);
    world.start();
    pass(3).await;
    assert_eq!(world.writes(), 1);
    for n in 0..30 {
        world.edit("p", json!({"frequency": 20 + n}));
        world.node_counts(2);
        pass(1).await;
    }
    let writes = world.writes();
    assert!((4..=6).contains(&writes), "{writes} in 30 s");
    pass(10).await;
    assert_eq!(world.api.get(&format!("{PATH}/p")).unwrap()["status"]["observedGeneration"], 31);
}

#[tokio::test(start_paused = true)]
async fn amounts_alone_are_written_once_a_minute() {
    let world = World::with_policy();
    world.node_counts(1);
    world.start();
    pass(3).await;
    assert_eq!(world.writes(), 1);
    for n in 2..120 {
        world.node_counts(n);
        pass(1).await;
    }
    assert_eq!(world.writes(), 1);
    // That nothing is matched any more is not an amount.
    world.node_counts(0);
    pass(6).await;
    assert_eq!(world.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing() {
    let world = World::with_policy();
    world.hub.set_leadership(Leadership::Standby(None));
    world.start();
    pass(100).await;
    assert_eq!(world.api.take_log(""), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_a_minute_for_nodes() {
    let world = World::with_policy();
    world.start();
    pass(58).await;
    assert_eq!((&*world.ready("p"), world.writes()), ("Reconciling", 1));
    assert_eq!(world.api.get(&format!("{PATH}/p")).unwrap()["status"].get("nodes"), None);
    pass(6).await;
    assert_eq!((&*world.ready("p"), world.writes()), ("NoNodes", 1));
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_is_lost_and_won_again_at_once_begins_anew() {
    let world = World::with_policy();
    world.node_counts(2);
    world.start();
    pass(10).await;
    assert_eq!((&*world.ready("p"), world.writes()), ("Ready", 1));
    world.hub.set_leadership(Leadership::Standby(None));
    let stream = world.hub.lock().nodes.stream_of("a").unwrap();
    world.hub.disconnect("a", stream);
    world.hub.set_leadership(Leadership::Leading);
    pass(50).await;
    assert_eq!((&*world.ready("p"), world.writes()), ("Ready", 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_tried_again_with_growing_waits() {
    for fault in [Fault::Code(503), Fault::Hang] {
        let world = World::with_policy();
        world.node_counts(2);
        world.api.set_broken(Some(fault));
        world.start();
        pass(120).await;
        let tried = world.writes();
        assert!((4..=7).contains(&tried), "{fault:?}: {tried}");
        world.api.set_broken(None);
        pass(100).await;
        assert_eq!((&*world.ready("p"), world.writes()), ("Ready", 1), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_policy_that_cannot_be_written_does_not_stop_the_others() {
    let mut world = World::with_policy();
    world.edit("q", json!({}));
    world.node_counts(2);
    world.api.fail("PATCH /apis/profiling.hearth.dev/v1alpha1/clusterprofilingpolicies/p/", Fault::Hang);
    world.start();
    pass(3).await;
    assert_eq!(world.ready("q"), "Ready");
    // A policy that has gone meanwhile is nobody's fault.
    world.api.remove(&format!("{PATH}/p"));
    pass(20).await;
    world.hub.change(|index| index.remove_policy(&id("p")));
    world.writes();
    pass(100).await;
    assert_eq!(world.writes(), 0);
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_by_an_event() {
    let mut world = World::with_policy();
    world.node_counts(2);
    world.start();
    pass(10).await;
    assert_eq!(world.api.take_log(&format!("POST {EVENTS}")), [""; 0]);
    world.edit("p", json!({"regex": "a(b"}));
    pass(10).await;
    assert_eq!(world.api.take_log(&format!("POST {EVENTS}")).len(), 1);
}
