//! Tokens to a tree.

use super::lexer::{Lexer, Token};
use super::operand::{Operand, operand};
use super::pattern::{self, MAX_COST, MAX_PATTERN_BYTES};
use super::tags::{self, Kind, TAGS};
use super::{Column, Expr, FilterError};

/// Most comparisons and values of one filter.
const MAX_VALUES: usize = 1000;
/// Deepest nesting of NOT and parentheses.
const MAX_DEPTH: usize = 50;
/// Longest key of a map tag, in bytes: a label's has at most 253 + 1 + 63.
const MAX_KEY_BYTES: usize = 512;

const OPERATORS: &str = "=, !=, <, <=, >, >=, IN, LIKE, REGEXP, NOT or IS";

pub(super) struct Parser {
    lexer: Lexer,
    tokens: Vec<(usize, Token)>,
    next: usize,
    values: usize,
    /// What patterns may still cost.
    budget: usize,
}

impl Parser {
    /// # Errors
    /// If a character has no meaning, or a quote is never closed.
    pub(super) fn new(filter: &str) -> Result<Self, FilterError> {
        let lexer = Lexer::new(filter);
        let tokens = lexer.tokens()?;
        Ok(Self { lexer, tokens, next: 0, values: 0, budget: MAX_COST })
    }

    /// The whole filter; `None` if it is blank.
    pub(super) fn filter(mut self) -> Result<Option<Expr>, FilterError> {
        if self.tokens.len() == 1 {
            return Ok(None);
        }
        let expr = self.or(0)?;
        match self.peek() {
            Token::End => Ok(Some(expr)),
            _ => Err(self.expected("AND, OR or the end")),
        }
    }

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
        self.condition()
    }

    fn condition(&mut self) -> Result<Expr, FilterError> {
        let column = self.column()?;
        let tag = column.tag;
        if self.take_keyword("IS") {
            let not = self.take_keyword("NOT");
            if !self.take_keyword("NULL") {
                return Err(self.expected(if not { "NULL" } else { "NULL or NOT NULL" }));
            }
            self.count_value()?;
            return Ok(negated(not, Expr::Unset(column)));
        }
        if tag.kind == Kind::Map && column.key.is_none() {
            let name = tag.name;
            return Err(self.expected(&format!("IS NULL, or a key before it, such as {name}.app")));
        }
        let not = self.take_keyword("NOT");
        if self.take_keyword("IN") {
            return Ok(negated(not, self.list(column)?));
        }
        if self.take_keyword("LIKE") {
            let (pattern, cost) = pattern::like(self.pattern("LIKE")?);
            self.pay(cost)?;
            self.next += 1;
            return Ok(negated(not, Expr::Like(column, pattern)));
        }
        if self.take_keyword("REGEXP") {
            let pattern = self.regexp()?;
            return Ok(negated(not, Expr::Regexp(column, pattern)));
        }
        if not {
            return Err(self.expected("IN, LIKE or REGEXP"));
        }
        let operator = match self.peek() {
            Token::Symbol("<>") => "!=",
            Token::Symbol(s @ ("=" | "!=" | "<" | "<=" | ">" | ">=")) => s,
            _ => return Err(self.expected(OPERATORS)),
        };
        self.next += 1;
        let operand = self.operand(&column)?;
        Ok(Expr::Compare(column, operator, operand))
    }

    fn column(&mut self) -> Result<Column, FilterError> {
        let Token::Word(name, quoted) = self.peek() else {
            return Err(self.expected("a tag, NOT or ("));
        };
        const KEYWORDS: [&str; 7] = ["AND", "OR", "IN", "LIKE", "REGEXP", "IS", "NULL"];
        if !quoted && KEYWORDS.iter().any(|k| k.eq_ignore_ascii_case(name)) {
            return Err(self.expected("a tag, NOT or ("));
        }
        let Some((tag, key)) = tags::find(name) else { return Err(self.problem(unknown(name))) };
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_BYTES) {
            let problem = format!("{} needs a key of 1 to {MAX_KEY_BYTES} bytes", tag.name);
            return Err(self.problem(problem));
        }
        let column = Column { tag, key: key.map(str::to_owned) };
        self.next += 1;
        Ok(column)
    }

    fn list(&mut self, column: Column) -> Result<Expr, FilterError> {
        if !self.take_symbol("(") {
            return Err(self.expected("("));
        }
        let mut values = vec![self.operand(&column)?];
        while self.take_symbol(",") {
            values.push(self.operand(&column)?);
        }
        if !self.take_symbol(")") {
            return Err(self.expected(", or )"));
        }
        Ok(Expr::In(column, values))
    }

    fn operand(&mut self, column: &Column) -> Result<Operand, FilterError> {
        self.count_value()?;
        let operand = operand(column.tag, self.peek()).map_err(|expected| self.expected(&expected))?;
        self.next += 1;
        Ok(operand)
    }

    /// The pattern that stands next; the caller goes on behind it.
    fn pattern(&mut self, operator: &str) -> Result<&str, FilterError> {
        self.count_value()?;
        match self.peek() {
            Token::Text(pattern) if pattern.len() <= MAX_PATTERN_BYTES => Ok(pattern),
            Token::Text(pattern) => {
                let length = pattern.len();
                let problem = format!("the pattern has {length} bytes: give at most {MAX_PATTERN_BYTES}");
                Err(self.problem(problem))
            }
            _ => Err(self.expected(&format!("a pattern in quotes after {operator}"))),
        }
    }

    fn regexp(&mut self) -> Result<String, FilterError> {
        let pattern = self.pattern("REGEXP")?.to_owned();
        let start = self.tokens[self.next].0;
        let cost = pattern::regexp_cost(&pattern).map_err(|error| {
            let at = self.lexer.place_in_quoted(start, error.at);
            FilterError::at(at, format!("in the pattern: {}", error.problem))
        })?;
        self.pay(cost)?;
        self.next += 1;
        Ok(pattern)
    }

    fn pay(&mut self, cost: usize) -> Result<(), FilterError> {
        self.budget = self.budget.checked_sub(cost).ok_or_else(|| {
            self.problem("the patterns cost too much: use fewer or shorter ones, or smaller counts")
        })?;
        Ok(())
    }

    fn count_value(&mut self) -> Result<(), FilterError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.problem(format!("more than {MAX_VALUES} values")));
        }
        Ok(())
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
        FilterError::at(self.tokens[self.next].0, problem)
    }

    fn expected(&self, expected: &str) -> FilterError {
        let found = match self.peek() {
            Token::Word(text, _) => shown(text),
            Token::Text(text) => format!("'{}'", shown(text)),
            Token::Number(number) => number.to_string(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::End => "the end".to_owned(),
        };
        self.problem(format!("expected {expected}, found {found}"))
    }
}

fn negated(not: bool, expr: Expr) -> Expr {
    if not { Expr::Not(Box::new(expr)) } else { expr }
}

/// Why there is no tag of this name, and what to write instead.
fn unknown(name: &str) -> String {
    if let Some(tag) = tags::find_not_collected(name) {
        return format!("Hearth does not collect {}: {}", tag.name, tag.why);
    }
    let name = shown(name);
    // DeepFlow has numbers for names.
    if let Some((tag, _)) = name.strip_suffix("_id").and_then(tags::find) {
        return format!("no tag {name:?}: rows carry names, not their numbers; use {}", tag.name);
    }
    let names: Vec<_> = TAGS.iter().map(|tag| tag.name).collect();
    format!("no tag {name:?}: the tags are {}", names.join(", "))
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
