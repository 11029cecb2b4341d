//! Three days of samples in February 2024, and builders that live then.

use std::time::Duration;

use clickhouse::Client;
use hearth_collector::rollup::{Builder, Config, Job, RollupMetrics};
use hearth_collector::schema::Retention;
use tokio::sync::{Mutex, MutexGuard};

use crate::common::{Collector, Reply, client};

pub(crate) const HOUR: u32 = 3600;
pub(crate) const DAY: u32 = 86_400;
/// 2024-02-19 00:00:00 UTC.
pub(crate) const FIRST_DAY: u32 = 19_772 * DAY;
/// In the evening of the third day: two days, and fifteen hours that have samples, are closed.
pub(crate) const NOW: u32 = FIRST_DAY + 2 * DAY + 20 * HOUR + 1800;

/// The shared store, empty, for one test.
pub(crate) struct Days {
    pub client: Client,
    pub collector: Collector,
    _alone: MutexGuard<'static, ()>,
}

impl Days {
    pub(crate) async fn empty() -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let client = client();
        for table in ["in_process_local", "in_process_1m", "in_process_1h", "stacks"] {
            client.query_raw(&format!("TRUNCATE TABLE profile.{table} SYNC")).execute().await.unwrap();
        }
        let collector = Collector::start().await;
        Self { client, collector, _alone: alone }
    }

    /// 6,000 rows of two apps and of processes without a policy, in five hours of each day and in the one that
    /// is not over.
    pub(crate) async fn full() -> Self {
        let days = Self::empty().await;
        days.execute(
            "INSERT INTO profile.stacks (app_service, stack_id, frames, last_seen)
             SELECT app, toFixedString(sipHash128(toUInt64(number)), 16),
                 concat('main;f', toString(number % 5), ';[l] g', toString(number)), toDateTime(1708300800, 'UTC')
             FROM numbers(20) ARRAY JOIN ['shop', 'cart'] AS app",
        )
        .await;
        let rows = format!(
            "INSERT INTO profile.in_process_local (time, app_service, process_id, process_name, thread_name,
                 main_thread, stack_id, stack_end, cpu, sample_count, profile_value, profile_value_unit,
                 profile_event_type, profile_language_type, pod_ns, pod, pod_node)
             SELECT toDateTime({FIRST_DAY} + if(any(14) = 0, {DAY} * 2 + {HOUR} * 20 + any(180) * 10,
                     {DAY} * any(3) + {HOUR} * [0, 1, 5, 6, 19][any(5) + 1] + any(360) * 10), 'UTC'),
                 ['shop', 'cart', ''][any(3) + 1] AS app, any(7), concat('p', toString(any(4))),
                 concat('t', toString(any(5))), any(2),
                 if(app = '', toFixedString('', 16), toFixedString(sipHash128(toUInt64(any(20))), 16)),
                 if(app = '', 'counted', ['complete', 'truncated', 'lost'][any(3) + 1]), any(2),
                 1 + any(4) AS samples, samples * if(app = 'shop', 10101, 2004), 'microseconds', 'on-cpu', 'eBPF',
                 ['a', 'b'][any(2) + 1], concat('pod', toString(any(6))), concat('n', toString(any(2)))
             FROM numbers(6000)"
        );
        // Each `any(n)` is a number below n that has nothing to do with the others.
        let mut salt = 0;
        let rows = rows.split("any(").map(str::to_owned).reduce(|sql, rest| {
            let (most, rest) = rest.split_once(')').unwrap();
            salt += 1;
            format!("{sql}(sipHash64(number, {salt}) % {most}){rest}")
        });
        days.execute(&rows.unwrap()).await;
        days
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.client.query_raw(statement).execute().await.unwrap_or_else(|e| panic!("{e}: {statement}"));
    }

    pub(crate) async fn number(&self, question: &str) -> u64 {
        self.client.query_raw(question).fetch_one().await.unwrap_or_else(|e| panic!("{e}: {question}"))
    }

    /// One that tries again what it has just tried.
    pub(crate) fn builder(&self) -> Builder {
        self.builder_with(Duration::ZERO, Duration::from_secs(3600))
    }

    pub(crate) fn builder_with(&self, check: Duration, abandoned_after: Duration) -> Builder {
        let days = |days: u64| Duration::from_secs(days * u64::from(DAY));
        let retention = Retention { raw: days(5), minute: days(14), hour: days(90) };
        let config = Config { check, after: Duration::from_secs(300), abandoned_after, retention };
        Builder::new(self.client.clone(), config, RollupMetrics::default())
    }

    /// Builds what is due at [`NOW`]: such as `2 hours, 1 days`.
    pub(crate) async fn build(&self) -> String {
        let built = self.builder().look(NOW).await.unwrap_or_else(|e| panic!("{e}"));
        let hours = built.iter().filter(|job| matches!(job, Job::Hour(_))).count();
        format!("{hours} hours, {} days", built.len() - hours)
    }

    /// As raw rows disappear by their retention: hour by hour, the oldest first.
    pub(crate) async fn drop_raw_before(&self, end: u32) {
        for hour in (FIRST_DAY..end).step_by(HOUR as usize) {
            self.execute(&format!("ALTER TABLE profile.in_process_local DROP PARTITION ID '{hour}'")).await;
        }
    }

    pub(crate) async fn folded(&self, app: &str, filter: &str, from: u32, until: u32) -> Reply {
        self.flame(app, filter, from, until, "folded").await
    }

    pub(crate) async fn flame(&self, app: &str, filter: &str, from: u32, until: u32, format: &str) -> Reply {
        let filter = filter.replace(' ', "%20").replace('=', "%3D");
        let path = format!(
            "/api/v1/flamegraph?app_service={app}&filter={filter}&from={from}&until={until}&format={format}"
        );
        let reply = self.collector.get(&path).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply
    }
}

/// What is said beside an answer.
pub(crate) fn notes(reply: &Reply) -> &str {
    reply.header("hearth-note")
}
