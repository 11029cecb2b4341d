//! What others have stored is in no answer, whatever is asked how.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use hearth_collector::query::{Limits, Scope};

use crate::common::{Collector, Reply, single_threaded};
use crate::questions::{
    Endpoint, FILTERED, OPERATORS, Question, SUBJECTS, UNFILTERED, filter, leaks, occurrences, tags, unpacked,
};
use crate::tenants::{OWN_VALUES, RANGES, namespaces, own, stored};

/// Of all questions the usual suite asks every one of so many; with `HEARTH_SCOPE_EVERY=1` all are asked.
const USUAL_STRIDE: usize = 8;
const AT_ONCE: usize = 4;

/// What was asked at one endpoint, and what came back.
#[derive(Debug, Default)]
struct Count {
    asked: usize,
    answered: usize,
    bytes: usize,
    with_canaries: usize,
}

async fn reader(scope: Scope) -> Collector {
    stored().await;
    let limits =
        Limits { concurrent: 2 * AT_ONCE, queue: std::time::Duration::from_secs(60), ..Limits::default() };
    Collector::start_for(scope, single_threaded(), limits).await
}

/// Asks all, prints how many at each endpoint, and returns those in whose answers `search` finds something.
async fn ask(
    collector: &Collector,
    questions: Vec<Question>,
    search: impl Fn(&Reply) -> Vec<String>,
) -> Vec<(Question, Vec<String>)> {
    let search = &search;
    let asked = stream::iter(questions).map(|question| async move {
        let reply = question.ask(collector).await;
        assert!([200, 400, 404].contains(&reply.status), "{question:?}: {}", reply.text);
        (search(&reply), reply.status, unpacked(&reply).len(), question)
    });
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut found = Vec::new();
    let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    while let Some((leaks, status, bytes, question)) = asked.next().await {
        let count = counts.entry(question.endpoint.name()).or_default();
        count.asked += 1;
        count.answered += usize::from(status == 200);
        count.bytes += bytes;
        count.with_canaries += usize::from(!leaks.is_empty());
        if !leaks.is_empty() {
            found.push((question, leaks));
        }
    }
    println!("{:24} {:>7} {:>9} {:>12} {:>9}", "endpoint", "asked", "answered", "bytes", "canaries");
    for (name, Count { asked, answered, bytes, with_canaries }) in counts {
        println!("{name:24} {asked:>7} {answered:>9} {bytes:>12} {with_canaries:>9}");
    }
    found
}

/// Questions without a filter, in all ranges.
fn unfiltered() -> Vec<Question> {
    let of = |endpoint| {
        RANGES.map(|(_, from, until)| Question {
            endpoint,
            tag: "pod",
            filter: String::new(),
            subject: "Total",
            from,
            until,
        })
    };
    UNFILTERED.into_iter().flat_map(of).collect()
}

/// Every endpoint with every tag and every operator, or each so many of them.
fn filtered(stride: usize) -> Vec<Question> {
    let mut questions = Vec::new();
    for endpoint in 0..FILTERED.len() {
        for tag in 0..tags().len() {
            let operators = (0..OPERATORS.len()).filter(|operator| (endpoint + tag + operator) % stride == 0);
            questions.extend(operators.map(|operator| Question::at(endpoint, tag, operator)));
        }
    }
    questions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_others_is_in_any_answer() {
    let stride = std::env::var("HEARTH_SCOPE_EVERY").ok();
    let stride = stride.map_or(USUAL_STRIDE, |stride| stride.parse().unwrap());
    let mut questions = filtered(stride);
    let of = |what: fn(&Question) -> String| questions.iter().map(what).collect::<BTreeSet<_>>().len();
    assert_eq!(of(|question| question.endpoint.name()), FILTERED.len());
    assert_eq!(of(|question| question.tag.to_owned()), tags().len());
    assert_eq!(of(|question| question.subject.to_owned()), SUBJECTS.len());
    assert_eq!(of(|question| question.from.to_string()), RANGES.len());
    questions.extend(unfiltered());
    let found = ask(&reader(own()).await, questions, leaks).await;
    assert!(found.is_empty(), "{} of them, such as {:?}", found.len(), found[0]);
}

/// The same questions asked by somebody who may see everything: so the search does find what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_see_everything_finds_canaries_everywhere() {
    let mut questions = unfiltered();
    for endpoint in FILTERED {
        for (_, from, until) in RANGES {
            let tag = "pod_ns";
            let filter = filter(tag, "T NOT LIKE 'zz*'");
            questions.push(Question { endpoint, tag, filter, subject: "shop", from, until });
        }
    }
    let asked = questions.clone();
    let found = ask(&reader(Scope::All).await, questions, leaks).await;
    for Question { endpoint, from, until, .. } in asked {
        // One says what tags there are, the other what was hot a moment ago.
        if [Endpoint::Tags, Endpoint::Page].contains(&endpoint) {
            continue;
        }
        let is_found = found.iter().any(|(question, _)| {
            (question.endpoint, question.from, question.until) == (endpoint, from, until)
        });
        assert!(is_found, "{} from {from} until {until}", endpoint.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_seen_whole_and_no_other() {
    let one_tag = filtered(1).into_iter().filter(|question| question.tag == "pod_node");
    let questions = one_tag.chain(unfiltered()).collect();
    let search = |reply: &Reply| {
        let whose =
            ["cnryo", "cnryb", "cnryh"].into_iter().filter(|whose| !occurrences(reply, whose).is_empty());
        whose.map(str::to_owned).collect()
    };
    let found = ask(&reader(Scope::Cluster("own".into())).await, questions, search).await;
    let of = |whose: &str| found.iter().find(|(_, found)| found.iter().any(|found| found == whose));
    assert!(of("cnryb").is_some() && of("cnryh").is_some());
    assert!(of("cnryo").is_none(), "{:?}", of("cnryo"));
}

#[tokio::test]
async fn what_is_ones_own_is_answered_whole() {
    let collector = reader(own()).await;
    let total = async |subject, (_, from, until): (&str, u32, u32)| {
        let endpoint = Endpoint::Flamegraph("json");
        let question = Question { endpoint, tag: "pod", filter: String::new(), subject, from, until };
        let json = question.ask(&collector).await.json();
        json["nodes"][0]["total"].as_i64().unwrap_or_default()
    };
    for range @ (name, ..) in &RANGES[..3] {
        assert_eq!(total("shop", *range).await, OWN_VALUES[0], "{name}");
        assert_eq!(total("Total", *range).await, OWN_VALUES[1], "{name}");
        assert_eq!(total("ghost", *range).await, 0, "{name}");
    }
    assert_eq!(total("Total", RANGES[3]).await, 3 * OWN_VALUES[1]);
}

/// Nodes are everybody's. What was lost where the reader's pods ran concerns the answer, and nothing else is told.
#[tokio::test]
async fn losses_are_told_of_the_nodes_of_ones_own_rows() {
    let collector = reader(own()).await;
    let (_, from, until) = RANGES[0];
    let lost = async |subject, filter: &str| {
        let (endpoint, filter) = (Endpoint::Flamegraph("json"), filter.to_owned());
        let reply = Question { endpoint, tag: "pod", filter, subject, from, until }.ask(&collector).await;
        let json = reply.json();
        (json["quality"]["lost"].to_string(), json["notes"].to_string().contains("lost"))
    };
    let own = (r#"{"ring-full":7}"#.to_owned(), true);
    let node = "pod_node = 'own_pod_node'";
    assert_eq!(lost("shop", node).await, own);
    assert_eq!(lost("Total", node).await, own);
    let nothing = ("null".to_owned(), false);
    assert_eq!(lost("ghost", "").await, nothing);
    assert_eq!(lost("shop", "pod_node = 'cnryb_pod_node'").await, nothing);
}

#[tokio::test]
async fn of_no_namespaces_nothing_is_seen() {
    for names in [&[][..], &[""], &["a') OR ('1' = '1"], &["%"], &["A"]] {
        let collector = reader(namespaces(names)).await;
        let search =
            |reply: &Reply| ["cnry", "own_", "guess", "shop"].map(|text| occurrences(reply, text)).concat();
        let found = ask(&collector, unfiltered(), search).await;
        assert!(found.is_empty(), "{names:?}: {:?}", found[0]);
    }
}
