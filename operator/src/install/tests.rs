#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;
use crate::fake_api::{FakeApi, Fault};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/hearth/leases/hearth-operator";
const POLICY: &str = "/apis/profiling.hearth.dev/v1alpha1/clusterprofilingpolicies/hearth-default";

fn api() -> FakeApi {
    let api = FakeApi::default();
    api.put(LEASE, json!({"metadata": {"name": "hearth-operator"}, "spec": {}}));
    api
}

/// An operator that leads starts; returns when it has done with the first policy.
async fn start(api: &FakeApi) {
    let hub = Arc::new(Hub::new(|| 0));
    hub.set_leadership(Leadership::Leading);
    let leases = Api::namespaced(api.client(), "hearth");
    install(api.client(), leases, hub, Arc::default()).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_policy_is_created_once_and_stays_deleted() {
    let api = api();
    start(&api).await;
    let policy = api.get(POLICY).unwrap();
    assert_eq!(policy["spec"].get("regex"), None, "absent: Hearth itself");
    assert_eq!(api.get(LEASE).unwrap()["metadata"]["annotations"][ANNOTATION], "created");
    api.remove(POLICY);
    start(&api).await;
    assert_eq!(api.get(POLICY), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_there_already_is_left_as_it_is() {
    let api = api();
    api.put(POLICY, json!({"metadata": {"name": "hearth-default"}, "spec": {"disabled": true}}));
    start(&api).await;
    assert_eq!(api.get(POLICY).unwrap()["spec"]["disabled"], true);
    assert_eq!(api.get(LEASE).unwrap()["metadata"]["annotations"][ANNOTATION], "created");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again() {
    let api = api();
    for step in ["GET", "POST", "PATCH"] {
        api.fail(step, Fault::Code(500));
    }
    start(&api).await;
    assert_eq!(api.get(LEASE).unwrap()["metadata"]["annotations"][ANNOTATION], "created");
    assert_eq!(api.take_log("GET").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_standby_creates_nothing() {
    let api = api();
    let hub = Arc::new(Hub::new(|| 0));
    let leases = Api::namespaced(api.client(), "hearth");
    let waits = install(api.client(), leases, hub, Arc::default());
    tokio::time::timeout(Duration::from_secs(600), waits).await.unwrap_err();
    assert_eq!(api.take_log(""), [""; 0]);
}
