//! Stands between a real agent and the collector, and keeps account of both: what the agent sent, and
//! what the collector acknowledged.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use hearth_proto::collector::v1::collector_client::CollectorClient;
use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{BatchAck, SampleBatch};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::ledger::{Ledger, Sent, Stacks, batch_key};
use crate::runtime;

/// Passes on whole batches and acknowledgements, and the end of either side.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
}

impl Relay {
    /// To the collector at `upstream`.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let _inside = runtime().enter();
        let channel = Endpoint::from_shared(format!("http://{upstream}")).unwrap().connect_lazy();
        let service = CollectorServer::new(Service { ledger: ledger.clone(), channel });
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(service.max_decoding_message_size(64 << 20))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { server.await.unwrap() });
        Self { address, ledger }
    }

    /// Batches that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.ledger.lock().unwrap().batches.values().filter(|sent| sent.acknowledged).count()
    }

    /// The account so far.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut copy = Ledger::default();
        copy.batches.clone_from(&self.ledger.lock().unwrap().batches);
        copy
    }
}

struct Service {
    ledger: Arc<Mutex<Ledger>>,
    channel: Channel,
}

#[tonic::async_trait]
impl Collector for Service {
    type ExportStream = ReceiverStream<Result<BatchAck, Status>>;

    async fn export(
        &self,
        request: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let (to_collector, outbound) = mpsc::channel(1);
        let (to_agent, answers) = mpsc::channel(64);
        // The agent says once on a stream who it is.
        let instance = Arc::new(OnceLock::new());
        let backward =
            backward(self.channel.clone(), outbound, to_agent, self.ledger.clone(), instance.clone());
        let backward = tokio::spawn(backward).abort_handle();
        tokio::spawn(forward(request.into_inner(), to_collector, self.ledger.clone(), instance, backward));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// What the indices of a stream stand for.
#[derive(Default)]
struct Tables {
    node: String,
    strings: Vec<String>,
    /// Frames, separated by `;`.
    stacks: Vec<String>,
    /// The app of each process.
    apps: Vec<String>,
    /// App and name of each thread.
    threads: Vec<(String, String)>,
}

impl Tables {
    /// Learns what is new in a batch, and answers its stacks.
    fn accept(&mut self, batch: &SampleBatch) -> Stacks {
        if let Some(agent) = &batch.agent {
            self.node.clone_from(&agent.node);
        }
        self.strings.extend_from_slice(&batch.strings);
        for stack in &batch.stacks {
            let frames: Vec<&str> = stack.frames.iter().map(|frame| self.string(*frame)).collect();
            self.stacks.push(frames.join(";"));
        }
        for process in &batch.processes {
            self.apps.push(self.string(process.app_service).to_owned());
        }
        for thread in &batch.threads {
            let app = self.apps[thread.process as usize - 1].clone();
            self.threads.push((app, self.string(thread.name).to_owned()));
        }
        let mut stacks = Stacks::new();
        if let Some(rows) = &batch.rows {
            for ((thread, stack), samples) in rows.thread.iter().zip(&rows.stack).zip(&rows.samples) {
                let (app, thread) = &self.threads[*thread as usize - 1];
                if app.is_empty() {
                    continue;
                }
                let frames = stack.checked_sub(1).map(|at| format!(";{}", self.stacks[at as usize]));
                let text = format!("[t] {thread}{}", frames.unwrap_or_default());
                *stacks.entry([self.node.clone(), app.clone(), text]).or_default() += u64::from(*samples);
            }
        }
        stacks
    }

    fn string(&self, index: u32) -> &str {
        index.checked_sub(1).map_or("", |at| &self.strings[at as usize])
    }
}

async fn forward(
    mut from_agent: Streaming<SampleBatch>,
    to_collector: mpsc::Sender<SampleBatch>,
    ledger: Arc<Mutex<Ledger>>,
    instance: Arc<OnceLock<Vec<u8>>>,
    backward: tokio::task::AbortHandle,
) {
    let mut tables = Tables::default();
    loop {
        match from_agent.message().await {
            Ok(Some(batch)) => {
                if let Some(agent) = &batch.agent {
                    drop(instance.set(agent.instance.clone()));
                }
                let key = batch_key(instance.get().unwrap(), batch.sequence);
                let samples = batch.rows.iter().flat_map(|rows| &rows.samples);
                let samples = samples.map(|samples| u64::from(*samples)).sum();
                let rows = batch.rows.as_ref().map_or(0, |rows| rows.thread.len() as u64);
                let sent = Sent { rows, samples, stacks: tables.accept(&batch), acknowledged: false };
                ledger.lock().unwrap().batches.entry(key).or_insert(sent);
                if to_collector.send(batch).await.is_err() {
                    return;
                }
            }
            // It ended the stream as the protocol asks, and waits for the rest.
            Ok(None) => return,
            // It was killed: its collector must see that too.
            Err(_) => return backward.abort(),
        }
    }
}

async fn backward(
    channel: Channel,
    outbound: mpsc::Receiver<SampleBatch>,
    to_agent: mpsc::Sender<Result<BatchAck, Status>>,
    ledger: Arc<Mutex<Ledger>>,
    instance: Arc<OnceLock<Vec<u8>>>,
) {
    let call = CollectorClient::new(channel).export(ReceiverStream::new(outbound)).await;
    let mut acks = match call {
        Ok(answer) => answer.into_inner(),
        Err(status) => return drop(to_agent.send(Err(status)).await),
    };
    loop {
        let message = match acks.message().await {
            Ok(None) => return,
            Ok(Some(ack)) => {
                let key = batch_key(instance.get().unwrap(), ack.sequence);
                ledger.lock().unwrap().batches.get_mut(&key).unwrap().acknowledged = true;
                Ok(ack)
            }
            Err(status) => Err(status),
        };
        let last = message.is_err();
        if to_agent.send(message).await.is_err() || last {
            return;
        }
    }
}
