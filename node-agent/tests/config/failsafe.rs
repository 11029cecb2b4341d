//! What keeps the agent from sampling, and what lets it again.

use std::time::{Duration, Instant};

use hearth_proto::config::v1::{Config, DetachedReason};

use crate::stage::{Stage, unix_seconds};

/// The boot that this is.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Two starts that found the machine down, the second one about to be found.
fn second_unclean() -> String {
    format!("{{\"mark\": \"another-boot\", \"unclean\": [{}]}}", unix_seconds() - 300)
}

#[tokio::test]
async fn two_unclean_starts_leave_it_detached_until_the_annotation_changes() {
    let mut stage = Stage::set("unclean").await;
    stage.keep_starts(&second_unclean());
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send(stage.config(49)).await;
    let message = call.detached(DetachedReason::UncleanStart).await;
    assert!(message.contains("hearth.dev/resume"), "{message}");
    agent.line("the machine went down within the first minute").await;
    assert_eq!(agent.metric("hearth_agent_detached{reason=\"unclean_start\"}").await, 1.0);
    assert_eq!(agent.metric("hearth_agent_unclean_starts_total{kind=\"reboot\"}").await, 1.0);
    assert!(agent.get("/readyz").await.contains(" 503 "));

    // It outlives the agent.
    agent.signal(libc::SIGTERM).await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.detached(DetachedReason::UncleanStart).await;

    let resumed = Config { hash: "resumed".into(), resume: "2026-11-25".into(), ..stage.config(49) };
    call.send(resumed).await;
    call.sampling(49).await;
    stage.samples_of(1_000_000 / 49).await;
    assert_eq!(agent.metric("hearth_agent_detached{reason=\"unclean_start\"}").await, 0.0);
}

#[tokio::test]
async fn one_unclean_start_is_told_and_sampled_after() {
    let mut stage = Stage::set("once").await;
    stage.keep_starts("{\"mark\": \"another-boot\"}");
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send(stage.config(49)).await;
    call.sampling(49).await;
    agent.line("the machine went down within the first minute").await;
}

#[tokio::test]
async fn the_mark_stays_where_the_agent_is_killed_and_goes_where_it_stops() {
    let mut stage = Stage::set("mark").await;
    for (signal, is_left) in [(libc::SIGKILL, true), (libc::SIGTERM, false)] {
        let mut agent = stage.agent();
        let mut call = stage.call().await;
        call.hello().await;
        call.send(stage.config(49)).await;
        call.sampling(49).await;
        assert!(stage.starts().contains(&boot()), "{}", stage.starts());
        agent.signal(signal).await;
        assert_eq!(stage.starts().contains(&boot()), is_left, "{}", stage.starts());
    }
    stage.keep_starts(&format!("{{\"mark\": \"{}\"}}", boot()));
    let mut agent = stage.agent();
    agent.line("the agent before this one was killed within its first minute").await;
    assert_eq!(agent.metric("hearth_agent_unclean_starts_total{kind=\"killed\"}").await, 1.0);
}

#[tokio::test]
async fn an_agent_that_begins_waits_for_the_end_of_the_one_before() {
    let mut stage = Stage::set("after").await;
    let mut first = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send(stage.config(49)).await;
    call.sampling(49).await;
    let mut second = stage.agent();
    second.line("is another agent's: waiting").await;
    assert!(!second.log().contains("sampling"), "{}", second.log());
    assert!(first.signal(libc::SIGTERM).await.success());
    stage.call().await.hello().await;
    second.line("sampling ").await;
}

#[tokio::test]
async fn without_kubernetes_resume_lets_it_sample_again() {
    let stage = Stage::set("resume").await;
    stage.keep_starts(&second_unclean());
    let policy = stage.folder.path().join("policy.yaml");
    let text = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
        metadata: {name: all}\nspec: {regex: '^nobody$', hostProcesses: true, frequency: 49}\n";
    std::fs::write(&policy, text).unwrap();
    let arguments = ["--policy", policy.to_str().unwrap()];
    let mut agent = stage.start(&[], &arguments);
    let line = agent.line("detached, nothing is sampled").await;
    assert!(line.contains("start the agent with --resume"), "{line}");
    agent.signal(libc::SIGTERM).await;
    let mut agent = stage.start(&[], &[&arguments[..], &["--resume"]].concat());
    agent.line("sampling ").await;
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 49.0);
}

#[tokio::test]
async fn the_off_file_and_the_nodes_label_stop_it_within_five_seconds() {
    let mut stage = Stage::set("off").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send(stage.config(49)).await;
    call.sampling(49).await;

    let asked = Instant::now();
    std::fs::write(stage.off_file(), "").unwrap();
    let message = call.detached(DetachedReason::Off).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(message.contains(stage.off_file().to_str().unwrap()), "{message}");
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 0.0);
    assert_eq!(agent.metric("hearth_agent_detached{reason=\"off\"}").await, 1.0);
    assert!(agent.get("/readyz").await.contains(" 200 "), "it does what it was asked");
    std::fs::remove_file(stage.off_file()).unwrap();
    call.sampling(49).await;

    let asked = Instant::now();
    call.send(Config { hash: "off".into(), off: true, ..stage.config(49) }).await;
    let message = call.detached(DetachedReason::Off).await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(message.contains("hearth.dev/profiling=off"), "{message}");
    call.send(stage.config(199)).await;
    call.sampling(199).await;
    stage.samples_of(1_000_000 / 199).await;
}

#[tokio::test]
async fn an_agent_that_cannot_sample_says_so_to_the_operator() {
    let mut stage = Stage::set("cannot").await;
    let launcher = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-perfmon,-sys_admin", "--"];
    let mut agent = stage.agent_by(&launcher);
    let mut call = stage.call().await;
    call.hello().await;
    assert_eq!(call.send(stage.config(49)).await.refused, "", "the configuration is good");
    let message = call.detached(DetachedReason::CannotSample).await;
    assert!(message.contains("needs CAP_PERFMON"), "{message}");
    assert_eq!(agent.metric("hearth_agent_missing_capability{capability=\"CAP_PERFMON\"}").await, 1.0);
    assert!(agent.signal(libc::SIGTERM).await.success());
}
