//! Processes whose leader ended while other threads go on.

use std::time::{Duration, Instant};

use hearth_node_agent::kernel::Monotonic;
use hearth_node_agent::kernel::sideband::Event;
use hearth_node_agent::policies::PolicySet;
use hearth_node_agent::proc_fs::stat;
use hearth_node_agent::process::{Process, Processes, Tell};
use hearth_policy::{EffectivePolicy, Environment, parse_policy_file};
use tempfile::TempDir;

use crate::running::*;

/// The main thread ends; another one prints and waits.
const LEADERLESS: &str = r#"
    #include <pthread.h>
    C_FUNCTION int xqzvk(int n) { volatile int x = n; return x * 7 + 1; }
    static pthread_t leader;
    static void *rest(void *unused) {
        pthread_join(leader, 0);
        show("xqzvk", (void *)xqzvk);
        show("jit", executable_memory());
        wait_for_end();
        return 0;
    }
    int main(void) {
        leader = pthread_self();
        pthread_t thread;
        pthread_create(&thread, 0, rest, 0);
        pthread_exit(0);
    }
"#;

fn policies() -> PolicySet {
    let text = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
                metadata: {name: p}\nspec: {hostProcesses: true, regex: leaderless$, match: exe}\n";
    let (policies, _) = parse_policy_file(text).unwrap();
    PolicySet::new(EffectivePolicy::from_file(policies), Environment::Standalone, 1000).unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

fn frame(process: &mut Process, address: u64) -> String {
    name_of(process.image(), address)
}

#[test]
fn a_process_outlives_its_leader_with_its_names() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "leaderless", LEADERLESS, &["-pthread"]);
    let mut running = Running::program(&program);
    let (pid, xqzvk, jit) = (running.pid, running.at("xqzvk"), running.at("jit"));
    wait_until("the leader does not end", || stat(pid).unwrap().is_zombie);
    let _map = crate::generated::MapFile::of(pid, &format!("{jit:x} 40 compiled\n"));
    let (policies, mut tell) = (policies(), Vec::new());

    // Found so, and told so.
    let mut found = Processes::scan().unwrap();
    let mut told = Processes::scan().unwrap();
    let exit = Event::Exit { tgid: pid };
    assert!(told.apply(Monotonic::now(), &exit, &policies, &mut tell).is_none());
    for processes in [&mut found, &mut told] {
        processes.end_round(&policies, &mut tell).unwrap();
        assert!(!processes.has_ended(pid) && tell.is_empty());
        let process = processes.decide(pid, &policies, &mut tell);
        assert!(
            matches!(tell.drain(..).next(), Some(Tell::Decide(tgid, 99)) if tgid == pid),
            "matched by its program"
        );
        assert_eq!(frame(process, xqzvk + 2), "xqzvk");
        assert_eq!(frame(process, jit + 2), "compiled");
    }

    running.child.kill().unwrap();
    running.child.wait().unwrap();
    found.end_round(&policies, &mut tell).unwrap();
    assert!(found.has_ended(pid));
    assert!(matches!(tell[..], [Tell::Forget(tgid)] if tgid == pid));
}

#[test]
fn a_process_that_waits_for_its_parent_has_ended() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    wait_until("`true` does not end", || stat(child.id()).unwrap().is_zombie);
    assert!(Processes::scan().unwrap().has_ended(child.id()));
    child.wait().unwrap();
}
