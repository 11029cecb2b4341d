//! HTTP on a port: each connection bounded in what it may take and in how long it may do nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Buf, Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use crate::listener::{Connection, Listener, Peer};
use crate::places::Bounds;
use crate::refusals::Refusals;

/// Bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a client may take for the head of a request, and for the first one after it connected. By HTTP/1, or
    /// without a proof of who it is, also how long it may wait before the next.
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

/// A port of `/metrics` and of probes. Whoever asks needs a few places; others, who take all that one address may have, need many
/// addresses to be in the way of the kubelet.
const MACHINES: Bounds = Bounds { connections: 512, unproven_per_address: 16, ..Bounds::USUAL };
/// Bytes of an answer that are given out at once.
const PIECE: usize = 64 << 10;
/// Between two pings of an HTTP/2 connection: one that vanished must not hold its place for ever.
const PING: Duration = Duration::from_secs(30);

/// Answers each request by `answer` until `stop`; then ends each connection after its last answer, and returns.
/// `connections` is how many are open.
pub async fn serve<A, F, B>(
    mut listener: Listener,
    limits: Limits,
    connections: Gauge,
    answer: A,
    stop: CancellationToken,
) where
    A: Fn(Asked, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Content,
{
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let open = Open::begin(connections.clone());
                let conversation = converse(connection, limits, answer.clone(), stop.clone());
                conversations.spawn(async move {
                    let _open = open;
                    conversation.await;
                });
            }
            Some(_) = conversations.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

/// As [`serve`], everybody by a router.
pub async fn serve_router<R, B>(listener: Listener, limits: Limits, router: R, stop: CancellationToken)
where
    R: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    R::Future: Send,
    B: Content,
{
    let answer = move |_, request| {
        let answered = router.clone().oneshot(request);
        async move {
            let Ok(response) = answered.await;
            response
        }
    };
    serve(listener, limits, Gauge::default(), answer, stop).await;
}

/// As [`serve_router`], a port of `/metrics` and of probes: in the clear, with few connections of one address.
pub async fn serve_machines<R, B>(tcp: TcpListener, refusals: Refusals, router: R, stop: CancellationToken)
where
    R: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    R::Future: Send,
    B: Content,
{
    let listener = Listener::plain(tcp, refusals).with_bounds(MACHINES);
    serve_router(listener, Limits::default(), router, stop).await;
}

/// The body of an answer.
pub trait Content:
    Body<Data: Send + Unpin, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static
{
}

impl<B> Content for B where
    B: Body<Data: Send + Unpin, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static
{
}

async fn converse<A, F, B>(connection: Connection, limits: Limits, answer: A, stop: CancellationToken)
where
    A: Fn(Asked, Request<Incoming>) -> F + Send + Sync,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Content,
{
    let peer = connection.peer().clone();
    let ending = stop.child_token();
    // Who shows a certificate is proven.
    let activity = Arc::new(Activity::new(!peer.certificates().is_empty()));
    let service = service_fn(|request: Request<Incoming>| {
        let turn = Activity::begin(&activity);
        let asked = Asked { peer: peer.clone(), ending: ending.clone(), activity: Arc::clone(&activity) };
        let answered = answer(asked, request);
        async move { Ok::<_, Infallible>(answered.await.map(|body| Answer { body, rest: None, _turn: turn })) }
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
#[derive(Clone)]
pub struct Asked {
    peer: Peer,
    ending: CancellationToken,
    activity: Arc<Activity>,
}

impl Asked {
    /// Who is at its other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Who asks has proven who they are: the connection may wait long for its next request.
    pub fn proven(&self) {
        self.activity.change(|state| state.proven = true);
    }

    /// Asks it to end: the client would do better with a new one.
    pub fn end_connection(&self) {
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

/// An answer, whose request is over when all of it but some hundred KiB is read.
///
/// It is given out in pieces: hyper takes the next while it has room, so that one large piece would be taken, and the
/// request be over, before anything is read.
struct Answer<B: Body> {
    body: B,
    /// What is left of a piece of the body.
    rest: Option<B::Data>,
    _turn: Turn,
}

impl<B: Body<Data: Unpin> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let mut rest = match this.rest.take() {
            Some(rest) => rest,
            None => match ready!(Pin::new(&mut this.body).poll_frame(context)).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers.map_data(|_| Bytes::new())))),
                },
                None => return Poll::Ready(None),
            },
        };
        let piece = rest.copy_to_bytes(rest.remaining().min(PIECE));
        this.rest = Some(rest).filter(Buf::has_remaining);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.as_ref().map_or(0, Buf::remaining) as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        request: Duration::from_secs(180),
        streams: 1,
        head_bytes: 16 << 10,
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

    const BOUNDS: Bounds = Bounds { connections: 2, ..MACHINES };

    /// Where it is answered by so many bytes.
    async fn port(bounds: Bounds, limits: Limits, bytes: usize) -> SocketAddr {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = tower::service_fn(move |_: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new("x".repeat(bytes)))
        });
        let listener = Listener::plain(tcp, Refusals::default()).with_bounds(bounds);
        tokio::spawn(serve_router(listener, limits, router, CancellationToken::new()));
        address
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.unwrap()
    }

    /// What comes until the connection ends.
    async fn answer(mut connection: TcpStream) -> String {
        let mut answer = String::new();
        // A reset is an end as well.
        let _ = connection.read_to_string(&mut answer).await;
        answer
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut connection = connect(address).await;
        connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        connection
    }

    #[tokio::test]
    async fn a_port_waits_for_nobody_who_says_nothing() {
        let address = port(BOUNDS, LIMITS, 1).await;
        assert!(answer(ask(address).await).await.ends_with("\r\n\r\nx"));
        tokio::time::pause();
        let start = Instant::now();
        assert_eq!(answer(connect(address).await).await, "");
        assert_eq!(start.elapsed().as_secs(), LIMITS.head.as_secs());
    }

    #[tokio::test]
    async fn a_port_has_so_many_places_and_no_more() {
        let address = port(BOUNDS, LIMITS, 1).await;
        let held = [connect(address).await, connect(address).await];
        assert_eq!(answer(ask(address).await).await, "", "there was no place");
        drop(held);
        // They are taken away in their own time.
        let freed = async {
            while answer(ask(address).await).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), freed).await.unwrap();
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_all_of_an_answer() {
        // More than the kernel keeps for them.
        let bytes = 64 << 20;
        let limits = Limits { head: Duration::from_millis(50), ..LIMITS };
        let asked = ask(port(BOUNDS, limits, bytes).await).await;
        // Far longer than a connection may be idle: it is not.
        tokio::time::sleep(limits.head * 10).await;
        assert!(answer(asked).await.len() > bytes);
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_waited_for() {
        let limits = Limits { request: Duration::from_millis(200), ..LIMITS };
        let asked = ask(port(BOUNDS, limits, 64 << 20).await).await;
        tokio::time::sleep(limits.request * 3).await;
        assert!(answer(asked).await.len() < 64 << 20, "it was cut");
    }
}
