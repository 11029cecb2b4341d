#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::fake_api::{FakeApi, Fault};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/hearth/leases/hearth-operator";

struct Candidate {
    hub: Arc<Hub>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Candidate {
    fn start(api: &FakeApi, pod: &str) -> Self {
        let hub = Arc::new(Hub::new(|| 0));
        let leases = Api::namespaced(api.client(), "hearth");
        let name = holder(pod, &format!("{pod}:20418"));
        let elector = Elector::new(leases, name, Arc::clone(&hub), Arc::new(Metrics::default()));
        let stop = CancellationToken::new();
        let task = tokio::spawn(elector.run(stop.clone()));
        Self { hub, stop, task }
    }

    fn says(&self) -> String {
        match self.hub.leadership() {
            Leadership::Leading => "leads".to_owned(),
            Leadership::Standby(None) => "stands by".to_owned(),
            Leadership::Standby(Some(leader)) => format!("stands by for {leader}"),
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Lets so many seconds pass, and what is to happen in them.
async fn pass(seconds: u64) {
    for _ in 0..seconds * 10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn spec(api: &FakeApi) -> Value {
    api.get(PATH).unwrap()["spec"].clone()
}

fn lease_of(holder: &str, renewed: &str) -> Value {
    json!({
        "metadata": {"name": "hearth-operator", "resourceVersion": "7"},
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3, "renewTime": renewed,
        },
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_creates_the_lease_and_the_second_stands_by_for_it() {
    let api = FakeApi::default();
    let a = Candidate::start(&api, "a");
    pass(1).await;
    let b = Candidate::start(&api, "b");
    pass(60).await;
    assert_eq!((&*a.says(), &*b.says()), ("leads", "stands by for a:20418"));
    assert_eq!(
        (&spec(&api)["holderIdentity"], &spec(&api)["leaseDurationSeconds"]),
        (&json!("a@a:20418"), &json!(15))
    );
}

#[tokio::test(start_paused = true)]
async fn a_holder_renews_at_a_third_of_the_time() {
    let api = FakeApi::default();
    let _a = Candidate::start(&api, "a");
    pass(1).await;
    api.take_log("");
    pass(60).await;
    assert_eq!(api.take_log("PUT").len(), 12);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_is_taken_when_its_time_is_over() {
    let api = FakeApi::default();
    // Renewed an hour ahead of our clock, or long ago: only that it does not change counts.
    for renewed in ["2099-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z"] {
        api.put(PATH, lease_of("gone@gone:1", renewed));
        let a = Candidate::start(&api, "a");
        pass(14).await;
        assert_eq!(a.says(), "stands by for gone:1");
        pass(4).await;
        assert_eq!(a.says(), "leads");
        assert_eq!(spec(&api)["leaseTransitions"], 4);
        a.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_clock_is_wrong_keeps_its_lease_while_it_renews() {
    let api = FakeApi::default();
    let a = Candidate::start(&api, "a");
    for n in 0..20 {
        api.put(PATH, lease_of("other@other:1", &format!("2020-01-01T00:00:{n:02}.000000Z")));
        pass(5).await;
        assert_eq!(a.says(), "stands by for other:1");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_reach_for_it_at_once_one_is_refused_and_stands_by() {
    let api = FakeApi::default();
    api.fail("POST", Fault::Code(409));
    let a = Candidate::start(&api, "a");
    pass(1).await;
    assert_eq!(a.says(), "stands by");
    api.put(PATH, lease_of("b@b:1", "2026-01-01T00:00:00.000000Z"));
    pass(3).await;
    assert_eq!(a.says(), "stands by for b:1");
    let mut released = lease_of("", "2026-01-01T00:00:00.000000Z");
    released["metadata"]["annotations"] = json!({"x": "y"});
    api.put(PATH, released);
    api.fail("PUT", Fault::Code(409));
    pass(2).await;
    assert_eq!(a.says(), "stands by for b:1");
    pass(2).await;
    assert_eq!(a.says(), "leads");
    assert_eq!(
        api.get(PATH).unwrap()["metadata"]["annotations"]["x"],
        "y",
        "what else is on the lease stays"
    );
}

#[tokio::test(start_paused = true)]
async fn a_few_failures_cost_nothing_and_ten_seconds_of_them_the_lead() {
    for fault in [Fault::Code(500), Fault::Code(403), Fault::Hang] {
        let api = FakeApi::default();
        let a = Candidate::start(&api, "a");
        pass(1).await;
        api.fail("GET", fault);
        pass(10).await;
        assert_eq!(a.says(), "leads", "{fault:?}");
        let renewed = spec(&api)["renewTime"].clone();
        api.set_broken(Some(fault));
        // The last renewal was up to 5 s ago.
        pass(4).await;
        assert_eq!(a.says(), "leads", "{fault:?}");
        pass(7).await;
        assert_eq!(a.says(), "stands by", "{fault:?}");
        assert_eq!(spec(&api)["renewTime"], renewed);
        // Nobody took it: it is ours again.
        api.set_broken(None);
        pass(8).await;
        assert_eq!(a.says(), "leads", "{fault:?}");
        a.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_is_taken_stands_by_for_the_other() {
    let api = FakeApi::default();
    let a = Candidate::start(&api, "a");
    pass(1).await;
    api.put(PATH, lease_of("b@b:1", "2026-01-01T00:00:00.000000Z"));
    pass(6).await;
    assert_eq!(a.says(), "stands by for b:1");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_restarts_under_its_name_leads_at_once() {
    let api = FakeApi::default();
    api.put(PATH, lease_of("a@a:20418", "2026-01-01T00:00:00.000000Z"));
    let a = Candidate::start(&api, "a");
    pass(1).await;
    assert_eq!((&*a.says(), &spec(&api)["leaseTransitions"]), ("leads", &json!(3)));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_holder_gives_the_lease_back_and_the_other_leads_within_two_seconds() {
    let api = FakeApi::default();
    let a = Candidate::start(&api, "a");
    pass(1).await;
    let b = Candidate::start(&api, "b");
    pass(10).await;
    let hub = Arc::clone(&a.hub);
    a.stop().await;
    assert_eq!(hub.leadership(), Leadership::Standby(None));
    assert_eq!(spec(&api)["holderIdentity"], Value::Null);
    pass(3).await;
    assert_eq!(b.says(), "leads");
    // One that only stands by leaves it alone.
    let c = Candidate::start(&api, "c");
    pass(3).await;
    api.take_log("");
    c.stop().await;
    assert_eq!(api.take_log("PUT"), [""; 0]);
    assert_eq!(b.says(), "leads");
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_api_server_hangs_takes_five_seconds() {
    let api = FakeApi::default();
    let a = Candidate::start(&api, "a");
    pass(1).await;
    api.set_broken(Some(Fault::Hang));
    let stopped = Instant::now();
    a.stop().await;
    assert!(stopped.elapsed() <= Duration::from_secs(5), "{:?}", stopped.elapsed());
}
