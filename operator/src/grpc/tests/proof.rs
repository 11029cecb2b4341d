//! Agents that prove their node, and those that do not.

use hearth_identity::fake::{FakeApi, Mood, forged_token};
use hearth_identity::{Account, Agents};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
/// Until a token ends that is to end during the test.
const SHORT: Duration = Duration::from_secs(3);

fn account() -> Account {
    "hearth/agent".parse().unwrap()
}

fn token(api: &FakeApi, node: &str, life: Duration) -> String {
    api.agent_token(&account(), "hearth", Some(node), life)
}

impl Operator {
    /// Leads, knows nodes a and b, and takes so many streams, of agents with tokens.
    async fn proving(api: &FakeApi, max_streams: usize) -> Self {
        let agents = Agents::new(api.client(), account(), "hearth".to_owned());
        let operator = Self::start(max_streams, Some(agents)).await.leads(&["a", "b"]);
        operator.put("p", json!({}));
        operator
    }

    /// A connection whose client takes no byte of any answer.
    fn closed_window(&self) -> Channel {
        Channel::from_shared(self.url.clone()).unwrap().initial_stream_window_size(0).connect_lazy()
    }

    /// A stream of node a on such a connection, with as many updates on their way as fit.
    async fn unread(&self, token: Option<&str>) -> Agent {
        let agent = Agent::open(self.closed_window(), token).await.unwrap();
        agent.say(Report::Hello(hello("a"))).await;
        // One is HTTP/2's, one is ours.
        for sent in 1..=2 {
            self.put("q", json!({"frequency": sent}));
            within(async {
                while self.metrics.configs_sent.get() < sent {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        agent
    }

    async fn open_with(&self, token: &str) -> Result<Agent, Status> {
        Agent::open(self.channel.clone(), Some(token)).await
    }

    /// Code and message of the refusal.
    async fn refused(&self, token: Option<&str>) -> String {
        let refused = Agent::open(self.channel.clone(), token).await.map(|_| ()).unwrap_err();
        format!("{:?}: {}", refused.code(), refused.message())
    }

    async fn has_nodes(&self, nodes: usize) {
        within(async {
            while self.hub.lock().nodes.len() != nodes {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn refusals(&self, reason: &str) -> bool {
        let text = self.metrics.encode(&self.hub).unwrap();
        text.contains(&format!("hearth_operator_streams_refused_total{{reason=\"{reason}\"}}"))
    }
}

#[tokio::test]
async fn an_agent_whose_token_is_good_gets_its_nodes_configuration() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 10).await;
    let mut agent = operator.open_with(&token(&api, "a", HOUR)).await.unwrap();
    agent.say(Report::Hello(hello("a"))).await;
    assert_eq!(names(&agent.config().await), "p");
}

#[tokio::test]
async fn whoever_proves_nothing_is_refused_with_the_reason() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 10).await;
    let audience = api.agent_token(&account(), "other", Some("a"), HOUR);
    let other = api.agent_token(&"hearth/collector".parse().unwrap(), "hearth", Some("a"), HOUR);
    let nowhere = api.agent_token(&account(), "hearth", None, HOUR);
    for (token, begin, reason) in [
        (None, "Unauthenticated: no token", "no_token"),
        (Some("e30.e30.x"), "Unauthenticated: bad token", "bad_token"),
        (Some(&*token(&api, "a", Duration::ZERO)), "Unauthenticated: token expired", "token_expired"),
        (Some(&*audience), "Unauthenticated: other audience", "other_audience"),
        (Some(&*other), "PermissionDenied: other account", "other_account"),
        (Some(&*nowhere), "PermissionDenied: no node", "no_node"),
    ] {
        assert!(!operator.refusals(reason), "{reason}");
        let refused = operator.refused(token).await;
        assert!(refused.starts_with(begin), "{refused}");
        assert!(operator.refusals(reason), "{reason}");
    }
}

#[tokio::test]
async fn an_agent_speaks_for_no_other_node() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 10).await;
    let mut agent = operator.open_with(&token(&api, "a", HOUR)).await.unwrap();
    agent.say(Report::Hello(hello("b"))).await;
    let ended = agent.end().await;
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::PermissionDenied,
            r#"other node: the agent says that it is on "b", and its token that it is on "a""#
        )
    );
    assert!(operator.refusals("other_node"));
    assert!(operator.hub.lock().nodes.is_empty());
}

#[tokio::test]
async fn an_api_server_that_is_away_is_waited_for_by_agents() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 10).await;
    let token = token(&api, "a", HOUR);
    api.set_mood(Mood::Away);
    assert!(operator.refused(Some(&token)).await.starts_with("Unavailable: "));
    assert!(operator.refusals("api_server_away"));
    api.set_mood(Mood::Answers);
    operator.open_with(&token).await.unwrap();
}

#[tokio::test]
async fn who_proves_nothing_takes_no_place() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 1).await;
    // Also not while it is being reviewed.
    api.set_mood(Mood::Hangs);
    let forged = (0..50).map(|n| {
        let forged = forged_token(&account().user(), "hearth", HOUR, &format!("forged {n}"));
        let channel = operator.channel.clone();
        tokio::spawn(async move { Agent::open(channel, Some(&forged)).await.map(|_| ()) })
    });
    let forged: Vec<_> = forged.collect();
    within(async {
        while api.token_reviews() < 50 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (channel, token) = (operator.channel.clone(), token(&api, "a", HOUR));
    let good = tokio::spawn(async move { Agent::open(channel, Some(&token)).await });
    within(async {
        while api.token_reviews() < 51 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    api.set_mood(Mood::Answers);
    let mut good = within(good).await.unwrap().unwrap();
    good.say(Report::Hello(hello("a"))).await;
    good.config().await;
    for refused in forged {
        assert_eq!(within(refused).await.unwrap().unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 1).await;
    let mut agent = operator.open_with(&token(&api, "a", SHORT)).await.unwrap();
    agent.say(Report::Hello(hello("a"))).await;
    agent.config().await;
    let ended = agent.end().await;
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unauthenticated, "token expired: open another stream with a fresh one")
    );
    operator.has_nodes(0).await;
    operator.open_with(&token(&api, "b", HOUR)).await.unwrap();
}

/// Whoever reads nothing has no place for longer than others.
#[tokio::test]
async fn a_client_with_a_closed_window_that_is_replaced_frees_its_place() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 1).await;
    let _unread = operator.unread(Some(&token(&api, "a", HOUR))).await;
    let mut next = operator.open_with(&token(&api, "a", HOUR)).await.unwrap();
    next.say(Report::Hello(hello("a"))).await;
    next.config().await;
    // Also one that has said nothing yet.
    let _silent = Agent::open(operator.closed_window(), Some(&token(&api, "a", HOUR))).await.unwrap();
    assert_eq!(next.end().await.code(), Code::Aborted);
    operator.open_with(&token(&api, "a", HOUR)).await.unwrap();
}

#[tokio::test]
async fn a_client_with_a_closed_window_loses_its_place_with_its_token() {
    let api = FakeApi::default();
    let operator = Operator::proving(&api, 1).await;
    let _unread = operator.unread(Some(&token(&api, "a", SHORT))).await;
    let other = token(&api, "b", HOUR);
    assert!(operator.refused(Some(&other)).await.starts_with("ResourceExhausted: "));
    operator.has_nodes(0).await;
    operator.open_with(&other).await.unwrap();
}

#[tokio::test]
async fn also_where_nobody_proves_anything_a_replaced_stream_frees_its_place() {
    let operator = Operator::standby(2).await.leads(&["a", "b"]);
    operator.put("p", json!({}));
    let _unread = operator.unread(None).await;
    let mut next = operator.hello("a").await;
    next.config().await;
    within(async { while operator.open().await.is_err() {} }).await;
}

#[tokio::test]
async fn a_leader_that_leads_no_more_frees_the_places_of_those_who_do_not_read() {
    let operator = Operator::standby(1).await.leads(&["a"]);
    operator.put("p", json!({}));
    let _unread = operator.unread(None).await;
    operator.hub.set_leadership(Leadership::Standby(None));
    operator.has_nodes(0).await;
}
