//! Which node an agent speaks for.

use std::time::Duration;

use futures::future::join_all;
use hearth_identity::fake::{FakeApi, Mood, forged_token};
use hearth_identity::{Account, Agent, Agents, Caller, Refused};
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderValue, header};

const HOUR: Duration = Duration::from_secs(3600);

fn account(text: &str) -> Account {
    text.parse().unwrap()
}

fn agents(api: &FakeApi) -> Agents {
    Agents::new(api.client(), account("hearth/agent"), "hearth".to_owned())
}

fn bearer(token: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    HeaderMap::from_iter([(header::AUTHORIZATION, value)])
}

fn good(api: &FakeApi, node: &str) -> String {
    api.agent_token(&account("hearth/agent"), "hearth", Some(node), HOUR)
}

async fn prove(agents: &Agents, token: &str) -> Result<Agent, Refused> {
    agents.node_of(&bearer(token)).await
}

/// The node, or gRPC's code and message.
async fn check(agents: &Agents, headers: &HeaderMap, expected: &str) {
    let outcome = match agents.node_of(headers).await {
        Ok(agent) => agent.node.to_string(),
        Err(refused) => {
            let status = Status::from(refused);
            format!("{:?}: {}", status.code(), status.message())
        }
    };
    assert_eq!(outcome, expected);
}

#[tokio::test]
async fn an_agent_speaks_for_the_node_of_its_pod() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let agent = prove(&agents, &good(&api, "n1")).await.unwrap();
    assert_eq!(&*agent.node, "n1");
    let left = agent.expires.duration_since(tokio::time::Instant::now());
    assert!((HOUR - Duration::from_secs(5)..=HOUR).contains(&left), "{left:?}");
    assert_eq!(agent.is_on("n1"), Ok(()));
    let other = Status::from(agent.is_on("n2").unwrap_err());
    assert_eq!(
        (other.code(), other.message()),
        (
            tonic::Code::PermissionDenied,
            r#"other node: the agent says that it is on "n2", and its token that it is on "n1""#
        )
    );
}

#[tokio::test]
async fn whoever_proves_nothing_is_told_what_is_missing() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let no_token =
        "Unauthenticated: no token: an agent must send `authorization: Bearer TOKEN` (its flag --token-file)";
    check(&agents, &HeaderMap::new(), no_token).await;
    check(&agents, &bearer(""), no_token).await;
    let basic = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Basic eA=="))]);
    check(&agents, &basic, no_token).await;
    let no_jwt = "Unauthenticated: bad token: it is no JWT of at most 8192 bytes";
    check(&agents, &bearer("x"), no_jwt).await;
    let long = forged_token("system:serviceaccount:hearth:agent", "hearth", HOUR, &"x".repeat(8192));
    check(&agents, &bearer(&long), no_jwt).await;
    let expired = api.agent_token(&account("hearth/agent"), "hearth", Some("n1"), Duration::ZERO);
    check(&agents, &bearer(&expired), "Unauthenticated: token expired: open another stream with a fresh one")
        .await;
    let audience = api.agent_token(&account("hearth/agent"), "https://api", Some("n1"), HOUR);
    check(
        &agents,
        &bearer(&audience),
        r#"Unauthenticated: other audience: the token is for "https://api", and must be for "hearth""#,
    )
    .await;
    let other = api.agent_token(&account("shop/agent"), "hearth", Some("n1"), HOUR);
    check(
        &agents,
        &bearer(&other),
        "PermissionDenied: other account: the token is that of \"system:serviceaccount:shop:agent\", \
         and agents are \"system:serviceaccount:hearth:agent\"",
    )
    .await;
    // None of these was worth a question.
    assert_eq!(api.token_reviews(), 0);
    let nowhere = api.agent_token(&account("hearth/agent"), "hearth", None, HOUR);
    check(
        &agents,
        &bearer(&nowhere),
        "PermissionDenied: no node: the token names none; it must be that of a pod (a projected volume), \
         on Kubernetes >= 1.32",
    )
    .await;
}

/// What a token says of itself refuses it, and proves nothing.
#[tokio::test]
async fn only_the_api_servers_word_counts() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let agent = "system:serviceaccount:hearth:agent";
    let forged = forged_token(agent, "hearth", HOUR, "1");
    check(
        &agents,
        &bearer(&forged),
        "Unauthenticated: bad token: the API server does not take the token: invalid bearer token",
    )
    .await;
    let lent = forged_token(agent, "hearth", HOUR, "2");
    api.know_for(&lent, Caller { user: "eve".to_owned(), ..Caller::default() }, "hearth");
    check(
        &agents,
        &bearer(&lent),
        "PermissionDenied: other account: the token is that of \"eve\", and agents are \
         \"system:serviceaccount:hearth:agent\"",
    )
    .await;
    let elsewhere = forged_token(agent, "hearth", HOUR, "3");
    api.know(&elsewhere, Caller { user: agent.to_owned(), ..Caller::default() });
    let refused = prove(&agents, &elsewhere).await.unwrap_err();
    assert!(refused.to_string().contains("is invalid for the target audiences"), "{refused}");
}

#[tokio::test]
async fn an_api_server_that_is_away_refuses_nobody_for_good() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let token = good(&api, "n1");
    for mood in [Mood::Away, Mood::Refuses(500), Mood::Refuses(403)] {
        api.set_mood(mood);
        check(&agents, &bearer(&token), "Unavailable: the token cannot be reviewed now: come again later")
            .await;
    }
    api.set_mood(Mood::Answers);
    check(&agents, &bearer(&token), "n1").await;
    // And who is known needs no API server.
    api.set_mood(Mood::Away);
    check(&agents, &bearer(&token), "n1").await;
}

#[tokio::test]
async fn a_hundred_streams_of_one_token_are_one_review() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let token = good(&api, "n1");
    api.set_mood(Mood::Hangs);
    let streams = join_all((0..100).map(|_| prove(&agents, &token)));
    let answers = async {
        while api.token_reviews() == 0 {
            tokio::task::yield_now().await;
        }
        api.set_mood(Mood::Answers);
    };
    let (proven, ()) = tokio::join!(streams, answers);
    assert!(proven.iter().all(|agent| &*agent.as_ref().unwrap().node == "n1"));
    assert_eq!(api.token_reviews(), 1);
}

#[tokio::test]
async fn a_flood_of_bad_tokens_does_not_evict_good_ones() {
    let api = FakeApi::default();
    let agents = agents(&api);
    let token = good(&api, "n1");
    prove(&agents, &token).await.unwrap();
    let forged =
        |n: u32| forged_token("system:serviceaccount:hearth:agent", "hearth", HOUR, &format!("forged {n}"));
    for n in 0..10_001 {
        prove(&agents, &forged(n)).await.unwrap_err();
    }
    let asked = api.token_reviews();
    prove(&agents, &token).await.unwrap();
    // Of the bad ones the latest are known too.
    prove(&agents, &forged(10_000)).await.unwrap_err();
    assert_eq!(api.token_reviews(), asked);
}
