//! Label selectors, as Kubernetes has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::spec::keys;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Every requirement of both fields must hold; an empty selector selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// The label must have exactly this value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Requirements with an operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Names of fields that this version does not know; never written.
    #[serde(flatten, skip_serializing, deserialize_with = "keys")]
    pub unknown: BTreeSet<String>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
    /// One or more with `In` and `NotIn`, none with the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Names of fields that this version does not know; never written.
    #[serde(flatten, skip_serializing, deserialize_with = "keys")]
    pub unknown: BTreeSet<String>,
}

/// What a [`Requirement`] asks of its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// It is there and has one of the values.
    In,
    /// It is absent or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is absent.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Whether Kubernetes allows it as a label's key: `[prefix/]name`.
pub(crate) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether Kubernetes allows it as a label's value.
pub(crate) fn is_label_value(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

/// RFC 1123: what names of policies must be.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|part| is_dns_part(part, 253))
}

/// RFC 1123: what names of namespaces and containers must be.
pub(crate) fn is_dns_label(name: &str) -> bool {
    is_dns_part(name, 63)
}

fn is_dns_part(part: &str, max: usize) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        && alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    /// `labels`: `a=1,b=2`; `selector`: JSON.
    fn check(selector: &str, labels: &str, expected: bool) {
        let selector: LabelSelector = serde_json::from_str(selector).unwrap();
        let labels: Labels = labels
            .split(',')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        assert_eq!(selector.matches(&labels), expected, "{selector:?} {labels:?}");
    }

    #[test]
    fn an_empty_selector_selects_everything() {
        check("{}", "", true);
        check("{}", "app=x", true);
    }

    #[test]
    fn match_labels_must_all_hold() {
        let selector = r#"{"matchLabels":{"app":"web","tier":"front"}}"#;
        check(selector, "app=web,tier=front,more=1", true);
        check(selector, "app=web", false);
        check(selector, "app=web,tier=back", false);
    }

    #[test]
    fn operators_mean_what_kubernetes_means() {
        let one = |operator: &str, values: &str| {
            format!(r#"{{"matchExpressions":[{{"key":"app","operator":"{operator}","values":{values}}}]}}"#)
        };
        for (operator, values, on_web, on_other, on_absent) in [
            ("In", r#"["web","api"]"#, true, false, false),
            ("NotIn", r#"["web","api"]"#, false, true, true),
            ("Exists", "[]", true, true, false),
            ("DoesNotExist", "[]", false, false, true),
        ] {
            check(&one(operator, values), "app=web", on_web);
            check(&one(operator, values), "app=other", on_other);
            check(&one(operator, values), "x=y", on_absent);
        }
    }

    #[test]
    fn keys_and_values_follow_the_rules_of_kubernetes() {
        for good in ["app", "app.kubernetes.io/name", "a_b.c-d", &"k".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/x", "x/", "-a", "a-", "UP.io/x", "a b", &"k".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_label_value("") && is_label_value("v1.2_3") && !is_label_value("a/b"));
    }
}
