//! What is there and may not be seen, and what is not there: the same answer by the same statements.

use hearth_collector::query::Limits;

use crate::common::Collector;
use crate::questions::{Endpoint, FILTERED, Question, UNFILTERED};
use crate::recorder::Recorder;
use crate::tenants::{DAY, OTHERS, RANGES, own, stored};

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

    /// Traces in which each of `typed`, that is what the caller wrote, stands as its number.
    async fn ask(&self, question: &Question, typed: &[String]) -> Traces {
        self.recorder.taken();
        let reply = question.ask(&self.collector).await;
        let hidden = |text: &str| {
            let hide = |text: String, (at, typed): (usize, &String)| text.replace(typed, &format!("<{at}>"));
            typed.iter().enumerate().fold(text.to_owned(), hide)
        };
        let headers = reply.headers.iter().filter(|(name, _)| *name != "date");
        let headers =
            headers.map(|(name, value)| hidden(&format!("{name}: {}", value.to_str().unwrap()))).collect();
        let body = hidden(&String::from_utf8_lossy(&reply.unpacked()));
        let statements = self.recorder.taken().iter().map(|statement| hidden(statement)).collect();
        Traces { status: reply.status, headers, body, statements }
    }
}

/// Asks for an app and by a filter with names that are there for others, and with ones as long that are nowhere.
async fn check(subject: [&'static str; 2], filter: [&str; 2]) {
    let observed = Observed::start().await;
    for endpoint in FILTERED {
        for (name, from, until) in RANGES {
            let ask = async |at: usize| {
                let (tag, filter, subject) = ("pod", filter[at].to_owned(), subject[at]);
                let typed = [subject.to_owned(), filter.clone()].into_iter();
                let typed: Vec<String> = typed.filter(|typed| !typed.is_empty()).collect();
                let typed: Vec<String> = typed.into_iter().flat_map(|typed| spelled(&typed)).collect();
                let question = Question { endpoint, tag, filter, subject, from, until };
                observed.ask(&question, &typed).await
            };
            let [forbidden, missing] = [ask(0).await, ask(1).await];
            assert!(!forbidden.statements.is_empty(), "{endpoint:?} {name}");
            assert_eq!(forbidden, missing, "{endpoint:?} {name}");
        }
    }
}

/// As it may come back: as it is, and its names alone, with whatever quotes are around them.
fn spelled(typed: &str) -> Vec<String> {
    let names = typed.split(|c: char| !c.is_ascii_alphanumeric());
    let mut spelled = vec![typed.to_owned()];
    spelled.extend(names.filter(|name| name.len() > 1 && *name != "pod" && *name != "ns").map(str::to_owned));
    spelled
}

#[tokio::test]
async fn an_app_of_others_is_as_if_it_were_not_there() {
    check(["ghost", "ghoul"], ["", ""]).await;
}

#[tokio::test]
async fn values_of_others_are_as_if_they_were_not_there() {
    for tag in ["container", "pod_node", "policy", "pod_ns", "pod_cluster"] {
        let value = |at: usize| match tag {
            "pod_ns" => ["bb", "zz"][at],
            "pod_cluster" => ["other", "nowhr"][at],
            _ => ["cnryb", "nowhr"][at],
        };
        let filter = |at| match tag {
            "pod_ns" | "pod_cluster" => format!("{tag} = '{}'", value(at)),
            _ => format!("{tag} = '{}_{tag}'", value(at)),
        };
        let (forbidden, missing) = (filter(0), filter(1));
        check(["shop", "shop"], [&forbidden, &missing]).await;
    }
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
                let mut typed: Vec<String> = vec![day.to_owned()];
                // Whole seconds, hours and steps of the range.
                typed.extend((from - 7200..=until + 7200).filter(|t| t % 10 < 3).map(|time| time.to_string()));
                typed.retain(|typed| typed.len() == 10);
                observed.ask(&question, &typed).await
            };
            assert_eq!(ask(0).await, ask(10).await, "{endpoint:?} {filter}");
        }
    }
}
