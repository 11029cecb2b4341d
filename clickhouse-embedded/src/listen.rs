//! Connections that tell when all of what was to be sent has left.
//!
//! An answer that fails on its way ends with the exception and then without an
//! end. Breaking it off drops what still waits to be written, so the exception
//! must have left before.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A listener whose connections have [`Flushes`].
#[derive(Debug)]
pub struct Tracked(pub TcpListener);

impl Listener for Tracked {
    type Io = TrackedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TrackedStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (TrackedStream { stream, flushes: watch::Sender::new(0) }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// One connection.
#[derive(Debug)]
pub struct TrackedStream {
    stream: TcpStream,
    flushes: watch::Sender<u64>,
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
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
