#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod proof;

use std::time::Duration;

use hearth_policy::Labels;
use hearth_proto::config::v1::node_configs_client::NodeConfigsClient;
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{
    Config, Counts, Detached, Directory, Hello, NodeReport, NodeUpdate, Object, PolicyCount, Verdict, Wants,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::*;
use crate::index::tests::{labels, put};
use crate::index::{NodeObject, Owner, OwnerKind, Resource};
use crate::nodes::Standing;

/// An operator on a port of its own.
struct Operator {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    url: String,
    channel: Channel,
}

/// One stream to it.
struct Agent {
    reports: mpsc::Sender<NodeReport>,
    updates: Streaming<NodeUpdate>,
}

impl Operator {
    /// Leads, has listed everything, and knows these nodes.
    async fn leading(nodes: &[&str]) -> Self {
        Self::standby(1000).await.leads(nodes)
    }

    fn leads(self, nodes: &[&str]) -> Self {
        let operator = self;
        for resource in Resource::ALL {
            operator.hub.change(|index| index.set_synced(resource));
        }
        for name in nodes {
            operator.hub.change(|index| index.set_node(name, NodeObject::default()));
        }
        operator.hub.set_leadership(Leadership::Leading);
        operator
    }

    async fn standby(max_streams: usize) -> Self {
        Self::start(max_streams, None).await
    }

    async fn start(max_streams: usize, agents: Option<Agents>) -> Self {
        let hub = Arc::new(Hub::new(|| 2000));
        let metrics = Arc::new(Metrics::default());
        let service =
            Service::new(Arc::clone(&hub), Arc::clone(&metrics), agents).with_max_streams(max_streams);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let url = format!("http://{address}");
        let channel = Channel::from_shared(url.clone()).unwrap().connect_lazy();
        Self { hub, metrics, url, channel }
    }

    fn put(&self, name: &str, spec: serde_json::Value) {
        self.hub.change(|index| put(index, name, spec));
    }

    async fn open(&self) -> Result<Agent, Status> {
        Agent::open(self.channel.clone(), None).await
    }

    async fn hello(&self, node: &str) -> Agent {
        let agent = self.open().await.unwrap();
        agent.say(Report::Hello(hello(node))).await;
        agent
    }

    fn standing(&self, node: &str) -> String {
        let state = self.hub.lock();
        let Some(node) = state.nodes.get(node) else { return "gone".to_owned() };
        let policy = state.index.policies().next().unwrap().in_force().unwrap();
        match node.standing(policy, true) {
            Standing::Failed { reason, message } => format!("{reason}: {message}"),
            other => format!("{other:?}"),
        }
    }

    /// Waits until the node stands so to the first policy.
    async fn stands(&self, node: &str, expected: &str) {
        within(async {
            while self.standing(node) != expected {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

impl Agent {
    async fn open(channel: Channel, token: Option<&str>) -> Result<Self, Status> {
        let (reports, receiver) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let stream = NodeConfigsClient::new(channel).stream(request).await?;
        Ok(Self { reports, updates: stream.into_inner() })
    }

    async fn say(&self, report: Report) {
        self.reports.send(NodeReport { report: Some(report) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<Update>, Status> {
        Ok(within(self.updates.message()).await?.and_then(|update| update.update))
    }

    async fn config(&mut self) -> Config {
        match self.next().await.unwrap() {
            Some(Update::Config(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    async fn directory(&mut self) -> Directory {
        match self.next().await.unwrap() {
            Some(Update::Directory(directory)) => directory,
            other => panic!("{other:?}"),
        }
    }

    async fn verdict(&self, config: &Config, refused: &str) {
        let verdict = Verdict { nonce: config.nonce, hash: config.hash.clone(), refused: refused.to_owned() };
        self.say(Report::Verdict(verdict)).await;
    }

    async fn end(&mut self) -> Status {
        self.next().await.unwrap_err()
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

fn hello(node: &str) -> Hello {
    Hello { node: node.to_owned(), instance: vec![7; 16], version: "0".to_owned(), hash: String::new() }
}

fn names(config: &Config) -> String {
    config.policies.iter().map(|policy| &*policy.name).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_node_gets_all_of_its_configuration_and_again_only_when_it_changed() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    let mut agent = operator.hello("a").await;
    let first = agent.config().await;
    assert_eq!((first.nonce, &*names(&first)), (1, "p"));
    operator.stands("a", "Pending").await;
    agent.verdict(&first, "").await;
    operator.stands("a", "Applied").await;
    // Nothing new for this node: the next message is of what comes after.
    operator.put("p", json!({}));
    operator.put("ssd", json!({"nodeSelector": {"matchLabels": {"disk": "ssd"}}}));
    operator.put("q", json!({}));
    let second = agent.config().await;
    assert_eq!((second.nonce, &*names(&second)), (2, "p q"));
    operator.stands("a", "Applied").await;
    assert_ne!(first.hash, second.hash);
}

#[tokio::test]
async fn what_a_node_has_from_before_counts_as_applied() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    let hash = operator.hub.lock().index.config_for("a", 2000).unwrap().hash.to_string();
    let mut agent = operator.open().await.unwrap();
    agent.say(Report::Hello(Hello { hash, ..hello("a") })).await;
    agent.config().await;
    operator.stands("a", "Applied").await;
}

#[tokio::test]
async fn a_refusal_says_why_until_a_newer_configuration_is_applied() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    let mut agent = operator.hello("a").await;
    let first = agent.config().await;
    agent.verdict(&first, "no room").await;
    operator.stands("a", "Refused: no room").await;
    operator.put("p", json!({"frequency": 19}));
    let second = agent.config().await;
    // Of what was overtaken: of no interest.
    agent.verdict(&first, "").await;
    agent.verdict(&second, "").await;
    operator.stands("a", "Applied").await;
}

#[tokio::test]
async fn counts_and_a_detached_agent_arrive() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    operator.put("q", json!({}));
    let mut agent = operator.hello("a").await;
    let config = agent.config().await;
    agent.verdict(&config, "").await;
    let count = |policy: &str| PolicyCount {
        policy: policy.to_owned(),
        overridden_by: vec!["q".to_owned(), "gone".to_owned()],
        processes: 2,
        ..PolicyCount::default()
    };
    let policies = vec![count("q"), count("gone"), count("p"), count("p")];
    let detached = Detached { reason: 1, message: "went down twice".to_owned() };
    agent.say(Report::Counts(Counts { policies, frequency: 99, detached: Some(detached) })).await;
    operator.stands("a", "UncleanStart: went down twice").await;
    let state = operator.hub.lock();
    let count = state.nodes.get("a").unwrap().count(&crate::index::tests::id("p")).unwrap();
    let by = &count.details.as_ref().unwrap().overridden_by;
    assert_eq!((count.processes, &*by[0].to_string(), by.len()), (2, "q", 1));
}

#[tokio::test]
async fn a_newer_agent_is_understood_as_far_as_may_be() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    let mut agent = operator.hello("a").await;
    // A report of a kind that this version does not have.
    agent.reports.send(NodeReport { report: None }).await.unwrap();
    let config = agent.config().await;
    agent.verdict(&config, "").await;
    operator.stands("a", "Applied").await;
    let detached = Some(Detached { reason: 99, message: "too hot".to_owned() });
    agent.say(Report::Counts(Counts { detached, ..Counts::default() })).await;
    operator.stands("a", "Detached: too hot").await;
}

#[tokio::test]
async fn a_directory_is_sent_when_asked_for_and_when_it_changed() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    operator.hub.change(|index| index.set_namespace("shop", Some(labels("a=1 b=2 c=3"))));
    let mut agent = operator.hello("a").await;
    let config = agent.config().await;
    let owner =
        Object { namespace: "shop".to_owned(), kind: "ReplicaSet".to_owned(), name: "web-1".to_owned() };
    let other = Object { kind: "StatefulSet".to_owned(), ..owner.clone() };
    let wants = Wants { namespaces: vec!["shop".to_owned(), "gone".to_owned()], owners: vec![owner, other] };
    agent.say(Report::Wants(wants.clone())).await;
    let directory = agent.directory().await;
    assert_eq!((directory.namespaces.len(), directory.workloads.len()), (1, 0));
    // The same again, and what it did not ask for, are no news. Reports are taken in order: with the verdict
    // what is before it is done.
    agent.say(Report::Wants(wants)).await;
    agent.verdict(&config, "").await;
    operator.stands("a", "Applied").await;
    operator.hub.change(|index| index.set_namespace("other", Some(Labels::new())));
    operator.hub.change(|index| {
        let owner = Owner { kind: "Deployment".into(), name: "web".into() };
        index.set_owner("shop", OwnerKind::ReplicaSet, "web-1", Some(owner))
    });
    let directory = agent.directory().await;
    assert_eq!((directory.namespaces.len(), &*directory.workloads[0].name), (1, "web"));
}

#[tokio::test]
async fn a_second_stream_of_a_node_ends_the_first() {
    let operator = Operator::leading(&["a"]).await;
    operator.put("p", json!({}));
    let mut first = operator.hello("a").await;
    first.config().await;
    let mut second = operator.hello("a").await;
    let config = second.config().await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    drop(first);
    second.verdict(&config, "").await;
    operator.stands("a", "Applied").await;
    assert_eq!(operator.hub.lock().nodes.len(), 1);
    drop(second);
    operator.stands("a", "gone").await;
}

#[tokio::test]
async fn a_standby_names_the_leader() {
    let operator = Operator::standby(10).await;
    operator.hub.set_leadership(Leadership::Standby(Some("10.0.0.7:20418".to_owned())));
    let refused = operator.open().await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.metadata().get(LEADER).unwrap(), "10.0.0.7:20418");
    operator.hub.set_leadership(Leadership::Standby(None));
    let refused = operator.open().await.map(|_| ()).unwrap_err();
    assert!(refused.metadata().get(LEADER).is_none());
}

#[tokio::test]
async fn a_leader_that_leads_no_more_ends_its_streams() {
    let operator = Operator::leading(&["a"]).await;
    let mut agent = operator.hello("a").await;
    agent.config().await;
    operator.hub.set_leadership(Leadership::Standby(Some("next:20418".to_owned())));
    let ended = agent.end().await;
    assert_eq!(
        (ended.code(), ended.metadata().get(LEADER).unwrap().to_str().unwrap()),
        (Code::FailedPrecondition, "next:20418")
    );
    operator.put("p", json!({}));
    operator.stands("a", "gone").await;
}

#[tokio::test]
async fn a_node_waits_until_all_is_listed_and_the_node_is_known() {
    let operator = Operator::standby(10).await;
    operator.hub.set_leadership(Leadership::Leading);
    operator.put("p", json!({}));
    let mut agent = operator.hello("a").await;
    operator.stands("a", "Pending").await;
    for resource in Resource::ALL {
        operator.hub.change(|index| index.set_synced(resource));
    }
    operator.put("q", json!({}));
    let object = NodeObject::new(labels("zone=z"), &Labels::new());
    operator.hub.change(|index| index.set_node("a", object));
    // Only once, with everything: nothing was sent before.
    let config = agent.config().await;
    assert_eq!((config.nonce, &*names(&config), &*config.node_labels["zone"]), (1, "p q", "z"));
}

#[tokio::test]
async fn what_breaks_the_contract_ends_the_stream_with_the_reason() {
    let operator = Operator::leading(&["a"]).await;
    let long = "x".repeat(400);
    let count = |count: PolicyCount| Report::Counts(Counts { policies: vec![count], ..Counts::default() });
    for (first, expected) in [
        (Report::Wants(Wants::default()), "the first report must be a Hello"),
        (Report::Hello(hello("")), "hello.node is empty: it must be the name of the Kubernetes node"),
        (Report::Hello(hello(&long)), "hello.node has 400 bytes, more than 253"),
        (Report::Hello(Hello { instance: vec![1], ..hello("a") }), "hello.instance has 1 bytes, not 16"),
        (Report::Hello(Hello { hash: long.clone(), ..hello("a") }), "hello.hash has 400 bytes, more than 64"),
    ] {
        let mut agent = operator.open().await.unwrap();
        agent.say(first).await;
        let ended = agent.end().await;
        assert_eq!((ended.code(), ended.message()), (Code::InvalidArgument, expected));
    }
    for (report, expected) in [
        (Report::Hello(hello("a")), "a stream has one Hello"),
        (
            Report::Verdict(Verdict { nonce: 2, ..Verdict::default() }),
            "a verdict has nonce 2, and no configuration of this stream has it",
        ),
        (
            count(PolicyCount { seen: vec![String::new(); 6], ..PolicyCount::default() }),
            "counts.policies.seen has 6 entries, more than 5",
        ),
        (
            count(PolicyCount { policy: long.clone(), ..PolicyCount::default() }),
            "counts.policies.policy has 400 bytes, more than 317",
        ),
        (
            Report::Wants(Wants { namespaces: vec![String::new(); 2001], owners: Vec::new() }),
            "wants.namespaces has 2001 entries, more than 2000",
        ),
    ] {
        let mut agent = operator.hello("a").await;
        agent.config().await;
        agent.say(report).await;
        let ended = agent.end().await;
        assert_eq!((ended.code(), ended.message()), (Code::InvalidArgument, expected));
    }
    let mut agent = operator.hello("a").await;
    agent.config().await;
    let wants = Wants { namespaces: vec!["x".repeat(5 << 20)], owners: Vec::new() };
    agent.say(Report::Wants(wants)).await;
    assert_eq!(agent.end().await.code(), Code::OutOfRange);
}

#[tokio::test]
async fn streams_beyond_the_bound_are_told_to_come_again() {
    let operator = Operator::standby(1).await;
    operator.hub.set_leadership(Leadership::Leading);
    let held = operator.hello("a").await;
    let refused = operator.open().await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(held);
    within(async { while operator.open().await.is_err() {} }).await;
    let text = operator.metrics.encode(&operator.hub).unwrap();
    assert!(text.contains("hearth_operator_streams_refused_total{reason=\"too_many\"}"), "{text}");
}
