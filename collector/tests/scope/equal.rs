//! What is there and may not be seen, and what is not there: the same answer by the same statements.

use hearth_collector::query::Limits;

use crate::common::{Collector, sql};
use crate::questions::{Endpoint, FILTERED, Question, UNFILTERED, unpacked};
use crate::recorder::Recorder;
use crate::tenants::{DAY, OTHER_CLUSTER, OTHER_NAMESPACE, OTHERS, RANGES, own, stored};

/// What a question was answered, and what the engine was asked for it.
#[derive(Debug, PartialEq)]
struct Traces {
    status: u16,
    headers: Vec<String>,
    body: String,
    statements: Vec<String>,
}

struct Observed {
    collector: Collector,
    recorder: Recorder,
}

impl Observed {
    async fn start() -> Self {
        stored().await;
        let recorder = Recorder::start().await;
        let collector = Collector::start_for(own(), recorder.client(), Limits::default()).await;
        Self { collector, recorder }
    }

    /// Traces without what the caller wrote: for each of `typed` stands its number, for times their distance from
    /// the start of the range.
    async fn ask(&self, question: &Question, typed: &[&str]) -> Traces {
        self.recorder.taken();
        let reply = question.ask(&self.collector).await;
        // Only as pprof an empty answer is no success.
        assert!([200, 404].contains(&reply.status), "{question:?}: {}", reply.text);
        let time = regex::Regex::new(r"\b1[0-9]{9}\b").unwrap();
        let hidden = |text: &str| {
            let hide = |text: String, (at, typed): (usize, &&str)| text.replace(typed, &format!("<{at}>"));
            let text = typed.iter().enumerate().fold(text.to_owned(), hide);
            let distance = |found: &regex::Captures<'_>| {
                let distance = found[0].parse::<i64>().unwrap() - i64::from(question.from);
                if distance.abs() < i64::from(DAY) {
                    format!("<from {distance:+}>")
                } else {
                    found[0].to_owned()
                }
            };
            time.replace_all(&text, distance).into_owned()
        };
        let headers = reply.headers.iter().filter(|(name, _)| *name != "date");
        let headers =
            headers.map(|(name, value)| hidden(&format!("{name}: {}", value.to_str().unwrap()))).collect();
        let body = hidden(&String::from_utf8_lossy(&unpacked(&reply)));
        let statements = self.recorder.taken().iter().map(|statement| hidden(statement)).collect();
        Traces { status: reply.status, headers, body, statements }
    }
}

/// That two questions have left the same traces.
fn assert_same(forbidden: Traces, missing: Traces, question: &str) {
    assert!(question.contains("tags") || !forbidden.statements.is_empty(), "{question}");
    assert_eq!((forbidden.status, &forbidden.headers), (missing.status, &missing.headers), "{question}");
    let texts = |traces: Traces| [traces.statements.join("\n;\n"), traces.body];
    for (forbidden, missing) in texts(forbidden).into_iter().zip(texts(missing)) {
        let same = forbidden.bytes().zip(missing.bytes()).take_while(|(one, other)| one == other).count();
        let rest =
            |text: &str| String::from_utf8_lossy(&text.as_bytes()[same.saturating_sub(200)..]).into_owned();
        assert!(forbidden == missing, "{question}\n{}\n\n{}", rest(&forbidden), rest(&missing));
    }
}

/// Asks for an app, by a filter with X in it, once with names that are there for others and once with ones as long
/// that are nowhere.
async fn check(subjects: [&'static str; 2], filter: &str, values: [&str; 2]) {
    let observed = Observed::start().await;
    for (endpoint, (name, from, until)) in FILTERED.into_iter().zip(RANGES.into_iter().cycle()) {
        let ask = async |at: usize| {
            let (tag, filter, subject) = ("pod", filter.replace('X', values[at]), subjects[at]);
            let question = Question { endpoint, tag, filter, subject, from, until };
            observed.ask(&question, &[subjects[at], values[at]]).await
        };
        assert_same(ask(0).await, ask(1).await, &format!("{endpoint:?} {name} {filter}"));
    }
}

#[tokio::test]
async fn an_app_of_others_is_as_if_it_were_not_there() {
    check(["ghost", "ghoul"], "app_service = 'X'", ["ghost", "ghoul"]).await;
}

#[tokio::test]
async fn values_of_others_are_as_if_they_were_not_there() {
    for tag in ["container", "pod_node", "policy"] {
        check(["shop", "shop"], &format!("{tag} = 'X'"), [&format!("cnryb_{tag}"), &format!("nowhr_{tag}")])
            .await;
    }
    check(["shop", "shop"], "pod_ns = 'X'", [OTHER_NAMESPACE, "theirs-8"]).await;
    check(["shop", "shop"], "pod_cluster = 'X'", [OTHER_CLUSTER, "cluster-8"]).await;
}

/// Rollups of others: neither which table is asked, nor what is said of it, tells that there are some.
#[tokio::test]
async fn times_of_others_are_as_if_nothing_were_stored() {
    let observed = Observed::start().await;
    let start = OTHERS - 1800;
    for endpoint in FILTERED.into_iter().chain(UNFILTERED) {
        // The page is of now.
        if endpoint == Endpoint::Page {
            continue;
        }
        for filter in ["", "process_id = 4242"] {
            let ask = async |days_before: u32| {
                let (from, until) = (start - days_before * DAY, start + 3601 - days_before * DAY);
                let (tag, filter, subject) = ("pod_node", filter.to_owned(), "Total");
                let question = Question { endpoint, tag, filter, subject, from, until };
                let day = if days_before == 0 { "2024-02-19" } else { "2024-02-09" };
                observed.ask(&question, &[day]).await
            };
            assert_same(ask(0).await, ask(10).await, &format!("{endpoint:?} {filter}").to_lowercase());
        }
    }
}

/// That the scope stands in PREWHERE must not keep ClickHouse from what it has summed up.
#[tokio::test]
async fn whole_days_are_answered_from_the_projection_for_whomever() {
    let observed = Observed::start().await;
    let (_, from, until) = RANGES[3];
    let (endpoint, subject) = (Endpoint::Flamegraph("folded"), "Total");
    let question = Question { endpoint, tag: "pod", filter: String::new(), subject, from, until };
    assert_eq!(question.ask(&observed.collector).await.status, 200);
    let statements = observed.recorder.taken();
    let of_days = statements.iter().find(|statement| statement.starts_with("SELECT process_name"));
    let of_days = of_days.expect("what Total is made of");
    assert!(of_days.contains("PREWHERE") && of_days.contains("toStartOfDay(time)"), "{of_days}");
    let rows = sql(&format!("{of_days} SETTINGS force_optimize_projection_name = 'by_day'")).await;
    assert_ne!(rows, "");
}
