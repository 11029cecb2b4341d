//! The rows of Grafana's flame graph panel: a tree as a table, so that any data
//! source that reads JSON lists can show it.

use serde::Serialize;

use crate::tree::Tree;

/// One bar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row<'a> {
    /// 0 for the root.
    pub level: u32,
    /// Microseconds of the frame and what is below it.
    pub value: i64,
    /// Microseconds of the frame itself.
    #[serde(rename = "self")]
    pub self_value: i64,
    /// The frame as shown.
    pub label: &'a str,
}

/// The tree's rows in depth-first preorder: what the panel takes a row's parent from.
pub fn nested_set(tree: &Tree) -> Vec<Row<'_>> {
    tree.nodes()
        .iter()
        .map(|node| Row {
            level: node.depth,
            value: node.total,
            self_value: node.self_value,
            label: tree.name(node),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    #[test]
    fn rows_are_in_preorder() {
        let tree = tree("app", "a;b;f 3\nc 9\na;\"d 1\na;b 1");
        assert_eq!(
            serde_json::to_string(&nested_set(&tree)).expect("plain data"),
            concat!(
                r#"[{"level":0,"value":14,"self":0,"label":"app"},"#,
                r#"{"level":1,"value":9,"self":9,"label":"c"},"#,
                r#"{"level":1,"value":5,"self":0,"label":"a"},"#,
                r#"{"level":2,"value":4,"self":1,"label":"b"},"#,
                r#"{"level":3,"value":3,"self":3,"label":"f"},"#,
                r#"{"level":2,"value":1,"self":1,"label":"\"d"}]"#,
            )
        );
    }
}
