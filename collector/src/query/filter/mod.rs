//! `tag_filter`: conditions on tags, parsed to a tree whose names are checked
//! and whose values are bound, never pasted into SQL.
//!
//! ```text
//! or        = and { OR and }
//! and       = not { AND not }
//! not       = NOT not | "(" or ")" | condition
//! condition = tag ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
//!           | tag [ NOT ] IN "(" value { "," value } ")"
//!           | tag [ NOT ] LIKE text
//!           | tag [ NOT ] REGEXP text
//!           | tag IS [ NOT ] NULL
//! value     = text | number
//! text      = 'text' | "text"
//! ```
//!
//! Keywords in any case; a tag may stand in backquotes; in text a quote is
//! written twice or after a backslash. A condition is true or false: no tag is
//! null, IS NULL asks whether one is not set. For users: `docs/tag-filter.md`.

mod lexer;
mod operand;
mod parser;
mod pattern;
mod sql;
pub mod tags;
#[cfg(test)]
mod tests;

use super::statement::Value;
use parser::Parser;
use sql::{Rows, Writer};

pub use operand::Operand;
pub use tags::{TAGS, Tag};

/// The tags that say which node a row is of, and what was lost there.
const NODE_TAGS: [&str; 2] = ["pod_cluster", "pod_node"];

/// A parsed filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// All of them, two or more. Flat: ClickHouse bounds the depth of a query,
    /// and a pair in a pair for each AND would pass that bound.
    And(Vec<Expr>),
    /// At least one of them, as flat.
    Or(Vec<Expr>),
    /// The contrary.
    Not(Box<Expr>),
    /// A tag compared with a value, by one of `= != < <= > >=`.
    Compare(Column, &'static str, Operand),
    /// A tag that is one of several values.
    In(Column, Vec<Operand>),
    /// A tag whose text is like a pattern, in any case; the pattern as the engine writes it.
    Like(Column, String),
    /// A tag in whose text a regular expression is found.
    Regexp(Column, String),
    /// A tag that is not set.
    Unset(Column),
}

/// What is compared: a tag, or what a map tag has under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The tag.
    pub tag: &'static Tag,
    /// The key, for a map tag.
    pub key: Option<String>,
}

/// Why a filter was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at position {position}: {problem}")]
pub struct FilterError {
    /// Character of the filter, from 1 on.
    pub position: usize,
    /// What was found there, and what was expected.
    pub problem: String,
}

impl FilterError {
    /// `place` counts characters from 0 on.
    fn at(place: usize, problem: impl Into<String>) -> Self {
        Self { position: place + 1, problem: problem.into() }
    }
}

/// Parses a filter; `None` if it is blank.
///
/// # Errors
/// The position of what was not understood, and what was expected there.
pub fn parse(filter: &str) -> Result<Option<Expr>, FilterError> {
    Parser::new(filter)?.filter()
}

impl Expr {
    /// The condition on rows of `profile.in_process_local` as SQL with `?` for
    /// each value, which go to `values`.
    pub fn sql(&self, values: &mut Vec<Value>) -> String {
        Writer { rows: Rows::OfApps, values }.condition(self)
    }

    /// The same for `Total`, under which each row has another `_id`.
    pub fn sql_of_total(&self, values: &mut Vec<Value>) -> String {
        Writer { rows: Rows::OfTotal, values }.condition(self)
    }

    /// What it says of nodes: a condition that holds for the node of every row that the filter
    /// matches. None if that may be any node.
    pub fn of_nodes(&self) -> Option<Self> {
        let joined = |mut parts: Vec<Self>, join: fn(Vec<Self>) -> Self| match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(join(parts)),
        };
        match self {
            Self::And(parts) => joined(parts.iter().filter_map(Self::of_nodes).collect(), Self::And),
            Self::Or(parts) => parts.iter().map(Self::of_nodes).collect::<Option<_>>().map(Self::Or),
            // The contrary of a part may hold whatever the part says of nodes.
            _ => self.tags().iter().all(|tag| NODE_TAGS.contains(&tag.name)).then(|| self.clone()),
        }
    }

    /// The tags that it names, each once. Rows answer it alike if they have
    /// the column of each of them, and `time` as fine as it was stored.
    pub fn tags(&self) -> Vec<&'static Tag> {
        let mut tags = Vec::new();
        self.collect_tags(&mut tags);
        tags
    }

    fn collect_tags(&self, tags: &mut Vec<&'static Tag>) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.collect_tags(tags)),
            Self::Not(inner) => inner.collect_tags(tags),
            Self::Compare(column, ..)
            | Self::In(column, _)
            | Self::Like(column, _)
            | Self::Regexp(column, _)
            | Self::Unset(column) => {
                if !tags.iter().any(|tag| tag.name == column.tag.name) {
                    tags.push(column.tag);
                }
            }
        }
    }
}
