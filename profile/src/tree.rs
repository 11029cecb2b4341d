//! The tree that a flame graph draws: paths of frames with their values,
//! merged where they share a prefix.
//!
//! Kept as columns, in preorder: a parent stands before its children, and a
//! node's subtree follows it without a gap. Names are interned, and name 0 is
//! the root's alone, so that a function called like its program stays apart.

use std::collections::HashMap;

/// Collects paths; [`TreeBuilder::finish`] makes the [`Tree`].
#[derive(Debug)]
pub struct TreeBuilder {
    names: Vec<String>,
    name_ids: HashMap<String, u32>,
    nodes: Vec<Building>,
    /// (parent, name) to node: what building a tree spends its time in.
    children: HashMap<(u32, u32), u32, foldhash::fast::RandomState>,
}

/// A frame of a tree that is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameId(u32);

/// A finished tree: see the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    names: Vec<String>,
    nodes: Vec<Node>,
}

/// One node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Index into [`Tree::names`].
    pub name: u32,
    /// Index into [`Tree::nodes`]; `None` for the root, which is node 0.
    pub parent: Option<u32>,
    /// 0 for the root.
    pub depth: u32,
    /// Microseconds in this frame itself.
    pub self_value: i64,
    /// Microseconds in this frame and below.
    pub total: i64,
}

/// What one function used, over all the places where it stands in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Index into [`Tree::names`].
    pub name: u32,
    /// Microseconds in the function itself.
    pub self_value: i64,
    /// Microseconds in the function and what it called. A recursive call lies
    /// within the outer one and is not counted again, so this never exceeds
    /// the root's total.
    pub total: i64,
}

#[derive(Debug)]
struct Building {
    name: u32,
    parent: Option<u32>,
    self_value: i64,
}

impl TreeBuilder {
    /// An empty tree whose root is called `root`.
    pub fn new(root: impl Into<String>) -> Self {
        Self {
            names: vec![root.into()],
            name_ids: HashMap::new(),
            nodes: vec![Building { name: 0, parent: None, self_value: 0 }],
            children: HashMap::default(),
        }
    }

    /// Adds `value` microseconds to the last frame of `path`, which leads from
    /// below the root to the leaf; to the root itself if the path is empty.
    pub fn add<I>(&mut self, path: I, value: i64)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut node = 0;
        for frame in path {
            let name = self.name(frame.as_ref());
            node = self.child(node, name);
        }
        self.add_to(node, value);
    }

    /// As [`TreeBuilder::add`], for frames that [`TreeBuilder::intern`] knows
    /// already: for paths that come again.
    pub fn add_interned(&mut self, path: impl IntoIterator<Item = FrameId>, value: i64) {
        let mut node = 0;
        for FrameId(name) in path {
            node = self.child(node, name);
        }
        self.add_to(node, value);
    }

    /// Adds every node of another tree, with `self_values` in the place of its
    /// own; the other root becomes this one.
    pub(crate) fn add_tree(&mut self, tree: &Tree, self_values: &[i64]) {
        let names: Vec<FrameId> = tree.names[1..].iter().map(|name| self.intern(name)).collect();
        // The node here of each node there.
        let mut here: Vec<u32> = Vec::with_capacity(tree.nodes.len());
        for (node, value) in tree.nodes.iter().zip(self_values) {
            let place = match node.parent {
                None => 0,
                Some(parent) => self.child(here[parent as usize], names[node.name as usize - 1].0),
            };
            here.push(place);
            self.add_to(place, *value);
        }
    }

    /// The number of a frame in this tree.
    pub fn intern(&mut self, frame: &str) -> FrameId {
        FrameId(self.name(frame))
    }

    /// Sums up and orders: children by total, the largest first, then by name.
    pub fn finish(self) -> Tree {
        let Self { names, name_ids: _, nodes, children: _ } = self;
        let mut totals: Vec<i64> = nodes.iter().map(|n| n.self_value).collect();
        // A child is always younger than its parent.
        for (index, node) in nodes.iter().enumerate().rev() {
            if let Some(parent) = node.parent {
                let parent = parent as usize;
                totals[parent] = totals[parent].saturating_add(totals[index]);
            }
        }

        let mut children: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            if let Some(parent) = node.parent {
                children[parent as usize].push(index_u32(index));
            }
        }

        let mut ordered = Vec::with_capacity(nodes.len());
        // (node as built, its parent's place in `ordered`, depth)
        let mut open = vec![(0, None, 0)];
        while let Some((index, parent, depth)) = open.pop() {
            let built = &nodes[index as usize];
            let place = index_u32(ordered.len());
            let Building { name, parent: _, self_value } = *built;
            ordered.push(Node { name, parent, depth, self_value, total: totals[index as usize] });

            let mut below = std::mem::take(&mut children[index as usize]);
            // Ascending, because the stack is emptied from its end.
            below.sort_unstable_by(|&a, &b| {
                let name = |i: u32| &names[nodes[i as usize].name as usize];
                totals[a as usize].cmp(&totals[b as usize]).then_with(|| name(b).cmp(name(a)))
            });
            open.extend(below.into_iter().map(|child| (child, Some(place), depth + 1)));
        }
        Tree { names, nodes: ordered }
    }

    fn add_to(&mut self, node: u32, value: i64) {
        let self_value = &mut self.nodes[node as usize].self_value;
        *self_value = self_value.saturating_add(value);
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(&id) = self.name_ids.get(name) {
            return id;
        }
        let id = index_u32(self.names.len());
        self.names.push(name.to_owned());
        self.name_ids.insert(name.to_owned(), id);
        id
    }

    fn child(&mut self, parent: u32, name: u32) -> u32 {
        let Self { nodes, children, .. } = self;
        *children.entry((parent, name)).or_insert_with(|| {
            nodes.push(Building { name, parent: Some(parent), self_value: 0 });
            index_u32(nodes.len() - 1)
        })
    }
}

impl Tree {
    /// The nodes in preorder; the root is first and always there.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The names that [`Node::name`] points into; the root's is first.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of a node of this tree.
    pub fn name(&self, node: &Node) -> &str {
        &self.names[node.name as usize]
    }

    /// The root: its total is the sum of all self values.
    pub fn root(&self) -> &Node {
        &self.nodes[0]
    }

    /// One entry for each name, in the order of [`Tree::names`].
    pub fn functions(&self) -> Vec<Function> {
        let mut functions: Vec<Function> = (0..self.names.len())
            .map(|name| Function { name: index_u32(name), self_value: 0, total: 0 })
            .collect();
        // How often each name stands on the path from the root to the current node.
        let mut on_path = vec![0_u32; self.names.len()];
        let mut path: Vec<u32> = Vec::new();
        for node in &self.nodes {
            for left in path.drain(node.depth as usize..) {
                on_path[left as usize] -= 1;
            }
            let function = &mut functions[node.name as usize];
            function.self_value = function.self_value.saturating_add(node.self_value);
            if on_path[node.name as usize] == 0 {
                function.total = function.total.saturating_add(node.total);
            }
            on_path[node.name as usize] += 1;
            path.push(node.name);
        }
        functions
    }

    /// Calls `visit` for every node but the root, in preorder, with the text
    /// of its path from the first level on, joined by `;`.
    pub(crate) fn for_each_path(&self, mut visit: impl FnMut(&Node, &str)) {
        let mut path = String::new();
        // Length of `path` at each depth, the root's first.
        let mut ends = vec![0];
        for node in &self.nodes[1..] {
            ends.truncate(node.depth as usize);
            path.truncate(ends[ends.len() - 1]);
            if node.depth > 1 {
                path.push(';');
            }
            path.push_str(self.name(node));
            ends.push(path.len());
            visit(node, &path);
        }
    }
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a tree is bounded far below 2^32 nodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{outline, tree};
    use proptest::prelude::*;

    /// Folded stacks in, the tree out: name, self/total, indented by depth.
    fn check(folded: &str, expected: &str) {
        assert_eq!(outline(&tree("app", folded)), expected);
    }

    #[test]
    fn shared_prefixes_merge_and_the_hottest_comes_first() {
        check(
            "a;b 3\na;c 1\na;b 1\nd 9",
            "app 0/14\n\
             \x20 d 9/9\n\
             \x20 a 0/5\n\
             \x20   b 4/4\n\
             \x20   c 1/1\n",
        );
    }

    #[test]
    fn equal_totals_are_ordered_by_name() {
        check("c 1\na 1\nb 1", "app 0/3\n  a 1/1\n  b 1/1\n  c 1/1\n");
    }

    #[test]
    fn an_inner_frame_has_a_self_value_too() {
        check("a 2\na;b 3", "app 0/5\n  a 2/5\n    b 3/3\n");
    }

    #[test]
    fn no_path_is_a_root_of_zero() {
        check("", "app 0/0\n");
    }

    #[test]
    fn the_root_may_have_a_self_value() {
        let mut builder = TreeBuilder::new("app");
        builder.add(std::iter::empty::<&str>(), 5);
        builder.add(["a"], 1);
        assert_eq!(outline(&builder.finish()), "app 5/6\n  a 1/1\n");
    }

    /// Folded stacks in, "name self/total" for each function out.
    fn check_functions(folded: &str, expected: &str) {
        let tree = tree("app", folded);
        let text: Vec<String> = tree
            .functions()
            .iter()
            .map(|f| format!("{} {}/{}", tree.names()[f.name as usize], f.self_value, f.total))
            .collect();
        assert_eq!(text.join(", "), expected);
    }

    #[test]
    fn a_function_sums_over_its_places() {
        check_functions("a;x 3\nb;x 4\nx 1", "app 0/8, a 0/3, x 8/8, b 0/4");
    }

    #[test]
    fn recursion_is_counted_once() {
        check_functions("f;f;f 3\nf;g;f 2\nf 1", "app 0/6, f 6/6, g 0/2");
    }

    #[test]
    fn a_function_called_like_the_root_is_another_one() {
        check_functions("app 2\nx 1", "app 0/3, app 2/2, x 1/1");
    }

    proptest! {
        #[test]
        fn sums_are_exact(
            rows in prop::collection::vec((prop::collection::vec("[a-c]", 0..6), 0_i64..1_000_000), 0..40)
        ) {
            let mut builder = TreeBuilder::new("root");
            for (path, value) in &rows {
                builder.add(path, *value);
            }
            let tree = builder.finish();

            let sum: i64 = rows.iter().map(|(_, value)| value).sum();
            prop_assert_eq!(tree.root().total, sum);
            prop_assert_eq!(tree.nodes().iter().map(|n| n.self_value).sum::<i64>(), sum);
            for (index, node) in tree.nodes().iter().enumerate() {
                let below: i64 = tree.nodes().iter()
                    .filter(|n| n.parent == Some(index as u32))
                    .map(|n| n.total)
                    .sum();
                prop_assert_eq!(node.total, node.self_value + below);
                let depth = node.parent.map_or(0, |p| tree.nodes()[p as usize].depth + 1);
                prop_assert_eq!(node.depth, depth);
            }
            for function in tree.functions() {
                prop_assert!(function.self_value <= function.total && function.total <= sum);
            }
        }

        #[test]
        fn the_order_of_rows_does_not_matter(
            rows in prop::collection::vec((prop::collection::vec("[a-c]", 0..4), 0_i64..3), 0..20)
        ) {
            let build = |rows: &mut dyn Iterator<Item = &(Vec<String>, i64)>| {
                let mut builder = TreeBuilder::new("root");
                rows.for_each(|(path, value)| builder.add(path, *value));
                outline(&builder.finish())
            };
            prop_assert_eq!(build(&mut rows.iter()), build(&mut rows.iter().rev()));
        }
    }
}
