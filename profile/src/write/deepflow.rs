//! The answer of DeepFlow up to 6.5: one row per node, with ids that depend on
//! the node's path alone.

use std::fmt;

use serde::{Serialize, Serializer};
use sha1_smol::Sha1;
use uuid::{Builder, Uuid};

use crate::tree::Tree;

/// One node of the tree as DeepFlow 6.5 answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    /// The frame as shown; the root's is the app service.
    pub profile_location_str: &'a str,
    /// Of the node.
    pub node_id: NodeId,
    /// Of its parent.
    pub parent_node_id: NodeId,
    /// Microseconds.
    pub self_value: i64,
    /// Microseconds.
    pub total_value: i64,
}

/// Identifies a node by the text of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeId {
    /// The root's parent: `-1`.
    Nothing,
    /// The root: empty.
    Root,
    /// UUIDv5 in the OID namespace over the frames from the first level to the
    /// node, joined by `;`.
    Path(Uuid),
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("-1"),
            Self::Root => Ok(()),
            Self::Path(id) => id.fmt(f),
        }
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The rows of a tree, the root first, each after its parent.
pub fn rows(tree: &Tree) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(tree.nodes().len());
    // SHA-1 of the namespace and the path so far, at each depth: a deep path is not hashed from its start.
    let mut paths = vec![Sha1::from(Uuid::NAMESPACE_OID.as_bytes())];
    for node in tree.nodes() {
        let name = tree.name(node);
        let (node_id, parent_node_id) = match node.parent {
            None => (NodeId::Root, NodeId::Nothing),
            Some(parent) => {
                paths.truncate(node.depth as usize);
                let mut path = paths[paths.len() - 1].clone();
                if node.depth > 1 {
                    path.update(b";");
                }
                path.update(name.as_bytes());
                let id = node_id(&path);
                paths.push(path);
                (id, rows[parent as usize].node_id)
            }
        };
        let (self_value, total_value) = (node.self_value, node.total);
        rows.push(Row { profile_location_str: name, node_id, parent_node_id, self_value, total_value });
    }
    rows
}

/// RFC 4122, section 4.3: the first 16 bytes of the hash, with version and variant set.
fn node_id(path: &Sha1) -> NodeId {
    let hash = path.digest().bytes();
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    NodeId::Path(Builder::from_sha1_bytes(first).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    /// Ids of real answers of DeepFlow.
    #[test]
    fn ids_are_deepflows() {
        let tree = tree("Total", "[p] process-exporte 1\n[p] deepflow-agent;[t] stats-collector 1");
        let ids: Vec<String> = rows(&tree).iter().map(|row| row.node_id.to_string()).collect();
        assert!(ids.contains(&"9d3c5fd3-4cd2-5d04-be22-e0f27144f638".to_owned()), "{ids:?}");
        assert!(ids.contains(&"99e8ce53-e3bf-5b33-a63d-aa47e00e2ff4".to_owned()), "{ids:?}");
    }

    #[test]
    fn an_id_is_that_of_the_whole_path() {
        let tree = tree("app", "a;b;c 1\na;b;d 1\na;e 1\nf;b;c 1");
        let mut rows = rows(&tree).into_iter();
        assert_eq!(rows.next().map(|root| root.node_id), Some(NodeId::Root));
        tree.for_each_path(|_, path| {
            let expected = Uuid::new_v5(&Uuid::NAMESPACE_OID, path.as_bytes());
            assert_eq!(rows.next().map(|row| row.node_id), Some(NodeId::Path(expected)), "{path}");
        });
    }

    /// Each row as "name id parent self total", ids cut to eight digits.
    fn check(root: &str, stacks: &str, expected: &str) {
        let short = |id: &NodeId| match id.to_string() {
            id if id.len() > 8 => id[..8].to_owned(),
            id => format!("{id:?}"),
        };
        let text: String = rows(&tree(root, stacks))
            .iter()
            .map(|r| {
                let Row { profile_location_str, node_id, parent_node_id, self_value, total_value } = r;
                let (id, parent) = (short(node_id), short(parent_node_id));
                format!("{profile_location_str} {id} {parent} {self_value} {total_value}\n")
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_row_for_each_node_with_its_parent() {
        check(
            "Total",
            "[p] process-exporte 2512\n[p] deepflow-agent;[t] stats-collector 33",
            "Total \"\" \"-1\" 0 2545\n\
             [p] process-exporte 9d3c5fd3 \"\" 2512 2512\n\
             [p] deepflow-agent 1762633e \"\" 0 33\n\
             [t] stats-collector 99e8ce53 1762633e 33 33\n",
        );
    }

    #[test]
    fn a_row_is_written_with_deepflows_fields() {
        assert_eq!(
            serde_json::to_string(&rows(&tree("a", ""))).expect("plain data"),
            r#"[{"profile_location_str":"a","node_id":"","parent_node_id":"-1","self_value":0,"total_value":0}]"#
        );
    }
}
