//! What is known of a process when its policy is decided.

use crate::selector::Labels;
use crate::spec::AppService;

/// One process, as far as policies look at it. Names that are no UTF-8 arrive converted with U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Name of the process leader, at most 15 bytes.
    pub comm: String,
    /// The arguments joined by blanks; empty for a kernel thread or when unknown.
    pub cmdline: String,
    /// Path of the executable; empty for a kernel thread or when unknown.
    pub exe: String,
    /// In a pod or outside.
    pub home: Home,
}

/// Where a process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// Outside pods. Every process, without Kubernetes.
    Host,
    /// In this pod.
    Pod(PodFacts),
    /// In the cgroup of a pod that has not become known yet. Never a host process.
    PodPending,
}

/// The pod of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's namespace.
    pub namespace: String,
    /// Labels of that namespace.
    pub namespace_labels: Labels,
    /// The pod's name.
    pub name: String,
    /// The pod's labels.
    pub labels: Labels,
    /// Name of the process's container; empty when unknown.
    pub container: String,
    /// Name of the workload above the pod (the Deployment, not the ReplicaSet); empty when unknown.
    pub workload: String,
}

/// What a node can know. Without Kubernetes there are no pods and no labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environment {
    /// A node of a cluster, with its labels.
    Kubernetes {
        /// Labels of the node.
        node_labels: Labels,
    },
    /// A machine with a policy file.
    Standalone,
}

/// The `app_service` of a process under a policy. A process that lacks the fact asked for goes by its comm.
pub fn app_service(choice: AppService, facts: &ProcessFacts) -> &str {
    let pod = match &facts.home {
        Home::Pod(pod) => Some(pod),
        Home::Host | Home::PodPending => None,
    };
    let chosen = match choice {
        AppService::Comm => None,
        AppService::Container => pod.map(|pod| pod.container.as_str()),
        AppService::Workload => pod.map(|pod| pod.workload.as_str()),
        AppService::Exe => Some(file_name(&facts.exe)),
    };
    chosen.filter(|name| !name.is_empty()).unwrap_or(&facts.comm)
}

/// The kernel appends ` (deleted)` to the path of an executable that was replaced.
fn file_name(exe: &str) -> &str {
    let path = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(exe: &str, home: Home) -> ProcessFacts {
        ProcessFacts { comm: "java".into(), cmdline: String::new(), exe: exe.into(), home }
    }

    #[test]
    fn the_policy_chooses_the_name() {
        let pod = PodFacts { container: "app".into(), workload: "shop".into(), ..PodFacts::default() };
        let facts = process("/opt/jdk/bin/java21", Home::Pod(pod));
        assert_eq!(app_service(AppService::Comm, &facts), "java");
        assert_eq!(app_service(AppService::Container, &facts), "app");
        assert_eq!(app_service(AppService::Workload, &facts), "shop");
        assert_eq!(app_service(AppService::Exe, &facts), "java21");
    }

    #[test]
    fn a_missing_fact_falls_back_to_comm() {
        for choice in [AppService::Container, AppService::Workload, AppService::Exe] {
            assert_eq!(app_service(choice, &process("", Home::Host)), "java");
            assert_eq!(app_service(choice, &process("", Home::Pod(PodFacts::default()))), "java");
        }
    }

    #[test]
    fn a_replaced_executable_keeps_its_name() {
        assert_eq!(app_service(AppService::Exe, &process("/usr/bin/redis (deleted)", Home::Host)), "redis");
    }
}
