//! A filter as a condition in SQL. All that stands in the text is from the table of tags; what came
//! from a request is bound.

use std::net::Ipv6Addr;

use super::tags::{Kind, Tag, Unset};
use super::{Column, Expr, Operand};
use crate::query::statement::Value;

/// Whose rows a condition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    OfApps,
    /// Every row of the view again, under another name and so with another `_id`.
    OfTotal,
}

pub(super) struct Writer<'a> {
    pub(super) rows: Rows,
    pub(super) values: &'a mut Vec<Value>,
}

impl Writer<'_> {
    pub(super) fn condition(&mut self, expr: &Expr) -> String {
        match expr {
            Expr::And(parts) => self.joined(parts, " AND "),
            Expr::Or(parts) => self.joined(parts, " OR "),
            Expr::Not(inner) => format!("(NOT {})", self.condition(inner)),
            Expr::Compare(column, operator, Operand::Value(value)) => {
                let left = self.number_or_text(column);
                self.values.push(value.clone());
                format!("{left} {operator} ?")
            }
            Expr::Compare(column, operator, Operand::Network(first, last)) => {
                self.network(column.tag, operator, *first, *last)
            }
            Expr::In(column, operands) => self.is_in(column, operands),
            Expr::Like(column, pattern) => self.call("ilike", column, pattern),
            Expr::Regexp(column, pattern) => self.call("match", column, pattern),
            Expr::Unset(column) => self.unset(column),
        }
    }

    fn joined(&mut self, parts: &[Expr], operator: &str) -> String {
        let parts: Vec<String> = parts.iter().map(|part| self.condition(part)).collect();
        format!("({})", parts.join(operator))
    }

    fn is_in(&mut self, column: &Column, operands: &[Operand]) -> String {
        if column.tag.kind == Kind::Ip {
            let parts: Vec<String> = operands
                .iter()
                .filter_map(|operand| match operand {
                    Operand::Network(first, last) => Some(self.network(column.tag, "=", *first, *last)),
                    Operand::Value(_) => None,
                })
                .collect();
            return format!("({})", parts.join(" OR "));
        }
        let left = self.number_or_text(column);
        let values = operands.iter().filter_map(|operand| match operand {
            Operand::Value(value) => Some(value.clone()),
            Operand::Network(..) => None,
        });
        self.values.extend(values);
        format!("{left} IN ({})", vec!["?"; operands.len()].join(", "))
    }

    /// By number, because text has 10.9 after 10.10. What is no address is in no network.
    fn network(&mut self, tag: &Tag, operator: &str, first: Ipv6Addr, last: Ipv6Addr) -> String {
        // These functions do not take the column's dictionary.
        let text = format!("CAST(`{}`, 'String')", tag.column);
        let address = format!("toIPv6OrDefault({text})");
        let bounds = match operator {
            "<" | ">=" => vec![(operator, first)],
            ">" | "<=" => vec![(operator, last)],
            _ => vec![(">=", first), ("<=", last)],
        };
        let mut condition = format!("(isIPv4String({text}) OR isIPv6String({text}))");
        for (operator, bound) in bounds {
            self.values.push(Value::Text(bound.to_string()));
            condition.push_str(&format!(" AND {address} {operator} toIPv6(?)"));
        }
        if operator == "!=" { format!("(NOT ({condition}))") } else { format!("({condition})") }
    }

    fn call(&mut self, function: &str, column: &Column, pattern: &str) -> String {
        let text = self.text(column);
        self.values.push(Value::Text(pattern.to_owned()));
        format!("{function}({text}, ?)")
    }

    fn unset(&mut self, column: &Column) -> String {
        let Column { tag, key } = column;
        match (tag.unset, key) {
            (_, Some(key)) => {
                self.values.push(Value::Text(key.clone()));
                format!("(NOT mapContains(`{}`, ?))", tag.column)
            }
            (Unset::Empty, None) if tag.kind == Kind::Map => format!("empty(`{}`)", tag.column),
            (Unset::Empty, None) => format!("{} = ''", plain(tag)),
            (Unset::When(condition), None) => condition.to_owned(),
            (Unset::Never, None) => "false".to_owned(),
        }
    }

    /// What is compared with values.
    fn number_or_text(&mut self, column: &Column) -> String {
        let Column { tag, key } = column;
        match (tag.kind, key) {
            (_, Some(key)) => {
                self.values.push(Value::Text(key.clone()));
                format!("`{}`[?]", tag.column)
            }
            (Kind::Time { per_second: 1 }, None) => format!("toUnixTimestamp(`{}`)", tag.column),
            (Kind::Time { .. }, None) => format!("toUnixTimestamp64Micro(`{}`)", tag.column),
            _ if self.rows == Rows::OfTotal && tag.name == "_id" => {
                plain(tag).replace("(app_service,", "('Total',")
            }
            _ => plain(tag),
        }
    }

    /// What is compared with patterns: a number in digits, a point in time as the view shows it.
    fn text(&mut self, column: &Column) -> String {
        let value = match column.tag.kind {
            Kind::Time { .. } => plain(column.tag),
            _ => self.number_or_text(column),
        };
        match column.tag.kind {
            Kind::Text | Kind::Map | Kind::Ip => value,
            Kind::Number | Kind::Time { .. } => format!("toString({value})"),
            Kind::Enum(names) => {
                let mut cases = String::new();
                for (at, (number, name)) in names.iter().enumerate() {
                    // Of several names the first.
                    if names.iter().position(|(n, _)| n == number) == Some(at) {
                        cases.push_str(&format!("{value} = {number}, '{name}', "));
                    }
                }
                format!("multiIf({cases}toString({value}))")
            }
        }
    }
}

impl Tag {
    /// Its value as text, empty where it is not set, as SQL over the columns of
    /// `profile.in_process_local`: as [`Expr::sql_of_total`] compares it.
    pub fn as_value(&'static self) -> String {
        let (column, mut values) = (Column { tag: self, key: None }, Vec::new());
        let mut writer = Writer { rows: Rows::OfTotal, values: &mut values };
        let text = format!("toString({})", writer.text(&column));
        match self.unset {
            Unset::Never => text,
            // Nothing else stands for it.
            Unset::Empty if self.kind != Kind::Map => text,
            _ => format!("if({}, '', {text})", writer.unset(&column)),
        }
    }
}

fn plain(tag: &Tag) -> String {
    tag.expression.map_or_else(|| format!("`{}`", tag.column), str::to_owned)
}
