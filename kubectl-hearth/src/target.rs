//! What is asked about, as kubectl users write it.

use std::fmt;
use std::str::FromStr;

/// `pod/x`, `deploy/x`, `app/NAME`, `node/x`, `total`; a name alone is a pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One pod.
    Pod(String),
    /// The pods of a workload.
    Workload(Kind, String),
    /// What policies call a process, wherever it runs.
    App(String),
    /// Every process of a node.
    Node(String),
    /// Every process.
    Total,
}

/// What makes pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `deploy/x`.
    Deployment,
    /// `sts/x`.
    StatefulSet,
    /// `ds/x`.
    DaemonSet,
    /// `rs/x`.
    ReplicaSet,
    /// `job/x`.
    Job,
    /// `cj/x`.
    CronJob,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Deployment, Self::StatefulSet, Self::DaemonSet, Self::ReplicaSet, Self::Job, Self::CronJob];

    /// As an object's `kind` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }

    /// As kubectl's users write it.
    pub fn short(self) -> &'static str {
        match self {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::ReplicaSet => "rs",
            Self::Job => "job",
            Self::CronJob => "cj",
        }
    }

    /// API group and plural.
    pub fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "deployments"),
            Self::StatefulSet => ("apps", "statefulsets"),
            Self::DaemonSet => ("apps", "daemonsets"),
            Self::ReplicaSet => ("apps", "replicasets"),
            Self::Job => ("batch", "jobs"),
            Self::CronJob => ("batch", "cronjobs"),
        }
    }

    fn parse(word: &str) -> Option<Self> {
        // kubectl takes the kind in any case, and with its group behind a dot.
        let word = word.split('.').next().unwrap_or_default().to_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let singular = kind.as_str().to_lowercase();
            word == kind.short() || word == singular || word == kind.resource().1
        })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, name),
            None if text.eq_ignore_ascii_case("total") => return Ok(Self::Total),
            None => ("pod", text),
        };
        if name.is_empty() {
            return Err(format!("has no name: write {kind}/NAME"));
        }
        match kind.to_lowercase().as_str() {
            // A process may be called anything.
            "app" | "apps" => Ok(Self::App(name.to_owned())),
            "pod" | "pods" | "po" => object_name(name).map(Self::Pod),
            "node" | "nodes" | "no" => object_name(name).map(Self::Node),
            _ => match Kind::parse(kind) {
                Some(kind) => object_name(name).map(|name| Self::Workload(kind, name)),
                None => {
                    let kinds = Kind::ALL.map(|kind| format!("{}/", kind.short())).join(", ");
                    Err(format!(
                        "is of no kind that can be asked about: use pod/, {kinds}, app/, node/ or total"
                    ))
                }
            },
        }
    }
}

/// A DNS subdomain: goes into paths as it is.
fn object_name(name: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if bytes.len() <= 253 && bytes.iter().copied().all(fits) && ends(bytes.first()) && ends(bytes.last()) {
        return Ok(name.to_owned());
    }
    Err("is no name of an object: lower-case letters, digits, '-' and '.'; a process is app/NAME".to_owned())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod/{name}"),
            Self::Workload(kind, name) => write!(f, "{}/{name}", kind.short()),
            Self::App(name) => write!(f, "app/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Total => f.write_str("total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let target = text.parse::<Target>().map_or_else(|error| error, |target| target.to_string());
        assert!(target.starts_with(expected), "{text}: {target}");
    }

    #[test]
    fn targets_are_written_as_for_kubectl() {
        check("web-1", "pod/web-1");
        check("po/web-1", "pod/web-1");
        for deployment in ["deploy/web", "deployment/web", "Deployments/web", "deployments.apps/web"] {
            check(deployment, "deploy/web");
        }
        check("statefulset/db", "sts/db");
        check("daemonset/x", "ds/x");
        check("rs/x", "rs/x");
        check("jobs/x", "job/x");
        check("cronjob/x", "cj/x");
        check("app/C1 Compiler/2", "app/C1 Compiler/2");
        check("no/n1", "node/n1");
        check("TOTAL", "total");
    }

    #[test]
    fn what_is_none_is_refused() {
        check("pod/", "has no name");
        check("", "has no name");
        check("secret/x", "is of no kind that can be asked about: use pod/, deploy/, ");
        check("pod/A'x", "is no name of an object");
        check("../x", "is of no kind");
        check("-x", "is no name of an object");
    }
}
