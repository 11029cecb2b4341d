//! The connections of the HTTPS port: each bounded in what it may take and in how long it may do nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use hearth_tls::{Bounds, Connection, Listener, Peer};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Access;

/// Connections of the port: the API server, which shows a certificate, finds a place also when others take all they can.
pub const BOUNDS: Bounds = Bounds {
    connections: 512,
    unproven: 448,
    unproven_per_address: 32,
    handshakes_per_address: 16,
    unheld: None,
    exempts_loopback: true,
};

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a client may take for the head of a request, and for the first one after it connected. Without
    /// HTTP/2, or a proof of who it is, also how long it may wait before the next.
    pub head: Duration,
    /// How long an HTTP/2 connection of one who is proven may have no request. The API server keeps its own for
    /// minutes.
    pub idle: Duration,
    /// How long a request may take, until its answer is read. The API server itself gives up one that is passed on after
    /// a minute.
    pub request: Duration,
    /// Requests at once on one connection: of all users on that of the API server.
    pub streams: u32,
    /// Bytes of a request's head: the API server sends all groups of a user.
    pub head_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            request: Duration::from_secs(180),
            streams: 128,
            head_bytes: 256 << 10,
        }
    }
}

/// Between two pings of an HTTP/2 connection: one that vanished must not hold its place for ever.
const PING: Duration = Duration::from_secs(30);

/// Answers until `stop`; then ends each connection after its last answer, and returns.
pub async fn serve(mut listener: Listener, access: Access, limits: Limits, stop: CancellationToken) {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                conversations.spawn(converse(connection, access.clone(), limits, stop.clone()));
            }
            Some(_) = conversations.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

async fn converse(connection: Connection, access: Access, limits: Limits, stop: CancellationToken) {
    let peer = connection.peer().clone();
    let _open = Open::begin(access.metrics().connections.clone());
    let ending = stop.child_token();
    // Who shows a certificate is proven.
    let activity = Arc::new(Activity::new(!peer.certificates().is_empty()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let turn = Activity::begin(&activity);
        let (access, peer, ending) = (access.clone(), peer.clone(), ending.clone());
        async move {
            let request: Request = request.map(Body::new);
            let asked = Asked { peer: &peer, ending: &ending, turn: &turn };
            let response = access.answer(asked, request).await;
            Ok::<_, Infallible>(response.map(|body| Answer { body, _turn: turn }))
        }
    });
    let builder = builder(limits);
    let mut conversation = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let mut closing = false;
    loop {
        tokio::select! {
            ended = conversation.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("{}: {error}", peer.address());
                }
                return;
            }
            () = ending.cancelled(), if !closing => {
                closing = true;
                activity.close();
                conversation.as_mut().graceful_shutdown();
            }
            overdue = activity.overdue(limits) => match overdue {
                Overdue::Next => ending.cancel(),
                // By force: it waits for a client that does not do its part.
                Overdue::First | Overdue::Answer | Overdue::Goodbye => {
                    tracing::debug!("{}: closed, {overdue:?} is overdue", peer.address());
                    return;
                }
            },
        }
    }
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let Limits { head, idle: _, request: _, streams, head_bytes } = limits;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(usize::try_from(head_bytes).unwrap_or(usize::MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(streams)
        .max_header_list_size(head_bytes);
    builder
}

/// What is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// The first request of a connection.
    First,
    /// The next one.
    Next,
    /// The end of an answer that is read.
    Answer,
    /// The end of a connection that was asked to end.
    Goodbye,
}

/// Of which connection a request is.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    peer: &'a Peer,
    ending: &'a CancellationToken,
    turn: &'a Turn,
}

impl<'a> Asked<'a> {
    /// Who is at its other end.
    pub(super) fn peer(self) -> &'a Peer {
        self.peer
    }

    /// Who asks has proven who they are: the connection may wait long for its next request.
    pub(super) fn proven(self) {
        self.turn.activity.change(|state| state.proven = true);
    }

    /// Asks it to end: the client would do better with a new one.
    pub(super) fn end_connection(self) {
        self.ending.cancel();
    }
}

/// What happens on a connection.
struct Activity {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// When each open request began.
    open: BTreeMap<u64, Instant>,
    /// Requests so far.
    begun: u64,
    /// When the last one ended, or the connection began.
    since: Instant,
    /// Somebody has proven who they are.
    proven: bool,
    closing: bool,
}

/// An open request.
struct Turn {
    activity: Arc<Activity>,
    number: u64,
}

impl Activity {
    fn new(proven: bool) -> Self {
        let state = State { open: BTreeMap::new(), begun: 0, since: Instant::now(), proven, closing: false };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn begin(this: &Arc<Self>) -> Turn {
        let number = this.change(|state| {
            let number = state.begun;
            state.begun += 1;
            state.open.insert(number, Instant::now());
            number
        });
        Turn { activity: Arc::clone(this), number }
    }

    /// There are to be no further requests.
    fn close(&self) {
        self.change(|state| (state.closing, state.since) = (true, Instant::now()));
    }

    /// Returns when something is. For one who waits.
    async fn overdue(&self, limits: Limits) -> Overdue {
        loop {
            let (what, at) = self.state().next(limits);
            if at <= Instant::now() {
                return what;
            }
            // Something else may be due meanwhile, or nothing.
            let _ = tokio::time::timeout_at(at, self.changed.notified()).await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_one();
        changed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No step that may panic leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is due next, and when.
    fn next(&self, limits: Limits) -> (Overdue, Instant) {
        match self.open.first_key_value() {
            Some((_, began)) => (Overdue::Answer, *began + limits.request),
            None if self.closing => (Overdue::Goodbye, self.since + limits.head),
            None if self.begun == 0 => (Overdue::First, self.since + limits.head),
            None if self.proven => (Overdue::Next, self.since + limits.idle),
            None => (Overdue::Next, self.since + limits.head),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.activity.change(|state| {
            state.open.remove(&self.number);
            state.since = Instant::now();
        });
    }
}

/// A connection that is open.
struct Open(Gauge);

impl Open {
    fn begin(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An answer, whose request is over when it is read.
struct Answer {
    body: Body,
    _turn: Turn,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        request: Duration::from_secs(180),
        streams: 1,
        head_bytes: 1,
    };

    /// What is overdue, and after how many seconds.
    async fn overdue(activity: &Activity) -> (Overdue, u64) {
        let start = Instant::now();
        let overdue = activity.overdue(LIMITS).await;
        (overdue, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_soon_overdue_and_later_less_soon() {
        let activity = Arc::new(Activity::new(true));
        assert_eq!(overdue(&activity).await, (Overdue::First, 10));
        drop(Activity::begin(&activity));
        assert_eq!(overdue(&activity).await, (Overdue::Next, 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_long_only_for_who_has_proven_something() {
        let activity = Arc::new(Activity::new(false));
        drop(Activity::begin(&activity));
        assert_eq!(overdue(&activity).await, (Overdue::Next, 10));
        activity.change(|state| state.proven = true);
        drop(Activity::begin(&activity));
        assert_eq!(overdue(&activity).await, (Overdue::Next, 300));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_open_request_counts() {
        let activity = Arc::new(Activity::new(true));
        let first = Activity::begin(&activity);
        tokio::time::advance(Duration::from_secs(100)).await;
        let second = Activity::begin(&activity);
        assert_eq!(overdue(&activity).await, (Overdue::Answer, 80));
        drop(first);
        assert_eq!(overdue(&activity).await, (Overdue::Answer, 100));
        drop(second);
        assert_eq!(overdue(&activity).await, (Overdue::Next, 300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_to_end_may_still_bring_its_answers() {
        let activity = Arc::new(Activity::new(true));
        let turn = Activity::begin(&activity);
        activity.close();
        assert_eq!(overdue(&activity).await, (Overdue::Answer, 180));
        drop(turn);
        assert_eq!(overdue(&activity).await, (Overdue::Goodbye, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_while_nothing_was_due_is_noticed() {
        let activity = Arc::new(Activity::new(true));
        drop(Activity::begin(&activity));
        let begin = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Activity::begin(&activity)
        };
        let (overdue, _turn) = tokio::join!(overdue(&activity), begin);
        assert_eq!(overdue, (Overdue::Answer, 185));
    }
}
