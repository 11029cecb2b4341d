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

/// The tags that rows do not have yet.
const UNFILLED: [&str; 4] = ["k8s.annotation", "trace_id", "span_name", "profile_id"];

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
    let collected = !UNFILLED.contains(&tag.name);
    let description =
        if collected { tag.about.to_owned() } else { format!("{}; nothing fills it yet", tag.about) };
    About { kind, collected, description }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::filter::TAGS;

    #[test]
    fn what_nothing_fills_says_so() {
        assert_eq!(TAGS.iter().filter(|tag| !about(tag).collected).count(), UNFILLED.len());
        let described = |name| TAGS.iter().find(|tag| tag.name == name).map(|tag| about(tag).description);
        assert_eq!(
            described("span_name").as_deref(),
            Some("Span that the sample belongs to; nothing fills it yet")
        );
        assert_eq!(described("pod").as_deref(), Some("Kubernetes pod"));
        assert_eq!(described("host").as_deref(), Some("Name of the machine"));
    }
}
