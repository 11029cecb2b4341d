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
            return Some(Sql::of(|_| "false".to_owned()));
        }
        Some(Sql::of(|values| {
            let cluster = cluster.write(values);
            values.extend(names.iter().map(|&name| Value::Text(name.clone())));
            format!("{cluster} AND pod_ns IN ({})", vec!["?"; names.len()].join(", "))
        }))
    }

    /// The condition on what is of whole nodes and carries `pod_cluster` alone; none if all are meant.
    pub(super) fn of_cluster(&self) -> Option<Sql> {
        let (Self::Cluster(cluster) | Self::Namespaces { cluster, .. }) = self else { return None };
        Some(Sql::of(|values| {
            values.push(Value::Text(cluster.to_string()));
            "pod_cluster = ?".to_owned()
        }))
    }

    /// Whether what is of a node and of no pod may be told: what its agent lost, and which hours the store has.
    pub fn has_nodes(&self) -> bool {
        match self {
            Self::All | Self::Cluster(_) => true,
            Self::Namespaces { .. } => false,
        }
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
