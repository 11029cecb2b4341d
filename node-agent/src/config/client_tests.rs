//! The client against an operator that a test plays by hand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::pin::Pin;

use hearth_proto::config::v1::PolicyCount;
use hearth_proto::config::v1::node_configs_server::{NodeConfigs, NodeConfigsServer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Streaming};

use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(10);

type Updates = mpsc::Sender<Result<NodeUpdate, Status>>;

/// Hands each stream to the test.
struct Played(mpsc::Sender<Call>);

/// One stream: what the agent says, and what it is answered.
struct Call {
    /// The metadata `authorization`; empty: none.
    bearer: String,
    reports: Streaming<NodeReport>,
    updates: Updates,
}

#[tonic::async_trait]
impl NodeConfigs for Played {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<NodeUpdate, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (updates, answers) = mpsc::channel(8);
        let bearer =
            request.metadata().get("authorization").map(|bearer| bearer.to_str().unwrap().to_owned());
        let bearer = bearer.unwrap_or_default();
        self.0.send(Call { bearer, reports: request.into_inner(), updates }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl Call {
    async fn report(&mut self) -> Report {
        let report = tokio::time::timeout(PATIENCE, self.reports.message()).await.expect("a report in time");
        report.unwrap().expect("the stream goes on").report.unwrap()
    }

    async fn hello(&mut self) -> Hello {
        let Report::Hello(hello) = self.report().await else { panic!("the first report is the Hello") };
        hello
    }

    async fn verdict(&mut self) -> Verdict {
        loop {
            if let Report::Verdict(verdict) = self.report().await {
                return verdict;
            }
        }
    }

    async fn send(&self, nonce: u64, hash: &str) {
        let config = Config { nonce, hash: hash.into(), ..Config::default() };
        self.updates.send(Ok(NodeUpdate { update: Some(Update::Config(config)) })).await.unwrap();
    }

    async fn end(self, status: Status) {
        self.updates.send(Err(status)).await.unwrap();
    }
}

/// An operator on a port of its own.
struct Operator {
    address: SocketAddr,
    calls: mpsc::Receiver<Call>,
    server: JoinHandle<()>,
}

impl Operator {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::channel(8);
        let service = NodeConfigsServer::new(Played(sender));
        let server = tonic::transport::Server::builder().add_service(service);
        let server = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, calls, server }
    }

    async fn call(&mut self) -> Call {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a stream in time").unwrap()
    }

    /// As a process that was killed.
    async fn kill(self) -> SocketAddr {
        self.server.abort();
        // Aborted, or ended by itself: gone either way.
        drop(self.server.await);
        self.address
    }
}

/// Refuses what is called "bad", and says what it was given.
struct Told(mpsc::UnboundedSender<String>);

impl Apply for Told {
    async fn apply(&mut self, config: Config) -> Result<(), String> {
        self.0.send(config.hash.clone()).unwrap();
        if config.hash == "bad" { Err("policy p: spec.frequency is 0".to_owned()) } else { Ok(()) }
    }

    fn know(&mut self, directory: Directory) {
        self.0.send(format!("{} namespaces", directory.namespaces.len())).unwrap();
    }
}

struct Node {
    told: mpsc::UnboundedReceiver<String>,
    counts: watch::Sender<Counts>,
    wants: watch::Sender<Wants>,
    task: JoinHandle<()>,
}

impl Node {
    fn start(operator: SocketAddr, hash: &str) -> Self {
        Self::start_with(operator, hash, |_| ())
    }

    fn start_with(operator: SocketAddr, hash: &str, change: impl FnOnce(&mut Options)) -> Self {
        let waits = Waits {
            first: Duration::from_millis(10),
            max: Duration::from_millis(100),
            spread: Duration::from_millis(100),
            long: Duration::from_millis(300),
        };
        let mut options = Options {
            operator: format!("http://{operator}"),
            credentials: Credentials::default(),
            node: "node-1".into(),
            instance: vec![7; 16],
            waits,
        };
        change(&mut options);
        let (sender, told) = mpsc::unbounded_channel();
        let (counts, of_counts) = watch::channel(Counts::default());
        let (wants, of_wants) = watch::channel(Wants::default());
        let client = Client::new(options, hash.into(), Told(sender), of_counts, of_wants).unwrap();
        Self { told, counts, wants, task: tokio::spawn(client.run()) }
    }

    /// Everything it was told so far.
    fn told(&mut self) -> String {
        let mut told = Vec::new();
        while let Ok(line) = self.told.try_recv() {
            told.push(line);
        }
        told.join(", ")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn in_force(nonce: u64, hash: &str) -> Verdict {
    Verdict { nonce, hash: hash.into(), refused: String::new() }
}

#[tokio::test]
async fn the_agent_says_who_it_is_and_answers_each_configuration() {
    let mut operator = Operator::start().await;
    let mut node = Node::start(operator.address, "old");
    let mut call = operator.call().await;
    let hello = call.hello().await;
    assert_eq!((&*hello.node, hello.instance.len(), &*hello.hash), ("node-1", 16, "old"));
    call.send(1, "one").await;
    assert_eq!(call.verdict().await, in_force(1, "one"));
    call.send(2, "bad").await;
    let refused = "policy p: spec.frequency is 0".to_owned();
    assert_eq!(call.verdict().await, Verdict { nonce: 2, hash: "bad".into(), refused });
    call.send(3, "one").await;
    assert_eq!(call.verdict().await, in_force(3, "one"));
    assert_eq!(node.told(), "one, bad", "what is in force is not put into force again");
}

#[tokio::test]
async fn counts_are_sent_at_most_once_a_second_and_only_when_they_changed() {
    let mut operator = Operator::start().await;
    let node = Node::start(operator.address, "");
    let mut call = operator.call().await;
    call.hello().await;
    let started = Instant::now();
    let mut seen = Vec::new();
    let counted =
        |frequency| Counts { frequency, policies: vec![PolicyCount::default()], ..Counts::default() };
    let mut frequency = 0;
    while seen.len() < 3 {
        frequency += 1;
        node.counts.send_replace(counted(frequency));
        let report = tokio::time::timeout(Duration::from_millis(20), call.reports.message()).await;
        if let Ok(report) = report {
            let Some(Report::Counts(counts)) = report.unwrap().unwrap().report else { panic!("only counts") };
            seen.push(counts.frequency);
        }
        assert!(started.elapsed() < PATIENCE, "only {seen:?}");
    }
    assert!(started.elapsed() >= 2 * COUNTS_INTERVAL, "{seen:?} after {:?}", started.elapsed());
    // The last ones are told too, and equal ones are not told again.
    node.counts.send_replace(counted(5000));
    let Report::Counts(counts) = call.report().await else { panic!("only counts") };
    assert!(counts.frequency == 5000 || counts.frequency == frequency, "{counts:?}");
}

#[tokio::test]
async fn what_the_node_wants_to_know_is_asked_and_the_answer_handed_on() {
    let mut operator = Operator::start().await;
    let mut node = Node::start(operator.address, "");
    let mut call = operator.call().await;
    call.hello().await;
    let wants = Wants { namespaces: vec!["shop".into()], ..Wants::default() };
    node.wants.send_replace(wants.clone());
    assert_eq!(call.report().await, Report::Wants(wants));
    let directory = Directory { namespaces: vec![Default::default()], ..Directory::default() };
    call.updates.send(Ok(NodeUpdate { update: Some(Update::Directory(directory)) })).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, node.told.recv()).await.unwrap();
    assert_eq!(told.unwrap(), "1 namespaces");
}

#[tokio::test]
async fn an_operator_that_comes_back_hears_what_is_in_force_and_all_counts_again() {
    let mut operator = Operator::start().await;
    let node = Node::start(operator.address, "");
    let counts = Counts { frequency: 99, ..Counts::default() };
    node.counts.send_replace(counts.clone());
    let mut call = operator.call().await;
    call.hello().await;
    call.send(1, "one").await;
    call.verdict().await;
    drop(call);
    let address = operator.kill().await;
    let mut operator = Operator::start_at(address).await;
    let mut call = operator.call().await;
    assert_eq!(call.hello().await.hash, "one");
    assert_eq!(call.report().await, Report::Counts(counts));
}

#[tokio::test]
async fn a_standby_sends_the_agent_to_the_leader() {
    let (mut standby, mut leader) = (Operator::start().await, Operator::start().await);
    let _node = Node::start(standby.address, "");
    let mut status = Status::failed_precondition("another one leads");
    status.metadata_mut().insert(LEADER, leader.address.to_string().parse().unwrap());
    standby.call().await.end(status).await;
    let mut call = leader.call().await;
    assert_eq!(call.hello().await.node, "node-1");
    // When the leader goes, the configured address is asked again.
    call.send(1, "one").await;
    call.verdict().await;
    call.end(Status::unavailable("stopping")).await;
    standby.call().await;
}

#[tokio::test]
async fn an_agent_whose_place_is_taken_waits_long() {
    let mut operator = Operator::start().await;
    let _node = Node::start(operator.address, "");
    let started = Instant::now();
    operator.call().await.end(Status::aborted("a second stream of this node")).await;
    operator.call().await;
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_stream_that_ended_with_its_token_is_opened_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first").unwrap();
    let mut operator = Operator::start().await;
    let node = Node::start_with(operator.address, "", |options| {
        options.credentials.token_file = Some(token.clone());
        // None of these is waited for.
        let never = Duration::from_secs(3600);
        options.waits = Waits { first: never, max: never, spread: never, long: never };
    });
    let mut call = operator.call().await;
    assert_eq!(call.bearer, "Bearer first");
    call.hello().await;
    call.send(1, "h1").await;
    assert_eq!(call.verdict().await, in_force(1, "h1"));
    std::fs::write(&token, "second").unwrap();
    call.end(Status::unauthenticated("token expired")).await;
    let mut call = operator.call().await;
    assert_eq!(call.bearer, "Bearer second");
    assert_eq!(call.hello().await.hash, "h1");
    drop(node);
}
