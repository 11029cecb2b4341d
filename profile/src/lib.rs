//! The profile model: frames, stacks, stack ids, trees, and the formats they
//! are written in. Pure: nothing here does IO.
#![forbid(unsafe_code)]

pub mod diff;
pub mod frame;
pub mod stack;
pub mod tree;
pub mod write;

#[cfg(test)]
mod testing;
