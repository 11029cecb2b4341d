//! The tags that a filter may name: DeepFlow's 54 documented ones, and Hearth's own.

/// A tag whose values are stored.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name, as in a filter and as a column of the view `profile.in_process`.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The column of `profile.in_process_local` that it is, or is made from.
    /// `_id` is made from many: `batch` is the one that only raw rows have.
    pub column: &'static str,
    /// An expression over the columns of `profile.in_process_local`, if it is not a column itself.
    pub expression: Option<&'static str>,
    /// When a row does not have it.
    pub unset: Unset,
    /// One line for people.
    pub about: &'static str,
}

/// What the values of a tag are, and so what it can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Number,
    /// Whole numbers, each of which may have a name; the first name of a number is the one that is shown.
    Enum(&'static [(i64, &'static str)]),
    /// Points in time, with so many units in a second.
    Time {
        /// 1 or 1,000,000.
        per_second: i64,
    },
    /// Addresses, also compared with networks.
    Ip,
    /// Texts by key; a filter names one as `k8s.label.KEY`.
    Map,
}

/// What IS NULL asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unset {
    /// Whether it is the empty text.
    Empty,
    /// Whether this condition holds.
    When(&'static str),
    /// Nothing: every row has it.
    Never,
}

/// A documented tag that Hearth has no values of.
#[derive(Debug, PartialEq, Eq)]
pub struct NotCollected {
    /// Its name.
    pub name: &'static str,
    /// Continues "Hearth does not collect NAME: ".
    pub why: &'static str,
}

/// The kinds of workload, as numbers: DeepFlow's names, and Kubernetes' where it has another.
pub const POD_GROUP_TYPES: &[(i64, &str)] = &[
    (130, "Deployment"),
    (131, "StatefulSet"),
    (132, "ReplicationController"),
    (133, "DaemonSet"),
    (134, "ReplicaSetController"),
    (134, "ReplicaSet"),
    (135, "CloneSet"),
];
/// The number of a kind of workload as Kubernetes calls it; 0 for those that have none.
pub fn pod_group_type(kind: &str) -> u8 {
    let named = POD_GROUP_TYPES.iter().find(|(_, name)| *name == kind);
    named.and_then(|(number, _)| u8::try_from(*number).ok()).unwrap_or(0)
}

/// The values of `is_ipv4`.
pub const IP_TYPES: &[(i64, &str)] = &[(0, "IPv6"), (1, "IPv4")];

const SECONDS: Kind = Kind::Time { per_second: 1 };
const MICROSECONDS: Kind = Kind::Time { per_second: 1_000_000 };

/// Every tag that is collected.
pub const TAGS: &[Tag] = &[
    Tag {
        expression: Some(
            "bitShiftRight(sipHash64(app_service, batch, policy, process_id, process_start_time, thread_name, \
             main_thread, stack_id, stack_end, cpu), 1)",
        ),
        ..number("_id", "Identifies a row; it has another one under Total").from("batch")
    },
    Tag { kind: SECONDS, ..number("time", "Start of the row's window") },
    text("region", "Region of the node"),
    text("az", "Availability zone of the node"),
    text("host", "Name of the machine"),
    ip("host_ip", "Address of the machine"),
    text("host_hostname", "Host name of the machine"),
    text("pod_cluster", "Kubernetes cluster"),
    text("pod_ns", "Kubernetes namespace; empty for processes outside pods"),
    text("pod_node", "Kubernetes node"),
    ip("pod_node_ip", "Address of the Kubernetes node").from("host_ip"),
    text("pod_node_hostname", "Host name of the Kubernetes node").from("host_hostname"),
    text("pod_service", "Kubernetes Service of the pod"),
    text("service", "Deprecated name of pod_service").from("pod_service"),
    Tag {
        kind: Kind::Enum(POD_GROUP_TYPES),
        unset: Unset::When("`pod_group_type` = 0"),
        ..number("pod_group_type", "Kind of the workload")
    },
    text("pod_group", "Kubernetes workload, such as a Deployment"),
    text("pod", "Kubernetes pod"),
    text("gprocess", "Process name, as process_name").from("process_name"),
    map("k8s.label", "Labels of the pod, by key").from("k8s_label"),
    map("k8s.annotation", "Annotations of the pod, by key").from("k8s_annotation"),
    ip("ip", "Address of the pod, or of the machine outside pods"),
    Tag {
        kind: Kind::Enum(IP_TYPES),
        expression: Some("isIPv4String(CAST(`ip`, 'String'))"),
        unset: Unset::When("`ip` = ''"),
        ..number("is_ipv4", "Whether ip is an IPv4 address; 0 also without an address").from("ip")
    },
    text("app_service", "What the policy calls the process; empty where no policy matched"),
    text("app_instance", "Instance of the app service"),
    number("process_id", "Process id, in the host's pid namespace"),
    text("trace_id", "Trace that the sample belongs to"),
    text("span_name", "Span that the sample belongs to"),
    text("agent", "Node agent"),
    text("vtap", "Deprecated name of agent").from("agent"),
    text("profile_value_unit", "Unit of the values"),
    text("profile_event_type", "What was sampled"),
    Tag { kind: MICROSECONDS, ..number("profile_create_timestamp", "When the agent closed the window") },
    Tag { kind: MICROSECONDS, ..number("profile_in_timestamp", "When the collector wrote the row") },
    text("profile_language_type", "How the stacks were taken"),
    text("profile_id", "Profile that the sample belongs to"),
    // Hearth's own.
    text("policy", "The policy that matched; empty where none did"),
    text("process_name", "Name of the process: comm of its leader"),
    text("thread_name", "Name of the thread"),
    number("main_thread", "1 for the main thread of a process, else 0"),
    Tag {
        unset: Unset::When("`cpu` = 4095"),
        ..number("cpu", "CPU number; 4095 where the policy does not keep it")
    },
    text("container", "Container in the pod"),
    Tag {
        expression: Some("lower(hex(`stack_id`))"),
        unset: Unset::When("`stack_id` = toFixedString('', 16)"),
        ..text("stack_id", "Identifies a stack: 32 hexadecimal digits; zeros where no stack was asked for")
    },
    Tag {
        expression: Some("toString(`stack_end`)"),
        unset: Unset::Never,
        ..text("stack_end", "How the stack ended: complete, truncated, no-unwind-info, jit, lost, counted")
    },
];

/// The documented tags that are not collected.
pub const NOT_COLLECTED: &[NotCollected] = &[
    not_collected("chost", "it does not ask the cloud about its machines; use host or pod_node"),
    not_collected("chost_ip", "it does not ask the cloud about its machines; use host_ip"),
    not_collected("chost_hostname", "it does not ask the cloud about its machines; use host_hostname"),
    not_collected("vpc", CLOUD),
    not_collected("router", CLOUD),
    not_collected("dhcpgw", CLOUD),
    not_collected("lb", CLOUD),
    not_collected("lb_listener", CLOUD),
    not_collected("natgw", CLOUD),
    not_collected("redis", "it does not ask the cloud about its services; use app_service"),
    not_collected("rds", "it does not ask the cloud about its services; use app_service"),
    not_collected("pod_ingress", "an Ingress is no property of a process; use pod_service"),
    not_collected("auto_instance_type", "rows carry each tag by its own name; use pod IS NOT NULL"),
    not_collected("auto_instance", "rows carry each tag by its own name; use pod, process_name or ip"),
    not_collected("auto_service_type", "rows carry each tag by its own name; use pod_group_type"),
    not_collected(
        "auto_service",
        "rows carry each tag by its own name; use pod_service, pod_group or app_service",
    ),
    not_collected("k8s.env", "environment variables hold secrets; use k8s.label or k8s.annotation"),
    not_collected("cloud.tag", "it does not ask the cloud about its machines; use k8s.label"),
    not_collected("biz_service.group", "it knows no business services; use k8s.label"),
];

const CLOUD: &str = "it does not ask the cloud about its network; use ip, az or region";

/// The tag of this name; for `k8s.label.app` the tag `k8s.label` and the key `app`.
pub fn find(name: &str) -> Option<(&'static Tag, Option<&str>)> {
    if let Some(tag) = TAGS.iter().find(|tag| tag.name == name) {
        return Some((tag, None));
    }
    let maps = TAGS.iter().filter(|tag| tag.kind == Kind::Map);
    let mut found = maps.filter_map(|tag| Some((tag, Some(key_of(tag.name, name)?))));
    found.next()
}

/// The documented tag that `name` means and that is not collected.
pub fn find_not_collected(name: &str) -> Option<&'static NotCollected> {
    NOT_COLLECTED.iter().find(|tag| tag.name == name || key_of(tag.name, name).is_some())
}

fn key_of<'a>(map: &str, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(map)?.strip_prefix('.')
}

const fn text(name: &'static str, about: &'static str) -> Tag {
    Tag { name, kind: Kind::Text, column: name, expression: None, unset: Unset::Empty, about }
}

const fn ip(name: &'static str, about: &'static str) -> Tag {
    Tag { kind: Kind::Ip, ..text(name, about) }
}

const fn map(name: &'static str, about: &'static str) -> Tag {
    Tag { kind: Kind::Map, ..text(name, about) }
}

const fn number(name: &'static str, about: &'static str) -> Tag {
    Tag { kind: Kind::Number, unset: Unset::Never, ..text(name, about) }
}

const fn not_collected(name: &'static str, why: &'static str) -> NotCollected {
    NotCollected { name, why }
}

impl Tag {
    const fn from(self, column: &'static str) -> Self {
        Self { column, ..self }
    }
}
