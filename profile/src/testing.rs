//! Profiles as text, for the tests of this crate.

use crate::tree::{Tree, TreeBuilder};

/// A tree from folded stacks, one a line: `a;b 3`.
pub(crate) fn tree(root: &str, folded: &str) -> Tree {
    let mut builder = TreeBuilder::new(root);
    for line in folded.lines() {
        let (path, value) = line.rsplit_once(' ').expect("a value after the last space");
        builder.add(path.split(';'), value.parse().expect("a number"));
    }
    builder.finish()
}

/// `name self/total`, one node a line, indented by depth.
pub(crate) fn outline(tree: &Tree) -> String {
    tree.nodes()
        .iter()
        .map(|node| {
            let indent = "  ".repeat(node.depth as usize);
            format!("{indent}{} {}/{}\n", tree.name(node), node.self_value, node.total)
        })
        .collect()
}
