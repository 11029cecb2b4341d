//! What dies by `kill -9` loses nothing that was acknowledged, and stores nothing twice.

use hearth_e2e::daemon::{send_signal, wait_for};
use hearth_e2e::proc_fs::children;
use hearth_e2e::{Agent, Collector, Program, machine, policy, unique_name};

/// Rows that are there more than once.
const TWICE: &str = "SELECT time, batch, app_service, policy, process_id, process_start_time, process_name, \
    thread_name, main_thread, stack_id, stack_end, cpu, groupArray(sample_count), groupArray(profile_value), \
    groupArray(profile_in_timestamp) FROM profile.in_process_local GROUP BY time, batch, app_service, policy, process_id, \
    process_start_time, process_name, thread_name, main_thread, stack_id, stack_end, cpu HAVING count() > 1";

#[test]
fn a_killed_collector_and_a_killed_engine() {
    let _machine = machine::together();
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::at_free_ports();
    let mut running = collector.start(folder.path());
    let program = Program::burner(&unique_name("durable"));
    let name = program.name();
    let mut agent =
        Agent::start_for(&collector, &[], &policy("durable", &format!("regex: '^{name}$', frequency: 499")));
    let process = program.start::<&str>(&[]);
    let node = agent.node.clone();
    let stored = |collector: &Collector| collector.samples(&node, &format!("app_service = '{name}'"));
    let wait_for_more = |count: i64| {
        let target = stored(&collector) + count;
        wait_for(&format!("{target} samples"), || (stored(&collector) >= target).then_some(()));
    };
    wait_for_more(500);

    // The collector: the agent keeps what was not acknowledged, and sends it again.
    let before = stored(&collector);
    running.signal(libc::SIGKILL);
    running.wait();
    agent.wait_for_log("the collector is not reached, samples wait in the queue");
    drop(running);
    let mut running = collector.start(folder.path());
    assert!(stored(&collector) >= before, "what was acknowledged is there");
    wait_for_more(1000);

    // The engine: the collector starts it again.
    let engine = children(running.pid());
    let [engine] = engine[..] else { panic!("{engine:?}") };
    send_signal(engine, libc::SIGKILL);
    running.wait_for_log("restarting in");
    wait_for("the engine to answer again", || {
        let answer = collector.get("/readyz");
        (children(running.pid()).len() == 1 && answer.status == 200).then_some(())
    });
    wait_for_more(1000);

    let truth = process.kill();
    agent.stop();
    let found = collector.flame(name, &node).unwrap().root().total as f64 / 1e6;
    println!("{found:.2} s found of {truth:.2} s");
    assert!((found / truth - 1.0).abs() < 0.03, "{found:.2} s found of {truth:.2} s");
    let twice = collector.sql(TWICE);
    assert!(twice.is_empty(), "rows are stored twice:\n{}", twice.join("\n"));
    assert!(running.terminate().success(), "a collector that was asked to ends well");
}
