//! The table of bounds. The file reader and the operator hold policies to this one.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::effective::compile_regex;
use crate::finding::{Finding, Warning, child};
use crate::interval::Interval;
use crate::selector::{LabelSelector, Operator, is_dns_label, is_label_key, is_label_value};
use crate::spec::{Kind, MatchOn, Spec, SpecCore};

/// Samples per second and CPU.
pub(crate) const FREQUENCY: RangeInclusive<i64> = 1..=1000;
/// Whether rows keep the CPU number.
pub(crate) const CPU: RangeInclusive<i64> = 0..=1;
/// `javaSymbolFileRefreshDeferInterval`, in seconds.
const DEFER_SECONDS: RangeInclusive<u32> = 5..=3600;
/// `duration`, in seconds.
const DURATION_SECONDS: RangeInclusive<u32> = 10..=86_400;
/// Characters of `regex`.
const REGEX_CHARS: usize = 512;
/// Names in `containers`.
pub(crate) const MAX_CONTAINERS: usize = 64;
/// Entries of each list of a selector, and values of each requirement.
pub(crate) const MAX_SELECTOR_ENTRIES: usize = 64;
/// Unknown fields of one object that are named.
const MAX_UNKNOWN: usize = 8;
/// Of this crate, and so of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What the kernel keeps of a process name, without the terminating zero.
const COMM_BYTES: usize = 15;

/// What [`validate`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// The policy is refused.
    pub errors: Vec<Finding>,
    /// The policy is accepted; its author should know.
    pub warnings: Vec<Warning>,
}

/// Holds a spec to every bound. Findings have no line.
pub fn validate(spec: &Spec) -> Checked {
    let mut checked = Checked::default();
    // Destructured, so that a new field must be looked at here.
    let SpecCore {
        disabled: _,
        regex,
        match_on,
        frequency,
        cpu,
        java_symbol_file_refresh_defer_interval: defer,
        priority,
        pod_selector,
        containers,
        app_service: _,
        duration,
    } = spec.core();
    checked.unknown("spec", spec.unknown(), spec.kind().as_str());
    let mut range = |path: &str, value: i64, bounds: RangeInclusive<i64>| {
        if !bounds.contains(&value) {
            checked.errors.push(out_of_range(path, &value.to_string(), bounds));
        }
    };
    range("spec.frequency", i64::from(*frequency), FREQUENCY);
    range("spec.cpu", i64::from(*cpu), CPU);
    range("spec.priority", i64::from(*priority), priority_range(spec.kind()));
    checked.frequency_beats_with_timers(*frequency);
    if let Some(regex) = regex {
        checked.regex(regex, *match_on);
    }
    checked.interval("spec.javaSymbolFileRefreshDeferInterval", defer, DEFER_SECONDS, "600s");
    if let Some(duration) = duration {
        checked.interval("spec.duration", duration, DURATION_SECONDS, "15m");
    }
    checked.selector("spec.podSelector", pod_selector.as_ref());
    checked.count("spec.containers", containers.len(), MAX_CONTAINERS);
    for (i, container) in containers.iter().enumerate() {
        if !is_dns_label(container) {
            checked.errors.push(Finding::new(
                format!("spec.containers[{i}]"),
                format!("is {container:?}, which cannot be the name of a container"),
                "write lower-case letters, digits and -, at most 63, as in the pod's spec",
            ));
        }
    }
    if let Some(scope) = spec.scope() {
        checked.selector("spec.namespaceSelector", scope.namespace_selector.as_ref());
        checked.selector("spec.nodeSelector", scope.node_selector.as_ref());
    }
    checked
}

/// Bounds of `priority`: a namespace's users stay below what the cluster's operators can say.
pub(crate) fn priority_range(kind: Kind) -> RangeInclusive<i64> {
    let max = match kind {
        Kind::ProfilingPolicy => 1000,
        Kind::ClusterProfilingPolicy => 1_000_000,
    };
    i64::from(i32::MIN)..=max
}

/// The error of a number, also of one that does not fit the field's type.
pub(crate) fn out_of_range(path: &str, value: &str, bounds: RangeInclusive<i64>) -> Finding {
    let (min, max) = (*bounds.start(), *bounds.end());
    let side = if value.starts_with('-') || value.parse::<i64>().is_ok_and(|v| v < min) {
        format!("below {min}")
    } else {
        format!("above {max}")
    };
    Finding::new(path, format!("is {value}, {side}"), whole_number(&bounds))
}

/// The remedy for a number.
pub(crate) fn whole_number(bounds: &RangeInclusive<i64>) -> String {
    match (*bounds.start(), *bounds.end()) {
        (0, 1) => "write 0 or 1".to_owned(),
        (min, max) if min == i64::from(i32::MIN) => format!("write a whole number up to {max}"),
        (min, max) => format!("write a whole number from {min} to {max}"),
    }
}

impl Checked {
    fn frequency_beats_with_timers(&mut self, frequency: u32) {
        if frequency == 0 || !frequency.is_multiple_of(10) {
            return;
        }
        self.warnings.push(Finding::new(
            "spec.frequency",
            format!(
                "is {frequency}, a multiple of 10: samples then run in lockstep with timers of 10 ms or 100 ms \
                 and see the same moment of periodic work every time, or never"
            ),
            format!("prefer {}", frequency - 1),
        ));
    }

    fn regex(&mut self, regex: &str, match_on: MatchOn) {
        let chars = regex.chars().count();
        if chars > REGEX_CHARS {
            self.errors.push(Finding::new(
                "spec.regex",
                format!("has {chars} characters, more than {REGEX_CHARS}"),
                "shorten it, or write several policies",
            ));
            return;
        }
        if let Err(problem) = compile_regex(regex) {
            let remedy = "write a regular expression as https://docs.rs/regex describes them";
            self.errors.push(Finding::new("spec.regex", problem, remedy));
            return;
        }
        let plain = regex.trim_start_matches('^').trim_end_matches('$');
        let is_plain =
            !plain.contains(['.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$', '\\']);
        if match_on == MatchOn::Comm && is_plain && plain.len() > COMM_BYTES {
            let end = (0..=COMM_BYTES).rev().find(|&i| plain.is_char_boundary(i)).unwrap_or(0);
            self.warnings.push(Finding::new(
                "spec.regex",
                format!(
                    "is plain text of {} bytes, and the kernel keeps only {COMM_BYTES} bytes of a process name, \
                     so it is never found there",
                    plain.len()
                ),
                format!("write {:?}, or add match: cmdline or match: exe", &plain[..end]),
            ));
        }
    }

    fn interval(&mut self, path: &str, value: &Interval, bounds: RangeInclusive<u32>, example: &str) {
        if bounds.contains(&value.seconds()) {
            return;
        }
        let (min, max) = (written(*bounds.start()), written(*bounds.end()));
        let side =
            if value.seconds() < *bounds.start() { format!("below {min}") } else { format!("above {max}") };
        self.errors.push(Finding::new(
            path,
            format!("is {value}, {side}"),
            format!("write an interval from {min} to {max}, such as {example}"),
        ));
    }

    fn count(&mut self, path: &str, count: usize, max: usize) {
        if count > max {
            let problem = format!("has {count} entries, more than {max}");
            self.errors.push(Finding::new(path, problem, "remove some, or write several policies"));
        }
    }

    /// Fields of another version. They may narrow what is profiled, so a spec is not followed without them.
    fn unknown(&mut self, path: &str, fields: &BTreeSet<String>, owner: &str) {
        for field in fields.iter().take(MAX_UNKNOWN) {
            self.errors.push(Finding::new(
                child(path, field),
                format!("is no field of a {owner} that Hearth {VERSION} knows"),
                "remove it, or upgrade this part of Hearth to the version that has it",
            ));
        }
    }

    fn selector(&mut self, path: &str, selector: Option<&LabelSelector>) {
        let Some(LabelSelector { match_labels, match_expressions, unknown }) = selector else { return };
        self.unknown(path, unknown, "selector");
        self.count(&format!("{path}.matchLabels"), match_labels.len(), MAX_SELECTOR_ENTRIES);
        self.count(&format!("{path}.matchExpressions"), match_expressions.len(), MAX_SELECTOR_ENTRIES);
        for (key, value) in match_labels {
            let path = format!("{path}.matchLabels");
            self.label_key(&path, key);
            self.label_value(&path, value);
        }
        for (i, requirement) in match_expressions.iter().enumerate() {
            let path = format!("{path}.matchExpressions[{i}]");
            self.unknown(&path, &requirement.unknown, "requirement");
            self.label_key(&format!("{path}.key"), &requirement.key);
            let path = format!("{path}.values");
            self.count(&path, requirement.values.len(), MAX_SELECTOR_ENTRIES);
            for value in &requirement.values {
                self.label_value(&path, value);
            }
            let needs_values = matches!(requirement.operator, Operator::In | Operator::NotIn);
            match (needs_values, requirement.values.is_empty()) {
                (true, true) => self.errors.push(Finding::new(
                    path,
                    format!("is missing, and {:?} needs it", requirement.operator),
                    "list at least one value",
                )),
                (false, false) => self.errors.push(Finding::new(
                    path,
                    format!("is given, and {:?} takes none", requirement.operator),
                    "remove it, or use In or NotIn",
                )),
                (true, false) | (false, true) => {}
            }
        }
    }

    fn label_key(&mut self, path: &str, key: &str) {
        if !is_label_key(key) {
            let problem = format!("has {:?}, which cannot be the key of a label", crate::yaml::cut(key));
            let remedy = "write [prefix/]name as in kubectl get --show-labels";
            self.errors.push(Finding::new(path, problem, remedy));
        }
    }

    fn label_value(&mut self, path: &str, value: &str) {
        if !is_label_value(value) {
            let problem = format!("has {:?}, which cannot be the value of a label", crate::yaml::cut(value));
            let remedy = "write at most 63 letters, digits, -, _ and ., with a letter or digit at both ends";
            self.errors.push(Finding::new(path, problem, remedy));
        }
    }
}

/// A bound as the documentation writes it: hours only where they are whole days.
fn written(seconds: u32) -> String {
    match seconds {
        86_400 => "24h".to_owned(),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn errors(spec: &Spec) -> Vec<String> {
        validate(spec).errors.iter().map(|finding| finding.to_string().replace(VERSION, "N")).collect()
    }

    #[test]
    fn fields_of_another_version_are_refused_by_name() {
        let json = r#"{"frequency": 7, "imageSelector": {"a": [1]}, "nodeSelector": {}}"#;
        let refused = |kind: &str, field: &str| {
            format!(
                "spec.{field} is no field of a {kind} that Hearth N knows; \
                 remove it, or upgrade this part of Hearth to the version that has it"
            )
        };
        let namespaced = Spec::Namespaced(serde_json::from_str(json).unwrap());
        let both = ["imageSelector", "nodeSelector"].map(|field| refused("ProfilingPolicy", field));
        assert_eq!(errors(&namespaced), both);
        let cluster = Spec::Cluster(serde_json::from_str(json).unwrap());
        assert_eq!(errors(&cluster), [refused("ClusterProfilingPolicy", "imageSelector")]);
        assert_eq!(cluster.core().frequency, 7);
    }

    #[test]
    fn so_are_those_of_a_selector() {
        let json = r#"{"podSelector": {"matchFields": [], "matchExpressions": [{"key": "a", "operator": "Exists", "a b": 1}]}}"#;
        let spec = Spec::Namespaced(serde_json::from_str(json).unwrap());
        let remedy = "remove it, or upgrade this part of Hearth to the version that has it";
        assert_eq!(
            errors(&spec),
            [
                format!(
                    "spec.podSelector.matchFields is no field of a selector that Hearth N knows; {remedy}"
                ),
                format!(
                    "spec.podSelector.matchExpressions[0][\"a b\"] is no field of a requirement that Hearth N knows; {remedy}"
                ),
            ]
        );
    }
}
