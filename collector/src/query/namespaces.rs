//! Which namespaces have profiles: a reader's right is asked for in each of them.

use clickhouse::Row;
use serde::Deserialize;

use super::request::TimeRange;
use super::scope::Scope;
use super::source::Sources;
use super::statement::table::Branch;
use super::statement::{Condition, Sql, Statement};
use super::{QueryError, Store};

/// What a namespace's name is like: a DNS label. Without the `?` that stands for a bound value.
const NAME: &str = "^([a-z0-9]|[a-z0-9][-a-z0-9]{0,61}[a-z0-9])$";

#[derive(Row, Deserialize)]
struct NamespaceRow {
    pod_ns: String,
}

impl Store {
    /// The namespaces of a scope that have rows, however old. At most `limit`: of each node the first by name, then of
    /// each the second, and so on, so that one with very many has no more places than any other.
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
        let own = Sql::from(&*format!("match(pod_ns, '{NAME}')"));
        let condition = Condition { own, more: Vec::new() };
        // Bounded whatever a node has sent.
        let names = format!("arraySort(groupUniqArray({limit})(pod_ns)) AS names");
        Statement::of_rows(Sql::from(&*names), &branch, condition, "\nGROUP BY pod_node")
    };
    let tail = format!(
        "\nARRAY JOIN names AS pod_ns, arrayEnumerate(names) AS turn\nGROUP BY pod_ns\nORDER BY min(turn), pod_ns LIMIT {limit}"
    );
    Statement::of_all("pod_ns", sources.tables().map(of_table).collect(), &tail)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::access::paths::is_namespace;

    #[test]
    fn they_are_those_of_all_tables() {
        let statement = statement(&Scope::Cluster("c1".into()), 7);
        assert_snapshot!(format!("{}\n{:?}", statement.sql(), statement.values()), @r#"
        SELECT pod_ns
        FROM (
        SELECT arraySort(groupUniqArray(7)(pod_ns)) AS names
        FROM profile.in_process_1h
        PREWHERE pod_cluster = ? AND match(pod_ns, '^([a-z0-9]|[a-z0-9][-a-z0-9]{0,61}[a-z0-9])$')
        GROUP BY pod_node
        UNION ALL
        SELECT arraySort(groupUniqArray(7)(pod_ns)) AS names
        FROM profile.in_process_1m
        PREWHERE pod_cluster = ? AND match(pod_ns, '^([a-z0-9]|[a-z0-9][-a-z0-9]{0,61}[a-z0-9])$')
        GROUP BY pod_node
        UNION ALL
        SELECT arraySort(groupUniqArray(7)(pod_ns)) AS names
        FROM profile.in_process_local
        PREWHERE pod_cluster = ? AND match(pod_ns, '^([a-z0-9]|[a-z0-9][-a-z0-9]{0,61}[a-z0-9])$')
        GROUP BY pod_node
        )
        ARRAY JOIN names AS pod_ns, arrayEnumerate(names) AS turn
        GROUP BY pod_ns
        ORDER BY min(turn), pod_ns LIMIT 7
        [Text("c1"), Text("c1"), Text("c1")]
        "#);
    }

    #[test]
    fn a_name_is_what_a_namespace_can_be_called() {
        let name = regex::Regex::new(NAME).unwrap();
        let long = ["a".repeat(63), "a".repeat(64)];
        let names =
            ["a", "kube-system", "0", "a--b", "", "-", "a-", "-a", "A", "a.b", "a_b", "ä", "a b", "a\nb"];
        for text in names.into_iter().chain(long.iter().map(String::as_str)) {
            assert_eq!(name.is_match(text), is_namespace(text), "{text:?}");
        }
    }
}
