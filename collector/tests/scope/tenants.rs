//! Rows of several tenants at the same times: raw ones, minutes alone, and hours alone.
//!
//! The reader's own say `own…`. Those of others say `cnry…` in every column that is text, and are worth 10^15
//! microseconds each, so that they show in numbers too. What a reader could guess stands in columns of both.

use std::time::Duration;

use hearth_collector::query::Scope;
use hearth_collector::rollup::{Builder, Config, RollupMetrics};
use hearth_collector::schema::Retention;
use tokio::sync::OnceCell;

use crate::common::{client, sql};

const HOUR: u32 = 3600;
pub(crate) const DAY: u32 = 86_400;
/// 2024-02-19 00:00:00 UTC. Of this day only hours are left, of the next only minutes and hours, of the third raw rows.
pub(crate) const FIRST_DAY: u32 = 19_772 * DAY;
/// When the tenants have samples.
const TIMES: [u32; 3] =
    [FIRST_DAY + 5 * HOUR, FIRST_DAY + DAY + 10 * HOUR + 1200, FIRST_DAY + 2 * DAY + 14 * HOUR + 600];
/// Here only others have samples: hours alone.
pub(crate) const OTHERS: u32 = FIRST_DAY + 12 * HOUR;
/// Microseconds of a row of others.
pub(crate) const CANARY_VALUE: u64 = 1_000_000_000_000_000;
/// Microseconds of all rows of the reader at one time: of the app `shop`, and in Total.
pub(crate) const OWN_VALUES: [i64; 2] = [4 * 10_101, 6 * 10_101];
/// A namespace that the reader may not see, in the reader's cluster.
pub(crate) const OTHER_NAMESPACE: &str = "theirs-9";
/// A cluster with a namespace of the same name as the reader's.
pub(crate) const OTHER_CLUSTER: &str = "cluster-9";
/// Addresses of others.
pub(crate) const CANARY_ADDRESSES: [&str; 2] = ["203.0.113.77", "203.0.113.78"];
/// A stack of others, as it may be guessed.
pub(crate) const GUESSED_STACK: &str = "guess-stack-0001";

/// Ranges, each answered from another table, and the last from all of them.
pub(crate) const RANGES: [(&str, u32, u32); 4] = [
    ("raw", TIMES[2] - 600, TIMES[2] + 2999),
    ("minutes", TIMES[1] - 600, TIMES[1] + 599),
    ("hours", FIRST_DAY, FIRST_DAY + DAY - 1),
    ("all", FIRST_DAY + HOUR, FIRST_DAY + 2 * DAY + 20 * HOUR),
];

/// What the reader may see.
pub(crate) fn own() -> Scope {
    namespaces(&["a"])
}

pub(crate) fn namespaces(names: &[&str]) -> Scope {
    let namespaces = names.iter().map(|name| (*name).to_owned()).collect();
    Scope::Namespaces { cluster: "own".into(), namespaces, left_out: false }
}

/// Whose rows: the beginning of their texts, their cluster and their namespace.
struct Tenant {
    mark: &'static str,
    cluster: &'static str,
    namespace: &'static str,
}

const READER: Tenant = Tenant { mark: "own", cluster: "own", namespace: "a" };
const OTHER_TENANTS: [Tenant; 4] = [
    Tenant { mark: "cnryb", cluster: "own", namespace: OTHER_NAMESPACE },
    // Processes outside of pods.
    Tenant { mark: "cnryh", cluster: "own", namespace: "" },
    Tenant { mark: "cnryo", cluster: OTHER_CLUSTER, namespace: "a" },
    Tenant { mark: "cnryo", cluster: "cnryo_cluster", namespace: "cnryo_ns" },
];

/// A column of raw rows that is text, and its type.
type Column = (String, String);

/// Stores everything once.
pub(crate) async fn stored() {
    static STORED: OnceCell<()> = OnceCell::const_new();
    STORED.get_or_init(store).await;
}

async fn execute(statement: &str) {
    client().query_raw(statement).execute().await.unwrap();
}

async fn store() {
    let columns = text_columns().await;
    let mut rows = Vec::new();
    for time in TIMES {
        for app in ["shop", ""] {
            rows.push(row(&columns, &READER, app, |_| false, time));
            // What was lost on a node with rows of the reader is no secret.
            let guessable = |name: &str| !["pod_node", "stack_id"].contains(&name);
            rows.push(row(&columns, &READER, app, guessable, time));
        }
        rows.push(jit_row(&columns, &READER, "shop", 11, time));
        rows.push(jit_row(&columns, &READER, "shop", 12, time));
    }
    for time in TIMES.into_iter().chain([OTHERS]) {
        for tenant in &OTHER_TENANTS {
            for app in ["shop", "ghost", "", "Total", &format!("{}_app", tenant.mark)] {
                rows.push(row(&columns, tenant, app, |_| false, time));
            }
            for (guessed, _) in &columns {
                rows.push(row(&columns, tenant, "shop", |name| name == guessed, time));
                rows.push(row(&columns, tenant, "ghost", |name| name == guessed, time));
            }
            rows.push(jit_row(&columns, tenant, "shop", 13, time));
            rows.push(jit_row(&columns, tenant, "ghost", 13, time));
        }
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let insert = format!(
        "INSERT INTO profile.in_process_local ({}, time, process_id, process_start_time, main_thread, stack_end, \
         cpu, sample_count, profile_value, profile_create_timestamp, profile_in_timestamp, pod_group_type) VALUES {}",
        names.join(", "),
        rows.join(", ")
    );
    execute(&insert).await;
    store_stacks().await;
    store_losses().await;
    roll_up().await;
}

/// Every column that could hold a text of a tenant.
async fn text_columns() -> Vec<Column> {
    let text = sql(
        "SELECT name, type FROM system.columns WHERE database = 'profile' AND table = 'in_process_local' \
                    AND default_kind = '' AND type LIKE '%String%' FORMAT TSV",
    )
    .await;
    let columns: Vec<Column> = text
        .lines()
        .map(|line| line.split_once('\t').map(|(name, of)| (name.to_owned(), of.to_owned())).unwrap())
        .collect();
    assert!(columns.len() > 20, "{columns:?}");
    columns
}

/// A row all of whose texts begin with the tenant's mark, but for those that a reader could guess.
fn row(
    columns: &[Column],
    tenant: &Tenant,
    app: &str,
    is_guessed: impl Fn(&str) -> bool,
    time: u32,
) -> String {
    let mark = tenant.mark;
    let address =
        |own: &str, at: usize| if mark == "own" { own.to_owned() } else { CANARY_ADDRESSES[at].to_owned() };
    let texts = columns.iter().map(|(name, of)| {
        let text = match (name.as_str(), is_guessed(name)) {
            ("app_service", _) => app.to_owned(),
            ("profile_event_type", _) => "on-cpu".to_owned(),
            ("profile_language_type", _) => "eBPF".to_owned(),
            ("pod_cluster", _) => tenant.cluster.to_owned(),
            ("pod_ns", _) => tenant.namespace.to_owned(),
            ("stack_id", _) if app.is_empty() => return "toFixedString('', 16)".to_owned(),
            ("stack_id", true) => GUESSED_STACK.to_owned(),
            ("stack_id", false) => stack(mark),
            ("pod_ip", false) => address("10.0.0.1", 0),
            ("host_ip", false) => address("10.0.0.2", 1),
            ("pod_ip" | "host_ip", true) => "198.51.100.7".to_owned(),
            (_, true) if of.starts_with("Map") => return "map('guess', 'guess')".to_owned(),
            (name, false) if of.starts_with("Map") => {
                return format!("map('{mark}_{name}_key', '{mark}_{name}', 'guess', '{mark}_{name}_guess')");
            }
            (_, true) => "guess".to_owned(),
            (name, false) => format!("{mark}_{name}"),
        };
        format!("'{text}'")
    });
    let texts: Vec<String> = texts.collect();
    numbered(&texts, tenant, time)
}

/// A row of a stack that looks different in each process.
fn jit_row(columns: &[Column], tenant: &Tenant, app: &str, process: u32, time: u32) -> String {
    let row =
        row(columns, tenant, app, |_| false, time).replace(&stack(tenant.mark), &jit_stack(tenant.mark));
    row.replace(", 4242, ", &format!(", {process}, "))
}

fn numbered(texts: &[String], tenant: &Tenant, time: u32) -> String {
    let value = if tenant.mark == "own" { 10_101 } else { CANARY_VALUE };
    format!(
        "({}, toDateTime({time}, 'UTC'), 4242, toDateTime64({time}, 3, 'UTC'), 0, 'complete', 7, 1, {value}, \
         toDateTime64({time}, 6, 'UTC'), toDateTime64({time}, 6, 'UTC'), 130)",
        texts.join(", ")
    )
}

/// 16 bytes.
fn stack(mark: &str) -> String {
    format!("{mark:->5}-stack-0001")
}

fn jit_stack(mark: &str) -> String {
    format!("{mark:->5}-stack-jit1")
}

async fn store_stacks() {
    let mut stacks = Vec::new();
    let mut push = |app: &str, id: &str, frames: &str| {
        stacks.push(format!("('{app}', '{id}', '{frames}', toDateTime({}, 'UTC'))", TIMES[2]));
    };
    for mark in ["own", "cnryb", "cnryh", "cnryo"] {
        for app in ["shop", "ghost", &format!("{mark}_app")] {
            push(app, &stack(mark), &format!("main;{mark}_frame"));
            push(app, &jit_stack(mark), &format!("{mark}_main;[/tmp/perf-PID.map]"));
            push(app, GUESSED_STACK, "main;cnryb_frame");
        }
    }
    execute(&format!(
        "INSERT INTO profile.stacks (app_service, stack_id, frames, last_seen) VALUES {}",
        stacks.join(", ")
    ))
    .await;
}

/// On the reader's node, on another of the cluster, and on one of the same name elsewhere.
async fn store_losses() {
    let mut losses = Vec::new();
    for time in TIMES.into_iter().chain([OTHERS]) {
        for (cluster, node, reason, samples) in [
            ("own", "own_pod_node", "ring-full", 7),
            ("own", "cnryb_pod_node", "cnryb_reason", CANARY_VALUE),
            ("own", "guess", "cnryb_reason", CANARY_VALUE),
            (OTHER_CLUSTER, "own_pod_node", "cnryo_reason", CANARY_VALUE),
            ("cnryo_cluster", "cnryo_node", "cnryo_reason", CANARY_VALUE),
        ] {
            losses.push(format!(
                "(toDateTime({time}, 'UTC'), 1, '{cluster}', '{node}', '{reason}', {samples})"
            ));
        }
    }
    execute(&format!(
        "INSERT INTO profile.losses (time, batch, pod_cluster, pod_node, reason, samples) VALUES {}",
        losses.join(", ")
    ))
    .await;
}

/// Builds all rollups, then takes away what they were built from, as retention does.
async fn roll_up() {
    let days = |days: u64| Duration::from_secs(days * u64::from(DAY));
    let retention = Retention { raw: days(5), minute: days(14), hour: days(90) };
    let config = Config {
        check: Duration::ZERO,
        after: Duration::from_secs(300),
        abandoned_after: Duration::from_secs(3600),
        retention,
    };
    let mut builder = Builder::new(client(), config, RollupMetrics::default());
    let built = builder.look(FIRST_DAY + 2 * DAY + 20 * HOUR).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(built.len(), TIMES.len() + 1 + 2, "{built:?}");
    for time in [TIMES[0], OTHERS, TIMES[1]] {
        let hour = time - time % HOUR;
        execute(&format!("ALTER TABLE profile.in_process_local DROP PARTITION ID '{hour}'")).await;
        if time < FIRST_DAY + DAY {
            let partition = format!("(toDateTime({hour}, 'UTC'), 1, 1)");
            execute(&format!("ALTER TABLE profile.in_process_1m DROP PARTITION {partition}")).await;
        }
    }
    for (table, hours) in [("in_process_local", 1), ("in_process_1m", 2), ("in_process_1h", 3)] {
        let left = sql(&format!("SELECT uniqExact(toStartOfHour(time)) FROM profile.{table}")).await;
        assert_eq!(left.trim(), hours.to_string(), "{table}");
    }
}
