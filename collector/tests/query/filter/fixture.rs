//! Rows in which every tag has known values, among them those that a filter could trip over.
//!
//! The value of row `i` is 2^i: a sum names the rows it is of.

use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use crate::common;

/// 2024-03-01 00:00:00 UTC; all rows are of that day.
pub(super) const DAY: i64 = 1_709_251_200;
pub(super) const LAST: i64 = DAY + 86_399;
/// The app whose flame graph is asked for. Other rows are of other apps, or of none.
pub(super) const APP: &str = "flt";
const ROWS: usize = 48;

/// A row of the view `profile.in_process`, as the engine exports it.
pub(super) type Row = Map<String, Value>;

/// The fixture as the engine gives it back.
pub(super) struct Fixture {
    /// Rows of every app.
    pub(super) apps: Vec<Row>,
    /// Every row, as under Total; but `app_service` is the row's own.
    pub(super) total: Vec<Row>,
}

pub(super) fn value_of(row: &Row) -> i64 {
    row["profile_value"].as_i64().unwrap()
}

/// Whether the query surfaces, which ask for on-cpu samples of eBPF, see the row.
pub(super) fn is_asked(row: &Row) -> bool {
    row["profile_event_type"] == "on-cpu" && row["profile_language_type"] == "eBPF"
}

/// Inserted once, whichever test comes first.
pub(super) async fn fixture() -> &'static Fixture {
    static FIXTURE: OnceCell<Fixture> = OnceCell::const_new();
    FIXTURE.get_or_init(stored).await
}

async fn stored() -> Fixture {
    let rows: Vec<Vec<(&str, String)>> = (0..ROWS).map(row).collect();
    let columns: Vec<&str> = rows[0].iter().map(|(name, _)| *name).collect();
    let tuples: Vec<String> = rows
        .iter()
        .map(|row| {
            let literals: Vec<&str> = row.iter().map(|(_, literal)| literal.as_str()).collect();
            format!("({})", literals.join(", "))
        })
        .collect();
    // Two parts in each hour, so that what is pruned by part is pruned here too.
    for half in tuples.chunks(ROWS / 2) {
        let insert = format!(
            "INSERT INTO profile.in_process_local ({}) VALUES {}",
            columns.join(", "),
            half.join(", ")
        );
        common::client().query_raw(&insert).execute().await.unwrap();
    }
    let export = async |condition: &str| -> Vec<Row> {
        let sql = format!(
            "SELECT * FROM profile.in_process WHERE time >= toDateTime({DAY}, 'UTC') \
             AND time <= toDateTime({LAST}, 'UTC') AND {condition} ORDER BY profile_value \
             FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0"
        );
        let text = common::sql(&sql).await;
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    };
    let apps = export("app_service != 'Total'").await;
    let mut total = export("app_service = 'Total'").await;
    for row in &mut total {
        let own = apps.iter().find(|app| value_of(app) == value_of(row));
        let own = own.map_or("".into(), |app| app["app_service"].clone());
        row.insert("app_service".into(), own);
    }
    assert_eq!((apps.len(), total.len()), (ROWS / 4 * 3, ROWS));
    Fixture { apps, total }
}

/// A text for row `i`: the same column has different ones, equal ones and none.
fn text(column: &str, i: usize) -> String {
    match i % 10 {
        0 => String::new(),
        1 => format!("{column}-{i}"),
        2 => format!("{}_{i}", column.to_uppercase()),
        3 => format!("{column}.{i}%x"),
        4 => format!("it's \"{column}\" `{i}`"),
        5 => format!("a\\b*{column}{i}\\"),
        6 => format!("größe-{i}"),
        7 => format!("{column}-{i}\nline two"),
        8 => format!("{column}-1"),
        _ => format!("? ?? {{x:String}} $1 {column} {i}"),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn row(i: usize) -> Vec<(&'static str, String)> {
    let time = DAY + 1200 * i64::try_from(i).unwrap();
    let one_of = |values: &[&str]| quoted(values[i % values.len()]);
    let labels = [
        "map()".to_owned(),
        format!("map('app', 'web-{i}', 'tier', 'front')"),
        "map('app', '', 'app.kubernetes.io/name', 'web')".to_owned(),
        format!("map('app', 'Web-{i}', 'it''s a `key`', 'x{i}')"),
    ];
    let address = match i % 8 {
        0 => String::new(),
        1 => format!("10.0.0.{i}"),
        2 => "10.1.2.3".to_owned(),
        3 => format!("192.168.{i}.1"),
        4 => format!("2001:db8::{i:x}"),
        5 => "9.9.9.9".to_owned(),
        6 => "fe80::1:2".to_owned(),
        _ => "no address".to_owned(),
    };
    let mut row = vec![
        ("time", format!("toDateTime({time}, 'UTC')")),
        ("batch", format!("{}", 1_000_003 * i + 17)),
        ("app_service", one_of(&[APP, APP, "it's an app ? \\", ""])),
        ("process_id", [i * 37 + 1, 4_294_967_295 - i][i % 2].to_string()),
        ("process_start_time", format!("toDateTime64('2024-02-29 00:00:00.{i:03}', 3, 'UTC')")),
        ("main_thread", (i / 2 % 2).to_string()),
        (
            "stack_id",
            if i.is_multiple_of(5) {
                "unhex('')".into()
            } else {
                format!("unhex(repeat('{:02x}', 16))", i + 100)
            },
        ),
        ("stack_end", one_of(&["complete", "truncated", "no-unwind-info", "jit", "lost", "counted"])),
        ("cpu", ["0", "1", "7", "4095"][i % 4].to_owned()),
        ("sample_count", "1".to_owned()),
        ("profile_value", (1_i64 << i).to_string()),
        ("profile_value_unit", one_of(&["microseconds", "microseconds", "bytes"])),
        (
            "profile_event_type",
            one_of(&["on-cpu", "on-cpu", "on-cpu", "on-cpu", "on-cpu", "mem-alloc", "on-cpu"]),
        ),
        ("profile_language_type", if i % 11 == 10 { "'Java'".into() } else { "'eBPF'".into() }),
        (
            "profile_create_timestamp",
            format!("fromUnixTimestamp64Micro({}, 'UTC')", (time + 10) * 1_000_000 + i as i64),
        ),
        ("profile_in_timestamp", format!("fromUnixTimestamp64Micro({}, 'UTC')", (time + 11) * 1_000_000)),
        ("pod_ip", quoted(&address)),
        ("host_ip", quoted(if i.is_multiple_of(3) { "" } else { &address })),
        ("pod_group_type", ["0", "130", "131", "132", "133", "134", "135", "99"][i % 8].to_owned()),
        ("k8s_label", labels[i % 4].clone()),
        ("k8s_annotation", labels[i / 4 % 4].clone()),
    ];
    for (at, column) in [
        "app_instance",
        "policy",
        "process_name",
        "thread_name",
        "pod_cluster",
        "pod_ns",
        "pod_node",
        "pod_group",
        "pod",
        "container",
        "host",
        "agent",
        "trace_id",
        "span_name",
        "profile_id",
        "region",
        "az",
        "host_hostname",
        "pod_service",
    ]
    .into_iter()
    .enumerate()
    {
        // Not the same rows in each column.
        row.push((column, quoted(&text(column, i + 3 * at))));
    }
    row
}
