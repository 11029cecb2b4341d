//! What the tags are, for people.

use super::filter::Tag;
use super::filter::tags::Kind;

/// What is known of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// What its values are.
    pub kind: &'static str,
    /// Whether rows have values of it. Otherwise every value is empty.
    pub collected: bool,
    /// One line.
    pub description: String,
}

/// The tags that rows do not have yet, and what they wait for.
const UNFILLED: [(&[&str], &str); 3] = [
    (
        &[
            "pod_ns",
            "pod_group",
            "pod_group_type",
            "pod",
            "container",
            "pod_service",
            "service",
            "k8s.label",
            "k8s.annotation",
        ],
        "filled once agents know the pods",
    ),
    (&["region", "az"], "filled once agents know it"),
    (&["trace_id", "span_name", "profile_id"], "nothing fills it yet"),
];

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
    let waits_for = UNFILLED.iter().find(|(names, _)| names.contains(&tag.name)).map(|(_, why)| why);
    let description = match waits_for {
        Some(why) => format!("{}; {why}", tag.about),
        None => tag.about.to_owned(),
    };
    About { kind, collected: waits_for.is_none(), description }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::filter::TAGS;

    #[test]
    fn what_nothing_fills_says_so() {
        let unfilled: usize = UNFILLED.iter().map(|(names, _)| names.len()).sum();
        assert_eq!(TAGS.iter().filter(|tag| !about(tag).collected).count(), unfilled);
        let described = |name| TAGS.iter().find(|tag| tag.name == name).map(|tag| about(tag).description);
        assert_eq!(described("pod").as_deref(), Some("Kubernetes pod; filled once agents know the pods"));
        assert_eq!(described("host").as_deref(), Some("Name of the machine"));
    }
}
