//! When and where to ask the operator again. Pure: randomness comes in as a number.

use std::time::Duration;

/// How a stream ended, or the attempt at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side does not answer, or its process went away.
    Lost,
    /// It does not lead; perhaps it knows who does.
    NotLeader(Option<String>),
    /// Another agent speaks for this node.
    Replaced,
    /// The operator does not take what this agent says.
    Rejected,
    /// The token of the stream is over; the next one is in its file.
    TokenExpired,
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// After the first attempt that brought nothing; it doubles with each further one.
    pub first: Duration,
    /// It grows to this.
    pub max: Duration,
    /// The agents of a cluster lose their operator in one moment, and return spread over this.
    pub spread: Duration,
    /// Before an attempt that is unlikely to help: somebody has to act.
    pub long: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(30),
            spread: Duration::from_secs(30),
            long: Duration::from_secs(60),
        }
    }
}

/// The next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// After so long.
    pub wait: Duration,
    /// To the leader of this address; `None`: to the address that was configured.
    pub to: Option<String>,
}

/// What was tried since a stream last brought a configuration.
#[derive(Debug)]
pub struct Retry {
    waits: Waits,
    failures: u32,
    hops: u32,
}

/// Two standbys that name each other must not be asked in a circle.
const MAX_HOPS: u32 = 3;

impl Retry {
    /// Nothing was tried yet.
    pub fn new(waits: Waits) -> Self {
        Self { waits, failures: 0, hops: 0 }
    }

    /// The attempt after a stream that ended so; `served`: it had brought a configuration. `random` is
    /// from 0 to 1.
    pub fn after(&mut self, end: End, served: bool, random: f64) -> Attempt {
        if served {
            (self.failures, self.hops) = (0, 0);
        }
        let to = match end {
            End::Replaced | End::Rejected => {
                return Attempt { wait: jitter(self.waits.long, random), to: None };
            }
            // Each token ends at a time of its own. One that had ended before the stream began is no reason to hurry.
            End::TokenExpired if served => return Attempt { wait: Duration::ZERO, to: None },
            End::NotLeader(leader) if self.hops < MAX_HOPS => leader,
            End::NotLeader(_) | End::Lost | End::TokenExpired => None,
        };
        let wait = match &to {
            _ if served => self.waits.spread.mul_f64(random),
            Some(_) => {
                self.hops += 1;
                Duration::ZERO
            }
            None => {
                self.hops = 0;
                let doubled = self.waits.first.saturating_mul(1 << self.failures.min(16));
                self.failures += 1;
                jitter(doubled.min(self.waits.max), random)
            }
        };
        Attempt { wait, to }
    }
}

/// Between `wait` and one and a half times as long.
fn jitter(wait: Duration, random: f64) -> Duration {
    wait + wait.mul_f64(random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How streams ended, with `served` or not; seconds and address of each next attempt, random 0.5.
    fn check(ends: &[(End, bool)], expected: &str) {
        let mut retry = Retry::new(Waits::default());
        let attempts = ends.iter().map(|(end, served)| {
            let Attempt { wait, to } = retry.after(end.clone(), *served, 0.5);
            format!("{}{}", wait.as_secs_f64(), to.map(|to| format!(" to {to}")).unwrap_or_default())
        });
        assert_eq!(attempts.collect::<Vec<_>>().join(", "), expected);
    }

    fn leader(address: &str) -> End {
        End::NotLeader(Some(address.to_owned()))
    }

    #[test]
    fn an_operator_that_is_not_there_is_asked_less_and_less_often() {
        let lost = (End::Lost, false);
        check(&vec![lost; 7], "1.25, 2.5, 5, 10, 20, 37.5, 37.5");
    }

    #[test]
    fn agents_that_lost_their_operator_return_spread_over_half_a_minute() {
        check(&[(End::Lost, false), (End::Lost, true), (End::Lost, false)], "1.25, 15, 1.25");
        let mut retry = Retry::new(Waits::default());
        assert_eq!(retry.after(End::Lost, true, 0.0).wait, Duration::ZERO);
        assert_eq!(retry.after(End::Lost, true, 1.0).wait, Duration::from_secs(30));
    }

    #[test]
    fn a_standbys_leader_is_asked_at_once() {
        check(&[(leader("a:1"), false), (End::Lost, false)], "0 to a:1, 1.25");
        check(&[(End::NotLeader(None), false)], "1.25");
    }

    #[test]
    fn with_the_next_token_the_agent_is_back_at_once() {
        check(&[(End::Lost, false), (End::TokenExpired, true)], "1.25, 0");
        check(&vec![(End::TokenExpired, false); 3], "1.25, 2.5, 5");
    }

    #[test]
    fn a_leader_that_steps_down_sends_nobody_at_once() {
        check(&[(leader("b:1"), true)], "15 to b:1");
    }

    #[test]
    fn standbys_that_name_each_other_are_not_asked_in_a_circle() {
        let end = (leader("a:1"), false);
        check(&vec![end; 5], "0 to a:1, 0 to a:1, 0 to a:1, 1.25, 0 to a:1");
    }

    #[test]
    fn what_a_person_must_settle_waits_long() {
        check(&[(End::Replaced, true), (End::Rejected, false)], "75, 75");
    }
}
