//! The same DDL for a cluster of ClickHouse servers, made from the same files.
//!
//! Every table `X` stays what one server holds, replicated, and gets an `X_all`
//! over all of them. The documented view becomes `in_process_shard`, over the
//! tables of one server, and `in_process` is all of these. That is right because
//! an app's rows and stacks go to the same shard.

use super::{MIGRATIONS, Retention, VERSION_TABLE, filled, statements};

/// Begins the parameters of a replicated engine.
const REPLICA: &str = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";

/// What goes by app goes to the shard of the app. Losses belong to no app.
const ALL: &[(&str, &str)] = &[
    ("in_process_local", "sipHash64(app_service)"),
    ("stacks", "sipHash64(app_service)"),
    ("in_process_1m", "sipHash64(app_service)"),
    ("in_process_1h", "sipHash64(app_service)"),
    ("losses", "rand()"),
];

/// All DDL for the cluster of this name, which holds no quote.
pub fn cluster_ddl(retention: Retention, cluster: &str) -> String {
    let mut text = String::new();
    let mut push = |statement: &str| text.extend([statement, "\n;\n"]);
    for (_, file) in MIGRATIONS {
        statements(&filled(file, retention)).for_each(|statement| push(&replicated(statement, cluster)));
    }
    push(&replicated(VERSION_TABLE, cluster));
    for (table, shard) in ALL {
        push(&format!(
            "CREATE TABLE IF NOT EXISTS profile.{table}_all ON CLUSTER '{cluster}' AS profile.{table}\n\
             ENGINE = Distributed('{cluster}', 'profile', '{table}', {shard})"
        ));
    }
    push(&format!(
        "CREATE TABLE IF NOT EXISTS profile.in_process ON CLUSTER '{cluster}' AS profile.in_process_shard\n\
         ENGINE = Distributed('{cluster}', 'profile', 'in_process_shard')"
    ));
    text
}

/// A statement of the files, on every server of the cluster.
fn replicated(statement: &str, cluster: &str) -> String {
    const VERBS: [&str; 4] = [
        "CREATE DATABASE IF NOT EXISTS ",
        "CREATE TABLE IF NOT EXISTS ",
        "CREATE OR REPLACE VIEW ",
        "ALTER TABLE ",
    ];
    let line = |line: &str| {
        if let Some((verb, rest)) = VERBS.iter().find_map(|verb| Some((verb, line.strip_prefix(verb)?))) {
            let name_ends = rest.find(' ').unwrap_or(rest.len());
            let (name, rest) = rest.split_at(name_ends);
            let name = if name == "profile.in_process" { "profile.in_process_shard" } else { name };
            return format!("{verb}{name} ON CLUSTER '{cluster}'{rest}");
        }
        match line.strip_prefix("ENGINE = ").map(|engine| engine.split_once('(').unwrap_or((engine, ")"))) {
            Some((engine, ")")) => format!("ENGINE = Replicated{engine}({REPLICA})"),
            Some((engine, parameters)) => format!("ENGINE = Replicated{engine}({REPLICA}, {parameters}"),
            None => line.to_owned(),
        }
    };
    statement.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn statements_become_those_of_a_cluster() {
        let check = |statement, expected| assert_eq!(replicated(statement, "c"), expected);
        check(
            "CREATE DATABASE IF NOT EXISTS profile",
            "CREATE DATABASE IF NOT EXISTS profile ON CLUSTER 'c'",
        );
        check(
            "-- Why.\nCREATE TABLE IF NOT EXISTS profile.t\n(\n)\nENGINE = MergeTree\nORDER BY x",
            "-- Why.\nCREATE TABLE IF NOT EXISTS profile.t ON CLUSTER 'c'\n(\n)\n\
             ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')\nORDER BY x",
        );
        check(
            "ENGINE = ReplacingMergeTree(last_seen)",
            "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', last_seen)",
        );
        check(
            "ALTER TABLE profile.t\n    ADD COLUMN IF NOT EXISTS `x` UInt8",
            "ALTER TABLE profile.t ON CLUSTER 'c'\n    ADD COLUMN IF NOT EXISTS `x` UInt8",
        );
        check(
            "CREATE OR REPLACE VIEW profile.in_process AS\nSELECT 1",
            "CREATE OR REPLACE VIEW profile.in_process_shard ON CLUSTER 'c' AS\nSELECT 1",
        );
    }

    #[test]
    fn no_statement_is_for_one_server_and_no_table_is_forgotten() {
        let [raw, minute, hour] = [3, 14, 90].map(|days| Duration::from_secs(days * 86_400));
        let text = cluster_ddl(Retention { raw, minute, hour }, "c");
        for statement in statements(&text) {
            assert_eq!(statement.matches("ON CLUSTER 'c'").count(), 1, "{statement}");
        }
        for line in text.lines().filter(|line| line.starts_with("ENGINE")) {
            assert!(
                ["ENGINE = Replicated", "ENGINE = Distributed"].iter().any(|e| line.starts_with(e)),
                "{line}"
            );
        }
        let made = text
            .lines()
            .filter_map(|line| line.strip_prefix("CREATE TABLE IF NOT EXISTS profile.")?.split(' ').next())
            .filter(|name| *name != "schema_version" && *name != "in_process" && !name.ends_with("_all"));
        let mut made: Vec<_> = made.collect();
        let mut all: Vec<_> = ALL.iter().map(|(table, _)| *table).collect();
        made.sort_unstable();
        all.sort_unstable();
        assert_eq!(made, all);
    }
}
