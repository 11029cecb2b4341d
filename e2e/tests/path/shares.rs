//! Shares of the machine are those that the kernel accounts for.

use std::time::Duration;

use hearth_e2e::daemon::wait_for;
use hearth_e2e::fixture::TURNS;
use hearth_e2e::{Agent, Collector, Program, Running, machine, policy, proc_fs, unique_name};

/// CPU time that is burnt. A share from so many samples is within a point and a half of the truth
/// 99 times of 100, even if every sample hit one of them at random.
const BURN: Duration = Duration::from_secs(8);

#[test]
fn programs_get_the_shares_that_they_took() {
    let _machine = machine::alone();
    let names = ["big", "mid", "small"].map(unique_name);
    let programs = names.each_ref().map(|name| Program::burner(name));
    let regex = format!("regex: '^({})$', frequency: 997", names.join("|"));
    let mut agent = Agent::start(&policy("shares", &regex));
    // One CPU; by the scheduler's weights about 6 : 3 : 1.
    let processes: Vec<Running> = programs
        .iter()
        .zip(["0", "3", "8"])
        .map(|(program, nice)| program.start_by::<_, &str>(&["nice", "-n", nice, "taskset", "-c", "1"], &[]))
        .collect();
    let taken = || processes.iter().map(Running::cpu_seconds).sum::<f64>();
    wait_for("the programs to burn", || (taken() >= BURN.as_secs_f64()).then_some(()));
    let truths: Vec<f64> = processes.into_iter().map(Running::kill).collect();
    agent.stop();

    let collector = Collector::shared();
    let seconds = |name: &String| collector.flame(name, &agent.node).unwrap().root().total as f64 / 1e6;
    let found: Vec<f64> = names.iter().map(seconds).collect();
    let (truth, total): (f64, f64) = (truths.iter().sum(), found.iter().sum());
    println!("{truths:.2?} s by the kernel's account, {found:.2?} s found");
    for (true_seconds, found_seconds) in truths.iter().zip(&found) {
        let difference = (found_seconds / total - true_seconds / truth).abs() * 100.0;
        assert!(difference < 2.0, "{difference:.2} points off: {found:.2?} s found of {truths:.2?} s");
    }
    assert!((total / truth - 1.0).abs() < 0.03, "{total:.2} s found of {truth:.2} s");
    // Under Total they are the same, by their names as processes.
    let whole = collector.flame("Total", &agent.node).unwrap();
    for (name, seconds) in names.iter().zip(&found) {
        assert_eq!(whole.total_of(&format!("[p] {name}")), (seconds * 1e6).round() as i64, "{name}");
    }
}

#[test]
fn total_is_what_the_machine_was_busy() {
    let _machine = machine::alone();
    // One is matched and one is not: Total has both, and everything else that runs.
    let (seen, counted) = (Program::burner(&unique_name("seen")), Program::burner(&unique_name("count")));
    let mut agent = Agent::start(&policy("total", &format!("regex: '^{}$', frequency: 499", seen.name())));
    let _processes = [(&seen, "0"), (&counted, "1")]
        .map(|(program, cpu)| program.start_by::<_, &str>(&["taskset", "-c", cpu], &[]));
    let collector = Collector::shared();
    agent.wait_for_samples(seen.name(), 100);

    let (from, before) = proc_fs::busy_at_a_full_second();
    // Time itself is what is measured here.
    std::thread::sleep(BURN);
    let (until, after) = proc_fs::busy_at_a_full_second();
    agent.stop();
    // Windows with from <= start <= until: the last whole one began a second before the end.
    let filter = format!("pod_node = '{}'", agent.node);
    let flame = collector.flame_between("Total", &filter, from, until - 1).unwrap();
    let (found, busy) = (flame.root().total as f64 / 1e6, after - before);
    let cpus = std::thread::available_parallelism().unwrap().get() as f64;
    println!("{found:.2} s found, {busy:.2} s busy, {:.2} s passed on {cpus} CPUs", (until - from) as f64);
    assert!((found / busy - 1.0).abs() < 0.03, "{found:.2} s found, {busy:.2} s busy");
    for program in [&seen, &counted] {
        assert!(flame.total_of(&format!("[p] {}", program.name())) > 0, "{}", program.name());
    }
    // A burner has one thread, the main one: its time is the process's own.
    let process = flame.at(&[&format!("[p] {}", counted.name())]).unwrap();
    assert_eq!(process.self_value, process.total);
}

#[test]
fn idle_time_is_nobodys() {
    let _machine = machine::alone();
    // A third of one CPU is used, and what the agent and the collector take.
    let program = Program::in_turns(&unique_name("third"));
    let mut agent = Agent::start(&policy("idle", "regex: '^nobody$', frequency: 997"));
    let _process = program.start_by(&["taskset", "-c", "1"], &["0", &(TURNS / 3).to_string()]);
    let collector = Collector::shared();

    let cpus = std::thread::available_parallelism().unwrap().get() as f64;
    // Whoever else is at work on this machine: it says something only while most of it is idle.
    let (from, until, busy, passed) = wait_for("a machine that is mostly idle", || {
        let (from, before) = proc_fs::busy_at_a_full_second();
        // Time itself is what is measured here.
        std::thread::sleep(BURN);
        let (until, after) = proc_fs::busy_at_a_full_second();
        let (busy, passed) = (after - before, (until - from) as f64 * cpus);
        (busy < 0.5 * passed).then_some((from, until, busy, passed))
    });
    agent.stop();
    let filter = format!("pod_node = '{}'", agent.node);
    let flame = collector.flame_between("Total", &filter, from, until - 1).unwrap();
    let found = flame.root().total as f64 / 1e6;
    println!("{found:.2} s found, {busy:.2} s busy, {passed:.2} s passed on all CPUs");
    assert!(found < 0.6 * passed, "{found:.2} s found of {passed:.2} s that passed, most of them idle");
    // /proc/stat looks only at its own ticks, and of so little work that is no exact account.
    assert!((found - busy).abs() < 0.01 * passed, "{found:.2} s found, {busy:.2} s busy");
    assert!(!flame.names().iter().any(|name| name.contains("swapper")), "{:?}", flame.names());
}
