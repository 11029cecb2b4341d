//! Filters as the documentation describes them, evaluated over exported rows: without the collector's
//! parser, without its table of tags, without SQL.

use std::net::IpAddr;

use serde_json::Value;

use super::fixture::{DAY, Row};

/// A filter, and how it is written.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    Condition(Condition),
}

#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// For a map with its key: `k8s.label.app`.
    pub(super) tag: String,
    pub(super) operator: Operator,
    pub(super) values: Vec<Literal>,
    /// For REGEXP.
    pub(super) regex: Option<regex::Regex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    NotEqualToo,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    Like,
    NotLike,
    Regexp,
    NotRegexp,
    IsNull,
    IsNotNull,
}

#[derive(Debug, Clone)]
pub(super) enum Literal {
    Text(String),
    Number(i64),
}

impl Operator {
    pub(super) const ALL: [(Self, &'static str); 15] = [
        (Self::Equal, "="),
        (Self::NotEqual, "!="),
        (Self::NotEqualToo, "<>"),
        (Self::Less, "<"),
        (Self::LessOrEqual, "<="),
        (Self::Greater, ">"),
        (Self::GreaterOrEqual, ">="),
        (Self::In, "IN"),
        (Self::NotIn, "NOT IN"),
        (Self::Like, "LIKE"),
        (Self::NotLike, "NOT LIKE"),
        (Self::Regexp, "REGEXP"),
        (Self::NotRegexp, "NOT REGEXP"),
        (Self::IsNull, "IS NULL"),
        (Self::IsNotNull, "IS NOT NULL"),
    ];

    pub(super) fn text(self) -> &'static str {
        Self::ALL.iter().find(|(operator, _)| *operator == self).unwrap().1
    }
}

/// What a tag is compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Named(&'static [(i64, &'static str)]),
    Time,
    Address,
    Map,
}

pub(super) fn kind(tag: &str) -> Kind {
    const WORKLOADS: &[(i64, &str)] = &[
        (130, "Deployment"),
        (131, "StatefulSet"),
        (132, "ReplicationController"),
        (133, "DaemonSet"),
        (134, "ReplicaSetController"),
        (135, "CloneSet"),
    ];
    match tag {
        "_id" | "process_id" | "main_thread" | "cpu" => Kind::Number,
        "pod_group_type" => Kind::Named(WORKLOADS),
        "is_ipv4" => Kind::Named(&[(0, "IPv6"), (1, "IPv4")]),
        "time" | "profile_create_timestamp" | "profile_in_timestamp" => Kind::Time,
        "ip" | "host_ip" | "pod_node_ip" => Kind::Address,
        tag if tag.starts_with("k8s.") => Kind::Map,
        _ => Kind::Text,
    }
}

impl Filter {
    pub(super) fn holds(&self, row: &Row) -> bool {
        match self {
            Self::And(parts) => parts.iter().all(|part| part.holds(row)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(row)),
            Self::Not(part) => !part.holds(row),
            Self::Condition(condition) => condition.holds(row),
        }
    }
}

impl Condition {
    fn holds(&self, row: &Row) -> bool {
        use Operator::*;
        match self.operator {
            NotEqual | NotEqualToo => !self.is(Equal, row),
            NotIn => !self.is(In, row),
            NotLike => !self.is(Like, row),
            NotRegexp => !self.is(Regexp, row),
            IsNotNull => !self.is(IsNull, row),
            operator => self.is(operator, row),
        }
    }

    fn is(&self, operator: Operator, row: &Row) -> bool {
        match operator {
            Operator::IsNull => self.is_unset(row),
            Operator::In => self.values.iter().any(|value| self.compares(Operator::Equal, value, row)),
            Operator::Like => {
                let Literal::Text(pattern) = &self.values[0] else { panic!("LIKE {:?}", self.values) };
                is_like(&self.shown(row), pattern)
            }
            Operator::Regexp => self.regex.as_ref().unwrap().is_match(&self.shown(row)),
            operator => self.compares(operator, &self.values[0], row),
        }
    }

    fn map_and_key(&self) -> Option<(&str, &str)> {
        ["k8s.label", "k8s.annotation"].into_iter().find_map(|map| {
            let key = self.tag.strip_prefix(map)?;
            Some((map, key.strip_prefix('.').unwrap_or_default()))
        })
    }

    fn is_unset(&self, row: &Row) -> bool {
        if let Some((map, key)) = self.map_and_key() {
            let entries = row[map].as_object().unwrap();
            return if key.is_empty() { entries.is_empty() } else { !entries.contains_key(key) };
        }
        match self.tag.as_str() {
            "cpu" => row["cpu"] == 4095,
            "pod_group_type" => row["pod_group_type"] == 0,
            "is_ipv4" => row["ip"] == "",
            "stack_id" => row["stack_id"] == "00000000000000000000000000000000",
            tag => row[tag] == "",
        }
    }

    /// The text that patterns are held against.
    fn shown(&self, row: &Row) -> String {
        if let Some((map, key)) = self.map_and_key() {
            return row[map].get(key).map_or(String::new(), |v| v.as_str().unwrap().to_owned());
        }
        let value = &row[&self.tag];
        match (kind(&self.tag), value) {
            (Kind::Named(names), number) => {
                let number = number.as_i64().unwrap();
                names
                    .iter()
                    .find(|(n, _)| *n == number)
                    .map_or(number.to_string(), |(_, name)| (*name).into())
            }
            (_, Value::String(text)) => text.clone(),
            (_, number) => number.to_string(),
        }
    }

    fn compares(&self, operator: Operator, value: &Literal, row: &Row) -> bool {
        match (kind(&self.tag), value) {
            (Kind::Text | Kind::Map, Literal::Text(text)) => {
                ordered(operator, &self.shown(row).as_str(), &text.as_str())
            }
            (Kind::Number, Literal::Number(number)) => {
                ordered(operator, &row[&self.tag].as_i64().unwrap(), number)
            }
            (Kind::Named(names), value) => {
                let number = match value {
                    Literal::Number(number) => *number,
                    Literal::Text(text) => names.iter().find(|(_, name)| name == text).unwrap().0,
                };
                ordered(operator, &row[&self.tag].as_i64().unwrap(), &number)
            }
            (Kind::Time, value) => {
                let point = match value {
                    Literal::Number(seconds) => i128::from(*seconds) * 1_000_000,
                    Literal::Text(text) => microseconds(text),
                };
                ordered(operator, &microseconds(row[&self.tag].as_str().unwrap()), &point)
            }
            (Kind::Address, Literal::Text(network)) => {
                is_in_network(operator, row[&self.tag].as_str().unwrap(), network)
            }
            (kind, value) => panic!("{} is {kind:?}: {value:?}", self.tag),
        }
    }
}

fn ordered<T: Ord>(operator: Operator, left: &T, right: &T) -> bool {
    match operator {
        Operator::Equal => left == right,
        Operator::Less => left < right,
        Operator::LessOrEqual => left <= right,
        Operator::Greater => left > right,
        Operator::GreaterOrEqual => left >= right,
        operator => panic!("{operator:?}"),
    }
}

/// `2024-03-01 hh:mm:ss[.ffffff]`: all points are of that day.
fn microseconds(text: &str) -> i128 {
    let clock = text.strip_prefix("2024-03-01 ").unwrap_or_else(|| panic!("{text}"));
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i128>().unwrap());
    let fraction: i128 = format!("{fraction:0<6}").parse().unwrap();
    (i128::from(DAY) + seconds) * 1_000_000 + fraction
}

fn is_in_network(operator: Operator, address: &str, network: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let (base, prefix) = network.split_once('/').unwrap_or((network, ""));
    let base: IpAddr = base.parse().unwrap();
    let width = if base.is_ipv4() { 32 } else { 128 };
    let prefix = if prefix.is_empty() { width } else { prefix.parse().unwrap() };
    // How often halving leaves nothing of the part that differs within a network.
    let without_host = |bits: u128| (0..width - prefix).fold(bits, |bits, _| bits / 2);
    ordered(operator, &without_host(bits(address)), &without_host(bits(base)))
}

/// A row for each character of the pattern says which beginnings of the text it matches.
fn is_like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let alike = |a: char, b: char| a.to_lowercase().eq(b.to_lowercase());
    let mut matched: Vec<bool> = (0..=text.len()).map(|length| length == 0).collect();
    let mut pattern = pattern.chars().peekable();
    while let Some(c) = pattern.next() {
        let mut next = vec![false; text.len() + 1];
        let literal = match c {
            '\\' => pattern.next_if(|c| "%_*\\".contains(*c)).or(Some('\\')),
            '%' | '*' | '_' => None,
            c => Some(c),
        };
        for end in 0..=text.len() {
            next[end] = match literal {
                Some(literal) => end > 0 && matched[end - 1] && alike(text[end - 1], literal),
                None if c == '_' => end > 0 && matched[end - 1],
                None => matched[..=end].contains(&true),
            };
        }
        matched = next;
    }
    matched[text.len()]
}
