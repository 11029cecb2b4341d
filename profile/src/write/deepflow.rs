//! The answer of DeepFlow up to 6.5: one row per node, with ids that depend on
//! the node's path alone.

use serde::Serialize;
use uuid::Uuid;

use crate::tree::Tree;

/// One node of the tree as DeepFlow 6.5 answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The frame as shown; the root's is the app service.
    pub profile_location_str: String,
    /// [`node_id`] of the path; empty for the root.
    pub node_id: String,
    /// The parent's `node_id`; empty on the first level, `-1` for the root.
    pub parent_node_id: String,
    /// Microseconds.
    pub self_value: i64,
    /// Microseconds.
    pub total_value: i64,
}

/// The rows of a tree, the root first, each after its parent.
pub fn rows(tree: &Tree) -> Vec<Row> {
    let root = tree.root();
    let mut rows = vec![Row {
        profile_location_str: tree.name(root).to_owned(),
        node_id: String::new(),
        parent_node_id: "-1".to_owned(),
        self_value: root.self_value,
        total_value: root.total,
    }];
    tree.for_each_path(|node, path| {
        let parent = node.parent.expect("only the root has none, and it is not visited") as usize;
        rows.push(Row {
            profile_location_str: tree.name(node).to_owned(),
            node_id: node_id(path),
            parent_node_id: rows[parent].node_id.clone(),
            self_value: node.self_value,
            total_value: node.total,
        });
    });
    rows
}

/// UUIDv5 in the OID namespace over the frames from the first level to the
/// node, joined by `;`.
///
/// ```
/// use hearth_profile::write::deepflow::node_id;
/// assert_eq!(node_id("[p] process-exporte"), "9d3c5fd3-4cd2-5d04-be22-e0f27144f638");
/// ```
pub fn node_id(path: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, path.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    #[test]
    fn ids_are_deepflows() {
        for (path, id) in [
            ("[p] process-exporte", "9d3c5fd3-4cd2-5d04-be22-e0f27144f638"),
            ("[p] deepflow-agent;[t] stats-collector", "99e8ce53-e3bf-5b33-a63d-aa47e00e2ff4"),
        ] {
            assert_eq!(node_id(path), id);
        }
        assert!(node_id("[p] deepflow-agent").starts_with("1762633e-"));
    }

    /// Each row as "name id parent self total", ids cut to eight digits.
    fn check(root: &str, stacks: &str, expected: &str) {
        let short = |id: &str| if id.len() > 8 { id[..8].to_owned() } else { format!("{id:?}") };
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
