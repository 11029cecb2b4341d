//! A collector that stores nothing and counts everything: it takes the agent's stream, acknowledges
//! every batch, and keeps what a batch cost, so that the agent is measured without a store beside it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hearth_proto::collector::v1::collector_server::{Collector, CollectorServer};
use hearth_proto::collector::v1::{AckResult, BatchAck, SampleBatch, StackEnd};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

/// What came, batch by batch, since the sink was made.
#[derive(Clone)]
pub(crate) struct Sink {
    url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Bytes read from the sockets, framing included.
    socket_bytes: AtomicU64,
    batches: Mutex<Vec<BatchSeen>>,
}

/// One batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchSeen {
    pub(crate) rows: u64,
    /// Rows that have a stack.
    pub(crate) stack_rows: u64,
    /// Samples that have a stack.
    pub(crate) stacks: u64,
    /// Frames of those.
    pub(crate) frames: u64,
    /// Those that reached the thread's entry.
    pub(crate) complete: u64,
    /// Bytes of its encoding.
    pub(crate) bytes: u64,
    /// Bytes of its encoding without new table entries: what it had cost, had all rows been seen before.
    pub(crate) repeated_bytes: u64,
    /// All bytes on the sockets when it had come.
    pub(crate) socket_bytes: u64,
}

impl Sink {
    /// Listens on a free port of the loopback interface.
    pub(crate) fn start(runtime: &tokio::runtime::Runtime) -> anyhow::Result<Self> {
        let state = Arc::new(State::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let counting = state.clone();
        let incoming = TcpListenerStream::new(listener)
            .map(move |stream| stream.map(|stream| Counted { stream, state: counting.clone() }));
        let service = CollectorServer::new(Service(state.clone())).max_decoding_message_size(64 << 20);
        runtime.spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            if let Err(error) = served.serve_with_incoming(incoming).await {
                eprintln!("the counting collector ended: {error}");
            }
        });
        Ok(Self { url, state })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// All batches so far.
    pub(crate) fn batches(&self) -> Vec<BatchSeen> {
        self.state.batches().clone()
    }
}

impl State {
    fn batches(&self) -> MutexGuard<'_, Vec<BatchSeen>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl Collector for Service {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<BatchAck, Status>> + Send>>;

    async fn export(
        &self,
        request: Request<Streaming<SampleBatch>>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let state = self.0.clone();
        let mut incoming = request.into_inner();
        let (acks, answers) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut depths = Vec::new();
            while let Ok(Some(batch)) = incoming.message().await {
                let sequence = batch.sequence;
                let seen = look_at(batch, &mut depths, state.socket_bytes.load(Ordering::Relaxed));
                state.batches().push(seen);
                let ack = BatchAck { sequence, result: AckResult::Stored.into(), message: String::new() };
                if acks.send(Ok(ack)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// `depths` has the number of frames of each of the stream's stacks.
fn look_at(mut batch: SampleBatch, depths: &mut Vec<u64>, socket_bytes: u64) -> BatchSeen {
    let bytes = batch.encoded_len() as u64;
    depths.extend(batch.stacks.iter().map(|stack| stack.frames.len() as u64));
    let mut seen = BatchSeen { bytes, socket_bytes, ..BatchSeen::default() };
    if let Some(rows) = &batch.rows {
        seen.rows = rows.thread.len() as u64;
        for ((&stack, &samples), &end) in rows.stack.iter().zip(&rows.samples).zip(&rows.end) {
            let Some(depth) = (stack as usize).checked_sub(1).and_then(|index| depths.get(index)) else {
                continue;
            };
            seen.stack_rows += 1;
            seen.stacks += u64::from(samples);
            seen.frames += depth * u64::from(samples);
            if end == StackEnd::Complete as i32 {
                seen.complete += u64::from(samples);
            }
        }
    }
    batch.strings.clear();
    batch.stacks.clear();
    batch.processes.clear();
    batch.threads.clear();
    batch.agent = None;
    seen.repeated_bytes = batch.encoded_len() as u64;
    seen
}

/// A socket whose incoming bytes are counted.
struct Counted {
    stream: TcpStream,
    state: Arc<State>,
}

impl Connected for Counted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.state.socket_bytes.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::collector::v1::{Rows, Stack};

    use super::*;

    #[test]
    fn frames_are_weighted_by_samples_and_remembered_over_batches() {
        let mut depths = Vec::new();
        let rows = |stack: u32, samples| Rows {
            thread: vec![1],
            stack: vec![stack],
            samples: vec![samples],
            end: vec![StackEnd::Complete.into()],
            cpu: Vec::new(),
        };
        let first = SampleBatch {
            strings: vec!["main".to_owned()],
            stacks: vec![Stack { frames: vec![1, 1, 1] }],
            rows: Some(rows(1, 2)),
            ..SampleBatch::default()
        };
        let again = SampleBatch { rows: Some(rows(1, 5)), ..SampleBatch::default() };
        let counted = SampleBatch { rows: Some(rows(0, 7)), ..SampleBatch::default() };
        let seen = [first, again, counted].map(|batch| look_at(batch, &mut depths, 0));
        assert_eq!(
            seen.map(|seen| (seen.stacks, seen.frames, seen.complete)),
            [(2, 6, 2), (5, 15, 5), (0, 0, 0)]
        );
        assert!(seen[0].repeated_bytes < seen[0].bytes, "{seen:?}");
        assert_eq!(seen[1].repeated_bytes, seen[1].bytes);
    }
}
