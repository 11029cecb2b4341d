//! A flat tree in JSON, for scripts and for the page.
//!
//! Flat and not nested, because a stack may be deeper than JSON parsers allow
//! nesting (serde_json stops at 128 levels, Python near 1,000), and one
//! pass over the list rebuilds the tree: a parent stands before its children.

use serde::Serialize;

use crate::tree::Tree;

/// A tree as a list of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Json<'a> {
    /// Unit of all values.
    pub unit: &'static str,
    /// In preorder, the root first.
    pub nodes: Vec<JsonNode<'a>>,
}

/// One node of [`Json`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonNode<'a> {
    /// The frame as shown.
    pub name: &'a str,
    /// Index of the parent in the list; null for the root.
    pub parent: Option<u32>,
    /// Value of the frame itself.
    #[serde(rename = "self")]
    pub self_value: i64,
    /// Value of the frame and what is below it.
    pub total: i64,
}

/// The tree as a list of nodes.
pub fn json(tree: &Tree) -> Json<'_> {
    let nodes = tree
        .nodes()
        .iter()
        .map(|node| JsonNode {
            name: tree.name(node),
            parent: node.parent,
            self_value: node.self_value,
            total: node.total,
        })
        .collect();
    Json { unit: "microseconds", nodes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    #[test]
    fn nodes_are_listed_after_their_parents() {
        let tree = tree("app", "a;b 3\n\"c\\ 1");
        assert_eq!(
            serde_json::to_string(&json(&tree)).expect("plain data"),
            concat!(
                r#"{"unit":"microseconds","nodes":["#,
                r#"{"name":"app","parent":null,"self":0,"total":4},"#,
                r#"{"name":"a","parent":0,"self":0,"total":3},"#,
                r#"{"name":"b","parent":1,"self":3,"total":3},"#,
                r#"{"name":"\"c\\","parent":0,"self":1,"total":1}]}"#,
            )
        );
    }
}
