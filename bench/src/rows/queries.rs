//! How long questions take, over HTTP: of the hour, beside DeepFlow's way, and of thirty days of rollups.

use std::path::Path;

use super::peer;
use crate::Bench;
use crate::generate::{Hour, service_name};
use crate::store::{Question, Store};
use crate::table::{Table, median, range};

/// Days of rollups by the hour, every hour as the generated one.
const DAYS: i64 = 30;
/// They end so many days ago, where raw rows are no longer kept.
const DAYS_AGO: i64 = 4;
const DAY_SECONDS: i64 = 86_400;

/// A question, what it is to reach, and the condition of the same rows in the peer's table.
struct Asked {
    what: &'static str,
    reach: &'static str,
    question: Question,
    peer: Option<String>,
}

/// What its rounds showed.
#[derive(Default)]
struct Times {
    /// Milliseconds, the first after a start of the store.
    first: Vec<f64>,
    /// Milliseconds, three in a row after it.
    warm: Vec<f64>,
    /// Of an answer.
    bytes: usize,
    peer: Vec<f64>,
    peer_found: String,
}

/// Asks the store of the generated hour in `dir`, to which [`peer::fill`] has added.
pub(super) fn measure(
    bench: &Bench,
    libchdb: &Path,
    dir: &Path,
    hour: &Hour,
    table: &mut Table,
) -> anyhow::Result<()> {
    let store = Store::start(bench, libchdb, dir)?;
    let rollup = roll_up(bench, &store, hour)?;
    store.stop()?;
    let asked = asked(hour, &rollup);
    let mut times: Vec<Times> = asked.iter().map(|_| Times::default()).collect();
    for _ in 0..bench.rounds {
        let store = Store::start(bench, libchdb, dir)?;
        for (asked, times) in asked.iter().zip(&mut times) {
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
            times.first.push(ms(store.ask(bench, &asked.question)?.0));
            for _ in 0..3 {
                let (time, bytes) = store.ask(bench, &asked.question)?;
                times.warm.push(ms(time));
                times.bytes = bytes;
            }
            if let Some(condition) = &asked.peer {
                let found = peer::ask(bench, &store, condition)?;
                times.peer.push(ms(found.time));
                times.peer_found = format!("{} rows to the client, {} nodes", found.rows, found.nodes);
            }
        }
        store.stop()?;
    }
    for (asked, times) in asked.iter().zip(&times) {
        report(asked, times, bench.rounds, table);
    }
    Ok(())
}

fn asked(hour: &Hour, rollup: &RolledUp) -> Vec<Asked> {
    let service = service_name(0);
    let flamegraph = |app: &str, from: i64, until: i64| {
        Question::Flamegraph(format!("app_service={app}&from={from}&until={until}&format=json"))
    };
    let (from, until) = (hour.start, hour.start + 3599);
    let tracing = format!(
        r#"{{"app_service":"{service}","profile_language_type":"eBPF","profile_event_type":"on-cpu","time_start":{from},"time_end":{until}}}"#,
    );
    let time = format!("time >= toDateTime({from}) AND time <= toDateTime({until})");
    let one = format!("app_service = '{service}' AND profile_language_type = 'eBPF' AND {time}");
    vec![
        Asked {
            what: "query, one service of 2 M rows in the hour",
            reach: "< 50 ms",
            question: flamegraph(&service, from, until),
            peer: Some(one.clone()),
        },
        Asked {
            what: "the same through `ProfileTracing`",
            reach: "–",
            question: Question::ProfileTracing(tracing),
            peer: Some(one),
        },
        Asked {
            what: "query, all of 2 M rows in the hour (`Total`)",
            reach: "< 150 ms",
            question: flamegraph("Total", from, until),
            peer: Some(time),
        },
        Asked {
            what: "query, one service, 30 days by rollup",
            reach: "< 500 ms",
            question: flamegraph(&service, rollup.from, rollup.until),
            peer: None,
        },
        Asked {
            what: "query, `Total`, 30 days by rollup",
            reach: "–",
            question: flamegraph("Total", rollup.from, rollup.until),
            peer: None,
        },
    ]
}

fn report(asked: &Asked, times: &Times, rounds: usize, table: &mut Table) {
    let (least, most) = range(&times.warm);
    let warm = median(&times.warm);
    let hearth = format!(
        "{warm:.0} ms ({least:.0}–{most:.0}), {:.0} ms the first after a start; answer of {} KiB",
        median(&times.first),
        times.bytes >> 10
    );
    let (peer, ratio) = match &asked.peer {
        None => ("–".to_owned(), "–".to_owned()),
        Some(_) => {
            let peer = median(&times.peer);
            let text = format!("DeepFlow's layout and way {peer:.0} ms ({})", times.peer_found);
            (text, format!("{:.3}", warm / peer))
        }
    };
    table.row(asked.what, asked.reach, &hearth, &peer, &ratio, rounds);
}

/// Where the rolled-up days are.
struct RolledUp {
    from: i64,
    until: i64,
}

/// Fills thirty days of the hour table with what the generated hour becomes when it is rolled up.
fn roll_up(bench: &Bench, store: &Store, hour: &Hour) -> anyhow::Result<RolledUp> {
    const KEYS: &str = "app_service, profile_event_type, profile_language_type, profile_value_unit, pod_cluster, \
        pod_ns, pod_node, pod_group, pod_group_type, container, process_name, thread_name, main_thread, \
        stack_id, stack_end, period";
    let today = hour.start - hour.start % DAY_SECONDS;
    let until = today - DAYS_AGO * DAY_SECONDS;
    let from = until - DAYS * DAY_SECONDS;
    let hourly = format!(
        "SELECT {KEYS}, sum(sample_count) AS samples, sum(profile_value) AS value FROM \
         (SELECT *, toUInt32(intDiv(profile_value, sample_count)) AS period FROM profile.in_process_local) \
         GROUP BY {KEYS}"
    );
    store.sql(bench, &format!("CREATE TABLE peer.hourly ENGINE = MergeTree ORDER BY tuple() AS {hourly}"))?;
    for day in 0..DAYS {
        let start = from + day * DAY_SECONDS;
        store.sql(
            bench,
            &format!(
                "INSERT INTO profile.in_process_1h (time, built_from, build, {KEYS}, sample_count, profile_value) \
                 SELECT toDateTime({start} + number * 3600, 'UTC'), 1, 1, {KEYS}, samples, value \
                 FROM peer.hourly CROSS JOIN numbers(24) AS hours"
            ),
        )?;
    }
    store.sql(bench, "OPTIMIZE TABLE profile.in_process_1h FINAL")?;
    let size = store.size(bench, "profile", "in_process_1h")?;
    eprintln!(
        "{} rows of {:.2} B, the projection included, in {} days of rollups",
        size.rows,
        size.per_row(),
        DAYS
    );
    Ok(RolledUp { from, until: until - 1 })
}
