//! What an agent says, held to the limits of the contract.

use hearth_proto::config::v1::{Counts, Hello, Verdict, Wants};
use hearth_proto::config_limits::{
    INSTANCE_BYTES, MAX_COUNTS, MAX_HASH_BYTES, MAX_MESSAGE_BYTES, MAX_OVERRIDERS, MAX_POLICY_BYTES,
    MAX_SEEN, MAX_WANTED_NAMESPACES, MAX_WANTED_OWNERS,
};
use hearth_proto::limits::MAX_NAME_BYTES;

use crate::index::{OwnerKey, OwnerKind};
use crate::nodes;

/// A report breaks the contract: this is how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Violation(String);

impl Violation {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

type Checked<T> = Result<T, Violation>;

fn bytes(what: &str, text: &str, max: usize) -> Checked<()> {
    if text.len() > max {
        return Err(Violation(format!("{what} has {} bytes, more than {max}", text.len())));
    }
    Ok(())
}

fn entries(what: &str, count: usize, max: usize) -> Checked<()> {
    if count > max {
        return Err(Violation(format!("{what} has {count} entries, more than {max}")));
    }
    Ok(())
}

/// At most so many bytes of it, in whole characters.
fn cut(mut text: String, max: usize) -> String {
    let end = (0..=text.len().min(max)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.truncate(end);
    text
}

pub(super) fn hello(hello: Hello) -> Checked<Hello> {
    if hello.node.is_empty() {
        return Err(Violation("hello.node is empty: it must be the name of the Kubernetes node".to_owned()));
    }
    bytes("hello.node", &hello.node, MAX_NAME_BYTES)?;
    bytes("hello.hash", &hello.hash, MAX_HASH_BYTES)?;
    if hello.instance.len() != INSTANCE_BYTES {
        let length = hello.instance.len();
        return Err(Violation(format!("hello.instance has {length} bytes, not {INSTANCE_BYTES}")));
    }
    Ok(Hello { version: cut(hello.version, MAX_NAME_BYTES), ..hello })
}

pub(super) fn verdict(verdict: Verdict) -> Checked<Verdict> {
    bytes("verdict.hash", &verdict.hash, MAX_HASH_BYTES)?;
    Ok(Verdict { refused: cut(verdict.refused, MAX_MESSAGE_BYTES), ..verdict })
}

pub(super) fn counts(mut counts: Counts) -> Checked<Counts> {
    entries("counts.policies", counts.policies.len(), MAX_COUNTS)?;
    for policy in &counts.policies {
        bytes("counts.policies.policy", &policy.policy, MAX_POLICY_BYTES)?;
        entries("counts.policies.overridden_by", policy.overridden_by.len(), MAX_OVERRIDERS)?;
        entries("counts.policies.seen", policy.seen.len(), MAX_SEEN)?;
        for name in &policy.overridden_by {
            bytes("counts.policies.overridden_by", name, MAX_POLICY_BYTES)?;
        }
        for name in &policy.seen {
            bytes("counts.policies.seen", name, MAX_NAME_BYTES)?;
        }
    }
    if let Some(detached) = &mut counts.detached {
        detached.message = cut(std::mem::take(&mut detached.message), MAX_MESSAGE_BYTES);
    }
    Ok(counts)
}

/// Kinds that have no owner that matters are left out.
pub(super) fn wants(wants: Wants) -> Checked<nodes::Wants> {
    entries("wants.namespaces", wants.namespaces.len(), MAX_WANTED_NAMESPACES)?;
    entries("wants.owners", wants.owners.len(), MAX_WANTED_OWNERS)?;
    for name in &wants.namespaces {
        bytes("wants.namespaces", name, MAX_NAME_BYTES)?;
    }
    for owner in &wants.owners {
        bytes("wants.owners.namespace", &owner.namespace, MAX_NAME_BYTES)?;
        bytes("wants.owners.kind", &owner.kind, MAX_NAME_BYTES)?;
        bytes("wants.owners.name", &owner.name, MAX_NAME_BYTES)?;
    }
    let owners = wants.owners.into_iter().filter_map(|owner| {
        let kind = OwnerKind::parse(&owner.kind)?;
        Some(OwnerKey { namespace: owner.namespace.into(), kind, name: owner.name.into() })
    });
    let namespaces = wants.namespaces.into_iter().map(Into::into).collect();
    Ok(nodes::Wants { namespaces, owners: owners.collect() })
}
