//! The agent's log line: what changed since the one before.

use std::time::{Duration, Instant};

use hearth_node_agent_ebpf::record::{EXITS, Exit};

use crate::metrics::Metrics;

/// Between two log lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// When, and how much CPU time this process had used by then, user and system.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    cpu: Duration,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0));
        Self { at: Instant::now(), cpu }
    }

    /// Another one.
    #[cfg(test)]
    pub(crate) fn at(at: Instant, cpu: Duration) -> Self {
        Self { at, cpu }
    }

    /// How long after `earlier` this is, and how much CPU time was used meanwhile.
    pub fn since(self, earlier: Self) -> (Duration, Duration) {
        (self.at.saturating_duration_since(earlier.at), self.cpu.saturating_sub(earlier.cpu))
    }
}

/// Makes the line.
pub struct Report {
    since: Moment,
    totals: Totals,
}

/// What is counted from the start on.
#[derive(Clone, Copy, Default)]
struct Totals {
    samples: u64,
    counted: u64,
    lost: u64,
    dropped: u64,
    undecided: u64,
}

impl Report {
    /// The first line tells what happened since `since`.
    pub fn new(since: Moment) -> Self {
        Self { since, totals: Totals::default() }
    }

    /// Whether it is time for a line.
    pub fn is_due(&self) -> bool {
        self.since.at.elapsed() >= INTERVAL
    }

    /// What happened between the line before and `now`; what should not happen is left out where it did not.
    pub fn line(&mut self, now: Moment, exits: &[u64; EXITS as usize], metrics: &Metrics) -> String {
        let exit = |exit: Exit| exits[exit as usize];
        let totals = Totals {
            samples: exit(Exit::Sampled) + exit(Exit::SampledUndecided),
            counted: exit(Exit::Counted),
            lost: metrics.stacks_lost.get() + metrics.over_budget.get() + metrics.uncounted.get(),
            dropped: metrics.samples_dropped.get(),
            undecided: metrics.decisions_full.get(),
        };
        let since = |of: fn(&Totals) -> u64| of(&totals).saturating_sub(of(&self.totals));
        let elapsed = now.at.duration_since(self.since.at).as_secs_f64();
        let used = now.cpu.saturating_sub(self.since.cpu).as_secs_f64() / elapsed * 100.0;
        let mut line = format!(
            "{elapsed:.0} s: {} samples, {} ticks counted, {} stacks lost",
            since(|totals| totals.samples),
            since(|totals| totals.counted),
            since(|totals| totals.lost),
        );
        for (count, what) in [
            (since(|totals| totals.dropped), "samples given up on their way to the collector"),
            (since(|totals| totals.undecided), "decisions without room in the kernel's table"),
        ] {
            if count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        *self = Self { since: now, totals };
        format!("{line}, own CPU {used:.2} % of a core")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_changed_since_the_one_before() {
        let start = Moment { at: Instant::now(), cpu: Duration::from_secs(1) };
        let after = |seconds, cpu_millis| Moment {
            at: start.at + Duration::from_secs(seconds),
            cpu: start.cpu + Duration::from_millis(cpu_millis),
        };
        let mut report = Report::new(start);
        let metrics = Metrics::default();
        let mut exits = [0; EXITS as usize];
        exits[Exit::Sampled as usize] = 90;
        exits[Exit::SampledUndecided as usize] = 10;
        exits[Exit::Counted as usize] = 800;
        let line = report.line(after(10, 5), &exits, &metrics);
        assert_eq!(line, "10 s: 100 samples, 800 ticks counted, 0 stacks lost, own CPU 0.05 % of a core");

        exits[Exit::Sampled as usize] = 95;
        metrics.stacks_lost.inc_by(1);
        metrics.over_budget.inc_by(2);
        metrics.uncounted.inc_by(4);
        metrics.samples_dropped.inc_by(7);
        metrics.decisions_full.inc_by(3);
        assert_eq!(
            report.line(after(20, 105), &exits, &metrics),
            "10 s: 5 samples, 0 ticks counted, 7 stacks lost, 7 samples given up on their way to the collector, \
             3 decisions without room in the kernel's table, own CPU 1.00 % of a core"
        );
        let line = report.line(after(30, 105), &exits, &metrics);
        assert_eq!(line, "10 s: 0 samples, 0 ticks counted, 0 stacks lost, own CPU 0.00 % of a core");
    }
}
