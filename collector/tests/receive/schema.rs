//! The tables: made, brought to the latest version, printed, and asked by SQL.

use clickhouse::Client;
use hearth_collector::embedded::Embedded;
use hearth_collector::query::{Answer, Limits, Request, Scope, Store, Subject, TimeRange};
use hearth_collector::schema;

use crate::harness::{RETENTION, engine, last_window};

const VERSION_1: &str = include_str!("../../schema/0001_profile.sql");
const VERSION_2: &str = include_str!("../../schema/0002_tags_losses_rollups.sql");

/// An engine without tables.
struct Engine {
    embedded: Embedded,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Engine {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::start(engine(dir.path().join("data"))).await.unwrap();
        let client = Client::default().with_url(embedded.url());
        Self { embedded, client, _dir: dir }
    }

    async fn run(&self, sql: &str) {
        self.client.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The answer as TSV, or the engine's error.
    async fn try_ask(&self, sql: &str) -> Result<String, String> {
        let bytes = self.client.query_raw(sql).fetch_bytes("TSVRaw").unwrap().collect().await;
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).map_err(|error| error.to_string())
    }

    async fn ask(&self, sql: &str) -> String {
        self.try_ask(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn apply(&self) {
        schema::apply(&self.client, RETENTION).await.unwrap();
    }

    /// Every table with its DDL.
    async fn tables(&self) -> String {
        self.ask(
            "SELECT name, create_table_query FROM system.tables WHERE database = 'profile' ORDER BY name",
        )
        .await
    }

    /// A store as a collector of version 1 left it, with a row.
    async fn version_1(&self) {
        self.run("DROP DATABASE IF EXISTS profile SYNC").await;
        for statement in statements(VERSION_1) {
            self.run(&statement).await;
        }
        self.run("CREATE TABLE profile.schema_version (`version` UInt32, `applied_at` DateTime('UTC') DEFAULT now()) ENGINE = MergeTree ORDER BY version").await;
        self.run("INSERT INTO profile.schema_version (version) VALUES (1)").await;
        self.run("INSERT INTO profile.stacks VALUES ('redis', unhex('00000000000000000000000000000001'), 'main;work', now())").await;
        self.run(&format!(
            "INSERT INTO profile.in_process_local (time, app_service, policy, process_name, thread_name, stack_id, \
             sample_count, profile_value, profile_value_unit, profile_event_type, profile_language_type) \
             VALUES ({}, 'redis', 'ns/p', 'redis-server', 'io', unhex('00000000000000000000000000000001'), \
             2, 20202, 'microseconds', 'on-cpu', 'eBPF')",
            last_window()
        ))
        .await;
    }
}

fn statements(file: &str) -> Vec<String> {
    let seconds = |duration: std::time::Duration| duration.as_secs().to_string();
    let stacks = seconds(RETENTION.hour + std::time::Duration::from_secs(2 * 86_400));
    let filled = file
        .replace("{raw_ttl}", &seconds(RETENTION.raw))
        .replace("{minute_ttl}", &seconds(RETENTION.minute))
        .replace("{hour_ttl}", &seconds(RETENTION.hour))
        .replace("{stacks_ttl}", &stacks);
    filled.split("\n;\n").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// Wherever version 2 was interrupted, and also when it was applied but not
/// noted, it ends as a new store does, and what was stored before is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_version_1_is_brought_to_the_latest() {
    let engine = Engine::start().await;
    engine.apply().await;
    let new = engine.tables().await;
    let columns =
        "SELECT table, name, type FROM system.columns WHERE database = 'profile' ORDER BY table, name";
    let new_columns = engine.ask(columns).await;
    let version_2 = statements(VERSION_2);
    for applied in 0..=version_2.len() {
        engine.version_1().await;
        for statement in &version_2[..applied] {
            engine.run(statement).await;
        }
        engine.apply().await;
        assert_eq!(engine.ask(columns).await, new_columns, "after {applied} statements");
        assert_eq!(engine.tables().await, new, "after {applied} statements");
        let versions = engine.ask("SELECT version FROM profile.schema_version ORDER BY version").await;
        assert_eq!(versions, "1\n2\n3\n");

        let row = "SELECT app_service, profile_location_str, profile_value, pod_group_type, `k8s.label`, host_ip \
                   FROM profile.in_process ORDER BY app_service";
        assert_eq!(
            engine.ask(row).await,
            "Total\t[p] redis-server;[t] io\t20202\t0\t{}\t\nredis\t[t] io;main;work\t20202\t0\t{}\t\n"
        );
        let from = u32::try_from(last_window() - 600).unwrap();
        let request = Request {
            subject: Subject::App("redis".into()),
            range: TimeRange { from, until: from + 1200 },
            event: "on-cpu",
            language: "eBPF",
            filter: None,
            max_kernel_frames: None,
        };
        let store = Store::new(engine.client.clone(), Limits::default());
        let Answer::Flame(flame) = store.flame(&Scope::All, &request).await.unwrap() else {
            panic!("the row is not answered");
        };
        assert_eq!(hearth_profile::write::folded::folded(&flame.tree), "redis;[t] io;main;work 20202\n");
    }
    engine.embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_makes_the_same_tables() {
    let engine = Engine::start().await;
    engine.apply().await;
    let applied = engine.tables().await;
    engine.run("DROP DATABASE profile SYNC").await;
    for statement in statements(&schema::ddl(RETENTION)) {
        engine.run(&statement).await;
    }
    assert_eq!(engine.tables().await, applied);
    engine.embedded.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_can_read_the_statements_for_a_cluster() {
    let engine = Engine::start().await;
    for statement in statements(&schema::cluster_ddl(RETENTION, "prod-1")) {
        let question = "SELECT formatQuery(?)";
        let formatted = engine.client.query(question).bind(&statement).fetch_one::<String>().await;
        let formatted = formatted.unwrap_or_else(|error| panic!("{statement}: {error}"));
        assert_eq!(formatted.matches("ON CLUSTER `prod-1`").count(), 1, "{formatted}");
        assert!(!formatted.contains("ENGINE = MergeTree"), "{formatted}");
    }
    engine.embedded.stop().await;
}

/// Each row once, with its app's own stack, whether the stacks were merged or not.
#[tokio::test(flavor = "multi_thread")]
async fn the_view_has_each_row_once() {
    let engine = Engine::start().await;
    engine.apply().await;
    engine.run("SYSTEM STOP MERGES profile.stacks").await;
    for frames in
        ["('nginx', 'a', 'main;serve')", "('nginx', 'a', 'main;serve'), ('redis', 'a', 'start;loop')"]
    {
        engine
            .run(&format!("INSERT INTO profile.stacks (app_service, stack_id, frames) VALUES {frames}"))
            .await;
    }
    let jit = "INSERT INTO profile.stacks (app_service, stack_id, frames) VALUES ('node', 'j', 'run;[/tmp/perf-PID.map]')";
    engine.run(jit).await;
    engine
        .run(&format!(
            "INSERT INTO profile.in_process_local (time, app_service, process_id, process_name, thread_name, main_thread, \
             stack_id, profile_value) SELECT {}, * FROM values('a String, p UInt32, n String, t String, m UInt8, s String, v Int64', \
             ('nginx', 1, 'nginx', 'w', 1, 'a', 1), ('nginx', 2, 'nginx', 'w', 1, 'a', 2), ('redis', 3, 'redis', 'io', 0, 'a', 4), \
             ('node', 4, 'node', 'node', 1, 'j', 8), ('nginx', 1, 'nginx', 'w', 1, 'gone', 16), ('nginx', 1, 'nginx', 'w', 1, '', 32), \
             ('', 5, 'kthreadd', 'kthreadd', 1, '', 64))",
            last_window()
        ))
        .await;
    let all = "SELECT app_service, profile_value, profile_location_str FROM profile.in_process ORDER BY 1, 2";
    let expected = "\
        Total\t1\t[p] nginx\nTotal\t2\t[p] nginx\nTotal\t4\t[p] redis;[t] io\nTotal\t8\t[p] node\n\
        Total\t16\t[p] nginx\nTotal\t32\t[p] nginx\nTotal\t64\t[p] kthreadd\n\
        nginx\t1\t[t] w;main;serve\nnginx\t2\t[t] w;main;serve\nnginx\t16\t[t] w;[stack trace lost]\nnginx\t32\t[t] w\n\
        node\t8\t[t] node;run;[/tmp/perf-4.map]\nredis\t4\t[t] io;start;loop\n";
    assert_eq!(engine.ask(all).await, expected);
    // Whoever asks with a setting of his own does not change what the view means.
    let nulls = format!("{all} SETTINGS join_use_nulls = 1, join_algorithm = 'hash'");
    assert_eq!(engine.ask(&nulls).await, expected);
    engine.embedded.stop().await;
}

/// The view keeps what was asked for and lets the stacks stream past it: with
/// more stacks than fit into the memory, a join that keeps the stacks fails.
#[tokio::test(flavor = "multi_thread")]
async fn the_view_answers_in_less_memory_than_its_stacks_take() {
    const MEMORY: &str = "SETTINGS max_memory_usage = 150000000";
    let engine = Engine::start().await;
    engine.apply().await;
    engine
        .run(
            "INSERT INTO profile.stacks SELECT concat('app-', toString(number % 10)), \
             reinterpretAsFixedString(sipHash128(number)), concat(toString(number), repeat(';frame', 45)), now() \
             FROM numbers(1000000)",
        )
        .await;
    engine
        .run(&format!(
            "INSERT INTO profile.in_process_local (time, batch, app_service, thread_name, stack_id, profile_value) \
             SELECT {}, n, concat('app-', toString(n % 10)), 't', reinterpretAsFixedString(sipHash128(n)), 3 \
             FROM (SELECT number * 7 AS n FROM numbers(100000))",
            last_window()
        ))
        .await;

    let kept = "SELECT max(s.frames) FROM profile.in_process_local AS r ANY LEFT JOIN profile.stacks AS s \
                ON r.app_service = s.app_service AND r.stack_id = s.stack_id";
    let error = engine
        .try_ask(&format!("{kept} {MEMORY}, join_algorithm = 'hash', query_plan_join_swap_table = 'false'"))
        .await
        .unwrap_err();
    assert!(error.contains("MEMORY_LIMIT_EXCEEDED"), "{error}");

    let right = "SELECT count(), sum(profile_value), countIf(profile_location_str != \
                 concat('[t] t;', toString(batch), repeat(';frame', 45)))";
    let rows = format!("{right} FROM profile.in_process WHERE app_service != 'Total' {MEMORY}");
    assert_eq!(engine.ask(&rows).await, "100000\t300000\t0\n");
    let sums = format!(
        "SELECT app_service, sum(profile_value) FROM profile.in_process GROUP BY 1 ORDER BY 1 LIMIT 2 {MEMORY}"
    );
    assert_eq!(engine.ask(&sums).await, "Total\t300000\napp-0\t30000\n");

    // What is asked for may itself be too much to keep: then it goes to the disk, and is as right.
    let view = engine
        .ask("SELECT as_select FROM system.tables WHERE database = 'profile' AND name = 'in_process'")
        .await;
    let spilling = view.replace("max_bytes_in_join = 268435456", "max_bytes_in_join = 1000000");
    assert_ne!(spilling, view);
    let rows = format!("{right} FROM ({spilling}) WHERE app_service != 'Total'");
    assert_eq!(engine.ask(&rows).await, "100000\t300000\t0\n");
    engine.embedded.stop().await;
}
