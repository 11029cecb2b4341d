//! Every question that a reader can ask, by endpoint, tag and operator, and what is searched in the answers.

use std::io::Read as _;

use hearth_collector::query::filter::TAGS;
use hearth_collector::query::filter::tags::{Kind, NOT_COLLECTED};
use serde_json::{Value, json};

use crate::common::{Collector, Reply};
use crate::tenants::{CANARY_ADDRESSES, CANARY_VALUE, GUESSED_STACK, OTHER_CLUSTER, OTHER_NAMESPACE, RANGES};

/// Where something is asked, and in which format the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tracing(&'static str),
    Flamegraph(&'static str),
    Diff(&'static str),
    Timeline,
    Values,
    Apps,
    Tags,
    Page,
}

/// With a filter.
pub(crate) const FILTERED: [Endpoint; 14] = [
    Endpoint::Tracing("rows"),
    Endpoint::Tracing("columns"),
    Endpoint::Flamegraph("json"),
    Endpoint::Flamegraph("folded"),
    Endpoint::Flamegraph("svg"),
    Endpoint::Flamegraph("html"),
    Endpoint::Flamegraph("pprof"),
    Endpoint::Flamegraph("speedscope"),
    Endpoint::Flamegraph("nested-set"),
    Endpoint::Diff("json"),
    Endpoint::Diff("folded"),
    Endpoint::Diff("html"),
    Endpoint::Timeline,
    Endpoint::Values,
];
/// Without one.
pub(crate) const UNFILTERED: [Endpoint; 3] = [Endpoint::Apps, Endpoint::Tags, Endpoint::Page];

/// An app of the reader and of others, one of others alone, and everything.
pub(crate) const SUBJECTS: [&str; 3] = ["shop", "ghost", "Total"];

/// T is the tag, V a value that rows of others have, P what is a pattern for it.
pub(crate) const OPERATORS: [&str; 15] = [
    "T = V",
    "T != V",
    "T <> V",
    "T < V",
    "T <= V",
    "T > V",
    "T >= V",
    "T IN (V)",
    "T NOT IN (V)",
    "T LIKE '*'",
    "T NOT LIKE 'zz*'",
    "T REGEXP 'P'",
    "T NOT REGEXP 'zz'",
    "T IS NULL",
    "T IS NOT NULL",
];

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) endpoint: Endpoint,
    pub(crate) tag: &'static str,
    pub(crate) filter: String,
    pub(crate) subject: &'static str,
    pub(crate) from: u32,
    pub(crate) until: u32,
}

/// The tags of the documentation, and our own.
pub(crate) fn tags() -> Vec<&'static str> {
    TAGS.iter().map(|tag| tag.name).chain(NOT_COLLECTED.iter().map(|tag| tag.name)).collect()
}

/// A filter on `tag`.
pub(crate) fn filter(tag: &str, operator: &str) -> String {
    let known = TAGS.iter().find(|known| known.name == tag);
    let hex = || GUESSED_STACK.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = |text: &str| format!("'{text}'");
    let (value, pattern) = match (tag, known.map(|tag| tag.kind)) {
        ("pod_ns", _) => (text(OTHER_NAMESPACE), "theirs"),
        ("pod_cluster", _) => (text(OTHER_CLUSTER), "cluster"),
        ("app_service", _) => (text("ghost"), "ghost"),
        ("stack_id", _) => (text(&hex()), "[0-9a-f]"),
        ("stack_end", _) => (text("complete"), "comp"),
        ("profile_event_type", _) => (text("on-cpu"), "cpu"),
        ("profile_language_type", _) => (text("eBPF"), "BPF"),
        ("process_id", _) => ("4242".to_owned(), "42"),
        (_, Some(Kind::Number)) => ("7".to_owned(), "."),
        (_, Some(Kind::Enum(names))) => (names[0].0.to_string(), "."),
        (_, Some(Kind::Time { .. })) => (text("2024-02-20 12:00:00"), "2024"),
        (_, Some(Kind::Ip)) => (text("203.0.113.0/24"), "113"),
        _ => (text("guess"), "guess"),
    };
    // Of a map, what a key has: alone it can only be there or not.
    let by_key = known.is_some_and(|tag| tag.kind == Kind::Map) && !operator.contains("NULL");
    let tag = if by_key { format!("{tag}.guess") } else { tag.to_owned() };
    operator.replacen('T', &tag, 1).replace('V', &value).replace("'P'", &text(pattern))
}

impl Endpoint {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Tracing(format) => format!("ProfileTracing {format}"),
            Self::Flamegraph(format) => format!("flamegraph {format}"),
            Self::Diff(format) => format!("diff {format}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

impl Question {
    /// The one at these places of the lists; which subject and which range goes round.
    pub(crate) fn at(endpoint: usize, tag: usize, operator: usize) -> Self {
        let (_, from, until) = RANGES[(endpoint + 2 * tag + operator / 3) % RANGES.len()];
        let name = tags()[tag];
        Self {
            endpoint: FILTERED[endpoint],
            tag: name,
            filter: filter(name, OPERATORS[operator]),
            subject: SUBJECTS[(endpoint + tag + operator) % SUBJECTS.len()],
            from,
            until,
        }
    }

    pub(crate) async fn ask(&self, collector: &Collector) -> Reply {
        let Self { endpoint, tag, filter, subject, from, until } = self;
        let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
        let range = format!("from={from}&until={until}");
        let usual = format!("app_service={subject}&filter={}&{range}", encoded(filter));
        let path = match endpoint {
            Endpoint::Tracing(format) => {
                let more =
                    [("tag_filter", json!(filter)), ("format", json!(format)), ("quality", json!(true))];
                return collector.ask(subject, *from, *until, &more).await;
            }
            Endpoint::Flamegraph(format) => format!("/api/v1/flamegraph?{usual}&format={format}"),
            Endpoint::Diff(format) => format!("/api/v1/diff?{usual}&base_app_service=Total&format={format}"),
            Endpoint::Timeline => format!("/api/v1/timeline?{usual}"),
            Endpoint::Values => {
                format!("/api/v1/tags/{tag}/values?filter={}&{range}&limit=10000", encoded(filter))
            }
            Endpoint::Apps => format!("/api/v1/apps?{range}"),
            Endpoint::Tags => "/api/v1/tags".to_owned(),
            Endpoint::Page => "/".to_owned(),
        };
        collector.get(&path).await
    }
}

/// The bytes of the body; of a pprof file what is packed in it.
pub(crate) fn unpacked(reply: &Reply) -> Vec<u8> {
    if !reply.bytes.starts_with(&[0x1f, 0x8b]) {
        return reply.bytes.clone();
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(reply.bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// Whatever of an answer is of others: texts that begin as theirs do, and numbers too large for the reader's rows.
pub(crate) fn leaks(reply: &Reply) -> Vec<String> {
    let texts = CANARY_ADDRESSES.into_iter().chain(["cnry"]);
    texts.flat_map(|text| occurrences(reply, text)).chain(canary_values(reply)).collect()
}

/// `needle`, and as hexadecimal digits, if it is in the answer.
pub(crate) fn occurrences(reply: &Reply, needle: &str) -> Vec<String> {
    let mut bytes = unpacked(reply);
    for (name, value) in &reply.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    let found = |needle: &str| bytes.windows(needle.len()).any(|at| at == needle.as_bytes());
    let hex = |needle: &str| needle.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    [needle.to_owned(), hex(needle)].into_iter().filter(|needle| found(needle)).collect()
}

fn canary_values(reply: &Reply) -> Vec<String> {
    let mut leaks: Vec<String> = Vec::new();
    let quality = reply.header("hearth-quality").to_owned();
    for text in [&reply.text, &quality] {
        match serde_json::from_str(text) {
            Ok(json) => leaks.extend(large_numbers(&json)),
            // Folded stacks end with their value.
            Err(_) => leaks.extend(
                text.lines()
                    .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
                    .filter(|value: &u64| *value >= CANARY_VALUE)
                    .map(|value| value.to_string()),
            ),
        }
    }
    leaks
}

fn large_numbers(json: &Value) -> Vec<String> {
    match json {
        Value::Number(number) if number.as_f64().unwrap_or_default() >= CANARY_VALUE as f64 => {
            vec![number.to_string()]
        }
        Value::Array(items) => items.iter().flat_map(large_numbers).collect(),
        Value::Object(fields) => fields.values().flat_map(large_numbers).collect(),
        _ => Vec::new(),
    }
}
