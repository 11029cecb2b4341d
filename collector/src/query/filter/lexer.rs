//! Text to tokens, each with its position.

use super::FilterError;

/// A part of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A tag or a keyword; the flag says that it was in backquotes.
    Word(String, bool),
    /// Text in quotes, without them and without what protected a quote in it.
    Text(String),
    /// A whole number.
    Number(i64),
    /// An operator, a parenthesis or a comma.
    Symbol(&'static str),
    /// After everything.
    End,
}

/// The characters of a filter.
pub(super) struct Lexer {
    chars: Vec<char>,
}

const SYMBOLS: [&str; 10] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ","];

impl Lexer {
    pub(super) fn new(filter: &str) -> Self {
        Self { chars: filter.chars().collect() }
    }

    /// Tokens with the place of each; the last is the end.
    pub(super) fn tokens(&self) -> Result<Vec<(usize, Token)>, FilterError> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = self.chars.get(at) {
            let start = at;
            let token = match c {
                c if c.is_whitespace() => {
                    at += 1;
                    continue;
                }
                '\'' | '"' => Token::Text(self.quoted(&mut at)?),
                '`' => Token::Word(self.quoted(&mut at)?, true),
                // No arithmetic here: a hyphen or a slash can only belong to a name.
                c if c.is_alphabetic() || c == '_' => {
                    Token::Word(self.run(&mut at, |c| c.is_alphanumeric() || "_.-/".contains(c)), false)
                }
                c if c.is_ascii_digit() || c == '-' => {
                    at += 1;
                    let digits = self.run(&mut at, |c| c.is_alphanumeric() || c == '.');
                    let number = format!("{c}{digits}");
                    let parsed = number.parse().map_err(|_| {
                        let shown: String = number.chars().take(64).collect();
                        FilterError::at(start, format!("{shown} is no whole number that can be stored"))
                    });
                    Token::Number(parsed?)
                }
                _ => {
                    let rest: String = self.chars[at..].iter().take(2).collect();
                    let symbol = SYMBOLS.into_iter().find(|s| rest.starts_with(s));
                    let symbol =
                        symbol.ok_or_else(|| FilterError::at(start, format!("{c:?} has no meaning here")))?;
                    at += symbol.len();
                    Token::Symbol(symbol)
                }
            };
            tokens.push((start, token));
        }
        tokens.push((self.chars.len(), Token::End));
        Ok(tokens)
    }

    /// Where character `nth` of the text whose opening quote is at `start` was written.
    pub(super) fn place_in_quoted(&self, start: usize, nth: usize) -> usize {
        let mut at = start + 1;
        for _ in 0..nth {
            if !matches!(self.next_quoted(&mut at, self.chars[start]), Some(Some(_))) {
                break;
            }
        }
        at
    }

    fn run(&self, at: &mut usize, belongs: impl Fn(char) -> bool) -> String {
        let start = *at;
        while self.chars.get(*at).is_some_and(|&c| belongs(c)) {
            *at += 1;
        }
        self.chars[start..*at].iter().collect()
    }

    fn quoted(&self, at: &mut usize) -> Result<String, FilterError> {
        let start = *at;
        let quote = self.chars[start];
        let mut content = String::new();
        *at += 1;
        loop {
            match self.next_quoted(at, quote) {
                Some(Some(c)) => content.push(c),
                Some(None) => return Ok(content),
                None => return Err(FilterError::at(start, format!("this {quote} is never closed"))),
            }
        }
    }

    /// The next character of a quoted text; `Some(None)` at its closing quote, `None` if there is none.
    fn next_quoted(&self, at: &mut usize, quote: char) -> Option<Option<char>> {
        let c = *self.chars.get(*at)?;
        *at += 1;
        let next = self.chars.get(*at).copied();
        let protects = match c {
            // As in SQL dialects that keep a backslash before anything else,
            // which patterns and Windows paths need.
            '\\' => next.is_some_and(|n| n == quote || n == '\\'),
            c if c == quote => {
                if next != Some(quote) {
                    return Some(None);
                }
                true
            }
            _ => false,
        };
        if protects {
            *at += 1;
            return Some(next);
        }
        Some(Some(c))
    }
}
