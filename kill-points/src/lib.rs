//! The moments at which `kill -9` must lose nothing that was acknowledged and
//! store nothing twice: the list that the tests go through.
//!
//! With `HEARTH_STOP_AT=NAME` in its environment a program stops itself
//! (SIGSTOP) where it reaches the point of that name for the first time, or with
//! `NAME:3` for the third; whoever set it finds the process stopped there, and
//! kills it or lets it go on. Without the variable a point costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// By then the kernel has stopped all threads, however busy the machine is.
const STOPPED_WITHIN: Duration = Duration::from_secs(1);
/// Names the point to stop at.
pub const VARIABLE: &str = "HEARTH_STOP_AT";

/// A moment in the life of a batch or of a rollup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The agent has closed a window and not sent it.
    AgentBeforeSend,
    /// The agent has sent a batch and not read its acknowledgement.
    AgentAfterSend,
    /// The agent has read an acknowledgement and not dropped the batch.
    AgentAfterAck,
    /// The collector has read batches and inserted none.
    CollectorBeforeInsert,
    /// The collector has inserted the stacks and not the rows.
    CollectorBetweenStacksAndRows,
    /// The collector has inserted the rows and not acknowledged.
    CollectorAfterInsert,
    /// The collector has filled the new rows of an hour and not swapped them.
    CollectorDuringRebuild,
    /// The engine has begun an INSERT of rows.
    StoreDuringInsert,
    /// The engine has begun to swap a partition.
    StoreDuringReplacePartition,
}

impl Point {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::AgentBeforeSend,
        Self::AgentAfterSend,
        Self::AgentAfterAck,
        Self::CollectorBeforeInsert,
        Self::CollectorBetweenStacksAndRows,
        Self::CollectorAfterInsert,
        Self::CollectorDuringRebuild,
        Self::StoreDuringInsert,
        Self::StoreDuringReplacePartition,
    ];

    /// Its number, from 1 on.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// What [`VARIABLE`] calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentBeforeSend => "agent-before-send",
            Self::AgentAfterSend => "agent-after-send",
            Self::AgentAfterAck => "agent-after-ack",
            Self::CollectorBeforeInsert => "collector-before-insert",
            Self::CollectorBetweenStacksAndRows => "collector-between-stacks-and-rows",
            Self::CollectorAfterInsert => "collector-after-insert",
            Self::CollectorDuringRebuild => "collector-during-rebuild",
            Self::StoreDuringInsert => "store-during-insert",
            Self::StoreDuringReplacePartition => "store-during-replace-partition",
        }
    }

    /// The one that this process is to stop at.
    pub fn wanted() -> Option<Self> {
        Wanted::of_this_process().map(|wanted| wanted.point)
    }

    /// To be called where the program has come to this point.
    pub fn reached(self) {
        if Wanted::of_this_process().is_some_and(|wanted| wanted.point == self && wanted.is_last_visit()) {
            // It fails for no process that is allowed to run.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
            // It may be another thread's to take, and until that one runs this one would go on.
            std::thread::sleep(STOPPED_WITHIN);
        }
    }
}

#[derive(Debug)]
struct Wanted {
    point: Point,
    visits_left: AtomicU32,
}

impl Wanted {
    fn of_this_process() -> Option<&'static Self> {
        static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
        WANTED.get_or_init(|| Self::parse(&std::env::var(VARIABLE).ok()?)).as_ref()
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, visits) = text.split_once(':').unwrap_or((text, "1"));
        let point = Point::ALL.into_iter().find(|point| point.name() == name)?;
        Some(Self { point, visits_left: AtomicU32::new(visits.parse().ok()?) })
    }

    fn is_last_visit(&self) -> bool {
        let left =
            self.visits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left == Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_numbered_and_named_once() {
        for (at, point) in Point::ALL.into_iter().enumerate() {
            assert_eq!(point.number(), at + 1);
            let same_name = Point::ALL.into_iter().filter(|other| other.name() == point.name());
            assert_eq!(same_name.count(), 1, "{point:?}");
        }
    }

    #[test]
    fn a_wanted_point_is_stopped_at_once() {
        let visits = |text: &str| {
            let wanted = Wanted::parse(text)?;
            Some((wanted.point, (0..4).map(|_| wanted.is_last_visit()).collect::<Vec<_>>()))
        };
        let point = Point::AgentAfterAck;
        assert_eq!(visits("agent-after-ack"), Some((point, vec![true, false, false, false])));
        assert_eq!(visits("agent-after-ack:3"), Some((point, vec![false, false, true, false])));
        assert_eq!(visits("agent-after-ack:x"), None);
        assert_eq!(visits("nowhere"), None);
    }
}
