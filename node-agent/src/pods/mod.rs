//! The pods of this node: which process is in which, and what rows say of it.
//!
//! ```text
//! API server ─► watch ─► object ─► Pod ──┐
//!                operator ─► Directory ──┴─► table ─► Home (for policies), Tags (for rows)
//! /proc/PID/cgroup ─► cgroup ─► InPod ───────┘
//! ```
//!
//! All but [`watch`] is pure: the sampling thread owns the [`table`] and is told of changes.

pub mod cgroup;
mod directory;
mod object;
mod pod;
mod table;
pub mod watch;

pub use directory::{Directory, Namespace, NodePlace, Object, Service, Wants};
pub use object::PodObject;
pub use pod::{DEFAULT_LABELS, LabelFilter, LabelFilterError, Owner, Pod, Tags};
pub use table::{Change, Found, Inside, PodOptions, Pods};
