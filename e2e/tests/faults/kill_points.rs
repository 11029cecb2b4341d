//! Every process is killed at every point of the list.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_e2e::daemon::{Daemon, binary, bound_to_us, wait_for};
use hearth_e2e::policy;
use hearth_e2e::proc_fs::is_stopped;
use hearth_kill_points::{Point, VARIABLE};

use crate::instance::Instance;
use crate::ledger::{Ledger, Outcome};
use crate::relay::Relay;
use crate::sender::{Habit, Sender};
use crate::setting;

/// Runs at a time, each with a store of its own. Most of a run is waiting.
const AT_ONCE: usize = 4;
/// How long a closed hour may take to be rebuilt.
const REBUILD_PATIENCE: Duration = Duration::from_secs(60);
/// Seconds ago: hours that are closed and still kept.
const YESTERDAY: i64 = 86_400;
/// A closed hour is rebuilt at once.
const ROLLUPS: [&str; 4] = ["--rollup-check", "1s", "--rollup-after", "1s"];

/// A line of the table.
#[derive(Debug, Default)]
struct Line {
    runs: u64,
    outcome: Outcome,
    failures: Vec<String>,
}

#[test]
fn a_kill_at_any_point_loses_nothing_and_doubles_nothing() {
    let runs = setting("HEARTH_FAULT_RUNS", 3);
    assert!(runs > 0, "HEARTH_FAULT_RUNS is 0: nothing would be killed; give at least 1");
    let jobs: VecDeque<(Point, u64)> =
        (0..runs).flat_map(|run| Point::ALL.map(|point| (point, run))).collect();
    let jobs = Mutex::new(jobs);
    let lines = Mutex::new(Point::ALL.map(|_| Line::default()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // Not in the condition of a `while`: that would hold the lock through the run.
                loop {
                    let Some((point, run)) = jobs.lock().unwrap().pop_front() else { return };
                    let outcome = catch_unwind(AssertUnwindSafe(|| killed_at(point, run)));
                    let line = &mut lines.lock().unwrap()[point.number() - 1];
                    line.note(outcome);
                }
            });
        }
    });
    let lines = lines.into_inner().unwrap();
    println!("{:<36}{:>6}{:>8}{:>9}{:>8}", "killed at", "runs", "lost", "doubled", "failed");
    for (point, line) in Point::ALL.iter().zip(&lines) {
        let Line { runs, outcome: Outcome { lost, doubled }, failures } = line;
        println!("{:<36}{runs:>6}{lost:>8}{doubled:>9}{:>8}", point.name(), failures.len());
    }
    println!("{runs} runs of each in {:?}", started.elapsed());
    for (point, line) in Point::ALL.iter().zip(&lines) {
        assert_eq!(line.failures, Vec::<String>::new(), "{}", point.name());
        assert_eq!((line.runs, line.outcome), (runs, Outcome::default()), "{}", point.name());
    }
}

impl Line {
    fn note(&mut self, outcome: std::thread::Result<Outcome>) {
        match outcome {
            Ok(outcome) => {
                self.runs += 1;
                self.outcome = self.outcome.and(outcome);
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.failures.push(text.unwrap_or_default());
            }
        }
    }
}

/// One run. Which visit of the point is the last, and who dies with whom, changes from run to run.
fn killed_at(point: Point, run: u64) -> Outcome {
    let dies_too = run % 2 == 1;
    // From the second visit on: something was acknowledged before.
    let stop_at = format!("{}:{}", point.name(), 2 + run % 3);
    match point {
        Point::AgentBeforeSend | Point::AgentAfterSend | Point::AgentAfterAck => killed_agent(&stop_at),
        Point::CollectorBeforeInsert | Point::CollectorBetweenStacksAndRows | Point::CollectorAfterInsert => {
            killed(Victim::Collector, &stop_at, dies_too)
        }
        Point::StoreDuringInsert => killed(Victim::Engine, &stop_at, dies_too),
        Point::CollectorDuringRebuild => killed_rebuild(Victim::Collector, point.name(), dies_too),
        Point::StoreDuringReplacePartition => killed_rebuild(Victim::Engine, point.name(), dies_too),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Collector,
    Engine,
}

/// Kills where a batch is stored.
fn killed(victim: Victim, stop_at: &str, dies_too: bool) -> Outcome {
    let mut instance = Instance::start(stop_at, &[]);
    let senders = ["node-a", "node-b"].map(|node| Sender::start(instance.url(), node, Habit::default()));
    kill_where_it_stops(victim, &mut instance, dies_too);
    for sender in &senders {
        assert!(sender.acknowledged() > 0, "nothing was acknowledged before the kill");
    }
    instance.restart("");
    finish(senders).compare(&instance.collector)
}

/// Kills where an hour is rebuilt: afterwards its minutes must be what its rows are.
fn killed_rebuild(victim: Victim, stop_at: &str, dies_too: bool) -> Outcome {
    let mut instance = Instance::start(stop_at, &ROLLUPS);
    let habit = Habit { shift: -YESTERDAY, ..Habit::default() };
    let senders = ["node-a", "node-b"].map(|node| Sender::start(instance.url(), node, habit));
    kill_where_it_stops(victim, &mut instance, dies_too);
    instance.restart("");
    let ledger = finish(senders);
    let sum = |table: &str| {
        let value = instance.collector.number(&format!("SELECT sum(profile_value) FROM profile.{table}"));
        value.cast_unsigned()
    };
    let raw = sum("in_process_local");
    let until = Instant::now() + REBUILD_PATIENCE;
    while sum("in_process_1m") != raw && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    ledger.compare(&instance.collector).and(Outcome::of(raw, sum("in_process_1m")))
}

/// Waits until the victim has stopped itself and kills it, and with it or after it the other one.
fn kill_where_it_stops(victim: Victim, instance: &mut Instance, dies_too: bool) {
    match victim {
        Victim::Collector => {
            instance.wait_until_stopped();
            instance.kill_collector();
            // Else the engine finishes what it was asked and ends by itself.
            if dies_too {
                instance.kill_engine();
            }
        }
        Victim::Engine => {
            instance.wait_until_engine_stopped();
            if dies_too {
                instance.kill_collector();
                instance.kill_engine();
            } else {
                // The collector starts another, which comes to the same point.
                instance.kill_engine();
                instance.wait_until_engine_stopped();
                instance.kill_engine();
                instance.kill_collector();
                instance.kill_engine();
            }
        }
    }
}

fn finish(senders: [Sender; 2]) -> Ledger {
    let mut ledger = Ledger::default();
    for sender in senders {
        // What is closed after the restart goes through as well.
        sender.wait_for_more(3);
        ledger.add(sender.finish());
    }
    ledger
}

/// Kills a real agent that samples Hearth itself; another takes its place.
fn killed_agent(stop_at: &str) -> Outcome {
    let instance = Instance::start("", &[]);
    let relay = Relay::start(instance.collector.grpc);
    let folder = instance.folder.path();
    let mut agent = start_agent(folder, &relay, stop_at);
    wait_for("the agent to reach its point", || {
        assert!(agent.ended().is_none(), "the agent ended by itself:\n{}", agent.tail());
        is_stopped(agent.pid()).then_some(())
    });
    // The first stop of a run may be before the first acknowledgement.
    let before = relay.acknowledged();
    agent.signal(libc::SIGKILL);
    agent.wait();
    let mut agent = start_agent(folder, &relay, "");
    wait_for("acknowledged batches of the next agent", || (relay.acknowledged() >= before + 3).then_some(()));
    assert!(agent.terminate().success(), "an agent that was asked to ends well");
    let ledger = relay.ledger();
    assert!(ledger.samples() > 0, "the agents sampled nothing");
    ledger.compare(&instance.collector)
}

fn start_agent(folder: &Path, relay: &Relay, stop_at: &str) -> Daemon {
    let policies = folder.join("policy.yaml");
    std::fs::write(&policies, policy("faults", "regex: '^hearth-.*', frequency: 99")).unwrap();
    let mut command = bound_to_us(&binary("hearth-node-agent"));
    command.arg("--policy").arg(policies).arg("--collector").arg(format!("http://{}", relay.address));
    command.args(["--node", "node-a", "--window", "1s", "--metrics", "127.0.0.1:0"]);
    command.arg("--state-dir").arg(folder.join("state")).env(VARIABLE, stop_at);
    Daemon::start("agent", command, folder)
}
