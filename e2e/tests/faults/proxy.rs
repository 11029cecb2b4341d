//! A network that breaks where the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::runtime;

/// Where a connection is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// After so many bytes of the agent.
    Sent(u64),
    /// After so many bytes of the collector.
    Answered(u64),
}

/// Passes on bytes.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    cuts: Arc<Mutex<VecDeque<Cut>>>,
}

impl Proxy {
    /// To `target`; the first connections are cut, one at each place.
    pub(crate) fn start(target: SocketAddr, cuts: &[Cut]) -> Self {
        let cuts = Arc::new(Mutex::new(VecDeque::from(cuts.to_vec())));
        let target = watch::channel(target).0;
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime().spawn(accept(listener, target.clone(), cuts.clone()));
        Self { address, target, cuts }
    }

    /// Cuts all connections; the next ones lead there.
    pub(crate) fn move_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Cuts that no connection has come to.
    pub(crate) fn cuts_left(&self) -> usize {
        self.cuts.lock().unwrap().len()
    }
}

async fn accept(listener: TcpListener, target: watch::Sender<SocketAddr>, cuts: Arc<Mutex<VecDeque<Cut>>>) {
    loop {
        let (agent, _) = listener.accept().await.unwrap();
        let mut target = target.subscribe();
        // Nobody listens there: the agent sees its own connection end.
        let address = *target.borrow_and_update();
        let Ok(collector) = TcpStream::connect(address).await else { continue };
        let cut = cuts.lock().unwrap().pop_front();
        tokio::spawn(async move {
            tokio::select! {
                () = pass_on(agent, collector, cut) => {}
                moved = target.changed() => moved.unwrap(),
            }
        });
    }
}

/// Ends both connections when one ends or is to be cut.
async fn pass_on(mut agent: TcpStream, mut collector: TcpStream, cut: Option<Cut>) {
    let (sent, answered) = match cut {
        None => (u64::MAX, u64::MAX),
        Some(Cut::Sent(bytes)) => (bytes, u64::MAX),
        Some(Cut::Answered(bytes)) => (u64::MAX, bytes),
    };
    let (from_agent, mut to_agent) = agent.split();
    let (from_collector, mut to_collector) = collector.split();
    let (mut from_agent, mut from_collector) = (from_agent.take(sent), from_collector.take(answered));
    // Either error is an end as well: of a process that was killed.
    tokio::select! {
        _ = tokio::io::copy(&mut from_agent, &mut to_collector) => {}
        _ = tokio::io::copy(&mut from_collector, &mut to_agent) => {}
    }
}
