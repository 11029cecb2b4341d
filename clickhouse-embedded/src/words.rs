//! The words of a statement, as ClickHouse's own lexer parts them
//! (`src/Parsers/Lexer.cpp`): what it takes for blank, for a comment or for
//! quoted must be the same here, or a keyword could hide from one of the two.

use std::collections::HashMap;
use std::rc::Rc;

/// A word of a statement.
pub(crate) struct Token<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) start: usize,
    /// How many parentheses are open around it.
    pub(crate) depth: usize,
    /// Only blanks and comments are between it and the word before.
    pub(crate) adjoins: bool,
}

/// The words of a statement and its semicolons. Strings and quoted names come
/// with their quotes, so that they equal no keyword; comments and other
/// punctuation are passed over.
#[derive(Clone)]
pub(crate) struct Words<'a> {
    sql: &'a [u8],
    at: usize,
    depth: usize,
    heredocs: Option<Rc<Heredocs<'a>>>,
}

/// Where each `$tag$` is, in order.
type Heredocs<'a> = HashMap<&'a [u8], Vec<usize>>;

impl<'a> Iterator for Words<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let mut adjoins = true;
        loop {
            let rest = &self.sql[self.at..];
            let first = *rest.first()?;
            let mut is_punctuation = false;
            let length = match first {
                b'\'' | b'"' | b'`' => return Some(self.token(quoted_length(rest, first), adjoins)),
                b'$' if let Some(length) = self.heredoc_length() => return Some(self.token(length, adjoins)),
                b';' => return Some(self.token(1, adjoins)),
                b'#' => length_through(rest, b"\n"),
                b'-' if rest.starts_with(b"--") => length_through(rest, b"\n"),
                b'/' if rest.starts_with(b"//") => length_through(rest, b"\n"),
                b'/' if rest.starts_with(b"/*") => comment_length(rest),
                0xe2 if rest.starts_with("‘".as_bytes()) => {
                    return Some(self.token(length_through(rest, "’".as_bytes()), adjoins));
                }
                0xe2 if rest.starts_with("“".as_bytes()) => {
                    return Some(self.token(length_through(rest, "”".as_bytes()), adjoins));
                }
                _ if is_word(first) => {
                    let length = rest.iter().take_while(|byte| is_word(**byte)).count();
                    return Some(self.token(length, adjoins));
                }
                _ => {
                    match first {
                        b'(' => self.depth += 1,
                        b')' => self.depth = self.depth.saturating_sub(1),
                        _ => {}
                    }
                    is_punctuation = !is_blank(first);
                    1
                }
            };
            adjoins &= !is_punctuation;
            self.at += length;
        }
    }
}

impl<'a> Words<'a> {
    pub(crate) fn of(sql: &'a [u8]) -> Self {
        Self { sql, at: 0, depth: 0, heredocs: None }
    }

    /// What follows the word that was given last.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.sql[self.at..]
    }

    fn token(&mut self, length: usize, adjoins: bool) -> Token<'a> {
        let start = self.at;
        self.at += length;
        Token { text: &self.sql[start..self.at], start, depth: self.depth, adjoins }
    }

    /// Length of `$tag$ … $tag$` with its tags; without the second one it is none.
    fn heredoc_length(&mut self) -> Option<usize> {
        let sql = self.sql;
        let tag = tag(&sql[self.at..])?;
        // Looked for once: a text of a MiB may have very many that do not end.
        let places = self.heredocs.get_or_insert_with(|| Rc::new(heredocs(sql))).get(tag)?;
        let next = places.partition_point(|place| *place < self.at + tag.len());
        Some(places.get(next)? + tag.len() - self.at)
    }
}

fn heredocs(sql: &[u8]) -> Heredocs<'_> {
    let mut places = Heredocs::new();
    for (at, byte) in sql.iter().enumerate() {
        if *byte == b'$'
            && let Some(tag) = tag(&sql[at..])
        {
            places.entry(tag).or_default().push(at);
        }
    }
    places
}

/// The `$tag$` that the text begins with.
fn tag(text: &[u8]) -> Option<&[u8]> {
    let name = text[1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    text.get(..name + 2).filter(|tag| tag.ends_with(b"$"))
}

/// Outside of quotes the engine knows other bytes than ASCII as blanks only, and
/// as one kind of minus; a text with any other is refused by it.
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte >= 0x80
}

fn is_word(byte: u8) -> bool {
    // A dotted name (a.values) is one word, so that no part of it is a keyword.
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$')
}

/// Length of a quoted text with its quotes; a doubled quote simply begins the next one.
fn quoted_length(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        at += match byte {
            b'\\' => 2, // and whatever it escapes
            _ if *byte == quote => return at + 1,
            _ => 1,
        };
    }
    text.len() // unfinished
}

/// Length of `/* … */`, in which others may be.
fn comment_length(text: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len() // unfinished
}

fn length_through(text: &[u8], end: &[u8]) -> usize {
    let found = text.windows(end.len()).position(|window| window == end);
    found.map_or(text.len(), |at| at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words; one that does not adjoin the word before begins with a comma.
    fn check(sql: &str, expected: &[&str]) {
        let words = Words::of(sql.as_bytes()).map(|word| {
            let comma = if word.adjoins { "" } else { "," };
            format!("{comma}{}", String::from_utf8_lossy(word.text))
        });
        assert_eq!(words.collect::<Vec<_>>(), expected, "{sql}");
    }

    #[test]
    fn words_strings_and_semicolons() {
        check("", &[]);
        check("SELECT a.b,c+1;x", &["SELECT", "a.b", ",c", ",1", ";", "x"]);
        check(r#"'a''b\';c' "x;" `y\`z`"#, &["'a'", r"'b\';c'", "\"x;\"", r"`y\`z`"]);
        check("x 'unfinished; y", &["x", "'unfinished; y"]);
        check("‘it's\\’ “a;b”", &["‘it's\\’", "“a;b”"]);
        check("‘unfinished' y", &["‘unfinished' y"]);
    }

    #[test]
    fn blanks_and_comments() {
        check("a\u{a0}b\u{2003}c\u{feff}d\u{b}e", &["a", "b", "c", "d", "e"]);
        check("a -- '\nb # '\nc // '\nd", &["a", "b", "c", "d"]);
        check("a /* ' /* ; */ ' */ b /*/ c */ d", &["a", "b", "d"]);
        check("a /* /* */ b", &["a"]);
        check("a / b - c", &["a", ",b", ",c"]);
    }

    #[test]
    fn heredocs() {
        check("$$;$$, $a$ $b$; $a$ x", &["$$;$$", ",$a$ $b$; $a$", "x"]);
        check("a$b$c d$b$", &["a$b$c", "d$b$"]);
        check("$a$ ; $b$", &["$a$", ";", "$b$"]);
        check("$a b$; $a b$", &["$a", "b$", ";", "$a", "b$"]);
    }

    /// Each tag that does not end is looked for in all that follows.
    #[test]
    fn a_mebibyte_of_tags_without_an_end_takes_no_time() {
        let tags: String = (0..100_000).map(|n| format!("$t{n}$ ")).collect();
        assert_eq!(Words::of(tags.as_bytes()).count(), 100_000);
    }
}
