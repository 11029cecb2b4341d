//! The operator's configuration, followed.

use std::time::{Duration, Instant};

use hearth_proto::config::v1::{Config, Policy, PolicyReference};

use crate::stage::{Stage, unix_seconds};

#[tokio::test]
async fn an_edit_of_the_frequency_is_in_the_samples_within_three_seconds_and_without_a_restart() {
    let mut stage = Stage::set("edit").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    assert_eq!(call.hello().await, "", "nothing was in force");
    assert_eq!(call.send(stage.config(49)).await.refused, "");
    let counts = call.counts("its process", |counts| counts.policies.iter().any(|p| p.processes == 1)).await;
    assert_eq!((counts.frequency, &*counts.policies[0].policy), (49, "burner"));
    stage.samples_of(1_000_000 / 49).await;

    let edited = Instant::now();
    assert_eq!(call.send(stage.config(199)).await.refused, "");
    stage.samples_of(1_000_000 / 199).await;
    assert!(edited.elapsed() < Duration::from_secs(3), "{:?}", edited.elapsed());
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 199.0);
    call.sampling(199).await;
    assert!(agent.signal(libc::SIGTERM).await.success());
}

#[tokio::test]
async fn a_node_starts_from_its_last_good_configuration_while_the_operator_is_away() {
    let mut stage = Stage::set("disk").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send(stage.config(49)).await;
    call.sampling(49).await;
    let bad = Policy { name: "bad".into(), spec: r#"{"regex":"("}"#.into(), ..Policy::default() };
    let bad = Config { hash: "bad".into(), policies: vec![bad], ..Config::default() };
    let refused = call.send(bad).await.refused;
    assert!(refused.starts_with("policy bad: spec.regex does not compile: unclosed group"), "{refused}");
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 49.0, "the one before stays");
    agent.signal(libc::SIGTERM).await;

    stage.kill_operator();
    drop(call);
    let mut agent = stage.agent();
    agent.line("1 policies from the disk").await;
    stage.samples_of(1_000_000 / 49).await;
    agent.line("the operator is not reached, this node goes on by what it has").await;
}

/// The operator began while it was invalid, and has no version of it to send.
#[tokio::test]
async fn a_policy_that_is_invalid_now_stays_in_force_as_the_node_has_it() {
    let mut stage = Stage::set("kept").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    let valid = stage.config(49);
    call.send(valid.clone()).await;
    call.sampling(49).await;
    let Policy { namespace, name, created, .. } = valid.policies[0].clone();
    let kept = vec![PolicyReference { namespace, name, created }];
    let keeping = Config { hash: "keeping".into(), kept, ..Config::default() };
    assert_eq!(call.send(keeping).await.refused, "");
    agent.line("1 policies are invalid as they are now: what this node has of them stays in force").await;
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 49.0);
    agent.signal(libc::SIGTERM).await;

    let mut agent = stage.agent();
    let mut call = stage.call().await;
    assert_eq!(call.hello().await, "keeping");
    call.sampling(49).await;
    call.send(stage.config(199)).await;
    call.sampling(199).await;
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 199.0, "corrected");
}

#[tokio::test]
async fn under_a_newer_operator_a_node_works_by_what_it_understands_in_full() {
    let mut stage = Stage::set("newer").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    call.send_unknown().await;
    assert_eq!(call.send(stage.config(49)).await.refused, "");
    call.sampling(49).await;
    // Without the field it would profile more than its author wrote.
    let mut narrower = stage.config(199);
    narrower.policies[0].spec = narrower.policies[0].spec.replace('}', ",\"imageSelector\":\"web:*\"}");
    let refused = call.send(narrower).await.refused;
    assert!(
        refused.starts_with("policy burner: spec.imageSelector is no field of a ClusterProfilingPolicy that"),
        "{refused}"
    );
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 49.0, "the one before stays");
}

#[tokio::test]
async fn an_older_operator_that_tells_only_of_policies_is_enough() {
    let mut stage = Stage::set("older").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    // No hash, no labels, nothing kept, and no directory for what it asks.
    let Config { policies, .. } = stage.config(49);
    assert_eq!(call.send(Config { policies, ..Config::default() }).await.refused, "");
    stage.samples_of(1_000_000 / 49).await;
    assert!(agent.signal(libc::SIGTERM).await.success());
}

#[tokio::test]
async fn without_operator_and_configuration_nothing_is_sampled_and_the_log_says_so() {
    let stage = Stage::set("cold").await;
    stage.kill_operator();
    let mut agent = stage.agent();
    agent.line("no configuration is kept here: nothing is sampled until the operator sends one").await;
    agent.line("the operator is not reached").await;
    assert!(agent.get("/readyz").await.contains("nothing is sampled"));
    assert_eq!(agent.metric("hearth_agent_effective_frequency").await, 0.0);
    assert!(agent.signal(libc::SIGTERM).await.success());
}

#[tokio::test]
async fn a_duration_ends_also_while_the_operator_is_away() {
    let mut stage = Stage::set("ends").await;
    let mut agent = stage.agent();
    let mut call = stage.call().await;
    call.hello().await;
    let mut config = stage.config(49);
    config.policies[0].spec = config.policies[0].spec.replace('}', ",\"duration\":\"12s\"}");
    config.policies[0].created = unix_seconds() - 8;
    call.send(config).await;
    call.sampling(49).await;
    stage.kill_operator();
    agent.line("sampling nothing: no enabled policy among 1").await;
}

#[tokio::test]
async fn two_agents_do_not_share_what_they_keep() {
    let stage = Stage::set("lock").await;
    let mut first = stage.agent();
    first.line("metrics on").await;
    let mut second = stage.agent();
    assert_eq!(second.end().await.code(), Some(1));
    let log = second.log();
    assert!(
        log.contains("is another agent's: stop that one, or name another folder with --state-dir"),
        "{log}"
    );
}
