//! A real agent between two played servers.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::routing::get;
use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{AckResult, BatchAck, SampleBatch};
use hearth_proto::config::v1::node_configs_server::{NodeConfigs, NodeConfigsServer};
use hearth_proto::config::v1::node_report::Report;
use hearth_proto::config::v1::node_update::Update;
use hearth_proto::config::v1::{Config, Counts, DetachedReason, NodeReport, NodeUpdate, Policy, Verdict};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for what must come; a debug build on a busy machine is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One stream of an agent.
pub(crate) struct Call {
    reports: Streaming<NodeReport>,
    updates: mpsc::Sender<Result<NodeUpdate, Status>>,
    nonce: u64,
}

struct Played(mpsc::Sender<Call>);

#[tonic::async_trait]
impl NodeConfigs for Played {
    type StreamStream = Answers<NodeUpdate>;

    async fn stream(
        &self,
        call: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (updates, answers) = mpsc::channel(8);
        self.0.send(Call { reports: call.into_inner(), updates, nonce: 0 }).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Takes every batch, and tells the periods of what matched in it.
struct Taking(mpsc::UnboundedSender<u32>);

#[tonic::async_trait]
impl Collector for Taking {
    type ExportStream = Answers<BatchAck>;

    async fn export(
        &self,
        call: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let periods = self.0.clone();
        let acks = call.into_inner().map(move |batch| {
            let batch = batch?;
            for process in batch.processes.iter().filter(|process| process.app_service != 0) {
                // The test may be over.
                periods.send(process.period_micros).ok();
            }
            let (sequence, result) = (batch.sequence, AckResult::Stored.into());
            Ok(BatchAck { sequence, result, message: String::new() })
        });
        Ok(Response::new(Box::pin(acks)))
    }
}

impl Call {
    /// The next report that is of interest.
    async fn report<T>(&mut self, what: &str, of: impl Fn(&Report) -> Option<T>) -> T {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let report = self.reports.message().await.unwrap().expect("the stream goes on");
                if let Some(found) = of(&report.report.unwrap()) {
                    return found;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))
    }

    /// Waits for the Hello; the hash in it.
    pub(crate) async fn hello(&mut self) -> String {
        self.report("the Hello", |report| match report {
            Report::Hello(hello) => Some(hello.hash.clone()),
            _ => None,
        })
        .await
    }

    /// Sends a configuration; the agent's verdict.
    pub(crate) async fn send(&mut self, config: Config) -> Verdict {
        self.nonce += 1;
        let config = Config { nonce: self.nonce, ..config };
        self.updates.send(Ok(NodeUpdate { update: Some(Update::Config(config)) })).await.unwrap();
        let nonce = self.nonce;
        self.report("a verdict", |report| match report {
            Report::Verdict(verdict) if verdict.nonce == nonce => Some(verdict.clone()),
            _ => None,
        })
        .await
    }

    /// Sends an update of a kind that a newer operator has: what this version reads of it is nothing.
    pub(crate) async fn send_unknown(&self) {
        self.updates.send(Ok(NodeUpdate { update: None })).await.unwrap();
    }

    /// Waits for counts that are as wanted.
    pub(crate) async fn counts(&mut self, what: &str, are: impl Fn(&Counts) -> bool) -> Counts {
        self.report(what, |report| match report {
            Report::Counts(counts) if are(counts) => Some(counts.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the agent says that it is detached; its words.
    pub(crate) async fn detached(&mut self, reason: DetachedReason) -> String {
        let is =
            |counts: &Counts| counts.detached.as_ref().is_some_and(|detached| detached.reason() == reason);
        let counts = self.counts(&format!("{reason:?}"), is).await;
        assert_eq!(counts.frequency, 0, "{counts:?}");
        counts.detached.unwrap().message
    }

    /// Waits until it says that it samples at this rate.
    pub(crate) async fn sampling(&mut self, frequency: u32) -> Counts {
        let what = format!("{frequency} Hz");
        self.counts(&what, |counts| counts.frequency == frequency && counts.detached.is_none()).await
    }
}

/// An API server whose nodes have no pods, now and for ever.
async fn api_server() -> SocketAddr {
    let pods = async |query: RawQuery| {
        if query.0.is_some_and(|query| query.contains("watch=true")) {
            return Body::from_stream(tokio_stream::pending::<Result<String, Infallible>>());
        }
        let none = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
        Body::from(none)
    };
    let router = Router::new().route("/api/v1/pods", get(pods));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    address
}

fn kubeconfig(server: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"http://{server}\"}}}}]\n\
         users: [{{name: u, user: {{}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
    )
}

/// Played servers, and a process to be sampled.
pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) name: String,
    pub(crate) periods: mpsc::UnboundedReceiver<u32>,
    calls: mpsc::Receiver<Call>,
    operator: SocketAddr,
    operating: JoinHandle<()>,
    collector: SocketAddr,
    burner: Child,
}

impl Stage {
    pub(crate) async fn set(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The process to be sampled has a name of its own: 15 bytes at most.
        let name = format!("hc-{test}");
        assert!(name.len() <= 15, "{name}");
        let program = folder.path().join(&name);
        std::fs::copy("/bin/sh", &program).unwrap();
        let burner = bound_to_us(&program).args(["-c", "while :; do :; done"]).spawn().unwrap();

        let (sender, calls) = mpsc::channel(8);
        let (operator, operating) = serve(NodeConfigsServer::new(Played(sender))).await;
        let (sender, periods) = mpsc::unbounded_channel();
        let (collector, _) = serve(CollectorServer::new(Taking(sender))).await;
        let kubeconfig = kubeconfig(api_server().await);
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig).unwrap();
        Self { folder, name, periods, calls, operator, operating, collector, burner }
    }

    /// A configuration by which the process is sampled.
    pub(crate) fn config(&self, frequency: u32) -> Config {
        let spec =
            format!("{{\"regex\":\"^{}$\",\"hostProcesses\":true,\"frequency\":{frequency}}}", self.name);
        let policy = Policy { name: "burner".into(), spec, created: unix_seconds(), ..Policy::default() };
        Config { hash: format!("at-{frequency}"), policies: vec![policy], ..Config::default() }
    }

    /// An agent under the operator.
    pub(crate) fn agent(&self) -> Agent {
        self.agent_by(&[])
    }

    /// The same, started by a program that ends its arguments with ours.
    pub(crate) fn agent_by(&self, launcher: &[&str]) -> Agent {
        let operator = format!("http://{}", self.operator);
        self.start(launcher, &["--operator", &operator])
    }

    /// An agent with these further arguments.
    pub(crate) fn start(&self, launcher: &[&str], arguments: &[&str]) -> Agent {
        let agent = Path::new(env!("CARGO_BIN_EXE_hearth-node-agent"));
        let mut command = match launcher {
            [] => bound_to_us(agent),
            [program, further @ ..] => {
                let mut command = bound_to_us(Path::new(program));
                command.args(further).arg(agent);
                command
            }
        };
        let log = self.folder.path().join(format!("log-{}", uuid::Uuid::new_v4()));
        command.args(arguments).args(["--node", "node-1", "--window", "1s", "--metrics", "127.0.0.1:0"]);
        // A debug build takes more than an agent may.
        command.args(["--max-cpu-share", "100", "--collector", &format!("http://{}", self.collector)]);
        command.arg("--state-dir").arg(self.state()).arg("--off-file").arg(self.off_file());
        command.env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stderr(File::create(&log).unwrap());
        Agent { child: command.spawn().unwrap(), log }
    }

    /// The agent's next stream.
    pub(crate) async fn call(&mut self) -> Call {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("a stream in time").unwrap()
    }

    /// The operator goes away, as a process that was killed.
    pub(crate) fn kill_operator(&self) {
        self.operating.abort();
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn off_file(&self) -> PathBuf {
        self.folder.path().join("off")
    }

    /// What the agent keeps of its starts.
    pub(crate) fn starts(&self) -> String {
        std::fs::read_to_string(self.state().join("starts.json")).unwrap_or_default()
    }

    /// As if a machine had kept this of its agent's starts.
    pub(crate) fn keep_starts(&self, text: &str) {
        std::fs::create_dir_all(self.state()).unwrap();
        std::fs::write(self.state().join("starts.json"), text).unwrap();
    }

    /// Waits for samples that stand for so many microseconds.
    pub(crate) async fn samples_of(&mut self, period: u32) {
        let found =
            tokio::time::timeout(PATIENCE, async { while self.periods.recv().await.unwrap() != period {} });
        found.await.unwrap_or_else(|_| panic!("no samples of {period} µs"));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.burner.kill().unwrap();
        self.burner.wait().unwrap();
    }
}

async fn serve<S>(service: S) -> (SocketAddr, JoinHandle<()>)
where
    S: tonic::codegen::Service<
            tonic::codegen::http::Request<tonic::body::Body>,
            Response = tonic::codegen::http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(service);
    let server = server.serve_with_incoming(TcpListenerStream::new(listener));
    (address, tokio::spawn(async move { server.await.unwrap() }))
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Looks until `condition` gives something.
    pub(crate) async fn wait_for<T>(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = condition(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain for {what}:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The first log line with this text.
    pub(crate) async fn line(&mut self, text: &str) -> String {
        let find = |agent: &mut Self| agent.log().lines().find(|line| line.contains(text)).map(str::to_owned);
        self.wait_for(text, find).await
    }

    /// Waits until it ends.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        self.wait_for("its end", |agent| agent.child.try_wait().unwrap()).await
    }

    /// Ends it by a signal.
    pub(crate) async fn signal(&mut self, signal: i32) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill takes two integers and touches no memory of ours; the child was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        self.end().await
    }

    /// `GET path` of its own server.
    pub(crate) async fn get(&mut self, path: &str) -> String {
        let line = self.line("metrics on http://").await;
        let (_, address) = line.split_once("http://").unwrap();
        let mut stream = TcpStream::connect(address.trim_end_matches("/metrics")).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A number of its metrics, 0 where it is not there.
    pub(crate) async fn metric(&mut self, name: &str) -> f64 {
        let text = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}\n---", self.log());
        }
        // Ended already is as good as killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `program`, to be killed by the kernel when the test's thread ends.
fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

pub(crate) fn unix_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}
