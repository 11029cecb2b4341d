//! `ProfilingPolicy`: types, validation and the decision for one process.
#![forbid(unsafe_code)]
