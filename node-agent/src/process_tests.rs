//! What becomes of processes as they fork, replace their programs and end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use hearth_policy::{EffectivePolicy, Environment, parse_policy_file};

use super::*;

/// No process has a pid this high: `pid_max` ends at 2^22.
const PID: u32 = 1 << 23;

fn policies() -> PolicySet {
    let text = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
        metadata: {name: web}\nspec: {regex: ^web, hostProcesses: true, frequency: 49}\n";
    let (policies, _) = parse_policy_file(text).unwrap();
    PolicySet::new(EffectivePolicy::from_file(policies), Environment::Standalone, 1000).unwrap()
}

/// Lines `fork CHILD PARENT`, `exec PID NAME`, `rename PID NAME`, `exit PID`,
/// `sample PID` go in; what the kernel is told and who was sampled comes out.
/// Pids count from [`PID`].
fn check(events: &str, expected: &str) {
    let policies = policies();
    let mut processes = Processes::none();
    let mut out = String::new();
    for (time, line) in (1..).zip(events.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid = |word: usize| PID + words[word].parse::<u32>().unwrap();
        let mut tell = Vec::new();
        let event = match words[0] {
            "fork" => Event::Fork { tgid: pid(1), parent: pid(2) },
            "exec" => Event::Exec { tgid: pid(1), comm: words[2].as_bytes().to_vec() },
            "rename" => Event::Rename { tgid: pid(1), comm: words[2].as_bytes().to_vec() },
            "exit" => Event::Exit { tgid: pid(1) },
            _ => {
                let process = processes.decide(pid(1), &policies, &mut tell);
                // The kernel asks as long as it was not told.
                if tell.is_empty() {
                    process.tell(&mut tell);
                }
                writeln!(out, "sampled {}", process.comm).unwrap();
                say(&tell, &mut out);
                continue;
            }
        };
        processes.apply(Monotonic(time), &event, &policies, &mut tell);
        say(&tell, &mut out);
    }
    assert_eq!(out.trim(), expected);
}

fn say(tell: &[Tell], out: &mut String) {
    for tell in tell {
        match tell {
            Tell::Decide(tgid, rate) => writeln!(out, "decide {} {rate}", tgid - PID).unwrap(),
            Tell::Forget(tgid) => writeln!(out, "forget {}", tgid - PID).unwrap(),
        }
    }
}

#[test]
fn a_new_program_is_decided_at_once() {
    check("exec 1 web-server", "forget 1\ndecide 1 49");
    check("exec 1 other", "forget 1\ndecide 1 0");
}

#[test]
fn a_fork_has_its_parents_name_and_is_decided_when_it_is_sampled() {
    check("exec 1 web\nfork 2 1\nsample 2", "forget 1\ndecide 1 49\nsampled web\ndecide 2 49");
}

#[test]
fn a_fork_that_replaces_its_program_is_no_longer_its_parent() {
    check("exec 1 web\nfork 2 1\nexec 2 sh", "forget 1\ndecide 1 49\nforget 2\ndecide 2 0");
}

#[test]
fn a_new_name_is_a_new_decision() {
    check("exec 1 sh\nrename 1 web", "forget 1\ndecide 1 0\ndecide 1 49");
}

#[test]
fn an_ended_process_is_known_and_not_told() {
    check("exec 1 web\nexit 1\nsample 1", "forget 1\ndecide 1 49\nforget 1\nsampled web");
    check("sample 7", "sampled [ended]");
}

#[test]
fn a_pid_that_comes_round_is_another_process() {
    check(
        "exec 1 web\nexit 1\nexec 2 sh\nfork 1 2\nsample 1",
        "forget 1\ndecide 1 49\nforget 1\nforget 2\ndecide 2 0\nsampled sh\ndecide 1 0",
    );
}

#[test]
fn what_was_named_of_a_process_is_not_taken_for_a_later_one_with_its_pid() {
    let (mut processes, policies) = (Processes::none(), policies());
    let mut epochs = std::collections::HashSet::new();
    for _ in 0..2 {
        for event in [exec(PID, "web"), map(PID, 4096, "/bin/web"), Event::Exit { tgid: PID }] {
            processes.apply(Monotonic::now(), &event, &policies, &mut Vec::new());
            epochs.insert(processes.get(PID).epoch);
        }
        processes.prune(Monotonic(Monotonic::now().0 + REMEMBERED.as_nanos() as u64));
        assert!(processes.all.is_empty());
    }
    assert_eq!(epochs.len(), 4, "one for each program and one for each mapping");
}

/// The policies of `spec`, in force for every process.
fn policies_of(spec: &str) -> PolicySet {
    let text = format!(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata: {{name: p}}\n\
         spec: {{hostProcesses: true, {spec}}}\n"
    );
    let (policies, _) = parse_policy_file(&text).unwrap();
    PolicySet::new(EffectivePolicy::from_file(policies), Environment::Standalone, 1000).unwrap()
}

fn exec(tgid: u32, comm: &str) -> Event {
    Event::Exec { tgid, comm: comm.as_bytes().to_vec() }
}

fn map(tgid: u32, start: u64, path: &str) -> Event {
    let path = path.as_bytes().to_vec();
    let mapped = Mapped { start, end: start + 1, file_offset: 0, path, build_id: None, file: None };
    Event::Map { tgid, mapped }
}

/// Applies events one nanosecond apart.
fn apply(processes: &mut Processes, policies: &PolicySet, events: &[Event]) {
    for (time, event) in (1..).zip(events) {
        processes.apply(Monotonic(time), event, policies, &mut Vec::new());
    }
}

#[test]
fn an_ended_process_keeps_its_code_for_one_more_round_and_its_name_for_longer() {
    let (mut processes, policies) = (Processes::none(), policies());
    let mappings = processes.shared.mappings.clone();
    let mut events = vec![exec(PID, "web")];
    events.extend((1..=100).map(|at| map(PID, at * 4096, "/bin/web")));
    events.extend([Event::Fork { tgid: PID + 1, parent: PID }, Event::Exit { tgid: PID }]);
    apply(&mut processes, &policies, &events);
    assert_eq!(mappings.used(), 100, "a fork has no mappings of its own");
    processes.end_round(&policies, &mut Vec::new()).unwrap();
    assert_eq!(processes.get(PID).image().space.len(), 100);
    processes.end_round(&policies, &mut Vec::new()).unwrap();
    assert!(processes.get(PID).image.is_none());
    assert_eq!(processes.get(PID).comm.as_ref(), "web");
    apply(&mut processes, &policies, &[Event::Exit { tgid: PID + 1 }]);
    for _ in 0..2 {
        processes.end_round(&policies, &mut Vec::new()).unwrap();
    }
    assert_eq!(mappings.used(), 0);
    // A late sample finds nothing, and does not take another process's for its own.
    assert!(processes.get(PID).image().space.is_empty());
    assert_eq!(processes.stats().maps_unread, 1);
}

#[test]
fn a_fork_has_its_parents_standing_even_if_it_is_gone_before_anybody_looks() {
    let policies = policies_of("regex: /bin/web$, match: exe, appService: exe");
    let mut processes = Processes::none();
    let forked = Event::Fork { tgid: PID + 1, parent: PID };
    apply(&mut processes, &policies, &[exec(PID, "w"), map(PID, 4096, "/bin/web"), forked]);
    let mut tell = Vec::new();
    let service = |process: &Process| match &process.standing {
        Standing::Matched(matched) => matched.app_service.to_string(),
        other => format!("{other:?}"),
    };
    // The parent was gone before its program could be asked for: its mapping told it.
    assert_eq!(service(processes.decide(PID, &policies, &mut tell)), "web");
    apply(&mut processes, &policies, &[Event::Fork { tgid: PID + 2, parent: PID }]);
    assert_eq!(service(processes.get(PID + 2)), "web");
    assert_eq!(service(processes.decide(PID + 1, &policies, &mut tell)), "web");
    assert_eq!(processes.stats().exes_unread, 0);
    // With another program it is asked for its own.
    apply(&mut processes, &policies, &[exec(PID + 2, "sh"), map(PID + 2, 4096, "/bin/sh")]);
    assert_eq!(service(processes.decide(PID + 2, &policies, &mut tell)), "Unmatched");
}

#[test]
fn what_could_not_be_learnt_of_a_process_is_counted() {
    let policies = policies_of("regex: x, match: cmdline");
    let mut processes = Processes::none();
    processes.decide(PID, &policies, &mut Vec::new());
    let count = |processes: &Processes| {
        let stats = processes.stats();
        (stats.cmdlines_unread, stats.exes_unread)
    };
    assert_eq!(count(&processes), (1, 1));
    // One that waits for its parent has its stat still, and nothing else.
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let zombie = child.id();
    while !proc_fs::stat(zombie).unwrap().is_zombie {
        std::thread::yield_now();
    }
    apply(&mut processes, &policies, &[exec(zombie, "true"), map(zombie, 4096, "/bin/true")]);
    processes.decide(zombie, &policies, &mut Vec::new());
    assert_eq!(count(&processes), (2, 1));
    child.wait().unwrap();
    // A kernel thread has neither, and nothing is missing.
    let kthreadd = 2;
    processes.decide(kthreadd, &policies, &mut Vec::new());
    assert_eq!(count(&processes), (2, 1));
}

#[test]
fn after_lost_records_a_process_is_known_by_its_start() {
    let mut processes = Processes::none();
    let mut running = |comm: &str, start_ticks| {
        let stat = Stat { comm: comm.into(), start_ticks, is_zombie: false };
        let mut tell = Vec::new();
        processes.rescan(HashMap::from([(PID, stat)]), &mut tell);
        let process = processes.get(PID);
        (process.comm.to_string(), process.start_ticks, tell.len())
    };
    assert_eq!(running("web", 100), ("web".into(), 100, 0));
    // Its new name was among what was lost.
    assert_eq!(running("renamed", 101), ("renamed".into(), 100, 0));
    // The pid came round.
    assert_eq!(running("renamed", 200), ("renamed".into(), 200, 1));
}

#[test]
fn however_often_records_are_lost_in_a_round_proc_is_read_once() {
    let (mut processes, policies) = (Processes::none(), policies());
    apply(&mut processes, &policies, &[Event::Lost(1), Event::Lost(2), Event::Lost(3)]);
    assert!(processes.all.is_empty());
    assert!(processes.end_round(&policies, &mut Vec::new()).unwrap());
    assert!(processes.all.contains_key(&std::process::id()));
    assert!(!processes.end_round(&policies, &mut Vec::new()).unwrap());
}

#[test]
fn the_process_that_ended_first_makes_room() {
    let (mut processes, policies) = (Processes::none(), policies());
    apply(&mut processes, &policies, &[exec(PID, "web")]);
    let many = u32::try_from(MAX_PROCESSES).unwrap() + 100_000;
    for child in PID + 1..=PID + many {
        apply(
            &mut processes,
            &policies,
            &[Event::Fork { tgid: child, parent: PID }, Event::Exit { tgid: child }],
        );
    }
    assert_eq!(processes.all.len(), MAX_PROCESSES);
    assert_eq!(processes.stats().forgotten, 100_001);
    let is_known = |pid: &u32| processes.all.contains_key(pid);
    assert!(is_known(&PID) && !is_known(&(PID + 100_001)) && is_known(&(PID + 100_002)));
}

#[test]
fn an_ended_process_is_forgotten_after_a_minute() {
    let mut processes = Processes::none();
    let policies = policies();
    processes.decide(PID, &policies, &mut Vec::new());
    let now = Monotonic::now();
    processes.prune(now);
    assert_eq!(processes.all.len(), 1);
    processes.prune(Monotonic(now.0 + 61_000_000_000));
    assert_eq!(processes.all.len(), 0);
}
