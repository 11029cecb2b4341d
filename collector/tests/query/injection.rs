//! Strings that would be SQL if they were ever pasted into it, through every string of every request.
//! Nothing of another app's row may come back, and the tables stay as they are.

use hearth_collector::query::Limits;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::common::{self, Collector, insert};

/// In the row that no question asks for: its thread, its frames and its namespace.
const CANARY: &str = "canary-7319";
const FROM: u32 = 1_709_370_000;
const UNTIL: u32 = FROM + 60;

const HOSTILE: &[&str] = &[
    // Right SQL, if it were pasted.
    "asker' OR app_service = 'someone-else",
    "asker' OR '1'='1",
    "'",
    "\\",
    "\\'",
    "\"",
    "`",
    "asker' OR 1=1 --",
    "asker\\' OR 1=1 --",
    "') OR 1=1 --",
    "`) OR 1=1 --",
    "' OR '1'='1",
    "asker'/*",
    "-- ",
    "?",
    "?fields",
    "? OR 1=1",
    "{x:String}",
    "{x:Identifier}",
    "%' OR 1=1 --",
    "%",
    ".*",
    "[[:^alpha:]]|.",
    "a') UNION ALL SELECT thread_name, 'x', 0, 0, 0, 1 FROM profile.in_process_local --",
    "'; DROP TABLE profile.in_process_local; --",
    "; DROP TABLE profile.in_process_local",
    "' SETTINGS max_execution_time = 0 --",
    "\u{2019} OR 1=1 --",
    "\u{ff07} OR 1=1 --",
    "\u{0}' OR 1=1 --",
    "a\nb' OR 1=1 --",
    "$$' OR 1=1 --$$",
    "\\u0027 OR 1=1 --",
    "%27 OR 1=1 --",
];

/// A parameter of a path; `usual` are the others that it needs.
struct Surface {
    path: &'static str,
    parameter: &'static str,
    usual: &'static [(&'static str, &'static str)],
}

const ASKER: (&str, &str) = ("app_service", "asker");
const RANGE: [(&str, &str); 2] = [("from", "1709370000"), ("until", "1709370060")];
const BASE: [(&str, &str); 2] = [("base_from", "1709370000"), ("base_until", "1709370060")];
const DIFF: &[(&str, &str)] = &[RANGE[0], RANGE[1], BASE[0], BASE[1]];
const DIFF_OF_ASKER: &[(&str, &str)] = &[ASKER, RANGE[0], RANGE[1], BASE[0], BASE[1]];

const SURFACES: &[Surface] = &[
    Surface { path: "/api/v1/flamegraph", parameter: "app_service", usual: &RANGE },
    Surface { path: "/api/v1/flamegraph", parameter: "event", usual: &[ASKER, RANGE[0], RANGE[1]] },
    Surface { path: "/api/v1/flamegraph", parameter: "filter", usual: &[ASKER, RANGE[0], RANGE[1]] },
    Surface { path: "/api/v1/flamegraph", parameter: "from", usual: &[ASKER] },
    Surface { path: "/api/v1/flamegraph", parameter: "until", usual: &[ASKER] },
    Surface { path: "/api/v1/flamegraph", parameter: "format", usual: &[ASKER, RANGE[0], RANGE[1]] },
    Surface { path: "/api/v1/timeline", parameter: "filter", usual: &[ASKER, RANGE[0], RANGE[1]] },
    Surface { path: "/api/v1/timeline", parameter: "step", usual: &[ASKER, RANGE[0], RANGE[1]] },
    Surface { path: "/api/v1/tags", parameter: "filter", usual: &[] },
    Surface { path: "/api/v1/tags/pod/values", parameter: "limit", usual: &RANGE },
    Surface { path: "/api/v1/tags/pod/values", parameter: "filter", usual: &RANGE },
    Surface { path: "/api/v1/timeline", parameter: "app_service", usual: &RANGE },
    Surface { path: "/api/v1/diff", parameter: "app_service", usual: DIFF },
    Surface { path: "/api/v1/diff", parameter: "base_app_service", usual: DIFF_OF_ASKER },
    Surface { path: "/api/v1/diff", parameter: "filter", usual: DIFF_OF_ASKER },
    Surface { path: "/api/v1/diff", parameter: "base_filter", usual: DIFF_OF_ASKER },
    Surface { path: "/api/v1/diff", parameter: "normalize", usual: DIFF_OF_ASKER },
    Surface { path: "/api/v1/diff", parameter: "format", usual: DIFF_OF_ASKER },
    Surface { path: "/api/v1/apps", parameter: "from", usual: &[] },
    Surface { path: "/api/v1/apps", parameter: "until", usual: &[] },
];

/// The strings of a body of `ProfileTracing`, and the numbers, in whose place a string may be sent.
const FIELDS: &[&str] = &[
    "app_service",
    "profile_language_type",
    "profile_event_type",
    "tag_filter",
    "time_start",
    "time_end",
    "group_by",
    "format",
    "debug",
    "max_kernel_stack_depth",
];

/// Where a filter has strings: Q is one in quotes, B one in backquotes, H one as it is.
const FILTERS: &[&str] = &[
    "pod = Q",
    "pod != Q AND pod_ns = Q",
    "pod IN ('a', Q)",
    "pod NOT IN (Q) OR pod = Q",
    "pod LIKE Q",
    "pod NOT LIKE Q",
    "pod REGEXP Q",
    "process_id NOT REGEXP Q",
    "time = Q",
    "ip = Q",
    "pod_group_type = Q",
    "app_service = Q",
    "_id LIKE Q",
    "`B` = 'x'",
    "`k8s.label.B` = Q",
    "`k8s.label.B` IS NULL",
    "`k8s.annotation.B` NOT IN (Q)",
    "k8s.label.H = 'x'",
    "pod = 'H'",
    "pod = \"H\"",
    "pod LIKE 'H'",
    "H",
    "pod IS NOT NULL H",
];

/// Stored once for all tests; what is there then.
async fn stored() -> String {
    static STORED: OnceCell<()> = OnceCell::const_new();
    let rows = format!(
        "{FROM} | asker        | 7 | asker | asker       | main  | complete | 1 | a            | main
         {FROM} | someone-else | 7 | other | {CANARY}    | other | complete | 1 | {CANARY}     | {CANARY}
         {FROM} | someone-else | 8 | other | {CANARY}    | main  | complete | 1 | {CANARY}     | {CANARY};x"
    );
    STORED.get_or_init(|| insert(&rows)).await;
    state().await
}

/// The tables, and the rows of these tests.
async fn state() -> String {
    let tables = "SELECT concat(database, '.', name) FROM system.tables WHERE database NOT IN ('system', \
                  'INFORMATION_SCHEMA', 'information_schema') ORDER BY 1";
    let rows = format!(
        "SELECT app_service, count(), sum(profile_value) FROM profile.in_process_local \
         WHERE time >= toDateTime({FROM}, 'UTC') AND time <= toDateTime({UNTIL}, 'UTC') GROUP BY 1 ORDER BY 1"
    );
    common::sql(tables).await + &common::sql(&rows).await
}

/// Understood or refused; never a failure of the store's, never another app's row.
fn check(what: &str, hostile: &str, reply: &common::Reply) {
    assert!([200, 400].contains(&reply.status), "{what}, {hostile:?}: {} {}", reply.status, reply.text);
    assert!(!reply.text.contains(CANARY), "{what}, {hostile:?}: {}", reply.text);
    assert!(!format!("{:?}", reply.headers).contains(CANARY), "{what}, {hostile:?}: {:?}", reply.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_string_of_a_request_becomes_sql() {
    let before = stored().await;
    assert!(before.contains("profile.in_process_local") && before.contains("someone-else\t2"), "{before}");
    let collector = Collector::start_with(common::single_threaded(), Limits::default()).await;
    for hostile in HOSTILE {
        for field in FIELDS {
            let reply = collector.ask("asker", FROM, UNTIL, &[(field, json!(hostile))]).await;
            check(field, hostile, &reply);
        }
        for Surface { path, parameter, usual } in SURFACES {
            let pairs = usual.iter().copied().chain([(*parameter, *hostile)]);
            let query: Vec<String> =
                pairs.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
            check(
                &format!("{path} {parameter}"),
                hostile,
                &collector.get(&format!("{path}?{}", query.join("&"))).await,
            );
        }
        let unknown = format!("/api/v1/flamegraph?app_service=asker&{}=1", encoded(hostile));
        check("an unknown parameter", hostile, &collector.get(&unknown).await);
        let path = format!("/{}", encoded(hostile));
        assert_eq!(collector.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(state().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_string_of_a_filter_becomes_sql() {
    let before = stored().await;
    let collector = Collector::start_with(common::single_threaded(), Limits::default()).await;
    let mut answered = 0;
    for hostile in HOSTILE {
        let in_quotes = format!("'{}'", hostile.replace('\\', "\\\\").replace('\'', "''"));
        let in_backquotes = hostile.replace('\\', "\\\\").replace('`', "``");
        for template in FILTERS {
            let filter: String = template
                .chars()
                .map(|c| match c {
                    'Q' => in_quotes.clone(),
                    'B' => in_backquotes.clone(),
                    'H' => (*hostile).to_owned(),
                    c => c.to_string(),
                })
                .collect();
            let reply = collector.ask("asker", FROM, UNTIL, &[("tag_filter", json!(filter))]).await;
            check(&filter, hostile, &reply);
            answered += usize::from(reply.status == 200);
            // Whatever it finds, it is the one row of the app.
            if let Value::Array(nodes) = &reply.json()["result"] {
                assert_eq!(nodes[0]["total_value"], 10_101, "{filter}");
            }
        }
    }
    assert!(answered > HOSTILE.len() * FILTERS.len() / 2, "only {answered} were understood");
    assert_eq!(state().await, before);
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
