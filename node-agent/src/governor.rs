//! Holds the agent to its own share of the CPUs, whatever the policies ask for.

use std::time::Duration;

use crate::report::Moment;

/// How much the agent may take, and how fast it reacts.
#[derive(Clone, Copy, Debug)]
pub struct CpuLimit {
    /// Share of the CPU time that there is, 0 to 1: at 0.05, a twentieth of a core for each CPU.
    pub share: f64,
    /// Over the share for so long, the rate is halved.
    pub patience: Duration,
    /// Under [`RECOVERS_BELOW`] of it for so long, the rate is doubled again.
    pub recovery: Duration,
}

/// The part of its share below which the agent goes back: twice the rate then stays clear of the limit.
const RECOVERS_BELOW: f64 = 0.4;
/// The rate is divided by this at most: 1000 Hz become 1 Hz.
const MAX_DIVISOR: u32 = 1024;

impl Default for CpuLimit {
    /// 5 %: what 1000 Hz may cost is 3 %, so that no policy reaches it by its rate alone.
    fn default() -> Self {
        Self { share: 0.05, patience: Duration::from_secs(30), recovery: Duration::from_secs(300) }
    }
}

/// Looks at what the agent took, and says by what the rate is to be divided.
#[derive(Debug)]
pub struct Governor {
    limit: CpuLimit,
    divisor: u32,
    since: Moment,
    /// How long the share was small.
    calm: Duration,
    last_share: f64,
}

impl Governor {
    /// Nothing is divided yet; what was used before `now` does not count.
    pub fn new(limit: CpuLimit, now: Moment) -> Self {
        Self { limit, divisor: 1, since: now, calm: Duration::ZERO, last_share: 0.0 }
    }

    /// By what the rate is divided: 1, 2, 4 and so on.
    pub fn divisor(&self) -> u32 {
        self.divisor
    }

    /// The share that was measured last, 0 to 1.
    pub fn share(&self) -> f64 {
        self.last_share
    }

    /// The limit that it holds to.
    pub fn limit(&self) -> CpuLimit {
        self.limit
    }

    /// To be called often; whether the divisor changed.
    pub fn look(&mut self, now: Moment, cpus: usize) -> bool {
        let (elapsed, used) = now.since(self.since);
        if elapsed < self.limit.patience {
            return false;
        }
        self.since = now;
        self.last_share = used.as_secs_f64() / elapsed.as_secs_f64() / cpus.max(1) as f64;
        let before = self.divisor;
        if self.last_share > self.limit.share {
            self.calm = Duration::ZERO;
            self.divisor = (before * 2).min(MAX_DIVISOR);
        } else if self.last_share < self.limit.share * RECOVERS_BELOW {
            self.calm += elapsed;
            if self.calm >= self.limit.recovery {
                self.calm = Duration::ZERO;
                self.divisor = (before / 2).max(1);
            }
        } else {
            self.calm = Duration::ZERO;
        }
        self.divisor != before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Shares in percent, held for so many seconds each; the divisor after each.
    fn check(steps: &[(f64, u64)], expected: &[u32]) {
        let (start, cpus) = (Instant::now(), 4);
        let (mut at, mut cpu) = (Duration::ZERO, Duration::ZERO);
        let mut governor = Governor::new(CpuLimit::default(), Moment::at(start, cpu));
        let mut divisors = Vec::new();
        for (percent, seconds) in steps {
            for _ in 0..*seconds {
                at += Duration::from_secs(1);
                cpu += Duration::from_secs_f64(percent / 100.0 * f64::from(cpus));
                governor.look(Moment::at(start + at, cpu), 4);
            }
            divisors.push(governor.divisor());
        }
        assert_eq!(divisors, expected);
    }

    #[test]
    fn over_the_share_for_30_s_the_rate_is_halved_and_again() {
        check(&[(5.5, 29), (5.5, 1), (5.5, 29), (5.5, 1)], &[1, 2, 2, 4]);
    }

    #[test]
    fn a_short_burst_is_no_reason() {
        check(&[(20.0, 5), (0.1, 25), (4.9, 300)], &[1, 1, 1]);
    }

    #[test]
    fn it_recovers_slowly_and_only_where_twice_the_rate_fits() {
        check(&[(12.0, 60), (2.5, 600), (1.9, 299), (1.9, 1), (1.9, 300)], &[4, 4, 4, 2, 1]);
    }

    #[test]
    fn the_divisor_has_an_end() {
        check(&[(90.0, 30 * 20)], &[1024]);
    }
}
