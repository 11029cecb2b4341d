//! `tag_filter`: conditions on tags, parsed to a tree whose names are checked
//! and whose values are bound, never pasted into SQL.
//!
//! ```text
//! or      = and { OR and }
//! and     = not { AND not }
//! not     = NOT not | "(" or ")" | compare
//! compare = tag ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
//!         | tag [ NOT ] IN "(" value { "," value } ")"
//! value   = 'text' | "text" | number
//! ```
//!
//! Keywords in any case; a tag may stand in backquotes; in text a quote is
//! written twice or after a backslash. A condition is true or false: no tag is null.

use super::plan::Value;

/// A parsed filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// All of them, two or more. Flat: ClickHouse bounds the depth of a query,
    /// and a pair in a pair for each AND would pass that bound.
    And(Vec<Expr>),
    /// At least one of them, as flat.
    Or(Vec<Expr>),
    /// The contrary.
    Not(Box<Expr>),
    /// A tag compared with a value.
    Compare(Tag, &'static str, Value),
    /// A tag that is one of several values.
    In(Tag, Vec<Value>),
}

/// A tag that rows have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// Its name, which is also the column's.
    pub name: &'static str,
    /// Whether its values are numbers; text otherwise.
    pub numeric: bool,
}

/// Why a filter was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at position {position}: {problem}")]
pub struct FilterError {
    /// Character of the filter, from 1 on.
    pub position: usize,
    /// What was found there, and what was expected.
    pub problem: String,
}

/// Every tag that can be filtered by.
pub const TAGS: &[Tag] = &[
    text("app_service"),
    text("app_instance"),
    text("policy"),
    number("process_id"),
    text("process_name"),
    text("thread_name"),
    number("main_thread"),
    number("cpu"),
    text("profile_value_unit"),
    text("profile_event_type"),
    text("profile_language_type"),
    text("pod_cluster"),
    text("pod_ns"),
    text("pod_node"),
    text("pod_group"),
    text("pod"),
    text("container"),
    text("host"),
    text("agent"),
    text("trace_id"),
    text("span_name"),
    text("profile_id"),
];

/// Most comparisons and values of one filter.
const MAX_VALUES: usize = 1000;
/// Deepest nesting of NOT and parentheses.
const MAX_DEPTH: usize = 50;

const fn text(name: &'static str) -> Tag {
    Tag { name, numeric: false }
}

const fn number(name: &'static str) -> Tag {
    Tag { name, numeric: true }
}

/// Parses a filter; `None` if it is blank.
///
/// # Errors
/// The position of what was not understood, and what was expected there.
pub fn parse(filter: &str) -> Result<Option<Expr>, FilterError> {
    let tokens = tokens(filter)?;
    if tokens.len() == 1 {
        return Ok(None);
    }
    let mut parser = Parser { tokens, next: 0, values: 0 };
    let expr = parser.or(0)?;
    match parser.peek() {
        Token::End => Ok(Some(expr)),
        _ => Err(parser.expected("AND, OR or the end")),
    }
}

impl Expr {
    /// The condition as SQL with `?` for each value, which go to `values`.
    pub fn sql(&self, values: &mut Vec<Value>) -> String {
        match self {
            Self::And(parts) => joined(parts, " AND ", values),
            Self::Or(parts) => joined(parts, " OR ", values),
            Self::Not(inner) => format!("(NOT {})", inner.sql(values)),
            Self::Compare(tag, operator, value) => {
                values.push(value.clone());
                format!("`{}` {operator} ?", tag.name)
            }
            Self::In(tag, list) => {
                values.extend(list.iter().cloned());
                format!("`{}` IN ({})", tag.name, vec!["?"; list.len()].join(", "))
            }
        }
    }
}

fn joined(parts: &[Expr], operator: &str, values: &mut Vec<Value>) -> String {
    let parts: Vec<String> = parts.iter().map(|part| part.sql(values)).collect();
    format!("({})", parts.join(operator))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A tag or a keyword; the flag says that it was in backquotes.
    Word(String, bool),
    Text(String),
    Number(i64),
    Symbol(&'static str),
    End,
}

/// Tokens with the position of each; the last is the end.
fn tokens(filter: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    let chars: Vec<char> = filter.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        let token = match c {
            c if c.is_whitespace() => {
                at += 1;
                continue;
            }
            '\'' | '"' => Token::Text(quoted(&chars, &mut at)?),
            '`' => Token::Word(quoted(&chars, &mut at)?, true),
            c if c.is_alphabetic() || c == '_' => {
                let word = run(&chars, &mut at, |c| c.is_alphanumeric() || c == '_' || c == '.');
                Token::Word(word, false)
            }
            c if c.is_ascii_digit() || c == '-' => {
                at += 1;
                let digits = run(&chars, &mut at, |c| c.is_alphanumeric() || c == '.');
                let number = format!("{c}{digits}");
                let problem = || format!("{number} is no whole number that can be stored");
                Token::Number(number.parse().map_err(|_| error(start, problem()))?)
            }
            _ => {
                const SYMBOLS: [&str; 10] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ","];
                let rest: String = chars[at..].iter().take(2).collect();
                let symbol = SYMBOLS.into_iter().find(|s| rest.starts_with(s));
                let symbol = symbol.ok_or_else(|| error(start, format!("{c:?} has no meaning here")))?;
                at += symbol.len();
                Token::Symbol(symbol)
            }
        };
        tokens.push((start, token));
    }
    tokens.push((chars.len(), Token::End));
    Ok(tokens)
}

fn run(chars: &[char], at: &mut usize, belongs: impl Fn(char) -> bool) -> String {
    let start = *at;
    while chars.get(*at).is_some_and(|&c| belongs(c)) {
        *at += 1;
    }
    chars[start..*at].iter().collect()
}

fn quoted(chars: &[char], at: &mut usize) -> Result<String, FilterError> {
    let start = *at;
    let quote = chars[start];
    let mut content = String::new();
    *at += 1;
    loop {
        let c = *chars.get(*at).ok_or_else(|| error(start, format!("this {quote} is never closed")))?;
        *at += 1;
        match c {
            '\\' => match chars.get(*at) {
                Some(&c) if c == quote || c == '\\' => {
                    content.push(c);
                    *at += 1;
                }
                // As in SQL dialects that keep a backslash before anything else,
                // which regular expressions and Windows paths need.
                _ => content.push('\\'),
            },
            c if c == quote && chars.get(*at) == Some(&quote) => {
                content.push(quote);
                *at += 1;
            }
            c if c == quote => return Ok(content),
            c => content.push(c),
        }
    }
}

fn error(at: usize, problem: impl Into<String>) -> FilterError {
    FilterError { position: at + 1, problem: problem.into() }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    values: usize,
}

impl Parser {
    fn or(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let first = self.and(depth)?;
        if !self.take_keyword("OR") {
            return Ok(first);
        }
        let mut parts = vec![first, self.and(depth)?];
        while self.take_keyword("OR") {
            parts.push(self.and(depth)?);
        }
        Ok(Expr::Or(parts))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, FilterError> {
        let first = self.not(depth)?;
        if !self.take_keyword("AND") {
            return Ok(first);
        }
        let mut parts = vec![first, self.not(depth)?];
        while self.take_keyword("AND") {
            parts.push(self.not(depth)?);
        }
        Ok(Expr::And(parts))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, FilterError> {
        if depth > MAX_DEPTH {
            return Err(self.problem(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if self.take_keyword("NOT") {
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        if self.take_symbol("(") {
            let inner = self.or(depth + 1)?;
            return if self.take_symbol(")") { Ok(inner) } else { Err(self.expected("AND, OR or )")) };
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr, FilterError> {
        let tag = self.tag()?;
        if self.take_keyword("NOT") {
            if !self.take_keyword("IN") {
                return Err(self.expected("IN"));
            }
            return Ok(Expr::Not(Box::new(self.list(tag)?)));
        }
        if self.take_keyword("IN") {
            return self.list(tag);
        }
        let operator = match self.peek() {
            Token::Symbol("<>") => "!=",
            Token::Symbol(s @ ("=" | "!=" | "<" | "<=" | ">" | ">=")) => s,
            Token::Word(word, false)
                if ["LIKE", "REGEXP", "IS"].iter().any(|k| k.eq_ignore_ascii_case(word)) =>
            {
                let problem =
                    format!("{} is not supported: use =, !=, <, <=, >, >=, IN", word.to_uppercase());
                return Err(self.problem(problem));
            }
            _ => return Err(self.expected("=, !=, <, <=, >, >=, IN or NOT IN")),
        };
        self.next += 1;
        Ok(Expr::Compare(tag, operator, self.value(tag)?))
    }

    fn tag(&mut self) -> Result<Tag, FilterError> {
        let Token::Word(name, quoted) = self.peek() else {
            return Err(self.expected("a tag, NOT or ("));
        };
        if !quoted && ["AND", "OR", "IN"].iter().any(|k| k.eq_ignore_ascii_case(name)) {
            return Err(self.expected("a tag, NOT or ("));
        }
        let Some(tag) = TAGS.iter().find(|t| t.name == name) else {
            let names: Vec<_> = TAGS.iter().map(|t| t.name).collect();
            let shown: String = name.chars().take(64).collect();
            return Err(self.problem(format!("no tag {shown:?}: the tags are {}", names.join(", "))));
        };
        self.next += 1;
        Ok(*tag)
    }

    fn list(&mut self, tag: Tag) -> Result<Expr, FilterError> {
        if !self.take_symbol("(") {
            return Err(self.expected("("));
        }
        let mut values = vec![self.value(tag)?];
        while self.take_symbol(",") {
            values.push(self.value(tag)?);
        }
        if !self.take_symbol(")") {
            return Err(self.expected(", or )"));
        }
        Ok(Expr::In(tag, values))
    }

    fn value(&mut self, tag: Tag) -> Result<Value, FilterError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.problem(format!("more than {MAX_VALUES} values")));
        }
        let value = match (self.peek(), tag.numeric) {
            (Token::Text(text), false) => Value::Text(text.clone()),
            (Token::Number(number), true) => Value::Int(*number),
            (_, false) => return Err(self.expected(&format!("text in quotes, as {} is text", tag.name))),
            (_, true) => return Err(self.expected(&format!("a number, as {} is one", tag.name))),
        };
        self.next += 1;
        Ok(value)
    }

    fn peek(&self) -> &Token {
        // The end is never consumed.
        &self.tokens[self.next].1
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w, false) if w.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(s) if *s == symbol);
        self.next += usize::from(found);
        found
    }

    fn problem(&self, problem: impl Into<String>) -> FilterError {
        error(self.tokens[self.next].0, problem)
    }

    fn expected(&self, expected: &str) -> FilterError {
        let found = match self.peek() {
            Token::Word(text, _) => text.chars().take(64).collect(),
            Token::Text(text) => format!("'{}'", text.chars().take(64).collect::<String>()),
            Token::Number(number) => number.to_string(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::End => "the end".to_owned(),
        };
        self.problem(format!("expected {expected}, found {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter in; its SQL with the bound values, or the error, out.
    fn check(filter: &str, expected: &str) {
        let text = match parse(filter) {
            Ok(None) => "none".to_owned(),
            Ok(Some(expr)) => {
                let mut values = Vec::new();
                let sql = expr.sql(&mut values);
                format!("{sql} {values:?}")
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(text, expected, "{filter}");
    }

    #[test]
    fn comparisons_are_bound() {
        check("pod_ns = 'app'", r#"`pod_ns` = ? [Text("app")]"#);
        check("pod_ns='app'", r#"`pod_ns` = ? [Text("app")]"#);
        check("`pod` != \"a\"", r#"`pod` != ? [Text("a")]"#);
        check("process_id <> 12", "`process_id` != ? [Int(12)]");
        check("cpu>=0 and cpu <= 3", "(`cpu` >= ? AND `cpu` <= ?) [Int(0), Int(3)]");
        check("pod in ('a', 'b')", r#"`pod` IN (?, ?) [Text("a"), Text("b")]"#);
        check("pod NOT IN ('a')", r#"(NOT `pod` IN (?)) [Text("a")]"#);
    }

    #[test]
    fn and_binds_tighter_than_or() {
        check(
            "pod='a' OR pod='b' AND NOT pod_ns='c'",
            r#"(`pod` = ? OR (`pod` = ? AND (NOT `pod_ns` = ?))) [Text("a"), Text("b"), Text("c")]"#,
        );
        check(
            "(pod='a' OR pod='b') AND pod_ns='c'",
            r#"((`pod` = ? OR `pod` = ?) AND `pod_ns` = ?) [Text("a"), Text("b"), Text("c")]"#,
        );
    }

    #[test]
    fn a_chain_is_flat() {
        check("cpu=1 OR cpu=2 OR cpu=3", "(`cpu` = ? OR `cpu` = ? OR `cpu` = ?) [Int(1), Int(2), Int(3)]");
        check(
            "cpu=1 AND cpu=2 AND cpu=3",
            "(`cpu` = ? AND `cpu` = ? AND `cpu` = ?) [Int(1), Int(2), Int(3)]",
        );
    }

    #[test]
    fn quotes_in_text_stay_in_the_text() {
        check("pod = 'it''s' ", r#"`pod` = ? [Text("it's")]"#);
        check(r"pod = 'it\'s\d'", r#"`pod` = ? [Text("it's\\d")]"#);
        check(
            "pod = '?' AND pod = \"') OR 1=1 --\"",
            r#"(`pod` = ? AND `pod` = ?) [Text("?"), Text("') OR 1=1 --")]"#,
        );
    }

    #[test]
    fn blank_is_no_filter() {
        check("", "none");
        check("  \n", "none");
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        check("pod", "at position 4: expected =, !=, <, <=, >, >=, IN or NOT IN, found the end");
        check("pod = ", "at position 7: expected text in quotes, as pod is text, found the end");
        check("pod = 5", "at position 7: expected text in quotes, as pod is text, found 5");
        check("pod = a", "at position 7: expected text in quotes, as pod is text, found a");
        check("process_id = '5'", "at position 14: expected a number, as process_id is one, found '5'");
        check("pod='a' pod_ns='b'", "at position 9: expected AND, OR or the end, found pod_ns");
        check("(pod='a'", "at position 9: expected AND, OR or ), found the end");
        check("pod IN ()", "at position 9: expected text in quotes, as pod is text, found )");
        check("pod IN ('a' 'b')", "at position 13: expected , or ), found 'b'");
        check("AND pod='a'", "at position 1: expected a tag, NOT or (, found AND");
        check("pod = 'a", "at position 7: this ' is never closed");
        check("pod ; DROP", "at position 5: ';' has no meaning here");
        check("cpu = 1e3", "at position 7: 1e3 is no whole number that can be stored");
        check("grö = 'a' AND pod ~ 'a'", "at position 19: '~' has no meaning here");
        check("pod LIKE 'a*'", "at position 5: LIKE is not supported: use =, !=, <, <=, >, >=, IN");
    }

    #[test]
    fn an_unknown_tag_is_told_the_known_ones() {
        let error = parse("nope = 'x'").map_err(|e| e.to_string());
        let expected = "at position 1: no tag \"nope\": the tags are app_service, app_instance,";
        assert!(error.as_ref().is_err_and(|e| e.starts_with(expected)), "{error:?}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_written_the_answer_is_sound(
            filter in "(pod|cpu|AND|OR|NOT|IN|[()=<>!,]|'[a'\\\\]*'|`|\"|[0-9]{1,20}|-| |é|\\PC){0,30}"
        ) {
            match parse(&filter) {
                Ok(None) => {}
                Ok(Some(expr)) => {
                    let mut values = Vec::new();
                    let sql = expr.sql(&mut values);
                    // Nothing of the text gets into the SQL but names of tags and placeholders.
                    proptest::prop_assert_eq!(sql.matches('?').count(), values.len());
                    proptest::prop_assert!(!sql.contains(['\'', '"', '\\']), "{}", sql);
                }
                Err(error) => {
                    proptest::prop_assert!((1..=filter.chars().count() + 1).contains(&error.position));
                }
            }
        }
    }

    #[test]
    fn nesting_and_length_are_bounded() {
        let deep = format!("{}pod='a'{}", "(".repeat(60), ")".repeat(60));
        check(&deep, "at position 52: nested deeper than 50 levels");
        check(&format!("{}pod='a'", "NOT ".repeat(60)), "at position 205: nested deeper than 50 levels");
        let long = format!("cpu IN ({}1)", "1,".repeat(1000));
        check(&long, "at position 2009: more than 1000 values");
    }
}
