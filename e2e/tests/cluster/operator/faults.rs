//! The API server answers otherwise than it should.

use std::collections::HashMap;

use hearth_e2e::api_proxy::{Fate, is_write, tally};

use super::*;

/// Whether it happens to a request.
type Concerns = fn(&str) -> bool;

/// What happens, and to which requests. All of them twice in a row, and writes once: their next attempt is seconds
/// away.
const FAULTS: [(&str, Fate, Concerns); 5] = [
    ("watches expire in their first event", Fate::Expired, is_watch),
    ("watches are refused as expired", Fate::Refused(410), is_watch),
    ("writes conflict", Fate::Refused(409), is_write),
    ("all is throttled", Fate::Refused(429), |_| true),
    ("nothing is available", Fate::Refused(503), |_| true),
];

fn is_watch(what: &str) -> bool {
    what.starts_with("WATCH ")
}

pub(super) fn whatever_is_answered(cluster: &Cluster) {
    let mut stage = Stage::set(cluster);
    stage.apply_good(99);
    stage.start_agents(&stage.identity.clone());

    // Nothing is available when it starts, by all that it asks then.
    stage.break_each(Fate::Refused(503), |_| true);
    let mut operator = stage.start(&stage.identity);
    stage.await_good(99);
    stage.await_status("cpp/hearth-default", "Ready", &["True Ready"]);
    stage.check_asked("at the start", |_| true);

    // And while it works: an edit that no watch is there to bring.
    let mut frequency = 99;
    for (fault, fate, concerns) in FAULTS {
        stage.break_each(fate, concerns);
        stage.proxy.cut_watches();
        frequency += 1;
        stage.apply_good(frequency);
        stage.await_good(frequency);
        stage.check_asked(fault, concerns);
    }
    assert!(stage.seen().lost.is_empty(), "{:?}", stage.seen().lost);
    assert!(operator.daemon().terminate().success(), "{}", operator.log());
}

impl Stage<'_> {
    /// The first requests of each kind have this fate, if it concerns them.
    fn break_each(&self, fate: Fate, concerns: Concerns) {
        self.proxy.take();
        let mut asked: HashMap<String, usize> = HashMap::new();
        self.proxy.set_rule(move |what| {
            let times = asked.entry(what.to_owned()).or_default();
            *times += 1;
            if concerns(what) && *times <= broken_times(what) { fate } else { Fate::Passed }
        });
    }

    /// What was refused is asked again, and nothing much more often than that.
    fn check_asked(&self, fault: &str, concerns: Concerns) {
        // Events are told once at most.
        let refused = |what: &str| concerns(what) && what != "POST events";
        wait_for(&format!("{fault}: all to be asked again"), || {
            let asked = self.proxy.asked();
            let tally = tally(&asked);
            let mut refused = tally.iter().filter(|(what, _)| refused(what)).peekable();
            (refused.peek().is_some() && refused.all(|(what, &count)| count > broken_times(what)))
                .then_some(())
        });
        let asked = self.proxy.take();
        let took = asked.last().unwrap().at - asked[0].at;
        // One in two seconds is what a lease needs; watches that begin anew list again.
        let most = 6 + usize::try_from(took.as_secs() / 2).unwrap();
        for (what, count) in tally(&asked) {
            assert!(count <= most, "{fault}: {what} was asked {count} times in {took:?}");
        }
    }
}

fn broken_times(what: &str) -> usize {
    if is_write(what) { 1 } else { 2 }
}
