//! The collector: receive, store, query, serve.
//!
//! Agents → [`ingest`] (gRPC, checks) → [`store`] (queue, shared INSERTs) →
//! ClickHouse, which [`embedded`] starts, or [`store_check`] looks at,
//! [`schema`] fills with tables and [`rollup`] with sums of them → [`query`] →
//! [`http`], and over HTTPS by [`access`].

pub mod access;
pub mod auth;
pub mod cli;
pub mod cluster;
pub mod embedded;
pub mod external;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod query;
pub mod rollup;
pub mod schema;
pub mod serve;
pub mod store;
pub mod store_check;
