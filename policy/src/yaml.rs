//! YAML with line numbers: the part of it that Kubernetes objects use.
//!
//! Built on the events of `saphyr-parser`, because serde's YAML crates stop at the first error of a document
//! and forget lines afterwards. Aliases and tags are refused: objects need neither, and an alias can make a
//! small file expand without bound.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::finding::Finding;

/// Deeper nesting than any policy needs.
const MAX_DEPTH: usize = 32;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// From 1.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// Scalars are resolved by YAML 1.2's core schema.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that is no `i64`, as written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One pair of a mapping. Keys may repeat: the reader, who knows the path, reports that.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

impl Value {
    /// For messages: `a mapping`, `the text "abc"`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "empty".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Number(text) => text.chars().take(40).collect(),
            Self::Text(text) => format!("the text {:?}", cut(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// At most 40 characters of it.
pub(crate) fn cut(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The documents up to the first place that is no YAML, and what is wrong there. Documents without
/// content (a `---` at the end, say) are left out.
pub(crate) fn documents(text: &str) -> (Vec<Node>, Option<Finding>) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let result = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(Finding::new(
                "",
                format!("this is no YAML: {}", error.info()),
                "check indentation, quotes and brackets here and in the line before",
            )
            .at(error.marker().line())),
        };
        if let Err(finding) = result {
            return (builder.documents, Some(finding));
        }
    }
    (builder.documents, None)
}

/// A collection that is not closed yet.
enum Open {
    List { line: usize, items: Vec<Node> },
    Map { line: usize, entries: Vec<Entry>, key: Option<(String, usize)> },
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Finding> {
        let line = span.start.line();
        let refuse = |what: &str, remedy: &str| Err(Finding::new("", what, remedy).at(line));
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => refuse(
                "a YAML tag (!) is not taken here",
                "remove the tag, and quote the value if it is a text",
            ),
            Event::Alias(_) => refuse("a YAML alias (*) is not taken here", "write the value out"),
            Event::Scalar(text, style, _, None) => self.scalar(&text, style, line),
            Event::SequenceStart(..) | Event::MappingStart(..) if self.open.len() >= MAX_DEPTH => refuse(
                "this is nested too deeply",
                "no field of a policy is nested so deeply; check the indentation",
            ),
            Event::SequenceStart(..) | Event::MappingStart(..) if self.wants_key() => {
                refuse("the name of a field is a list or mapping", "write a plain word before the colon")
            }
            Event::SequenceStart(..) => {
                self.open.push(Open::List { line, items: Vec::new() });
                Ok(())
            }
            Event::MappingStart(..) => {
                self.open.push(Open::Map { line, entries: Vec::new(), key: None });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop().expect("the parser closes only what it opened") {
                    Open::List { line, items } => Node { line, value: Value::List(items) },
                    Open::Map { line, entries, .. } => Node { line, value: Value::Map(entries) },
                };
                self.place(node);
                Ok(())
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, line: usize) -> Result<(), Finding> {
        if let Some(Open::Map { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), line));
            return Ok(());
        }
        let value = if style == ScalarStyle::Plain { resolve(text) } else { Value::Text(text.to_owned()) };
        self.place(Node { line, value });
        Ok(())
    }

    fn place(&mut self, node: Node) {
        match self.open.last_mut() {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                let (key, line) = key.take().expect("a mapping's value follows its key");
                entries.push(Entry { key, line, value: node });
            }
        }
    }
}

/// The core schema of YAML 1.2.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let based = |prefix: &str, radix| {
        text.strip_prefix(prefix)
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_alphanumeric()))
            .and_then(|digits| i64::from_str_radix(digits, radix).ok())
    };
    if let Some(value) = based("0x", 16).or_else(|| based("0o", 8)) {
        return Value::Int(value);
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_or_else(|_| Value::Number(text.to_owned()), Value::Int);
    }
    let float = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok();
    if float { Value::Number(text.to_owned()) } else { Value::Text(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: the documents as text, one value per line: `line: value`; or the error.
    fn check(text: &str, expected: &[&str]) {
        let (documents, error) = documents(text);
        let mut lines = Vec::new();
        for document in &documents {
            show(document, "", &mut lines);
        }
        lines.extend(error.map(|e| e.to_string()));
        assert_eq!(lines, expected, "{text}");
    }

    fn show(node: &Node, path: &str, lines: &mut Vec<String>) {
        match &node.value {
            Value::Map(entries) => {
                for e in entries {
                    show(&e.value, &format!("{path}.{}@{}", e.key, e.line), lines);
                }
            }
            Value::List(items) => items.iter().for_each(|item| show(item, &format!("{path}[]"), lines)),
            scalar => lines.push(format!("{path} = {}", scalar.describe())),
        }
    }

    #[test]
    fn values_keep_their_lines_and_types() {
        check(
            "a:\n  b: 1\n  c: \"1\"\n\nd: [x, 2.5, null, true, 0x10]\n",
            &[
                ".a@1.b@2 = 1",
                ".a@1.c@3 = the text \"1\"",
                ".d@5[] = the text \"x\"",
                ".d@5[] = 2.5",
                ".d@5[] = empty",
                ".d@5[] = true",
                ".d@5[] = 16",
            ],
        );
    }

    #[test]
    fn lines_count_over_documents_and_empty_documents_are_left_out() {
        check("# one\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n---\n", &[".a@3 = 1", ".b@8 = 2"]);
        check("", &[]);
        check("\u{feff}a: 1", &[".a@1 = 1"]);
    }

    #[test]
    fn an_interval_is_a_text_and_a_word_of_yaml_1_1_is_none_of_its_booleans() {
        check(
            "a: 600s\nb: yes\nc: -5\nd: 99999999999999999999\ne: 1e3",
            &[
                ".a@1 = the text \"600s\"",
                ".b@2 = the text \"yes\"",
                ".c@3 = -5",
                ".d@4 = 99999999999999999999",
                ".e@5 = 1e3",
            ],
        );
    }

    #[test]
    fn what_comes_before_the_error_is_kept() {
        check(
            "a: 1\n---\nb: *x\n",
            &[
                ".a@1 = 1",
                "line 3: this is no YAML: while parsing node, found unknown anchor; check indentation, quotes and brackets here and in the line before",
            ],
        );
        check("b: &x 1\nc: *x\n", &["line 2: a YAML alias (*) is not taken here; write the value out"]);
        check(
            "b: !!int 1\n",
            &[
                "line 1: a YAML tag (!) is not taken here; remove the tag, and quote the value if it is a text",
            ],
        );
        check(
            "? [1]\n: 1\n",
            &["line 1: the name of a field is a list or mapping; write a plain word before the colon"],
        );
        check(
            &"[".repeat(40),
            &[
                "line 1: this is nested too deeply; no field of a policy is nested so deeply; check the indentation",
            ],
        );
    }
}
