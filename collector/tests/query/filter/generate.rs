//! Filters by chance, from a seed.

use super::fixture::{DAY, Row};
use super::oracle::{Condition, Filter, Kind, Literal, Operator, kind};

/// xorshift64*: the same filters on every machine.
pub(super) struct Generator<'a> {
    state: u64,
    rows: &'a [Row],
    tags: &'a [&'static str],
}

impl<'a> Generator<'a> {
    pub(super) fn new(seed: u64, rows: &'a [Row], tags: &'a [&'static str]) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, rows, tags }
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(random).unwrap() % bound
    }

    pub(super) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    pub(super) fn filter(&mut self, depth: usize) -> Filter {
        let parts = |this: &mut Self| (0..2 + this.below(2)).map(|_| this.filter(depth - 1)).collect();
        match self.below(if depth == 0 { 1 } else { 4 }) {
            1 => Filter::And(parts(self)),
            2 => Filter::Or(parts(self)),
            3 => Filter::Not(Box::new(self.filter(depth - 1))),
            _ => {
                let (tag, operator) = (self.one_of(self.tags), self.one_of(&Operator::ALL).0);
                Filter::Condition(self.condition(tag, operator))
            }
        }
    }

    pub(super) fn condition(&mut self, tag: &str, operator: Operator) -> Condition {
        let mut tag = tag.to_owned();
        let is_null = matches!(operator, Operator::IsNull | Operator::IsNotNull);
        if kind(&tag) == Kind::Map && !(is_null && self.below(3) == 0) {
            let key = self.one_of(&["app", "tier", "app.kubernetes.io/name", "it's a `key`", "nope"]);
            tag = format!("{tag}.{key}");
        }
        let values = match operator {
            Operator::IsNull | Operator::IsNotNull => Vec::new(),
            Operator::In | Operator::NotIn => (0..1 + self.below(4)).map(|_| self.literal(&tag)).collect(),
            Operator::Like | Operator::NotLike => vec![Literal::Text(self.like(&tag))],
            Operator::Regexp | Operator::NotRegexp => vec![Literal::Text(self.regexp(&tag))],
            _ => vec![self.literal(&tag)],
        };
        let regex = match (operator, values.as_slice()) {
            (Operator::Regexp | Operator::NotRegexp, [Literal::Text(pattern)]) => {
                let regex = regex::RegexBuilder::new(pattern).dot_matches_new_line(true).build();
                Some(regex.unwrap_or_else(|e| panic!("{e}")))
            }
            _ => None,
        };
        Condition { tag, operator, values, regex }
    }

    /// The value of some row.
    fn stored(&mut self, tag: &str) -> serde_json::Value {
        let row = &self.rows[self.below(self.rows.len())];
        match ["k8s.label.", "k8s.annotation."]
            .into_iter()
            .find_map(|map| Some((map, tag.strip_prefix(map)?)))
        {
            Some((map, key)) => row[map.trim_end_matches('.')].get(key).cloned().unwrap_or_default(),
            None => row[tag].clone(),
        }
    }

    fn stored_text(&mut self, tag: &str) -> String {
        let value = self.stored(tag);
        match (kind(tag), value) {
            (Kind::Named(names), _) if self.below(2) == 0 => self.one_of(names).1.to_owned(),
            (_, serde_json::Value::String(text)) => text,
            (_, serde_json::Value::Null) => String::new(),
            (_, number) => number.to_string(),
        }
    }

    fn literal(&mut self, tag: &str) -> Literal {
        match kind(tag) {
            Kind::Text | Kind::Map => {
                let text = self.stored_text(tag);
                Literal::Text(match self.below(6) {
                    0 => text.to_uppercase(),
                    1 => text.chars().take(text.chars().count() / 2).collect(),
                    2 => text + "'; --",
                    _ => text,
                })
            }
            Kind::Number => {
                let stored = self.stored(tag).as_i64().unwrap();
                let near = self.below(3) as i64 - 1;
                let far = [-1, i64::MAX, i64::MIN, 65_536, 4_294_967_296];
                Literal::Number(if self.below(6) == 0 {
                    self.one_of(&far)
                } else {
                    stored.saturating_add(near)
                })
            }
            Kind::Named(names) => match self.below(3) {
                0 => Literal::Text(self.one_of(names).1.to_owned()),
                1 => Literal::Number(self.one_of(&[-1, 0, 1, 99, 130, 256, 386, 300])),
                _ => Literal::Number(self.stored(tag).as_i64().unwrap()),
            },
            Kind::Time => match self.below(4) {
                0 => Literal::Number(DAY + 300 * self.below(300) as i64),
                1 => Literal::Number(self.one_of(&[-1, 0, 4_294_967_296, 9_000_000_000_000])),
                _ => Literal::Text(self.stored_text(tag)),
            },
            Kind::Address => {
                let stored = self.stored_text(tag);
                let network = [
                    "10.0.0.0/8",
                    "0.0.0.0/0",
                    "::/0",
                    "2001:db8::/32",
                    "10.0.0.16/30",
                    "::ffff:0:0/96",
                    "1.2.3.4",
                ];
                let is_address = stored.parse::<std::net::IpAddr>().is_ok();
                Literal::Text(match self.below(4) {
                    0 | 1 if is_address => stored,
                    2 if is_address => format!("{stored}/{}", self.below(33)),
                    _ => self.one_of(&network).to_owned(),
                })
            }
        }
    }

    /// A pattern that is like some stored text, or nearly.
    fn like(&mut self, tag: &str) -> String {
        let mut pattern = String::new();
        let text = self.stored_text(tag);
        for c in text.chars() {
            match self.below(12) {
                0 => pattern.push('_'),
                1 => pattern.push('%'),
                2 => pattern.push('*'),
                3 => pattern.extend(c.to_uppercase()),
                4 => {}
                5 => pattern.extend(['\\', c]),
                _ if "%_*\\".contains(c) && self.below(2) == 0 => pattern.extend(['\\', c]),
                _ => pattern.push(c),
            }
        }
        match self.below(4) {
            0 => format!("%{pattern}%"),
            1 => pattern + "*",
            2 => text.chars().take(3).collect::<String>() + "%",
            _ => pattern,
        }
    }

    /// A regular expression that is found in some stored text, or nearly.
    fn regexp(&mut self, tag: &str) -> String {
        let text: Vec<char> = self.stored_text(tag).chars().collect();
        let from = self.below(text.len() + 1);
        let to = from + self.below(text.len() + 1 - from);
        let mut pattern =
            String::from(self.one_of(&["", "", "^", "(?i)", "(?i)^", "\\A", ".*", "[^a]", "(?:x|", "x|"]));
        let alternative = pattern.starts_with("(?:x|");
        for c in &text[from..to] {
            let escaped = regex::escape(&c.to_string());
            pattern.push_str(&match self.below(14) {
                0 => ".".to_owned(),
                1 => "[[:alpha:]]".to_owned(),
                2 => r"\d".to_owned(),
                3 => format!("{escaped}?"),
                4 => format!("(?:{escaped}|q)"),
                5 => format!("{escaped}{{1,3}}"),
                6 => "[^-_]".to_owned(),
                7 => format!("{escaped}+?"),
                8 => r"\s*".to_owned(),
                9 => c.to_uppercase().map(|c| regex::escape(&c.to_string())).collect(),
                _ => escaped,
            });
        }
        if alternative {
            pattern.push(')');
        }
        pattern + self.one_of(&["", "", "", "$", ".*", r"\z", "|zzz", "|.{40}"])
    }

    /// The filter as somebody may write it.
    pub(super) fn written(&mut self, filter: &Filter) -> String {
        match filter {
            Filter::And(parts) => self.joined(parts, &[" AND ", " and "]),
            Filter::Or(parts) => self.joined(parts, &[" OR ", "\tor\n"]),
            Filter::Not(part) => format!("NOT ({})", self.written(part)),
            Filter::Condition(condition) => self.written_condition(condition),
        }
    }

    fn joined(&mut self, parts: &[Filter], operators: &[&str]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| format!("({})", self.written(part))).collect();
        parts.join(self.one_of(operators))
    }

    pub(super) fn written_condition(&mut self, condition: &Condition) -> String {
        let Condition { tag, operator, values, regex: _ } = condition;
        let tag = if tag.contains([' ', '`']) || self.below(2) == 0 {
            format!("`{}`", tag.replace('\\', "\\\\").replace('`', "``"))
        } else {
            tag.clone()
        };
        let values: Vec<String> = values.iter().map(|value| self.written_literal(value)).collect();
        let values = values.join(", ");
        match operator {
            Operator::In | Operator::NotIn => format!("{tag} {} ({values})", operator.text()),
            operator => format!("{tag} {} {values}", operator.text()),
        }
    }

    fn written_literal(&mut self, literal: &Literal) -> String {
        match literal {
            Literal::Number(number) => number.to_string(),
            Literal::Text(text) => {
                let quote = self.one_of(&['\'', '"']);
                let twice = self.below(2) == 0;
                let protected = if twice { format!("{quote}{quote}") } else { format!("\\{quote}") };
                format!("{quote}{}{quote}", text.replace('\\', "\\\\").replace(quote, &protected))
            }
        }
    }
}
