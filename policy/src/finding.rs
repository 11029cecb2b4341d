//! What is wrong (or odd) with a policy, said so that its author can repair it.

use std::fmt;

use crate::yaml::cut;

/// One thing that is wrong or odd, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line in the file, from 1. 0 where there is no file (a policy from the API server).
    pub line: usize,
    /// The field, such as `spec.frequency`; empty for the document or file itself.
    pub path: String,
    /// What is wrong with it, as the rest of a sentence that begins with the path.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// Accepted, but the author should know.
pub type Warning = Finding;

impl Finding {
    /// A finding that has no line yet.
    pub(crate) fn new(
        path: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { line: 0, path: path.into(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn at(mut self, line: usize) -> Self {
        self.line = line;
        self
    }

    /// The finding as `file:line: field problem; remedy`, which editors can jump to.
    pub fn in_file(&self, file: &str) -> String {
        format!("{file}:{}: {}", self.line, self.sentence())
    }

    /// Without file and line.
    pub fn sentence(&self) -> String {
        match self.path.as_str() {
            "" => format!("{}; {}", self.problem, self.remedy),
            path => format!("{path} {}; {}", self.problem, self.remedy),
        }
    }
}

/// `spec.cpu`, and `metadata.labels["a.b/c"]` for a key that is not one plain word.
pub(crate) fn child(parent: &str, key: &str) -> String {
    let plain =
        !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    match (parent.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{:?}]", cut(key)),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.sentence()),
            line => write!(f, "line {line}: {}", self.sentence()),
        }
    }
}

/// Every error of a policy file, in the order of its lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PolicyErrors(pub Vec<Finding>);

impl PolicyErrors {
    /// One line per error, each beginning with `file:line:`.
    pub fn in_file(&self, file: &str) -> String {
        self.0.iter().map(|finding| finding.in_file(file)).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}
