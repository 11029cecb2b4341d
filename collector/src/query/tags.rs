//! What the tags are, for people.

use super::filter::Tag;
use super::filter::tags::Kind;

/// What is known of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// What its values are.
    pub kind: &'static str,
    /// Whether rows have values of it. Otherwise every value is empty.
    pub collected: bool,
    /// One line.
    pub description: &'static str,
}

/// What a tag is.
pub fn about(tag: &Tag) -> About {
    let kind = match tag.kind {
        Kind::Text => "text",
        Kind::Number => "number",
        Kind::Enum(_) => "enum",
        Kind::Time { .. } => "time",
        Kind::Ip => "ip",
        Kind::Map => "map",
    };
    let collected = |description| About { kind, collected: true, description };
    let not_yet = |description| About { kind, collected: false, description };
    match tag.name {
        "app_service" => collected("what the policy calls the process; empty where no policy matched"),
        "policy" => collected("the policy that matched; empty where none did"),
        "process_id" => collected("process id in the host's pid namespace"),
        "process_name" => collected("name of the process: comm of its leader"),
        "thread_name" => collected("name of the thread"),
        "main_thread" => collected("1 for the main thread of a process, else 0"),
        "cpu" => collected("number of the CPU; 4095 where the policy does not keep it"),
        "profile_value_unit" => collected("unit of the values: microseconds"),
        "profile_event_type" => collected("what was sampled: on-cpu"),
        "profile_language_type" => collected("how it was sampled: eBPF"),
        "pod_cluster" => collected("cluster, as agent or collector were told"),
        "pod_node" => collected("node that the agent runs on"),
        "host" => collected("machine that the agent runs on"),
        "agent" => collected("name of the agent: its node's"),
        "app_instance" => not_yet("instance of the app service; nothing fills it yet"),
        "pod_ns" => not_yet("Kubernetes namespace; filled once agents know the pods"),
        "pod_group" => not_yet("Kubernetes workload; filled once agents know the pods"),
        "pod" => not_yet("Kubernetes pod; filled once agents know the pods"),
        "container" => not_yet("container in the pod; filled once agents know the pods"),
        "trace_id" => not_yet("trace that the sample belongs to; nothing fills it yet"),
        "span_name" => not_yet("span that the sample belongs to; nothing fills it yet"),
        "profile_id" => not_yet("profile that the sample belongs to; nothing fills it yet"),
        "region" => not_yet("region of the node; filled once agents know it"),
        "az" => not_yet("availability zone of the node; filled once agents know it"),
        "host_ip" | "pod_node_ip" => not_yet("address of the machine; filled once agents know it"),
        "host_hostname" | "pod_node_hostname" => {
            not_yet("host name of the machine; filled once agents know it")
        }
        "ip" => not_yet("address of the pod, or of the machine outside pods; filled once agents know it"),
        "is_ipv4" => not_yet("whether ip is an IPv4 address; filled once agents know it"),
        "pod_service" | "service" => {
            not_yet("Kubernetes Service of the pod; filled once agents know the pods")
        }
        "pod_group_type" => not_yet("kind of the workload; filled once agents know the pods"),
        "k8s.label" => not_yet("labels of the pod, by key; filled once agents know the pods"),
        "k8s.annotation" => not_yet("annotations of the pod, by key; filled once agents know the pods"),
        _ => collected(tag.about),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::filter::TAGS;

    #[test]
    fn every_tag_is_described_and_says_what_nothing_fills() {
        for tag in TAGS {
            let About { kind: _, collected, description } = about(tag);
            assert!(!description.is_empty(), "{}", tag.name);
            let says = description.contains("nothing fills it yet") || description.contains("filled once");
            assert_eq!(says, !collected, "{}", tag.name);
        }
    }
}
