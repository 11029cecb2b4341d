//! Which namespaces have profiles: a reader's right is asked for in each of them.

use clickhouse::Row;
use serde::Deserialize;

use super::request::TimeRange;
use super::scope::Scope;
use super::source::Sources;
use super::statement::table::Branch;
use super::statement::{Condition, Sql, Statement};
use super::{QueryError, Store};

#[derive(Row, Deserialize)]
struct NamespaceRow {
    pod_ns: String,
}

impl Store {
    /// The namespaces of a scope that have rows, however old, by name. At most `limit`.
    ///
    /// # Errors
    /// As [`Store::flame`].
    pub async fn namespaces(&self, scope: &Scope, limit: usize) -> Result<Vec<String>, QueryError> {
        let rows: Vec<NamespaceRow> = self.rows(&statement(scope, limit)).await?;
        Ok(rows.into_iter().map(|NamespaceRow { pod_ns }| pod_ns).collect())
    }
}

pub(super) fn statement(scope: &Scope, limit: usize) -> Statement {
    // At all times: the range says nothing of which tables are asked.
    let sources = Sources::raw(scope.clone(), TimeRange { from: 0, until: 0 });
    let of_table = |branch: Branch<'_>| {
        let condition = Condition { own: Sql::from("pod_ns != ''"), more: Vec::new() };
        Statement::of_rows(Sql::from("DISTINCT pod_ns"), &branch, condition, "")
    };
    let tail = format!("\nORDER BY pod_ns LIMIT {limit}");
    Statement::of_all("DISTINCT pod_ns", sources.tables().map(of_table).collect(), &tail)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn they_are_those_of_all_tables() {
        let statement = statement(&Scope::Cluster("c1".into()), 7);
        assert_snapshot!(format!("{}\n{:?}", statement.sql(), statement.values()), @r#"
        SELECT DISTINCT pod_ns
        FROM (
        SELECT DISTINCT pod_ns
        FROM profile.in_process_1h
        PREWHERE pod_cluster = ? AND pod_ns != ''
        UNION ALL
        SELECT DISTINCT pod_ns
        FROM profile.in_process_1m
        PREWHERE pod_cluster = ? AND pod_ns != ''
        UNION ALL
        SELECT DISTINCT pod_ns
        FROM profile.in_process_local
        PREWHERE pod_cluster = ? AND pod_ns != ''
        )
        ORDER BY pod_ns LIMIT 7
        [Text("c1"), Text("c1"), Text("c1")]
        "#);
    }
}
