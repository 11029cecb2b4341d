//! A comparison in JSON and as folded lines; [`super::html`] draws it.

use serde::Serialize;

use crate::diff::Diff;

/// One node of a comparison; the list of them is in preorder, the root first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffNode<'a> {
    /// 0 for the root.
    pub level: u32,
    /// The frame as shown.
    pub name: &'a str,
    /// Microseconds of the frame itself in the base.
    pub base_self: i64,
    /// Microseconds of the frame and what is below it in the base.
    pub base_total: i64,
    /// Microseconds of the frame itself in the profile that is compared.
    pub new_self: i64,
    /// Microseconds of the frame and what is below it in the profile that is compared.
    pub new_total: i64,
}

/// The comparison as a list of nodes.
pub fn json(diff: &Diff) -> Vec<DiffNode<'_>> {
    let Diff { tree, base, new, scale: _ } = diff;
    let nodes = tree.nodes().iter().zip(base.iter().zip(new));
    nodes
        .map(|(node, (base, new))| DiffNode {
            level: node.depth,
            name: tree.name(node),
            base_self: base.self_value,
            base_total: base.total,
            new_self: new.self_value,
            new_total: new.total,
        })
        .collect()
}

/// Lines `stack base new`, as `difffolded.pl` makes them and inferno and
/// `flamegraph.pl` draw them.
pub fn folded(diff: &Diff) -> String {
    let Diff { tree, base, new, scale: _ } = diff;
    let root = tree.name(tree.root());
    let mut text = String::new();
    let mut line = |at: usize, path: std::fmt::Arguments<'_>| {
        let (base, new) = (base[at].self_value, new[at].self_value);
        if base != 0 || new != 0 {
            text.push_str(&format!("{path} {base} {new}\n"));
        }
    };
    line(0, format_args!("{root}"));
    let mut at = 0;
    tree.for_each_path(|_, path| {
        at += 1;
        line(at, format_args!("{root};{path}"));
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{Scale, diff};
    use crate::testing::tree;

    fn example() -> Diff {
        diff(&tree("app", "a;b 3\ngone 1"), &tree("app", "a;b 1\na;\"c 5"), Scale::Absolute)
    }

    #[test]
    fn nodes_have_the_values_of_both() {
        assert_eq!(
            serde_json::to_string(&json(&example())).expect("plain data"),
            concat!(
                r#"[{"level":0,"name":"app","base_self":0,"base_total":4,"new_self":0,"new_total":6},"#,
                r#"{"level":1,"name":"a","base_self":0,"base_total":3,"new_self":0,"new_total":6},"#,
                r#"{"level":2,"name":"\"c","base_self":0,"base_total":0,"new_self":5,"new_total":5},"#,
                r#"{"level":2,"name":"b","base_self":3,"base_total":3,"new_self":1,"new_total":1},"#,
                r#"{"level":1,"name":"gone","base_self":1,"base_total":1,"new_self":0,"new_total":0}]"#,
            )
        );
    }

    #[test]
    fn a_line_has_the_self_values_of_both() {
        assert_eq!(folded(&example()), "app;a;\"c 0 5\napp;a;b 3 1\napp;gone 1 0\n");
        assert_eq!(folded(&diff(&tree("app", ""), &tree("app", ""), Scale::Absolute)), "");
    }
}
