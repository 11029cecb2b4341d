//! Every process is killed at every point of the list.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_e2e::daemon::{Daemon, binary, bound_to_us, wait_for};
use hearth_e2e::policy;
use hearth_e2e::proc_fs::is_stopped;
use hearth_kill_points::{Point, VARIABLE};

use crate::instance::{Instance, unix_micros, unix_now};
use crate::ledger::{Ledger, Outcome};
use crate::relay::Relay;
use crate::rollups;
use crate::sender::{Habit, Sender};
use crate::setting;

/// Runs at a time, each with a store of its own. Most of a run is waiting.
const AT_ONCE: usize = 4;
/// So many more, until the engine was once stopped within an INSERT: how deep a stop is is chance, and after
/// all of a few short INSERTs it may come too late.
const MORE_RUNS: u64 = 12;
/// How long a closed hour may take to be rebuilt.
const REBUILD_PATIENCE: Duration = Duration::from_secs(60);
const HOUR: i64 = 3600;
/// A closed hour is rebuilt at once.
const ROLLUPS: [&str; 4] = ["--rollup-check", "1s", "--rollup-after", "1s"];
/// The same, but what comes after the start waits for the next one.
const ROLLUPS_AT_THE_START: [&str; 4] = ["--rollup-check", "1h", "--rollup-after", "1s"];

/// A line of the table.
#[derive(Debug, Default)]
struct Line {
    runs: u64,
    outcome: Outcome,
    stops: Stops,
    failures: Vec<String>,
}

/// What a run came to.
struct Run {
    outcome: Outcome,
    stops: Stops,
}

/// How often the engine was stopped at an INSERT, and how often nothing of that was there yet.
#[derive(Debug, Default)]
struct Stops {
    all: u64,
    within: u64,
}

impl From<Outcome> for Run {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, stops: Stops::default() }
    }
}

#[test]
fn a_kill_at_any_point_loses_nothing_and_doubles_nothing() {
    let runs = setting("HEARTH_FAULT_RUNS", 3);
    assert!(runs > 0, "HEARTH_FAULT_RUNS is 0: nothing would be killed; give at least 1");
    let jobs: Vec<(Point, u64)> =
        Point::ALL.into_iter().flat_map(|point| (0..runs).map(move |run| (point, run))).collect();
    let jobs = Mutex::new(jobs);
    let lines = Mutex::new(Point::ALL.map(|_| Line::default()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                // Not in the condition of a `while`: that would hold the lock through the run.
                loop {
                    // The longest come last in the list, and are begun first.
                    let Some((point, run)) = jobs.lock().unwrap().pop() else { return };
                    let run = catch_unwind(AssertUnwindSafe(|| killed_at(point, run)));
                    lines.lock().unwrap()[point.number() - 1].note(run);
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap();
    let inserts = &mut lines[Point::StoreDuringInsert.number() - 1];
    for run in runs..runs + MORE_RUNS {
        if inserts.stops.within > 0 || !inserts.failures.is_empty() {
            break;
        }
        inserts.note(catch_unwind(AssertUnwindSafe(|| killed_at(Point::StoreDuringInsert, run))));
    }
    println!("{:<36}{:>6}{:>8}{:>9}{:>8}", "killed at", "runs", "lost", "doubled", "failed");
    for (point, line) in Point::ALL.iter().zip(&lines) {
        let Line { runs, outcome: Outcome { lost, doubled }, stops: _, failures } = line;
        println!("{:<36}{runs:>6}{lost:>8}{doubled:>9}{:>8}", point.name(), failures.len());
    }
    let Stops { all, within } = lines[Point::StoreDuringInsert.number() - 1].stops;
    println!("{}: {within} of {all} stops were within the INSERT", Point::StoreDuringInsert.name());
    println!("{runs} runs of each in {:?}", started.elapsed());
    for (point, line) in Point::ALL.iter().zip(&lines) {
        assert_eq!(line.failures, Vec::<String>::new(), "{}", point.name());
        assert!(line.runs >= runs, "{}: {} runs", point.name(), line.runs);
        assert_eq!(line.outcome, Outcome::default(), "{}", point.name());
    }
    assert!(within > 0, "the engine was never stopped within an INSERT, always after it");
}

impl Line {
    fn note(&mut self, run: std::thread::Result<Run>) {
        match run {
            Ok(Run { outcome, stops }) => {
                self.runs += 1;
                self.outcome = self.outcome.and(outcome);
                self.stops.all += stops.all;
                self.stops.within += stops.within;
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
fn killed_at(point: Point, run: u64) -> Run {
    let dies_too = run % 2 == 1;
    // From the second visit on: something was acknowledged before.
    let visit = 2 + run % 3;
    match point {
        Point::AgentBeforeSend | Point::AgentAfterSend | Point::AgentAfterAck => {
            killed_agent(point, visit).into()
        }
        Point::CollectorBeforeInsert | Point::CollectorBetweenStacksAndRows | Point::CollectorAfterInsert => {
            killed(Victim::Collector, point, visit, dies_too)
        }
        Point::StoreDuringInsert => killed(Victim::Engine, point, visit, dies_too),
        Point::CollectorDuringRebuild => killed_rebuild(Victim::Collector, point, dies_too).into(),
        Point::StoreDuringReplacePartition => killed_rebuild(Victim::Engine, point, dies_too).into(),
    }
}

/// What names a visit of a point.
fn stop_at(point: Point, visit: u64) -> String {
    format!("{}:{visit}", point.name())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Collector,
    Engine,
}

/// Kills where a batch is stored.
fn killed(victim: Victim, point: Point, visit: u64, dies_too: bool) -> Run {
    let mut instance = Instance::start(&stop_at(point, visit), &[]);
    let senders = start_senders(&instance, 0);
    let stopped = kill_where_it_stops(victim, &mut instance, dies_too);
    for sender in &senders {
        assert!(sender.acknowledged() > 0, "nothing was acknowledged before the kill");
    }
    instance.restart("");
    let outcome = finish(senders).compare(&instance.collector);
    let stops = match point {
        Point::StoreDuringInsert => stops_within(&instance, visit, &stopped),
        _ => Stops::default(),
    };
    Run { outcome, stops }
}

/// Each of these times an engine stopped at its `visit`-th INSERT of rows. It was within it if what
/// was stored until then is of the INSERTs before: rows carry the time at which theirs began, and those of
/// one that is sent again a later one.
fn stops_within(instance: &Instance, visit: u64, stopped: &[i64]) -> Stops {
    let mut stops = Stops::default();
    let mut since = 0;
    for &until in stopped {
        let inserts = format!(
            "SELECT uniqExact(profile_in_timestamp) FROM profile.in_process_local \
             WHERE profile_in_timestamp >= fromUnixTimestamp64Micro({since}) \
             AND profile_in_timestamp < fromUnixTimestamp64Micro({until})"
        );
        let inserts = instance.collector.number(&inserts).cast_unsigned();
        stops.all += 1;
        stops.within += u64::from(inserts == visit - 1);
        since = until;
    }
    stops
}

/// Kills where an hour is built again. No row comes any more: what puts its minutes right, and the
/// hours of its day, is the next start alone.
fn killed_rebuild(victim: Victim, point: Point, dies_too: bool) -> Outcome {
    // The midst of an hour that is closed and still kept, so that all is of one partition.
    let now = unix_now();
    let shift = (now - now % HOUR - 24 * HOUR + HOUR / 2) - now;
    let mut instance = Instance::start("", &ROLLUPS_AT_THE_START);
    let mut ledger = finish(start_senders(&instance, shift));
    instance.kill_collector();
    instance.restart_with("", &ROLLUPS_AT_THE_START);
    wait_for("the first rollups", || rollups::are_right(&instance.collector).then_some(()));

    // Late rows: now the hour is to be built again.
    ledger.add(finish(start_senders(&instance, shift)));
    let behind = rollups::compare_with_source(&instance.collector);
    assert!(behind.lost > 0, "the late rows are in the rollups before the kill: {behind:?}");
    instance.kill_collector();
    instance.restart_with(point.name(), &ROLLUPS);
    kill_where_it_stops(victim, &mut instance, dies_too);

    instance.restart("");
    let until = Instant::now() + REBUILD_PATIENCE;
    while !rollups::are_right(&instance.collector) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let mixed = rollups::mixed(&instance.collector);
    assert_eq!(mixed, Vec::<String>::new(), "these still have rows of two builds");
    let collector = &instance.collector;
    let outcome = ledger.compare(collector).and(rollups::compare_with_source(collector));
    if outcome != Outcome::default() {
        return outcome;
    }
    rollups::compare_answers(collector, &ledger)
}

/// Two agents whose windows are so many seconds off.
fn start_senders(instance: &Instance, shift: i64) -> [Sender; 2] {
    let habit = Habit { shift, ..Habit::default() };
    ["node-a", "node-b"].map(|node| Sender::start(instance.url(), node, habit))
}

/// Waits until the victim has stopped itself and kills it, and with it or after it the other one. When
/// that was, each time, in microseconds since 1970.
fn kill_where_it_stops(victim: Victim, instance: &mut Instance, dies_too: bool) -> Vec<i64> {
    let mut stopped = Vec::new();
    match victim {
        Victim::Collector => {
            instance.wait_until_stopped();
            stopped.push(unix_micros());
            instance.kill_collector();
            // Else the engine finishes what it was asked and ends by itself.
            if dies_too {
                instance.kill_engine();
            }
        }
        Victim::Engine => {
            instance.wait_until_engine_stopped();
            stopped.push(unix_micros());
            if dies_too {
                instance.kill_collector();
                instance.kill_engine();
            } else {
                // The collector starts another, which comes to the same point.
                instance.kill_engine();
                instance.wait_until_engine_stopped();
                stopped.push(unix_micros());
                instance.kill_engine();
                instance.kill_collector();
                instance.kill_engine();
            }
        }
    }
    stopped
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
fn killed_agent(point: Point, visit: u64) -> Outcome {
    let instance = Instance::start("", &[]);
    let relay = Relay::start(instance.collector.grpc);
    let folder = instance.folder.path();
    let mut agent = start_agent(folder, &relay, &stop_at(point, visit));
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
    let stacks = ledger.stacks(|_, sent| sent.acknowledged);
    assert!(
        stacks.keys().any(|[_, _, stack]| stack.contains(';')),
        "the agents sampled no stack: {stacks:?}"
    );
    ledger.compare(&instance.collector)
}

fn start_agent(folder: &Path, relay: &Relay, stop_at: &str) -> Daemon {
    let policies = folder.join("policy.yaml");
    std::fs::write(&policies, policy("faults", "regex: '^hearth-.*', frequency: 99")).unwrap();
    let mut command = bound_to_us(&binary("hearth-node-agent"));
    command.arg("--policy").arg(policies).arg("--collector").arg(format!("http://{}", relay.address));
    command.args(["--node", "node-a", "--window", "1s", "--metrics", "127.0.0.1:0"]);
    // A debug build takes more than an agent may.
    command.args(["--max-cpu-share", "100"]);
    command.arg("--state-dir").arg(folder.join("state")).env(VARIABLE, stop_at);
    Daemon::start("agent", command, folder)
}
