//! See the README of this folder.

pub mod http;
pub mod query;
