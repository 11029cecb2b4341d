//! Whose rows a reader may see.

use std::sync::Arc;

use super::statement::{Sql, Value};

/// What a question may be answered from. No statement can be built without one: see [`super::statement`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that is stored.
    All,
    /// One cluster: its pods, and the processes outside of pods.
    Cluster(Arc<str>),
    /// Pods in some namespaces of one cluster, and nothing that is of whole nodes.
    Namespaces {
        /// Which cluster: another one may have namespaces of the same names.
        cluster: Arc<str>,
        /// Their names; with none, nothing is seen.
        namespaces: Arc<[String]>,
        /// Whether there are others, of which it is not known whether the reader may see them.
        left_out: bool,
    },
}

impl Scope {
    /// The condition on rows, which carry `pod_cluster` and `pod_ns`; none if all are meant.
    pub(super) fn of_rows(&self) -> Option<Sql> {
        let Self::Namespaces { namespaces, .. } = self else { return self.of_cluster() };
        let cluster = self.of_cluster()?;
        // Rows of no namespace are of processes outside of pods, whatever list named it.
        let names: Vec<&String> = namespaces.iter().filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Some(Sql::from("false"));
        }
        Some(cluster.and(&Sql::of(|values| {
            values.extend(names.iter().map(|&name| Value::Text(name.clone())));
            format!("pod_ns IN ({})", vec!["?"; names.len()].join(", "))
        })))
    }

    /// The condition on what is of whole nodes and carries `pod_cluster` alone; none if all are meant.
    pub(super) fn of_cluster(&self) -> Option<Sql> {
        let (Self::Cluster(cluster) | Self::Namespaces { cluster, .. }) = self else { return None };
        Some(Sql::about("pod_cluster = ?", cluster))
    }

    /// Whether what is of a node and of no pod may be told: what its agent lost, and which hours the store has.
    pub fn has_nodes(&self) -> bool {
        match self {
            Self::All | Self::Cluster(_) => true,
            Self::Namespaces { .. } => false,
        }
    }

    /// What is to be known of every answer from it.
    pub(super) fn note(&self) -> Option<String> {
        matches!(self, Self::Namespaces { left_out: true, .. }).then(|| {
            "more namespaces have profiles than can be asked for your right in each, so that some that you may see can \
             be missing: ask for one, /apis/query.hearth.dev/v1alpha1/namespaces/NAMESPACE/profiles/NAME"
                .to_owned()
        })
    }

    /// Continues "nothing is stored": where that was looked for.
    pub(super) fn place(&self) -> &'static str {
        match self {
            Self::All => "",
            Self::Cluster(_) => " of this cluster",
            Self::Namespaces { .. } => " of the namespaces that you may see",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::query::source::{Need, Sources};
    use crate::query::statement::Statement;
    use crate::query::timeline::{self, Steps};
    use crate::query::{Request, Subject, TimeRange, filter, labelled, namespaces, plan, values};
    use crate::rollup::coverage::tests::coverage;

    const RANGE: TimeRange = TimeRange { from: 23 * 3600, until: 51 * 3600 - 1 };
    const FILTER: &str = "thread_name = 'x' OR pod_ns = 'b'";
    /// As it is written in SQL.
    const WRITTEN: &str = "(`thread_name` = 'x' OR `pod_ns` = 'b')";

    fn in_namespaces(names: &[&str]) -> Scope {
        let namespaces = names.iter().map(|name| (*name).to_owned()).collect();
        Scope::Namespaces { cluster: "own".into(), namespaces, left_out: false }
    }

    /// What every function that makes statements makes, asking all tables: by the function's name.
    fn statements(scope: &Scope) -> Vec<(&'static str, Statement)> {
        let tables = coverage("raw 23=5, min 23=5, hour 0=5, hour 1=5");
        let sources = Sources::choose(scope.clone(), RANGE, RANGE, Need::default(), &tables);
        let of_app = Request {
            subject: Subject::App("app".into()),
            filter: filter::parse(FILTER).unwrap(),
            ..Request::of_everything(RANGE)
        };
        let total = Request { subject: Subject::Total, ..of_app.clone() };
        let steps = Steps::new(RANGE, 10, None).unwrap();
        let tag = filter::TAGS.iter().find(|tag| tag.name == "thread_name").unwrap();
        vec![
            ("app", plan::app(&of_app, &sources, "app")),
            ("app_by_process", plan::app_by_process(&of_app, &sources, "app")),
            ("total", plan::total(&total, &sources)),
            ("stacks", plan::stacks(&of_app, &sources, "app")),
            ("losses", plan::losses(&of_app, &sources, None)),
            ("losses", plan::losses(&total, &sources, filter::parse("pod_node = 'n'").unwrap().as_ref())),
            ("nodes", plan::nodes(&of_app, &sources)),
            ("apps", plan::apps(&sources, 10)),
            ("seen", plan::seen(&of_app, &sources, 10)),
            ("seen_app", plan::seen_app(&of_app, &sources, "app")),
            ("seen_ever", plan::seen_ever(&of_app, &sources, 10)),
            ("first_and_last", plan::first_and_last(scope, RANGE)),
            ("statement", namespaces::statement(scope, 10)),
            ("statement", timeline::statement(&of_app, &sources, steps)),
            ("statement", labelled::statement(&of_app, &sources)),
            ("statement", labelled::statement(&total, &sources)),
            ("statement", values::statement(&total, &sources, tag, 10)),
        ]
    }

    /// The text with what is bound in it.
    fn shown(statement: &Statement) -> String {
        let mut values = statement.values().iter();
        let parts: Vec<&str> = statement.sql().split('?').collect();
        let (last, parts) = parts.split_last().unwrap();
        let shown = parts.iter().map(|part| match values.next().unwrap() {
            Value::Text(text) => format!("{part}'{text}'"),
            Value::Int(number) => format!("{part}{number}"),
        });
        let shown: String = shown.collect();
        assert_eq!(values.next(), None);
        shown + last
    }

    /// That nothing is read but through `scope`, whose condition on rows is `rows`, and that what a reader wrote
    /// comes behind it.
    fn check(scope: &Scope, rows: &str, losses: &str) {
        for (name, statement) in statements(scope) {
            let text = shown(&statement);
            let mut tables = text.split("FROM profile.").skip(1).peekable();
            assert!(tables.peek().is_some(), "{name}");
            for after in tables {
                let (table, condition) = after.split_once('\n').unwrap();
                let expected = match table {
                    "in_process_local" | "in_process_1m" | "in_process_1h" => rows,
                    "losses" => losses,
                    "stacks AS s" => "WHERE app_service = 'app' AND stack_id IN (SELECT stack_id",
                    other => panic!("{name} reads {other}"),
                };
                assert!(condition.starts_with(expected), "{name}: {table}\n{condition}");
            }
            for (at, _) in text.match_indices(WRITTEN) {
                assert!(text[..at].ends_with("\nWHERE "), "{name}: {text}");
            }
        }
    }

    #[test]
    fn every_statement_reads_through_the_scope() {
        check(
            &in_namespaces(&["a", "it's", ""]),
            "PREWHERE pod_cluster = 'own' AND pod_ns IN ('a', 'it's') AND ",
            "PREWHERE pod_cluster = 'own' AND time >= toDateTime(82800, 'UTC') AND time <= toDateTime(183599, 'UTC') \
             AND (pod_cluster, pod_node) IN (SELECT pod_cluster, pod_node\n",
        );
        let nothing = "PREWHERE false AND ";
        for names in [&[][..], &[""]] {
            check(&in_namespaces(names), nothing, "PREWHERE pod_cluster = 'own' AND ");
        }
        let cluster = "PREWHERE pod_cluster = 'own' AND ";
        check(&Scope::Cluster("own".into()), cluster, cluster);
    }

    #[test]
    fn whoever_sees_everything_asks_without_a_condition() {
        for (name, statement) in statements(&Scope::All) {
            assert!(!statement.sql().contains("PREWHERE"), "{name}");
        }
    }

    /// Of each file of the query core: its name, and what is no comment and no test.
    fn sources_of_the_query_core() -> Vec<(PathBuf, String)> {
        let (mut folders, mut files) =
            (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/query")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let text = text.split("mod tests {").next().unwrap_or_default();
                    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    files.push((path, lines.collect::<Vec<_>>().join("\n")));
                }
            }
        }
        files
    }

    #[test]
    fn no_function_that_makes_statements_is_forgotten_and_no_other_file_names_a_table() {
        let mut made = BTreeSet::new();
        for (path, text) in sources_of_the_query_core() {
            if path.parent().is_some_and(|folder| folder.ends_with("statement")) {
                continue;
            }
            for table in ["profile.in_process", "profile.losses", "profile.stacks"] {
                assert!(!text.contains(table), "{}: {table}", path.display());
            }
            for (at, _) in text.match_indices("-> Statement {") {
                let name = text[..at].rsplit("fn ").next().unwrap();
                made.insert(name.split('(').next().unwrap().to_owned());
            }
        }
        // What the others are made with.
        for helper in ["from", "of_table", "seen_statement", "stack_ids"] {
            assert!(made.remove(helper), "{helper}");
        }
        let walked = statements(&Scope::All).into_iter().map(|(name, _)| name.to_owned());
        assert_eq!(made, walked.collect());
    }
}
