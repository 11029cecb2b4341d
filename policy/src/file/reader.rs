//! Typed reading of one document, which goes on after an error.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::bounds::{CPU, Checked, FREQUENCY, out_of_range, priority_range, whole_number};
use crate::finding::{Finding, Warning, child};
use crate::interval::Interval;
use crate::selector::{LabelSelector, Labels, Operator, Requirement};
use crate::spec::{AppService, ClusterScope, Kind, MatchOn, SpecCore};
use crate::yaml::{Entry, Node, Value, cut};

/// The fields of `spec`, and whether the cluster kind has them alone.
pub(super) const SPEC_FIELDS: [(&str, bool); 14] = [
    ("disabled", false),
    ("regex", false),
    ("match", false),
    ("frequency", false),
    ("cpu", false),
    ("javaSymbolFileRefreshDeferInterval", false),
    ("priority", false),
    ("podSelector", false),
    ("containers", false),
    ("namespaceSelector", true),
    ("nodeSelector", true),
    ("hostProcesses", true),
    ("appService", false),
    ("duration", false),
];

/// What a document says so far, and what is wrong with it.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Warning>,
    /// Where each field that was read stands.
    pub(super) lines: HashMap<String, usize>,
}

impl Reader {
    pub(super) fn error(&mut self, path: &str, line: usize, problem: &str, remedy: &str) {
        self.errors.push(Finding::new(path, problem, remedy).at(line));
    }

    pub(super) fn warn(&mut self, path: &str, problem: &str, remedy: &str) {
        let warning = self.located(Finding::new(path, problem, remedy));
        self.warnings.push(warning);
    }

    /// Takes over findings without lines.
    pub(super) fn add(&mut self, checked: Checked) {
        let Checked { errors, warnings } = checked;
        for finding in errors {
            let finding = self.located(finding);
            self.errors.push(finding);
        }
        for finding in warnings {
            let finding = self.located(finding);
            self.warnings.push(finding);
        }
    }

    /// The line of the field, or of the nearest one around it that was written.
    fn located(&self, finding: Finding) -> Finding {
        let mut path = finding.path.as_str();
        loop {
            if let Some(&line) = self.lines.get(path) {
                return finding.at(line);
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }

    pub(super) fn unknown(&mut self, parent: &str, key: &str, line: usize, known: &[&str]) {
        let remedy = match nearest(key, known) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("remove it; the fields here are {}", known.join(", ")),
        };
        self.error(&child(parent, key), line, "is an unknown field", &remedy);
    }

    /// The pairs of a mapping, each key once.
    pub(super) fn mapping<'a>(&mut self, node: &'a Node, path: &str, remedy: &str) -> Option<Vec<&'a Entry>> {
        let Value::Map(entries) = &node.value else {
            let name = if path.is_empty() { "the document " } else { "" };
            let problem = format!("{name}is {}, not a mapping", node.value.describe());
            self.error(path, node.line, &problem, remedy);
            return None;
        };
        let mut keys = HashSet::new();
        let mut once = Vec::new();
        for entry in entries {
            let path = child(path, &entry.key);
            if keys.insert(&entry.key) {
                self.lines.insert(path, entry.line);
                once.push(entry);
            } else {
                self.error(&path, entry.line, "is written twice", "remove one of them");
            }
        }
        Some(once)
    }

    pub(super) fn text(&mut self, node: &Node, path: &str, remedy: &str) -> Option<String> {
        if let Value::Text(text) = &node.value {
            return Some(text.clone());
        }
        let remedy = match node.value {
            Value::Bool(_) | Value::Int(_) | Value::Number(_) => {
                "write it in quotes if that is meant".to_owned()
            }
            _ => remedy.to_owned(),
        };
        self.error(path, node.line, &format!("is {}, not a text", node.value.describe()), &remedy);
        None
    }

    pub(super) fn labels(&mut self, node: &Node, path: &str) -> Labels {
        let mut labels = Labels::new();
        if node.value == Value::Null {
            return labels;
        }
        for entry in self.mapping(node, path, "write key: value below it").into_iter().flatten() {
            let path = child(path, &entry.key);
            if let Some(value) = self.text(&entry.value, &path, "write one text as its value") {
                labels.insert(entry.key.clone(), value);
            }
        }
        labels
    }

    /// Reads one field of `spec` into `core` or `scope`; what is wrong leaves the default there.
    pub(super) fn spec_field(
        &mut self,
        entry: &Entry,
        kind: Kind,
        core: &mut SpecCore,
        scope: &mut ClusterScope,
    ) {
        let (path, node) = (child("spec", &entry.key), &entry.value);
        let names = SPEC_FIELDS.map(|(name, _)| name);
        let Some((_, cluster_only)) = SPEC_FIELDS.iter().find(|(name, _)| *name == entry.key) else {
            self.unknown("spec", &entry.key, entry.line, &names);
            return;
        };
        if *cluster_only && kind == Kind::ProfilingPolicy {
            let problem = "is a field of ClusterProfilingPolicy, and this is a ProfilingPolicy";
            self.error(&path, entry.line, problem, "remove it, or write kind: ClusterProfilingPolicy");
            return;
        }
        if node.value == Value::Null {
            self.warn(&path, "is empty and counts as absent", "write a value, or remove it");
            return;
        }
        match entry.key.as_str() {
            "disabled" => set(&mut core.disabled, self.boolean(node, &path)),
            "regex" => {
                let remedy = "write a regular expression, in single quotes";
                core.regex = self.text(node, &path, remedy);
            }
            "match" => {
                let names = [("comm", MatchOn::Comm), ("cmdline", MatchOn::Cmdline), ("exe", MatchOn::Exe)];
                set(&mut core.match_on, self.one_of(node, &path, &names));
            }
            "frequency" => set(&mut core.frequency, self.number(node, &path, FREQUENCY)),
            "cpu" => set(&mut core.cpu, self.number(node, &path, CPU)),
            "javaSymbolFileRefreshDeferInterval" => {
                let interval = self.interval(node, &path, "600s");
                set(&mut core.java_symbol_file_refresh_defer_interval, interval);
            }
            "priority" => set(&mut core.priority, self.number(node, &path, priority_range(kind))),
            "podSelector" => core.pod_selector = self.selector(node, &path),
            "containers" => core.containers = self.containers(node, &path),
            "namespaceSelector" => scope.namespace_selector = self.selector(node, &path),
            "nodeSelector" => scope.node_selector = self.selector(node, &path),
            "hostProcesses" => set(&mut scope.host_processes, self.boolean(node, &path)),
            "appService" => {
                let names = [
                    ("comm", AppService::Comm),
                    ("container", AppService::Container),
                    ("workload", AppService::Workload),
                    ("exe", AppService::Exe),
                ];
                set(&mut core.app_service, self.one_of(node, &path, &names));
            }
            "duration" => core.duration = self.interval(node, &path, "15m"),
            listed => unreachable!("{listed} is listed in SPEC_FIELDS and not read"),
        }
    }

    fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        let problem = format!("is {}, not true or false", node.value.describe());
        self.error(path, node.line, &problem, "write true or false, without quotes");
        None
    }

    fn number<T: TryFrom<i64>>(&mut self, node: &Node, path: &str, bounds: RangeInclusive<i64>) -> Option<T> {
        let too_far = match &node.value {
            // What fits the type is held to its bounds by `validate`.
            Value::Int(value) => match T::try_from(*value) {
                Ok(value) => return Some(value),
                Err(_) => value.to_string(),
            },
            Value::Number(text) if !text.contains(['.', 'e', 'E']) => cut(text),
            _ => {
                let quoted = matches!(&node.value, Value::Text(text) if text.parse::<i64>().is_ok());
                let hint = if quoted { ", without quotes" } else { "" };
                let problem = format!("is {}, not a whole number", node.value.describe());
                self.error(path, node.line, &problem, &format!("{}{hint}", whole_number(&bounds)));
                return None;
            }
        };
        self.errors.push(out_of_range(path, &too_far, bounds).at(node.line));
        None
    }

    fn one_of<T: Copy>(&mut self, node: &Node, path: &str, names: &[(&str, T)]) -> Option<T> {
        if let Value::Text(text) = &node.value
            && let Some((_, value)) = names.iter().find(|(name, _)| name == text)
        {
            return Some(*value);
        }
        let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        let (last, others) = all.split_last().expect("an enum has values");
        let remedy = format!("write {} or {last}", others.join(", "));
        let problem = format!("is {}, which it cannot be", node.value.describe());
        self.error(path, node.line, &problem, &remedy);
        None
    }

    fn interval(&mut self, node: &Node, path: &str, example: &str) -> Option<Interval> {
        let remedy = format!("write a whole number with s, m or h, such as {example}");
        let Value::Text(text) = &node.value else {
            let problem = format!("is {}, not an interval", node.value.describe());
            self.error(path, node.line, &problem, &remedy);
            return None;
        };
        match Interval::parse(text) {
            Ok(interval) => Some(interval),
            Err(error) => {
                self.error(path, node.line, &error.to_string(), &remedy);
                None
            }
        }
    }

    fn list<'a>(&mut self, node: &'a Node, path: &str, remedy: &str) -> &'a [Node] {
        let Value::List(items) = &node.value else {
            self.error(path, node.line, &format!("is {}, not a list", node.value.describe()), remedy);
            return &[];
        };
        for (i, item) in items.iter().enumerate() {
            self.lines.insert(format!("{path}[{i}]"), item.line);
        }
        items
    }

    fn texts(&mut self, node: &Node, path: &str) -> Vec<String> {
        let items = self.list(node, path, "write one value per line, each after a dash");
        let text = |(i, item)| self.text(item, &format!("{path}[{i}]"), "write one text");
        items.iter().enumerate().filter_map(text).collect()
    }

    fn containers(&mut self, node: &Node, path: &str) -> Vec<String> {
        if node.value == Value::List(Vec::new()) {
            let remedy = "name at least one container, or remove it to mean all";
            self.error(path, node.line, "is an empty list", remedy);
        }
        self.texts(node, path)
    }

    fn selector(&mut self, node: &Node, path: &str) -> Option<LabelSelector> {
        let mut selector = LabelSelector::default();
        let known = ["matchLabels", "matchExpressions"];
        let remedy = "write matchLabels or matchExpressions below it, or {} to select all";
        for entry in self.mapping(node, path, remedy)? {
            let at = child(path, &entry.key);
            match entry.key.as_str() {
                "matchLabels" => selector.match_labels = self.labels(&entry.value, &at),
                "matchExpressions" if entry.value.value == Value::Null => {}
                "matchExpressions" => {
                    let items = self.list(&entry.value, &at, "write a list of key, operator and values");
                    let read = |(i, item)| self.requirement(item, &format!("{at}[{i}]"));
                    selector.match_expressions = items.iter().enumerate().filter_map(read).collect();
                }
                unknown => self.unknown(path, unknown, entry.line, &known),
            }
        }
        Some(selector)
    }

    fn requirement(&mut self, node: &Node, path: &str) -> Option<Requirement> {
        let (mut key, mut operator, mut values) = (None, None, Vec::new());
        let names = [
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ];
        let mut has = (false, false);
        for entry in self.mapping(node, path, "write key, operator and values")? {
            let at = child(path, &entry.key);
            match entry.key.as_str() {
                "key" => (has.0, key) = (true, self.text(&entry.value, &at, "write the label's key")),
                "operator" => (has.1, operator) = (true, self.one_of(&entry.value, &at, &names)),
                "values" if entry.value.value == Value::Null => {}
                "values" => values = self.texts(&entry.value, &at),
                unknown => self.unknown(path, unknown, entry.line, &["key", "operator", "values"]),
            }
        }
        if !has.0 {
            self.error(&child(path, "key"), node.line, "is missing", "write the label's key");
        }
        if !has.1 {
            let remedy = "write In, NotIn, Exists or DoesNotExist";
            self.error(&child(path, "operator"), node.line, "is missing", remedy);
        }
        Some(Requirement { key: key?, operator: operator?, values, unknown: Default::default() })
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The known field that was probably meant: the same but for case and dashes, or at most two letters away.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let bare = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    if key.len() > 64 {
        return None;
    }
    let distances = known.iter().map(|name| (distance(&bare(key), &bare(name)), *name));
    distances.filter(|(distance, name)| *distance <= 2.min(name.len() / 3)).min().map(|(_, name)| name)
}

/// Letters to insert, remove or change (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
