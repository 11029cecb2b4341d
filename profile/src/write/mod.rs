//! The formats a profile is written in. Each is a function of a tree alone, but
//! for [`pprof`], whose samples carry labels, and for [`diff`], which takes two trees.

pub mod columns;
pub mod deepflow;
pub mod diff;
pub mod folded;
pub mod html;
pub mod json;
pub mod markup;
pub mod nested_set;
pub mod pprof;
pub mod speedscope;
pub mod svg;

/// What stands around a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels<'a> {
    /// Above the graph.
    pub title: &'a str,
    /// What the reader must know about the data, in sentences; often nothing.
    pub notes: &'a [String],
}
