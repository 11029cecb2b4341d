//! Stacks of real processes as they are shown: of threads, into the kernel, deeper than the limit.

use hearth_e2e::fixture::WITH_FRAME_POINTERS;
use hearth_e2e::{Agent, Collector, Program, machine, policy, unique_name};

#[test]
fn a_thread_that_calls_the_kernel_is_shown_down_to_its_functions() {
    let _machine = machine::together();
    // The program's main thread sleeps; a third at least of the other's time is the kernel's.
    let program = Program::compile_with(
        &unique_name("threads"),
        "#include <pthread.h>
         FUNCTION void ask(int fd) { char c; for (;;) if (pread(fd, &c, 1, 0) != 1) exit(1); }
         FUNCTION void *body(void *unused) {
           prctl(PR_SET_NAME, \"worker\");
           ask(open(\"/dev/zero\", O_RDONLY));
           return unused;
         }
         int main(void) {
           pthread_t thread;
           if (pthread_create(&thread, 0, body, 0)) return 1;
           return pthread_join(thread, 0);
         }",
        &[WITH_FRAME_POINTERS, &["-pthread"]].concat(),
    );
    let name = program.name();
    let mut agent = Agent::start(&policy("threads", &format!("regex: '^{name}$', frequency: 199")));
    let process = program.start::<&str>(&[]);
    agent.wait_for_samples(name, 300);
    process.kill();
    agent.stop();

    let collector = Collector::shared();
    let flame = collector.flame(name, &agent.node).unwrap();
    let worker = flame.at(&["[t] worker"]).unwrap_or_else(|| panic!("{:?}", flame.names()));
    assert!(worker.total as f64 > 0.95 * flame.root().total as f64, "{:?}", flame.names());
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let of_the_kernel =
        |name: &str| kallsyms.lines().any(|line| line.split_whitespace().nth(2) == Some(name));
    let reads = |path: &[&str]| -> bool {
        let kernel = path.iter().position(|frame| frame.starts_with("[k] "));
        let Some(kernel) = kernel.filter(|_| path[0] == "[t] worker") else { return false };
        let (user, kernel) = path.split_at(kernel);
        let body = user.iter().position(|frame| *frame == "body");
        body.is_some()
            && kernel.iter().all(|frame| of_the_kernel(frame.trim_start_matches("[k] ")))
            && kernel.iter().any(|frame| frame.contains("pread64"))
    };
    let in_kernel: i64 = flame
        .nodes
        .iter()
        .filter(|node| node.self_value > 0 && reads(&flame.path_of(node)))
        .map(|node| node.self_value)
        .sum();
    assert!(
        in_kernel as f64 > 0.2 * worker.total as f64,
        "{in_kernel} of {} µs: {:?}",
        worker.total,
        flame.names()
    );

    // Under Total its time is the thread's, below the process.
    let total = collector.flame("Total", &agent.node).unwrap();
    let process = total.at(&[&format!("[p] {name}")]).unwrap();
    let thread = total.at(&[&format!("[p] {name}"), "[t] worker"]).unwrap();
    assert_eq!((thread.total, thread.self_value), (worker.total, worker.total));
    assert_eq!(process.total, flame.root().total);
}

#[test]
fn a_stack_deeper_than_the_limit_is_shown_as_cut_and_the_answer_says_how_much() {
    let _machine = machine::together();
    let program = Program::compile(
        &unique_name("deep"),
        "FUNCTION void leaf_of_many(void) { for (;;) BURN(1000000); }
         FUNCTION void down(int n) { if (n) down(n - 1); else leaf_of_many(); }
         int main(void) { down(2000); }",
    );
    let name = program.name();
    let mut agent = Agent::start(&policy("deep", &format!("regex: '^{name}$', frequency: 199")));
    let process = program.start::<&str>(&[]);
    agent.wait_for_samples(name, 100);
    process.kill();
    agent.stop();

    let flame = Collector::shared().flame(name, &agent.node).unwrap();
    let cut = flame.at(&[&format!("[t] {name}"), "[truncated]"]);
    let cut = cut.unwrap_or_else(|| panic!("{:?}", flame.names()));
    assert!(cut.total as f64 > 0.9 * flame.root().total as f64, "{} of {} µs", cut.total, flame.root().total);
    let leaf = flame.nodes.iter().filter(|node| node.name == "leaf_of_many").max_by_key(|node| node.total);
    let path = flame.path_of(leaf.unwrap());
    // The nearest callers are kept.
    assert!(
        path.len() > 500 && path[2..path.len() - 1].iter().all(|frame| *frame == "down"),
        "{}",
        path.len()
    );
    let description = &flame.description;
    assert!(description.contains("% deeper than what is walked"), "{description}");
}
