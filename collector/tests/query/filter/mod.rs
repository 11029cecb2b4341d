//! `tag_filter`, every documented tag by every operator and many filters by chance: what our SQL
//! finds on the engine must be what a plain evaluation finds in exported rows.

mod fixture;
mod generate;
mod oracle;
mod patterns;

use hearth_collector::query::Limits;
use hearth_collector::query::filter::{self, tags::NOT_COLLECTED};
use hearth_collector::query::statement::Value;
use serde_json::json;

use crate::common::{self, Collector};
use fixture::{APP, DAY, Fixture, LAST, Row, fixture, is_asked, value_of};
use generate::Generator;
use oracle::{Filter, Operator};

/// The documented tags that are collected, and Hearth's own.
const TAGS: [&str; 43] = [
    "_id",
    "time",
    "region",
    "az",
    "host",
    "host_ip",
    "host_hostname",
    "pod_cluster",
    "pod_ns",
    "pod_node",
    "pod_node_ip",
    "pod_node_hostname",
    "pod_service",
    "service",
    "pod_group_type",
    "pod_group",
    "pod",
    "gprocess",
    "k8s.label",
    "k8s.annotation",
    "ip",
    "is_ipv4",
    "app_service",
    "app_instance",
    "process_id",
    "trace_id",
    "span_name",
    "agent",
    "vtap",
    "profile_value_unit",
    "profile_event_type",
    "profile_create_timestamp",
    "profile_in_timestamp",
    "profile_language_type",
    "profile_id",
    "policy",
    "process_name",
    "thread_name",
    "main_thread",
    "cpu",
    "container",
    "stack_id",
    "stack_end",
];

/// Filters by chance; `HEARTH_FILTERS` asks for more, `HEARTH_FILTERS_SEED` for others.
const FILTERS: u64 = 2_000;
const SEED: u64 = 20_240_301;
/// So many in one statement.
const BATCH: usize = 200;
/// So many of them through the API; `HEARTH_FILTERS_API` asks for more.
const THROUGH_THE_API: u64 = 300;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    OfApps,
    OfTotal,
}

struct Case {
    written: String,
    filter: Filter,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{variable}: {e}")))
}

fn rows(fixture: &'static Fixture, which: Rows) -> &'static [Row] {
    match which {
        Rows::OfApps => &fixture.apps,
        Rows::OfTotal => &fixture.total,
    }
}

fn expected(filter: &Filter, rows: &[Row], counts: impl Fn(&Row) -> bool) -> i64 {
    rows.iter().filter(|row| counts(row) && filter.holds(row)).map(value_of).sum()
}

/// One statement for all cases: the sum of the rows of each.
async fn check_sums(cases: &[Case], which: Rows, seed: u64) {
    let mut values = Vec::new();
    let sums: Vec<String> = cases
        .iter()
        .map(|case| {
            let expr = filter::parse(&case.written);
            let expr = expr.unwrap_or_else(|e| panic!("{e}: {}", case.written)).expect("not blank");
            let condition = match which {
                Rows::OfApps => expr.sql(&mut values),
                Rows::OfTotal => expr.sql_of_total(&mut values),
            };
            format!("sumIf(profile_value, {condition})")
        })
        .collect();
    let apps = if which == Rows::OfApps { " AND app_service NOT IN ('', 'Total')" } else { "" };
    let sql = format!(
        "SELECT [{}] FROM profile.in_process_local \
         WHERE time >= toDateTime({DAY}, 'UTC') AND time <= toDateTime({LAST}, 'UTC'){apps}",
        sums.join(",\n")
    );
    let client = common::single_threaded().with_setting("max_query_size", "10000000");
    let query = values.iter().fold(client.query(&sql), |query, value| match value {
        Value::Text(text) => query.bind(text.as_str()),
        Value::Int(number) => query.bind(number),
    });
    let found: Vec<i64> = query.fetch_one().await.unwrap_or_else(|e| panic!("{e}, seed {seed}: {sql}"));
    let rows = rows(fixture().await, which);
    for (case, found) in cases.iter().zip(found) {
        let expected = expected(&case.filter, rows, |_| true);
        assert_eq!(
            format!("{found:048b}"),
            format!("{expected:048b}"),
            "rows from the last to the first that are found and expected, seed {seed}: {}\n{:?}",
            case.written,
            case.filter
        );
    }
}

/// The root's total is the sum of the rows.
async fn check_through_the_api(collector: &Collector, case: &Case, which: Rows, seed: u64) {
    let app = if which == Rows::OfApps { APP } else { "Total" };
    let of_app = |row: &Row| is_asked(row) && (which == Rows::OfTotal || row["app_service"] == APP);
    let expected = expected(&case.filter, rows(fixture().await, which), of_app);
    let day = [DAY, LAST].map(|t| u32::try_from(t).unwrap());
    let reply = collector.ask(app, day[0], day[1], &[("tag_filter", json!(case.written))]).await;
    assert_eq!(reply.status, 200, "seed {seed}: {}: {}", case.written, reply.text);
    let found = reply.json()["result"][0]["total_value"].as_i64().unwrap_or(0);
    assert_eq!(found, expected, "{app}, seed {seed}: {}: {}", case.written, reply.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operator_on_every_tag_finds_exactly_its_rows() {
    let fixture = fixture().await;
    let mut generator = Generator::new(SEED, &fixture.total, &TAGS);
    let mut cases = Vec::new();
    for tag in TAGS {
        for (operator, _) in Operator::ALL {
            let condition = generator.condition(tag, operator);
            let written = generator.written_condition(&condition);
            cases.push(Case { written, filter: Filter::Condition(condition) });
        }
    }
    for batch in cases.chunks(BATCH) {
        check_sums(batch, Rows::OfApps, SEED).await;
        check_sums(batch, Rows::OfTotal, SEED).await;
    }
    let collector = Collector::start_with(common::single_threaded(), Limits::default()).await;
    for (at, case) in cases.iter().enumerate().step_by(7) {
        let which = if at % 2 == 0 { Rows::OfApps } else { Rows::OfTotal };
        check_through_the_api(&collector, case, which, SEED).await;
    }
}

#[tokio::test]
async fn what_is_not_collected_is_refused_by_every_operator() {
    let collector = Collector::start_with(common::single_threaded(), Limits::default()).await;
    for tag in NOT_COLLECTED {
        for (operator, text) in Operator::ALL {
            let value = match operator {
                Operator::In | Operator::NotIn => "('a', 1)",
                Operator::IsNull | Operator::IsNotNull => "",
                _ => "'a'",
            };
            let filter = format!("{} {text} {value}", tag.name);
            let error = filter::parse(&filter).expect_err(&filter).to_string();
            let name = tag.name;
            assert_eq!(error, format!("at position 1: Hearth does not collect {name}: {}", tag.why));
        }
        let filter = [("tag_filter", json!(format!("{} = 'a'", tag.name)))];
        let reply = collector.ask(APP, 1, 2, &filter).await;
        let description = format!(
            "tag_filter is not understood at position 1: Hearth does not collect {}: {}",
            tag.name, tag.why
        );
        assert_eq!((reply.status, reply.json()["DESCRIPTION"].clone()), (400, json!(description)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_by_chance_find_exactly_their_rows() {
    let fixture = fixture().await;
    let seed = number("HEARTH_FILTERS_SEED", SEED);
    println!("seed {seed}");
    let count = usize::try_from(number("HEARTH_FILTERS", FILTERS)).unwrap();
    let mut generator = Generator::new(seed, &fixture.total, &TAGS);
    let cases: Vec<Case> = (0..count)
        .map(|_| {
            let filter = generator.filter(3);
            Case { written: generator.written(&filter), filter }
        })
        .collect();
    for (at, batch) in cases.chunks(BATCH).enumerate() {
        let which = if at % 2 == 0 { Rows::OfApps } else { Rows::OfTotal };
        check_sums(batch, which, seed).await;
    }
    let collector = Collector::start_with(common::single_threaded(), Limits::default()).await;
    let asked = usize::try_from(number("HEARTH_FILTERS_API", THROUGH_THE_API)).unwrap();
    for (at, case) in cases.iter().take(asked).enumerate() {
        let which = if at % 2 == 0 { Rows::OfApps } else { Rows::OfTotal };
        check_through_the_api(&collector, case, which, seed).await;
    }
}

/// SQL and API agree on names: each tag is a column of the documented table.
#[tokio::test]
async fn every_tag_is_a_column_of_the_view() {
    let columns =
        common::sql("SELECT name FROM system.columns WHERE database = 'profile' AND table = 'in_process'")
            .await;
    let stored = common::sql(
        "SELECT name FROM system.columns WHERE database = 'profile' AND table = 'in_process_local'",
    )
    .await;
    for tag in filter::TAGS {
        assert!(columns.lines().any(|column| column == tag.name), "{} is not in the view", tag.name);
        assert!(stored.lines().any(|column| column == tag.column), "{}: no column {}", tag.name, tag.column);
        assert!(TAGS.contains(&tag.name), "{} is not tested", tag.name);
    }
    for tag in NOT_COLLECTED {
        assert!(!columns.lines().any(|column| column == tag.name), "{} is in the view", tag.name);
    }
}
