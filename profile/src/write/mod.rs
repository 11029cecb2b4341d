//! The formats a tree is written in. Each is a function of the tree alone.

pub mod columns;
pub mod deepflow;
pub mod folded;
pub mod json;
pub mod svg;
