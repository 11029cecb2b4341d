//! Rollups against the real engine: built, swapped, and chosen by questions.

#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod builds;
#[path = "../query/common.rs"]
#[expect(dead_code, reason = "the questions' tests use more of it")]
mod common;
mod days;
mod model;
