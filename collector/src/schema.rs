//! Brings the store's tables to this version.

mod cluster;

use std::time::Duration;

use clickhouse::Client;

pub use cluster::cluster_ddl;

/// The versions, in order. A file that was released is never changed.
const MIGRATIONS: &[(u32, &str)] = &[
    (1, include_str!("../schema/0001_profile.sql")),
    (2, include_str!("../schema/0002_tags_losses_rollups.sql")),
    (3, include_str!("../schema/0003_labels.sql")),
];

/// The version that this collector reads and writes.
pub const LATEST: u32 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Stacks live so much longer than the longest row that names them: they are
/// sent again daily, and a row may arrive late.
const STACKS_SLACK: Duration = Duration::from_secs(2 * 86_400);

const VERSION_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS profile.schema_version
(
    `version` UInt32,
    `applied_at` DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
ORDER BY version";

/// How long rows live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Raw rows.
    pub raw: Duration,
    /// Rollups by minute.
    pub minute: Duration,
    /// Rollups by hour, and what was lost.
    pub hour: Duration,
}

/// Why the tables could not be brought to this version.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer collector was here.
    #[error(
        "the store's schema has version {found}, this collector knows up to {LATEST}: use a newer collector"
    )]
    Newer {
        /// The version found.
        found: u32,
    },
    /// A statement failed.
    #[error("schema statement {statement:?}: {source}")]
    Statement {
        /// Its first line.
        statement: String,
        /// What ClickHouse said.
        source: clickhouse::error::Error,
    },
}

/// All DDL, as `hearth-collector schema` prints it.
pub fn ddl(retention: Retention) -> String {
    let mut text = String::new();
    for (_, file) in MIGRATIONS {
        text.push_str(filled(file, retention).trim_end());
        text.push_str("\n;\n");
    }
    // After the first file, which makes the database.
    text + VERSION_TABLE + "\n;\n"
}

/// Applies the versions that are missing, and the retention if it changed.
pub async fn apply(client: &Client, retention: Retention) -> Result<(), SchemaError> {
    execute(client, "CREATE DATABASE IF NOT EXISTS profile").await?;
    execute(client, VERSION_TABLE).await?;
    let question = "SELECT max(version) FROM profile.schema_version";
    let found: u32 = client
        .query(question)
        .fetch_one()
        .await
        .map_err(|source| SchemaError::Statement { statement: question.into(), source })?;
    if found > LATEST {
        return Err(SchemaError::Newer { found });
    }
    for (version, file) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        tracing::info!("applying schema version {version}");
        // A version that was interrupted is applied again: its statements
        // create what does not exist.
        for statement in statements(&filled(file, retention)) {
            execute(client, statement).await?;
        }
        let done = format!("INSERT INTO profile.schema_version (version) VALUES ({version})");
        execute(client, &done).await?;
    }
    apply_retention(client, retention).await
}

async fn apply_retention(client: &Client, retention: Retention) -> Result<(), SchemaError> {
    for (table, column, ttl) in [
        ("in_process_local", "time", retention.raw),
        ("stacks", "last_seen", stacks_ttl(retention)),
        ("in_process_1m", "time", retention.minute),
        ("in_process_1h", "time", retention.hour),
        ("losses", "time", retention.hour),
    ] {
        let wanted = format!("{column} + toIntervalSecond({})", ttl.as_secs());
        let question = "SELECT create_table_query FROM system.tables WHERE database = 'profile' AND name = ?";
        let found: String = client
            .query(question)
            .bind(table)
            .fetch_one()
            .await
            .map_err(|source| SchemaError::Statement { statement: question.into(), source })?;
        if !found.contains(&format!("TTL {wanted}")) {
            tracing::info!("setting the retention of profile.{table} to {} s", ttl.as_secs());
            // Old parts keep their own bounds until they are merged; rewriting
            // them all at once would take hours.
            let alter = format!(
                "ALTER TABLE profile.{table} MODIFY TTL {wanted} SETTINGS materialize_ttl_after_modify = 0"
            );
            execute(client, &alter).await?;
        }
    }
    Ok(())
}

async fn execute(client: &Client, statement: &str) -> Result<(), SchemaError> {
    // query_raw: a question mark in a comment is no placeholder.
    client.query_raw(statement).execute().await.map_err(|source| SchemaError::Statement {
        statement: statement.lines().find(|line| !line.starts_with("--")).unwrap_or_default().to_owned(),
        source,
    })
}

fn filled(file: &str, retention: Retention) -> String {
    file.replace("{raw_ttl}", &retention.raw.as_secs().to_string())
        .replace("{minute_ttl}", &retention.minute.as_secs().to_string())
        .replace("{hour_ttl}", &retention.hour.as_secs().to_string())
        .replace("{stacks_ttl}", &stacks_ttl(retention).as_secs().to_string())
}

fn stacks_ttl(retention: Retention) -> Duration {
    retention.raw.max(retention.minute).max(retention.hour) + STACKS_SLACK
}

/// Statements are separated by a line that holds only `;`.
fn statements(file: &str) -> impl Iterator<Item = &str> {
    file.split("\n;\n").map(str::trim).filter(|statement| !statement.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_fill_in() {
        let [raw, minute, hour] = [3, 14, 90].map(|days| Duration::from_secs(days * 86_400));
        let text = ddl(Retention { raw, minute, hour });
        for ttl in ["time", "time", "time", "last_seen"].iter().zip([raw, minute, hour, hour + STACKS_SLACK])
        {
            let expected = format!("TTL {} + toIntervalSecond({})", ttl.0, ttl.1.as_secs());
            assert!(text.contains(&expected), "{text}");
        }
        let databases = text.matches("CREATE DATABASE").count();
        assert_eq!(databases, 1, "{text}");
        let code = text.lines().filter(|line| !line.starts_with("--"));
        assert!(!code.clone().any(|line| line.contains(['{', '}'])), "{text}");
    }

    #[test]
    fn versions_count_up_from_one() {
        for (at, (version, _)) in MIGRATIONS.iter().enumerate() {
            assert_eq!(*version as usize, at + 1);
        }
    }
}
