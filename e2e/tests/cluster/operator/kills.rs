//! The leader dies.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use hearth_e2e::api_proxy::{Asked, Fate};

use super::*;

/// What an operator asks from its first start until all is told and its lease is renewed once.
const REQUESTS: [&str; 23] = [
    "GET leases/hearth-operator",
    "LIST clusterprofilingpolicies",
    "LIST jobs",
    "LIST namespaces",
    "LIST nodes",
    "LIST profilingpolicies",
    "LIST replicasets",
    "LIST services",
    "PATCH clusterprofilingpolicies/hearth-default/status",
    "PATCH leases/hearth-operator",
    "PATCH profilingpolicies/bad/status",
    "PATCH profilingpolicies/good/status",
    "POST clusterprofilingpolicies",
    "POST events",
    "POST leases",
    "PUT leases/hearth-operator",
    "WATCH clusterprofilingpolicies",
    "WATCH jobs",
    "WATCH namespaces",
    "WATCH nodes",
    "WATCH profilingpolicies",
    "WATCH replicasets",
    "WATCH services",
];
/// Then comes the Event that tells of it.
const BEFORE_THE_EVENT: &str = "PATCH profilingpolicies/bad/status";
const THE_EVENT: &str = "POST events";

pub(super) fn after_each_request(cluster: &Cluster) {
    let mut stage = Stage::set(cluster);
    stage.start_agents(&stage.identity.clone());
    for request in REQUESTS {
        stage.begin_anew();
        let events = stage.dies_after(request, |_| ());
        // What only the next one can do: nobody takes the work of the first for its.
        stage.apply_good(101);
        let operator = stage.start(&stage.identity);
        stage.await_all(101);
        stage.check(request, events);
        operator.kill();
    }
    // An edit, once all is quiet.
    stage.begin_anew();
    let operator = stage.start(&stage.identity);
    stage.await_all(99);
    wait_for("a renewal of the lease", || stage.asked("PUT leases/hearth-operator").then_some(()));
    operator.kill();
    let asked = stage.proxy.take();
    let distinct: BTreeSet<&str> = asked.iter().map(|Asked { what, .. }| what.as_str()).collect();
    assert_eq!(
        distinct,
        BTreeSet::from(REQUESTS),
        "a request was killed after that is not made, or the other way"
    );

    let edited = "PATCH profilingpolicies/good/status";
    stage.dies_after(edited, |stage| stage.apply_good(199));
    let operator = stage.start(&stage.identity);
    stage.await_all(199);
    stage.check(edited, 1..=1);
    operator.kill();
    println!("the leader was killed after each of {} requests", REQUESTS.len() + 1);
}

impl Stage<'_> {
    /// Two policies and no trace of an operator; the agents keep what they have.
    fn begin_anew(&self) {
        self.clear();
        self.apply_good(99);
        self.apply_bad();
        *self.seen() = Seen::default();
        self.proxy.take();
    }

    /// An operator that is killed when the API server has done `request`, before it hears of that. How many Events
    /// there are to be in the end: one, unless it may have died between a status and its Event, which is told once
    /// at most.
    fn dies_after(&self, request: &'static str, meanwhile: impl FnOnce(&Self)) -> RangeInclusive<usize> {
        let before = self.proxy.held();
        self.proxy.set_rule(move |what| if what == request { Fate::Held } else { Fate::Passed });
        let operator = self.start(&self.identity);
        meanwhile(self);
        wait_for(request, || (self.proxy.held() > before).then_some(()));
        operator.kill();
        self.proxy.pass_all();
        let may_be_between = self.asked(BEFORE_THE_EVENT) && request != THE_EVENT;
        usize::from(!may_be_between)..=1
    }

    fn asked(&self, request: &str) -> bool {
        self.proxy.asked().iter().any(|asked| asked.what == request)
    }

    fn await_all(&self, frequency: u64) {
        self.await_good(frequency);
        self.await_status(BAD, "Accepted", &["False Invalid"]);
        self.await_status("cpp/hearth-default", "Ready", &["True Ready"]);
        wait_for("the mark on the lease", || {
            let lease = self.get("lease/hearth-operator")?;
            lease["metadata"]["annotations"]["hearth.dev/default-policy"].is_string().then_some(())
        });
    }

    /// No node ever lost a policy, and nothing was told twice.
    fn check(&self, request: &str, events: RangeInclusive<usize>) {
        let lost = &self.seen().lost;
        assert!(lost.is_empty(), "killed after {request}: {lost:?}");
        let count = || self.get("events.events.k8s.io").unwrap()["items"].as_array().unwrap().len();
        // It follows the status that it is about.
        wait_for("the Event", || (count() >= *events.start()).then_some(()));
        assert!(events.contains(&count()), "killed after {request}: {} Events, not {events:?}", count());
    }
}

pub(super) fn a_standby_takes_over(cluster: &Cluster) {
    let mut stage = Stage::set(cluster);
    stage.apply_good(99);
    let other = Identity::new("operator-b");
    let first = stage.start(&stage.identity);
    wait_for("the first to lead", || stage.leader("operator-a"));
    let _second = stage.start(&other);
    // The standby tells them where the leader is.
    stage.start_agents(&other);
    stage.await_good(99);

    first.kill();
    stage.proxy.take();
    stage.apply_good(199);
    wait_for("the second to lead", || stage.leader("operator-b"));
    stage.await_good(199);
    assert!(stage.seen().lost.is_empty(), "{:?}", stage.seen().lost);

    let back = stage.start(&stage.identity);
    wait_for("the first to stand by", || back.log().contains("standing by: ").then_some(()));
    let lease = stage.get("lease/hearth-operator").unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 2, "{lease:#}");
}

impl Stage<'_> {
    fn leader(&self, name: &str) -> Option<()> {
        let lease = self.get("lease/hearth-operator")?;
        lease["spec"]["holderIdentity"].as_str()?.starts_with(name).then_some(())
    }
}
