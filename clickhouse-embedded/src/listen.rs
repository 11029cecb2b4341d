//! Connections that tell when all of what was to be sent has left.
//!
//! An answer that fails on its way ends with the exception and then without an
//! end. Breaking it off drops what still waits to be written, so the exception
//! must have left before.
//!
//! A client that takes nothing of its answer for a while loses its connection, and
//! with it whatever waits for that client.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Timeout;
use tokio::time::error::Elapsed;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A listener whose connections have [`Flushes`].
#[derive(Debug)]
pub struct Tracked {
    /// Accepts.
    pub listener: TcpListener,
    /// How long a client may take nothing of what waits for it.
    pub patience: Duration,
    /// Ends that patience for all of them.
    pub cut: CancellationToken,
}

impl Listener for Tracked {
    type Io = TrackedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TrackedStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let (patience, cut) = (self.patience, self.cut.clone());
        (TrackedStream { stream, flushes: watch::Sender::new(0), patience, cut, stalled: None }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection.
#[derive(Debug)]
pub struct TrackedStream {
    stream: TcpStream,
    flushes: watch::Sender<u64>,
    patience: Duration,
    cut: CancellationToken,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Timeout<WaitForCancellationFutureOwned>>>>,
}

impl TrackedStream {
    /// What became of an attempt to write, or that the client's time is over.
    fn written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            Box::pin(tokio::time::timeout(self.patience, self.cut.clone().cancelled_owned()))
        });
        // Cut or out of patience: the same to this client.
        let _: Result<(), Elapsed> = ready!(stalled.as_mut().poll(cx));
        let text = format!("the client took nothing for {:?}", self.patience);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

/// Counts how often a connection had nothing left to write.
#[derive(Debug, Clone)]
pub struct Flushes(watch::Receiver<u64>);

impl Flushes {
    /// Forgets what was before.
    pub fn mark(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits until all that was written since the mark has left, or the connection has.
    pub async fn flushed(&mut self) {
        // An error: the connection is gone, and nothing will leave any more.
        let _: Result<(), watch::error::RecvError> = self.0.changed().await;
    }
}

impl Connected<IncomingStream<'_, Tracked>> for Flushes {
    fn connect_info(stream: IncomingStream<'_, Tracked>) -> Self {
        Self(stream.io().flushes.subscribe())
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Comes after the last of what waited was written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushes.send_modify(|count| *count += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
