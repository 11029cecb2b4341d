//! The operator's own process behind a proxy of the API server, which numbers what it asks and breaks what a
//! test wants broken. The agents are simulated: their client of the operator is the real one.

mod certificates;
mod faults;
mod kills;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_e2e::Cluster;
use hearth_e2e::api_proxy::ApiProxy;
use hearth_e2e::daemon::{binary, wait_for};
use hearth_e2e::operator::{Identity, Operator};
use hearth_e2e::simulated::{Agents, id};
use hearth_node_agent::config::retry::Waits;
use hearth_node_agent::remote::Credentials;
use hearth_proto::config::v1::Config;
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use crate::on_cluster;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_cluster(
            "operator::whatever_request_it_dies_after_all_is_done_by_the_next",
            kills::after_each_request,
        ),
        on_cluster(
            "operator::whatever_request_it_dies_after_certificates_are_made_by_the_next",
            certificates::after_each_request,
        ),
        on_cluster("operator::a_standby_takes_over_from_a_leader_that_dies", kills::a_standby_takes_over),
        on_cluster("operator::it_converges_whatever_the_api_server_answers", faults::whatever_is_answered),
    ]
}

/// Where the leases of these operators are, and the policies.
const NAMESPACE: &str = "operator-test";
const NODES: [&str; 2] = ["node1", "node2"];
/// A valid policy, and one whose regex does not compile.
const GOOD: &str = "pp/good";
const BAD: &str = "pp/bad";

/// The cluster with nothing of Hearth in it but the kinds, a proxy, and agents.
struct Stage<'a> {
    cluster: &'a Cluster,
    proxy: ApiProxy,
    identity: Identity,
    folder: TempDir,
    seen: Arc<Mutex<Seen>>,
    agents: Option<Agents>,
}

/// What agents were sent.
#[derive(Debug, Default)]
struct Seen {
    /// The rate of each policy that a node works by.
    in_force: BTreeMap<usize, BTreeMap<String, u64>>,
    /// Policies that a node worked by and was then sent no more.
    lost: Vec<(usize, String)>,
}

impl Seen {
    fn take(&mut self, node: usize, config: &Config) {
        let rate =
            |spec: &str| serde_json::from_str::<Value>(spec).unwrap()["frequency"].as_u64().unwrap_or(99);
        let new: BTreeMap<_, _> =
            config.policies.iter().map(|policy| (id(policy), rate(&policy.spec))).collect();
        let old = self.in_force.insert(node, new.clone()).unwrap_or_default();
        self.lost.extend(old.into_keys().filter(|id| !new.contains_key(id)).map(|id| (node, id)));
    }
}

impl<'a> Stage<'a> {
    fn set(cluster: &'a Cluster) -> Self {
        hearth_e2e::hearth::install_kinds(cluster);
        let stage = Self {
            cluster,
            proxy: ApiProxy::start(cluster),
            identity: Identity::new("operator-a"),
            folder: tempfile::tempdir().unwrap(),
            seen: Arc::default(),
            agents: None,
        };
        stage.clear();
        cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"));
        stage
    }

    /// As before the first operator.
    fn clear(&self) {
        let all = ["--all", "--all-namespaces", "--ignore-not-found"];
        self.cluster.kubectl(&[&["delete", "pp,cpp,events.events.k8s.io"][..], &all].concat());
        let lease = ["-n", NAMESPACE, "delete", "lease", "--all"];
        self.cluster.kubectl(&lease);
    }

    fn start_agents(&mut self, operator: &Identity) {
        // The herd is the subject of other tests.
        let soon = Duration::from_millis(100);
        let waits = Waits { first: soon, max: soon, spread: soon, long: soon };
        let seen = Arc::clone(&self.seen);
        *self.seen() = Seen::default();
        let on_config = move |node, config: &_| lock(&seen).take(node, config);
        self.agents = Some(Agents::start(
            NODES.map(|node| (node.to_owned(), Credentials::default())),
            &operator.url(),
            waits,
            on_config,
        ));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    fn start(&self, identity: &Identity) -> Operator {
        let program = binary("hearth-operator");
        Operator::start(&program, identity, self.proxy.kubeconfig(), NAMESPACE, self.folder.path())
    }

    /// Applies the policy that compiles, with this rate.
    fn apply_good(&self, frequency: u64) {
        self.apply("good", &format!("{{podSelector: {{}}, frequency: {frequency}}}"));
    }

    /// Applies the one that does not.
    fn apply_bad(&self) {
        self.apply("bad", "{regex: 'a(b'}");
    }

    fn apply(&self, name: &str, spec: &str) {
        self.cluster.apply(&format!(
            "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec: {spec}\n"
        ));
    }

    /// Waits until every node works by the good policy at this rate and its status says so.
    fn await_good(&self, frequency: u64) {
        let id = format!("{NAMESPACE}/good");
        wait_for(&format!("{frequency} Hz on all nodes"), || {
            let seen = self.seen();
            let works =
                |node| seen.in_force.get(&node).and_then(|policies| policies.get(&id)) == Some(&frequency);
            (0..NODES.len()).all(works).then_some(())
        });
        self.await_status(GOOD, "Ready", &["True Ready", "True NothingMatched"]);
    }

    /// Waits until a policy's newest generation has a condition that reads so.
    fn await_status(&self, policy: &str, condition: &str, expected: &[&str]) {
        wait_for(&format!("{condition} {expected:?} of {policy}"), || {
            let object = self.get(policy)?;
            if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
                return None;
            }
            let conditions = object["status"]["conditions"].as_array()?;
            let condition = conditions.iter().find(|found| found["type"] == condition)?;
            let reads = format!("{} {}", condition["status"].as_str()?, condition["reason"].as_str()?);
            expected.contains(&reads.as_str()).then_some(())
        });
    }

    fn get(&self, object: &str) -> Option<Value> {
        let output = self.cluster.kubectl_with(&["-n", NAMESPACE, "get", object, "-o", "json"], "");
        serde_json::from_slice(&output.stdout).ok()
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Its own clients go first, then what it made.
        drop(self.agents.take());
        self.clear();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
