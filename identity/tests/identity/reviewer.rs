//! What is asked, how often, and for how long it is waited.

use std::time::Duration;

use hearth_identity::fake::{FakeApi, Mood, forged_token};
use hearth_identity::{Ask, Caller, Denied, Reviewer};
use tokio::time::advance;

fn alice() -> Caller {
    Caller {
        user: "alice".to_owned(),
        groups: vec!["dev".to_owned()],
        uid: "7".to_owned(),
        extra: [("scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into(),
    }
}

fn ask(namespace: Option<&str>, name: &str) -> Ask {
    Ask {
        verb: "get".to_owned(),
        group: "query.hearth.dev".to_owned(),
        resource: "profiles".to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_users_token_is_good_for_a_minute() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.know("opaque", alice());
    assert_eq!(*users.token("opaque").await.unwrap(), alice());
    api.forget("opaque");
    advance(Duration::from_secs(59)).await;
    users.token("opaque").await.unwrap();
    assert_eq!(api.token_reviews(), 1);
    advance(Duration::from_secs(1)).await;
    let denied = users.token("opaque").await.unwrap_err();
    assert_eq!(denied.to_string(), "the API server does not take the token: invalid bearer token");
    // A new one need not wait long.
    api.know("opaque", alice());
    users.token("opaque").await.unwrap_err();
    advance(Duration::from_secs(5)).await;
    users.token("opaque").await.unwrap();
    assert_eq!(api.token_reviews(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_token_is_good_past_its_own_end() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    let token = forged_token("alice", "https://kubernetes.default.svc", Duration::from_secs(30), "1");
    api.know(&token, alice());
    users.token(&token).await.unwrap();
    advance(Duration::from_secs(31)).await;
    users.token(&token).await.unwrap();
    assert_eq!(api.token_reviews(), 2);
}

#[tokio::test]
async fn what_cannot_be_a_token_is_no_question() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    for token in ["", "=", "a b", "a\n", "ä", "a=b", "a,b", "<a>", "\"a\"", &"x".repeat(8193)] {
        assert_eq!(users.token(token).await, Err(Denied::Malformed), "{token:?}");
    }
    assert_eq!(api.token_reviews(), 0);
    for token in [&"x".repeat(8192), "sha256~a-b", "k8s-aws-v1.a_b", "abcdef.0123", "a+/b=="] {
        assert_ne!(users.token(token).await, Err(Denied::Malformed), "{token:?}");
    }
    assert_eq!(api.token_reviews(), 5);
}

#[tokio::test(start_paused = true)]
async fn rights_are_asked_for_each_caller_and_each_ask() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.grant("alice", Some("shop"), None);
    api.grant("bob", None, Some("apps"));
    let bob = Caller { user: "bob".to_owned(), ..alice() };
    let may =
        async |caller: &Caller, namespace, name| users.may(caller, &ask(namespace, name)).await.unwrap();
    for _ in 0..2 {
        assert!(may(&alice(), Some("shop"), "apps").await);
        assert!(!may(&alice(), Some("bank"), "apps").await);
        assert!(!may(&alice(), None, "apps").await);
        assert!(may(&bob, Some("bank"), "apps").await);
        assert!(may(&bob, None, "apps").await);
        assert!(!may(&bob, None, "diff").await);
    }
    assert_eq!(api.access_reviews(), 6);
    // Whoever is in other groups is somebody else.
    let outcast = Caller { groups: Vec::new(), ..alice() };
    may(&outcast, Some("shop"), "apps").await;
    assert_eq!(api.access_reviews(), 7);
    advance(Duration::from_secs(5)).await;
    api.grant("alice", Some("bank"), None);
    assert!(may(&alice(), Some("bank"), "apps").await);
    assert!(may(&alice(), Some("shop"), "apps").await);
    assert_eq!(api.access_reviews(), 8);
    advance(Duration::from_secs(60)).await;
    assert!(may(&alice(), Some("shop"), "apps").await);
    assert_eq!(api.access_reviews(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_question_without_an_answer_ends_after_five_seconds() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.set_mood(Mood::Hangs);
    let began = tokio::time::Instant::now();
    let unavailable = users.may(&alice(), &ask(None, "apps")).await.unwrap_err();
    assert_eq!(unavailable.to_string(), "the API server cannot be asked: no answer within 5s");
    assert_eq!(began.elapsed().as_secs(), 5);
    api.know("opaque", alice());
    assert!(matches!(users.token("opaque").await, Err(Denied::Unavailable(_))));
    api.set_mood(Mood::Answers);
    users.token("opaque").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reviewer_that_may_not_ask_says_which_right_it_lacks() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.set_mood(Mood::Refuses(403));
    let unavailable = users.token("opaque").await.unwrap_err().to_string();
    assert!(
        unavailable.ends_with("bind the ClusterRole system:auth-delegator to our service account"),
        "{unavailable}"
    );
}

/// With all turns taken by questions that are not answered, the next one waits, for a bounded time.
#[tokio::test(start_paused = true)]
async fn so_many_questions_are_out_at_once() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.set_mood(Mood::Hangs);
    let tokens: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let asked = futures::future::join_all(tokens.iter().map(|token| users.token(token)));
    let looked = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(api.token_reviews(), 64);
    };
    let (denied, ()) = tokio::join!(asked, looked);
    assert!(denied.iter().all(|denied| matches!(denied, Err(Denied::Unavailable(_)))));
}

/// Asks for made-up tokens, more than may wait, and returns how many of them have been refused a turn at once.
async fn refused_a_turn(reviewer: &Reviewer, number: usize) -> usize {
    let ask = |n: usize| {
        let reviewer = reviewer.clone();
        tokio::spawn(async move { reviewer.token(&n.to_string()).await })
    };
    let asked: Vec<_> = (0..number).map(ask).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    asked.iter().filter(|asked| asked.is_finished()).count()
}

#[tokio::test(start_paused = true)]
async fn made_up_tokens_take_no_turn_of_whoever_is_known() {
    let api = FakeApi::default();
    let users = Reviewer::users(api.client());
    api.know("opaque", alice());
    api.grant("alice", Some("shop"), None);
    let alice = users.token("opaque").await.unwrap();
    api.set_mood(Mood::Hangs);
    assert_eq!(refused_a_turn(&users, 1000).await, 1000 - 256);
    // The token of whoever is known is not asked for, and their rights wait for no other's token.
    assert_eq!(*users.token("opaque").await.unwrap(), *alice);
    let question = ask(Some("shop"), "apps");
    let may = users.may(&alice, &question);
    let asked = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(api.access_reviews(), 1);
        api.set_mood(Mood::Answers);
    };
    assert!(tokio::join!(may, asked).0.unwrap());
}

#[tokio::test(start_paused = true)]
async fn all_agents_may_come_back_at_once() {
    let api = FakeApi::default();
    let agents = Reviewer::agents(api.client(), "hearth");
    api.set_mood(Mood::Hangs);
    assert_eq!(refused_a_turn(&agents, 5000).await, 0);
}
