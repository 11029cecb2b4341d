//! From the text of `/proc/PID/cgroup` to the pods that a process is in.
//!
//! Container runtimes and kubelets spell the same path in many ways; `cgroups.txt` beside this
//! file has what they really write.

use std::sync::Arc;

/// Pods within pods that are told apart; who nests deeper is in the outer ones all the same.
const MAX_NESTED: usize = 4;
/// A pod's uid is a UUID, or for a static pod whatever its manifest says.
const MAX_UID_BYTES: usize = 64;

/// A pod's cgroup that a process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPod {
    /// The pod's uid as the kubelet has it: of a static pod the hash of its manifest.
    pub uid: Arc<str>,
    /// Id of the container; none for what the runtime itself runs in a pod.
    pub container: Option<Arc<str>>,
}

/// The pods whose cgroups the process is in, the outermost first: a process in a cluster that runs in
/// a container of another is in a pod of each. None outside pods.
///
/// `own` is the reader's own pod, if it reads from a cgroup namespace of its own: paths then begin
/// where the reader's container is, and those of others with `/..`.
pub fn pods(text: &str, own: Option<&str>) -> Vec<InPod> {
    let found = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let is_unified = fields.next()? == "0";
        let path = fields.nth(1)?;
        Some(pods_of_path(path.strip_suffix(" (deleted)").unwrap_or(path), own, is_unified))
    });
    // Not every hierarchy has every process where its container is.
    let said = |pods: &Vec<InPod>| pods.iter().map(|pod| 1 + usize::from(pod.container.is_some())).sum();
    let most = found.fold((0_usize, Vec::new()), |(most, best), pods| {
        let said: usize = said(&pods);
        if said > most { (said, pods) } else { (most, best) }
    });
    most.1
}

fn pods_of_path(path: &str, own: Option<&str>, is_unified: bool) -> Vec<InPod> {
    let mut pods = Vec::new();
    let is_relative = path.trim_start_matches('/').starts_with("..");
    // An own namespace makes an own container of every path, but for hierarchies nobody uses.
    if let Some(own) = own
        && !is_relative
        && (is_unified || path != "/")
    {
        pods.push(InPod { uid: own.into(), container: None });
    }
    let mut parent = Parent::Other;
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).peekable();
    while let Some(segment) = segments.next() {
        if pods.len() == MAX_NESTED {
            break;
        }
        if let Some((uid, container)) = pod(segment, parent) {
            let container = container.or_else(|| container_id(segments.peek()?));
            pods.push(InPod { uid: uid.into(), container: container.map(Arc::from) });
        } else if parent == Parent::Above
            && let (Some(own), Some(container), true) = (own, container_id(segment), pods.is_empty())
        {
            pods.push(InPod { uid: own.into(), container: Some(container.into()) });
        }
        parent = match (segment, parent) {
            ("..", _) => Parent::Above,
            ("kubepods", _) => Parent::Kubepods,
            // The classes of pods without a guarantee; those with one have none.
            ("burstable" | "besteffort", known) => known,
            _ => Parent::Other,
        };
    }
    pods
}

/// What a directory is in.
#[derive(Clone, Copy, PartialEq)]
enum Parent {
    /// The kubelet's directory of pods, or a class in it.
    Kubepods,
    /// Something above the reader's own cgroup, whose name it cannot see.
    Above,
    Other,
}

/// Uid, and container id where it is in the same name, if this is a pod's directory.
fn pod(segment: &str, parent: Parent) -> Option<(String, Option<&str>)> {
    // containerd told to use cgroupfs by a kubelet that uses systemd: `SLICE:cri-containerd:ID`.
    let (unit, container) = match segment.split_once(':') {
        Some((unit, rest)) => (unit, rest.rsplit(':').next().and_then(container_id)),
        None => (segment, None),
    };
    let unit = unit.strip_suffix(".slice").unwrap_or(unit);
    let uid = match unit.strip_prefix("pod") {
        Some(uid) if parent == Parent::Kubepods => uid,
        Some(uid) if parent == Parent::Above && is_generated(uid) => uid,
        _ => of_slice(unit)?,
    };
    let is_uid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_valid = !uid.is_empty() && uid.len() <= MAX_UID_BYTES && uid.bytes().all(is_uid);
    // In a unit's name `-` parts the levels, so the kubelet writes `_`.
    is_valid.then(|| (uid.replace('_', "-"), container))
}

/// `kubepods-podUID`, `kubepods-burstable-podUID`, either below another slice: `kubelet-kubepods-…`.
fn of_slice(unit: &str) -> Option<&str> {
    let (above, below) = unit.rsplit_once("kubepods-")?;
    if !above.is_empty() && !above.ends_with('-') {
        return None;
    }
    let class = ["burstable-", "besteffort-"].iter().find_map(|class| below.strip_prefix(class));
    class.unwrap_or(below).strip_prefix("pod")
}

/// Whether a uid is one that the API server or kubelet made: a UUID, or the hash of a manifest.
fn is_generated(uid: &str) -> bool {
    is_hex(uid, 32) || is_uuid(uid)
}

/// Whether a uid is one that the API server made.
pub(super) fn is_uuid(uid: &str) -> bool {
    let parts: Vec<&str> = uid.split('-').collect();
    parts.len() == 5 && parts.iter().zip([8, 4, 4, 4, 12]).all(|(part, len)| is_hex(part, len))
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `ID`, `crio-ID`, `cri-containerd-ID.scope`, `docker-ID.scope`. Not `crio-conmon-ID.scope`, which is
/// the runtime's own process beside the container.
fn container_id(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id =
        (32..=64).contains(&id.len()) && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !runtime.ends_with("conmon")).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Cases are parted by empty lines: `#` and what it is, the lines of the file, `= UID CONTAINER` for
    /// each pod from the outermost. `# own UID` reads from a namespace of that pod's.
    #[test]
    fn every_spelling_is_understood() {
        let cases = include_str!("cgroups.txt");
        let mut failed = String::new();
        for case in cases.split("\n\n") {
            let part = |begins: fn(&&str) -> bool| case.lines().filter(begins).collect::<Vec<_>>();
            let file = part(|line| !line.starts_with(['#', '='])).join("\n");
            let expected = part(|line| line.starts_with('=')).join("\n");
            let own = case.lines().find_map(|line| line.strip_prefix("# own "));
            let found: Vec<String> = pods(&file, own)
                .iter()
                .map(|pod| format!("= {} {}", pod.uid, pod.container.as_deref().unwrap_or("-")))
                .collect();
            if found.join("\n") != expected {
                writeln!(failed, "{case}\n  found:\n{}\n", found.join("\n")).expect("a string takes it");
            }
        }
        assert!(failed.is_empty(), "{failed}");
    }

    #[test]
    fn whoever_nests_names_of_pods_is_in_the_outermost_first_and_the_list_ends() {
        let deep = format!("0::{}", "/kubepods/pod0123456789abcdef0123456789abcdef".repeat(100));
        assert_eq!(pods(&deep, None).len(), MAX_NESTED);
    }
}
