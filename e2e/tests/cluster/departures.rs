//! What is killed or deleted, and comes back.

use hearth_e2e::daemon::{kill_if_named, wait_for};
use hearth_e2e::hearth::{
    AgentMetrics, Forwarded, agent_log, agent_pod, delete_agent, operator_log, program_image, restarts,
};
use hearth_e2e::{Cluster, Collector, Program, proc_fs, random_letters};
use libtest_mimic::Trial;

use crate::profiles::{on_hearth, start_pod, unix_seconds};
use crate::status::{await_ready, policy};

/// The process of an agent, as the kernel calls it.
const AGENT: &str = "hearth-node-age";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        on_hearth("departures::an_agent_that_is_killed_comes_back_and_goes_on", a_killed_agent_comes_back),
        on_hearth(
            "departures::a_node_that_is_deleted_is_not_counted_until_it_is_back",
            a_deleted_node_is_not_counted,
        ),
    ]
}

fn a_killed_agent_comes_back(cluster: &Cluster) {
    let program = Program::burner(&format!("killed-{}", random_letters(6)));
    let (name, image) = (program.name(), format!("kc.local/{}:1", program.name()));
    program_image(cluster, &image, &program.path(), &[]);
    start_pod(cluster, &image, "default", name, "node2");
    cluster.apply(&policy(name, &format!("{{regex: ^{name}$}}")));
    let policy = format!("pp/{name}");
    await_ready(cluster, &policy, "2/2");

    // Its pod at once, while the process may still end in its own time.
    delete_agent(cluster, "node2", &["--grace-period=0", "--force"]);
    let sampling = |what: &str| {
        let agent = AgentMetrics::of(cluster, "node2");
        wait_for(what, || (agent.get("hearth_agent_effective_frequency") == "99").then_some(()));
        agent
    };
    sampling("the next pod's samples");
    let field = |field| agent_pod(cluster, "node2", field).unwrap();
    let restarted = || field(".status.containerStatuses[0].restartCount");
    assert_eq!(restarted(), "0", "{}", agent_log(cluster, "node2"));

    // Its process, within its first minute.
    let processes = proc_fs::in_cgroup(&field(".metadata.uid"), AGENT);
    let [process] = processes[..] else { panic!("the agent's process: {processes:?}") };
    kill_if_named(process, AGENT);
    wait_for("the next start", || (restarted() == "1").then_some(()));
    let agent = sampling("the samples of the next start");
    let back = unix_seconds();
    let log = agent_log(cluster, "node2");
    assert!(log.contains("the agent before this one was killed within its first minute"), "{log}");
    let starts = |kind: &str| agent.count(&format!("hearth_agent_unclean_starts_total{{kind=\"{kind}\"}}"));
    assert_eq!([starts("killed"), starts("reboot")], [1, 0]);
    await_ready(cluster, &policy, "2/2");

    let (_forwarded, engine) = Forwarded::engine(cluster);
    wait_for("a window that was closed since", || {
        let since = format!(
            "SELECT count() FROM profile.in_process WHERE app_service = '{name}' \
             AND toUnixTimestamp(profile_create_timestamp) >= {back}"
        );
        (engine.number(&since) > 0).then_some(())
    });
    nothing_is_stored_twice(&engine, name);
    assert_eq!(restarted(), "1");
    cluster.kubectl(&["delete", &policy, &format!("pod/{name}"), "--wait=false"]);
}

/// Neither a batch nor a moment of a process that has one thread.
fn nothing_is_stored_twice(engine: &Collector, app_service: &str) {
    let doubled = "SELECT count() FROM (SELECT batch FROM profile.in_process_local GROUP BY batch \
                   HAVING uniqExact(profile_in_timestamp) > 1)";
    assert_eq!(engine.number(doubled), 0);
    let windows = engine.sql(&format!(
        "SELECT intDiv(toUnixTimestamp(time), 10) AS window, sum(profile_value) FROM profile.in_process \
         WHERE app_service = '{app_service}' GROUP BY window ORDER BY window"
    ));
    let longest = windows.iter().map(|row| row.split_once('\t').unwrap().1.parse::<u64>().unwrap()).max();
    // A tick more or less at either end.
    assert!(longest.is_some_and(|micros| micros <= 10_030_000), "of ten seconds each: {windows:?}");
}

/// The agent on it goes on meanwhile, as its pod does.
fn a_deleted_node_is_not_counted(cluster: &Cluster) {
    let name = format!("gone-{}", random_letters(6));
    cluster.apply(&policy(&name, "{podSelector: {}}"));
    let policy = format!("pp/{name}");
    await_ready(cluster, &policy, "2/2");
    let (logged, restarted) = (operator_log(cluster).lines().count(), restarts(cluster));

    cluster.kubectl(&["delete", "node", "node2"]);
    await_ready(cluster, &policy, "1/1");
    // A kubelet registers its node when it starts.
    for action in ["stop", "start"] {
        cluster.daemon(action, "node2-kubelet");
    }
    await_ready(cluster, &policy, "2/2");
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "node/node2"]);
    assert_eq!(restarts(cluster), restarted);
    let log = operator_log(cluster);
    assert!(log.lines().count() <= logged + 10, "{log}");
    cluster.kubectl(&["delete", &policy]);
}
