//! Answers as trees and stacks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A row of DeepFlow 6.5's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The frame.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The id of the frame that called it.
    pub parent: String,
    /// Microseconds.
    pub self_value: i64,
    /// Microseconds.
    pub total: i64,
}

/// DeepFlow 6.5's answer.
#[derive(Clone, Debug)]
pub struct Flame {
    /// The root first.
    pub nodes: Vec<Node>,
    /// What the answer says besides.
    pub description: String,
}

impl Flame {
    /// Reads an answer; the description where there is no tree.
    pub fn parse(answer: &Value) -> Result<Self, String> {
        assert_eq!(answer["OPT_STATUS"], "SUCCESS", "{answer}");
        let description = answer["DESCRIPTION"].as_str().expect("DESCRIPTION is text").to_owned();
        let Some(rows) = answer["result"].as_array() else {
            assert!(answer["result"].is_null(), "{answer}");
            return Err(description);
        };
        let text = |row: &Value, field: &str| -> String {
            row[field].as_str().unwrap_or_else(|| panic!("{field} of {row} is no text")).to_owned()
        };
        let number = |row: &Value, field: &str| -> i64 {
            row[field].as_i64().unwrap_or_else(|| panic!("{field} of {row} is no number"))
        };
        let nodes = rows
            .iter()
            .map(|row| Node {
                name: text(row, "profile_location_str"),
                id: text(row, "node_id"),
                parent: text(row, "parent_node_id"),
                self_value: number(row, "self_value"),
                total: number(row, "total_value"),
            })
            .collect();
        Ok(Self { nodes, description })
    }

    /// The node without a parent.
    pub fn root(&self) -> &Node {
        let roots: Vec<&Node> = self.nodes.iter().filter(|node| node.parent == "-1").collect();
        let [root] = roots[..] else { panic!("{} roots", roots.len()) };
        root
    }

    /// The node that this path of frames, from the first level on, leads to.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self.root(), |parent, name| {
            let mut children = self.nodes.iter().filter(|node| node.parent == parent.id);
            children.find(|node| node.name == *name)
        })
    }

    /// The frames of a node from the first level on.
    pub fn path_of(&self, node: &Node) -> Vec<&str> {
        let mut path = Vec::new();
        let mut at = self.nodes.iter().find(|other| *other == node);
        while let Some(node) = at.filter(|node| node.parent != "-1") {
            path.push(node.name.as_str());
            at = self.nodes.iter().find(|other| other.id == node.parent);
        }
        path.reverse();
        path
    }

    /// Total of all nodes of this name, wherever they stand (a recursion counts twice).
    pub fn total_of(&self, name: &str) -> i64 {
        self.nodes.iter().filter(|node| node.name == name).map(|node| node.total).sum()
    }

    /// All names.
    pub fn names(&self) -> BTreeSet<&str> {
        self.nodes.iter().map(|node| node.name.as_str()).collect()
    }
}

/// Stacks with their values: `frame;frame value` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded(pub BTreeMap<Vec<String>, i64>);

impl Folded {
    /// Reads lines; the first frame, the app service or process, is left out.
    pub fn parse(text: &str) -> Self {
        let mut stacks = BTreeMap::new();
        for line in text.lines() {
            let (stack, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
            let frames: Vec<String> = stack.split(';').skip(1).map(str::to_owned).collect();
            let value: i64 = value.parse().unwrap_or_else(|error| panic!("{error} in {line:?}"));
            *stacks.entry(frames).or_default() += value;
        }
        Self(stacks)
    }

    /// Sum of all values.
    pub fn total(&self) -> i64 {
        self.0.values().sum()
    }
}
