//! Two profiles side by side: one tree with the values of both at every node.

use std::collections::HashMap;

use crate::tree::{Tree, TreeBuilder};

/// A tree of the paths of two, and what each has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// Every path of either; its values are the sums of both.
    pub tree: Tree,
    /// What the earlier, or the other, profile has at each node of the tree.
    pub base: Vec<Values>,
    /// What the profile in question has at each node of the tree.
    pub new: Vec<Values>,
    /// How the base counts: as it is, whatever was asked for, if there was nothing to scale by.
    pub scale: Scale,
}

/// The values of one node in one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Values {
    /// Microseconds in the frame itself.
    pub self_value: i64,
    /// Microseconds in the frame and below.
    pub total: i64,
}

/// Whether the base counts as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Microseconds as they were sampled.
    Absolute,
    /// The base's are multiplied so that both totals are equal: shares are compared, whatever the load was.
    EqualTotals,
}

/// Compares two trees. The root is called as the new one's.
///
/// The base is not scaled if either has no time: there is nothing to multiply,
/// or by nothing, which would erase it. [`Diff::scale`] says so.
pub fn diff(base: &Tree, new: &Tree, scale: Scale) -> Diff {
    let self_values = |tree: &Tree| tree.nodes().iter().map(|n| n.self_value).collect::<Vec<_>>();
    let mut of_base = self_values(base);
    let comparable = base.root().total > 0 && new.root().total > 0;
    let scale = if comparable { scale } else { Scale::Absolute };
    if scale == Scale::EqualTotals {
        multiply(&mut of_base, base.root().total, new.root().total);
    }
    let of_new = self_values(new);

    let mut both = TreeBuilder::new(new.name(new.root()));
    both.add_tree(base, &of_base);
    both.add_tree(new, &of_new);
    let tree = both.finish();

    let places = Places::of(&tree);
    let base = places.values(&tree, base, &of_base);
    let new = places.values(&tree, new, &of_new);
    Diff { tree, base, new, scale }
}

/// Multiplies by `to / from`, both above 0; the sum becomes exactly `to`. What
/// rounding takes from one value, the next one gets.
fn multiply(values: &mut [i64], from: i64, to: i64) {
    let scaled = |sum: i128| sum * i128::from(to) / i128::from(from);
    let mut sum = 0_i128;
    for value in values {
        let before = scaled(sum);
        sum += i128::from(*value);
        *value = i64::try_from(scaled(sum) - before).unwrap_or(i64::MAX);
    }
}

/// Where each path of a tree is.
struct Places<'a> {
    names: HashMap<&'a str, u32>,
    /// (parent, name) to node.
    nodes: HashMap<(u32, u32), u32>,
}

impl<'a> Places<'a> {
    fn of(tree: &'a Tree) -> Self {
        let names = (0..).zip(tree.names()).skip(1).map(|(id, name)| (name.as_str(), id)).collect();
        let nodes =
            (0..).zip(tree.nodes()).filter_map(|(at, node)| Some(((node.parent?, node.name), at))).collect();
        Self { names, nodes }
    }

    /// The values of `part`, whose paths are all in `tree`, at the nodes of `tree`.
    fn values(&self, tree: &Tree, part: &Tree, self_values: &[i64]) -> Vec<Values> {
        let mut values = vec![Values::default(); tree.nodes().len()];
        let mut places: Vec<u32> = Vec::with_capacity(part.nodes().len());
        for (node, self_value) in part.nodes().iter().zip(self_values) {
            let place = node
                .parent
                .map_or(0, |parent| self.nodes[&(places[parent as usize], self.names[part.name(node)])]);
            places.push(place);
            values[place as usize] = Values { self_value: *self_value, total: *self_value };
        }
        // Children come after their parents.
        for (at, node) in tree.nodes().iter().enumerate().rev() {
            if let Some(parent) = node.parent {
                let total = values[at].total;
                let above = &mut values[parent as usize].total;
                *above = above.saturating_add(total);
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;
    use proptest::prelude::*;

    /// Folded stacks of both in; out `name base's self/total new's self/total`, indented by depth.
    fn check(base: &str, new: &str, scale: Scale, expected: &str) {
        let Diff { tree, base, new, scale: _ } = diff(&tree("before", base), &tree("app", new), scale);
        let show = |v: &Values| format!("{}/{}", v.self_value, v.total);
        let text: String = tree
            .nodes()
            .iter()
            .zip(base.iter().zip(&new))
            .map(|(node, (base, new))| {
                let indent = "  ".repeat(node.depth as usize);
                format!("{indent}{} {} {}\n", tree.name(node), show(base), show(new))
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn each_path_of_either_has_the_values_of_both() {
        check(
            "a;b 3\na;gone 1\na 1",
            "a;b 5\na;b;app 4",
            Scale::Absolute,
            "app 0/5 0/9\n\
             \x20 a 1/5 0/9\n\
             \x20   b 3/3 5/9\n\
             \x20     app 0/0 4/4\n\
             \x20   gone 1/1 0/0\n",
        );
    }

    #[test]
    fn equal_totals_compare_shares() {
        check(
            "a 1\nb 2",
            "a 20\nb 10",
            Scale::EqualTotals,
            "app 0/30 0/30\n  a 10/10 20/20\n  b 20/20 10/10\n",
        );
    }

    #[test]
    fn one_of_them_may_be_empty() {
        check("", "a 2", Scale::EqualTotals, "app 0/0 0/2\n  a 0/0 2/2\n");
        check("a 2", "", Scale::Absolute, "app 0/2 0/0\n  a 2/2 0/0\n");
        check("a 2", "", Scale::EqualTotals, "app 0/2 0/0\n  a 2/2 0/0\n");
        check("", "", Scale::EqualTotals, "app 0/0 0/0\n");
    }

    #[test]
    fn it_is_said_whether_the_base_was_scaled() {
        let scaled = |base, new, scale| diff(&tree("app", base), &tree("app", new), scale).scale;
        assert_eq!(scaled("a 1", "a 2", Scale::EqualTotals), Scale::EqualTotals);
        assert_eq!(scaled("a 1", "a 2", Scale::Absolute), Scale::Absolute);
        for (base, new) in [("a 1", ""), ("", "a 1"), ("", "")] {
            assert_eq!(scaled(base, new, Scale::EqualTotals), Scale::Absolute);
        }
    }

    proptest! {
        #[test]
        fn sums_are_exact_also_when_scaled(
            base in prop::collection::vec((prop::collection::vec("[a-c]", 1..4), 1_i64..1_000), 1..20),
            new in prop::collection::vec((prop::collection::vec("[a-c]", 1..4), 1_i64..1_000), 1..20),
        ) {
            let build = |rows: &[(Vec<String>, i64)]| {
                let mut builder = TreeBuilder::new("root");
                rows.iter().for_each(|(path, value)| builder.add(path, *value));
                builder.finish()
            };
            let (base, new) = (build(&base), build(&new));
            let scaled = diff(&base, &new, Scale::EqualTotals);
            prop_assert_eq!(scaled.base[0].total, new.root().total);
            prop_assert_eq!(scaled.base.iter().map(|v| v.self_value).sum::<i64>(), new.root().total);
            prop_assert_eq!(scaled.new[0].total, new.root().total);
            let absolute = diff(&base, &new, Scale::Absolute);
            prop_assert_eq!(absolute.base[0].total, base.root().total);
            for (node, (b, n)) in absolute.tree.nodes().iter().zip(absolute.base.iter().zip(&absolute.new)) {
                prop_assert_eq!(node.total, b.total + n.total);
                prop_assert_eq!(node.self_value, b.self_value + n.self_value);
            }
            // Nothing changed: no node differs.
            let same = diff(&new, &new, Scale::EqualTotals);
            prop_assert_eq!(same.base, same.new);
        }
    }
}
