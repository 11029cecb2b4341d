//! Folded stacks, the common currency of flame graph tools.

use crate::tree::Tree;

/// One line for each path that has a self value: the frames from the root to
/// the leaf joined by `;`, a space, the microseconds.
///
/// The root is the first frame of every line, as the command is in `perf`'s
/// folded output, so that files of several programs can be put together. The
/// value is what stands behind the last space; names may contain spaces.
pub fn folded(tree: &Tree) -> String {
    let root = tree.name(tree.root());
    let mut text = String::new();
    if tree.root().self_value != 0 {
        text.push_str(&format!("{root} {}\n", tree.root().self_value));
    }
    tree.for_each_path(|node, path| {
        if node.self_value != 0 {
            text.push_str(&format!("{root};{path} {}\n", node.self_value));
        }
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    fn check(stacks: &str, expected: &str) {
        assert_eq!(folded(&tree("app", stacks)), expected);
    }

    #[test]
    fn one_line_for_each_path_with_time() {
        check("a;b 3\na;c 1\na;b 1", "app;a;b 4\napp;a;c 1\n");
        check("a 1\na;b;c 2\na;b 0", "app;a 1\napp;a;b;c 2\n");
        check("[t] io worker 1;f(int, char) 7", "app;[t] io worker 1;f(int, char) 7\n");
        check("", "");
    }

    #[test]
    fn what_is_written_reads_as_the_same_tree() {
        let written = folded(&tree("app", "a;b 3\na;c 1\nd 5\na;b;b 2"));
        let mut lines: Vec<&str> =
            written.lines().map(|l| l.strip_prefix("app;").expect("the root")).collect();
        lines.reverse();
        assert_eq!(folded(&tree("app", &lines.join("\n"))), written);
    }
}
