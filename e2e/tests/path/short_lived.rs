//! Processes of 20 ms, fifty a second: their time is found, in rows of their policy.

use std::time::Instant;

use hearth_e2e::cgroup::Cgroup;
use hearth_e2e::{Agent, Collector, Program, machine, policy, unique_name};

/// How many are run, one after the other.
const PROCESSES: i64 = 1000;

/// Burns 20 ms of CPU time and ends.
const SHORT: &str = "FUNCTION void work(void) { BURN(10000); }
    int main(void) {
      struct timespec t;
      do { work(); clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); } while (!t.tv_sec && t.tv_nsec < 20000000);
      return 0;
    }";

/// Runs `argv[1]` `argv[2]` times, one after the other, and prints its own CPU time, without theirs,
/// in microseconds.
const SPAWNER: &str = "int main(int argc, char **argv) {
      for (int i = atoi(argv[2]); i; i--) {
        int status;
        pid_t pid = vfork();
        if (!pid) { execl(argv[1], argv[1], (char *)0); _exit(1); }
        if (waitpid(pid, &status, 0) != pid || status) return 1;
      }
      struct rusage u;
      getrusage(RUSAGE_SELF, &u);
      printf(\"%ld\\n\", (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000L + u.ru_utime.tv_usec + u.ru_stime.tv_usec);
      return 0;
    }";

/// What an agent found of `name`, held against the cgroup's account in microseconds.
fn check(agent: &mut Agent, rate: u32, name: &str, truth: f64) {
    agent.stop();
    let collector = Collector::shared();
    // Rows of the policy, whether or not their frames could be named.
    let matched = format!("pod_node = '{}' AND app_service = '{name}'", agent.node);
    let found = collector
        .number(&format!("SELECT sum(profile_value) FROM profile.in_process_local WHERE {matched}"))
        as f64;
    let share = found / truth * 100.0;
    println!("F = {rate}: {:.2} s of {:.2} s in matched rows, {share:.1} %", found / 1e6, truth / 1e6);
    assert!((share - 100.0).abs() < 3.0, "F = {rate}: {share:.1} %");
    let processes = collector.number(&format!(
        "SELECT uniqExact(process_id, process_start_time) FROM profile.in_process_local WHERE {matched}"
    ));
    // At 99 Hz a process of 20 ms gets two ticks, more or less: hardly one gets none.
    assert!(processes * 10 > PROCESSES * 9, "F = {rate}: {processes} of {PROCESSES} processes");
    let flame = collector.flame(name, &agent.node).unwrap();
    assert!(flame.total_of("work") as f64 > truth / 2.0, "F = {rate}: what they did has its name");
}

#[test]
fn their_time_is_found_whatever_the_rate_of_the_node() {
    let _machine = machine::alone();
    let short = Program::compile(&unique_name("short"), SHORT);
    let spawner = Program::compile(&unique_name("spawn"), SPAWNER);
    let name = short.name();
    let theirs = policy("short", &format!("regex: '^{name}$', frequency: 99"));
    let mut slow = Agent::start(&theirs);
    // The same policy on a node that samples faster for another, which matches nothing.
    let mut fast = Agent::start(&(theirs + &policy("faster", "regex: '^nobody$', frequency: 499")));
    assert!(fast.log().contains("at 499 Hz by 2 policies"), "{}", fast.log());
    let path = short.path();
    let cgroup = Cgroup::create();
    let launcher = [&cgroup.launcher()[..], &["taskset", "-c", "1"].map(str::to_owned)].concat();
    let started = Instant::now();
    let process = spawner.start_by(&launcher, &[path.to_str().unwrap(), &PROCESSES.to_string()]);
    let own: f64 = process.wait().trim().parse().unwrap();
    let a_second = PROCESSES as f64 / started.elapsed().as_secs_f64();
    println!("{a_second:.1} processes a second");
    // Fewer where others use the CPU too: no matter, as long as one follows the other.
    assert!((25.0..=50.0).contains(&a_second), "{a_second:.1} processes a second");
    // What ran in the cgroup, but for the one that started them.
    let truth = cgroup.cpu_micros() - own;
    check(&mut slow, 99, name, truth);
    check(&mut fast, 499, name, truth);
}
