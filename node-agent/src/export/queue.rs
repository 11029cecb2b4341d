//! Windows that are not acknowledged yet. Pure; the client locks it.

use std::collections::VecDeque;
use std::sync::Arc;

use hearth_proto::collector::v1::LossReason;

use super::batch::Window;

/// Batches sent and not acknowledged. The collector acknowledges about once a second, so a backlog
/// drains at this many windows a second, and this many may be sent twice after a broken stream.
const MAX_IN_FLIGHT: usize = 8;
/// Times that a batch may be refused on its own before it is given up.
pub const MAX_REFUSALS: u32 = 3;
/// Bytes of a batch on a new stream. gRPC libraries refuse messages over 4 MiB unless told otherwise.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// A bounded queue; what it must drop becomes a loss of the next window.
#[derive(Debug)]
pub struct Queue {
    items: VecDeque<Item>,
    next_sequence: u64,
    max_bytes: usize,
    bytes: usize,
    /// Samples given up after the last push.
    unreported_loss: u64,
    /// Up to this sequence batches go one at a time, because one of them was refused.
    suspect_until: u64,
}

#[derive(Debug)]
struct Item {
    sequence: u64,
    window: Arc<Window>,
    bytes: usize,
    in_flight: bool,
    refusals: u32,
}

/// What a full queue dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Batches.
    pub batches: u64,
    /// Samples in them, losses they reported included.
    pub samples: u64,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The collector refused what it was sent.
    Refused,
    /// Anything else.
    Lost,
}

impl Queue {
    /// Holds about `max_bytes`, but always the newest window.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            items: VecDeque::new(),
            next_sequence: 1,
            max_bytes,
            bytes: 0,
            unreported_loss: 0,
            suspect_until: 0,
        }
    }

    /// Batches that are not acknowledged.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Memory of its windows, in bytes, estimated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a window in. Where it does not fit, the oldest make room; not those in flight, which the
    /// collector may have stored already.
    pub fn push(&mut self, window: Window) -> Dropped {
        let mut dropped = Dropped::default();
        for (mut window, bytes) in window.split(MAX_BATCH_BYTES) {
            while self.bytes + bytes > self.max_bytes
                && let Some(oldest) = self.items.iter().position(|item| !item.in_flight)
            {
                dropped.batches += 1;
                dropped.samples += self.give_up(oldest);
            }
            // From here on the window is what it is: a batch sent twice must be the same.
            if self.unreported_loss > 0 {
                window.losses.push((LossReason::QueueFull, std::mem::take(&mut self.unreported_loss)));
            }
            let item = Item {
                sequence: self.next_sequence,
                window: Arc::new(window),
                bytes,
                in_flight: false,
                refusals: 0,
            };
            self.next_sequence += 1;
            self.bytes += bytes;
            self.items.push_back(item);
        }
        dropped
    }

    /// The next batch to send on this stream, which is in flight from now on.
    pub fn send_next(&mut self) -> Option<(u64, Arc<Window>)> {
        if !self.can_send() {
            return None;
        }
        let item = self.items.iter_mut().find(|item| !item.in_flight)?;
        item.in_flight = true;
        Some((item.sequence, item.window.clone()))
    }

    /// Whether [`send_next`](Self::send_next) has one.
    pub fn can_send(&self) -> bool {
        let suspicious = self.items.front().is_some_and(|item| item.sequence <= self.suspect_until);
        let limit = if suspicious { 1 } else { MAX_IN_FLIGHT };
        let in_flight = self.in_flight();
        in_flight < limit && in_flight < self.items.len()
    }

    /// Batches sent on this stream and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.items.iter().filter(|item| item.in_flight).count()
    }

    /// Removes an acknowledged batch. `false`: there is none of that number.
    pub fn acknowledge(&mut self, sequence: u64) -> bool {
        let Some(at) = self.items.iter().position(|item| item.sequence == sequence) else { return false };
        self.remove(at);
        true
    }

    /// The stream is gone: everything is to be sent again. After a refusal the batches that were in
    /// flight go one at a time, and one that is refused alone [`MAX_REFUSALS`] times is given up: its
    /// sequence and samples are returned.
    pub fn stream_ended(&mut self, broken: Broken) -> Option<(u64, u64)> {
        let in_flight: Vec<usize> = (0..self.items.len()).filter(|&at| self.items[at].in_flight).collect();
        for item in &mut self.items {
            item.in_flight = false;
        }
        match (broken, in_flight.as_slice()) {
            (Broken::Lost, _) | (_, []) => None,
            (Broken::Refused, &[only]) => {
                let item = &mut self.items[only];
                self.suspect_until = self.suspect_until.max(item.sequence);
                item.refusals += 1;
                let sequence = item.sequence;
                (item.refusals >= MAX_REFUSALS).then(|| (sequence, self.give_up(only)))
            }
            (Broken::Refused, &[.., last]) => {
                self.suspect_until = self.suspect_until.max(self.items[last].sequence);
                None
            }
        }
    }

    /// Drops one and notes its samples. A refused batch is noted as `QUEUE_FULL` too: the wire has no
    /// reason of its own for it, and its time must not go quietly.
    fn give_up(&mut self, at: usize) -> u64 {
        let samples = self.remove(at).window.samples();
        self.unreported_loss += samples;
        samples
    }

    fn remove(&mut self, at: usize) -> Item {
        let item = self.items.remove(at).expect("the caller found it there");
        self.bytes -= item.bytes;
        item
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;
    use crate::export::batch::tests::window;

    /// Drives a queue that holds three windows of one row by words and shows what it says.
    fn check(script: &str, expected: &str) {
        let bytes = window(0, &["app;t;main 5"]).split(usize::MAX)[0].1;
        let mut queue = Queue::new(3 * bytes);
        let mut said = Vec::new();
        for word in script.split_whitespace() {
            match word.split_once(':').unwrap_or((word, "")) {
                ("push", _) => {
                    let dropped = queue.push(window(0, &["app;t;main 5"]));
                    if dropped != Dropped::default() {
                        said.push(format!("dropped {}/{}", dropped.batches, dropped.samples));
                    }
                }
                ("send", _) => said.push(match queue.send_next() {
                    None => "none".to_owned(),
                    Some((sequence, window)) => {
                        let losses: String =
                            window.losses.iter().map(|(r, n)| format!("{r:?}={n}")).collect();
                        format!("{sequence}{losses}")
                    }
                }),
                ("ack", n) => assert!(queue.acknowledge(n.parse().unwrap()), "{script}: {word}"),
                ("lost", _) => assert_eq!(queue.stream_ended(Broken::Lost), None),
                ("refused", _) => {
                    if let Some((sequence, samples)) = queue.stream_ended(Broken::Refused) {
                        said.push(format!("gave-up {sequence}/{samples}"));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(said.join(" "), expected, "{script}");
    }

    #[test]
    fn a_window_is_sent_once_per_stream_until_it_is_acknowledged() {
        check("push push send send send lost send ack:1 send send", "1 2 none 1 2 none");
        check("push send ack:1 send lost send push send", "1 none none 2");
    }

    #[test]
    fn the_oldest_makes_room_and_arrives_as_loss() {
        check("push push push push send send send", "dropped 1/5 2 3 4QueueFull=5");
        // The loss that a dropped window reported is not lost with it.
        check(
            "push push push push push push push send send send",
            "dropped 1/5 dropped 1/5 dropped 1/5 dropped 1/10 5QueueFull=5 6QueueFull=5 7QueueFull=10",
        );
    }

    #[test]
    fn what_is_in_flight_is_not_dropped() {
        check("push push push send push send send", "1 dropped 1/5 3 4QueueFull=5");
    }

    #[test]
    fn in_flight_is_bounded() {
        let mut queue = Queue::new(usize::MAX);
        (0..20).for_each(|_| assert_eq!(queue.push(window(0, &["a;t;f 1"])), Dropped::default()));
        assert_eq!(std::iter::from_fn(|| queue.send_next()).count(), MAX_IN_FLIGHT);
    }

    #[test]
    fn a_refused_batch_is_found_alone_and_given_up() {
        check(
            "push push push send send send refused send send refused send refused send refused send",
            "1 2 3 1 none 1 1 gave-up 1/5 2",
        );
        // Innocent ones go through, one by one; afterwards several go at once again.
        check(
            "push push send send refused send ack:1 send send ack:2 push push send send",
            "1 2 1 2 none 3 4",
        );
        check("push send refused send refused send refused push send", "1 1 1 gave-up 1/5 2QueueFull=5");
    }

    #[test]
    fn a_refusal_with_nothing_sent_blames_nobody() {
        check("push refused refused refused refused send", "1");
    }

    #[test]
    fn an_acknowledgement_of_something_else_is_told_apart() {
        let mut queue = Queue::new(usize::MAX);
        queue.push(window(0, &["a;t;f 1"]));
        assert!(!queue.acknowledge(2));
        assert!(queue.acknowledge(1));
        assert!(!queue.acknowledge(1));
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }
}
