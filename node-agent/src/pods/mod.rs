//! The pods of this node: which process is in which, and what rows say of it.

pub mod cgroup;
