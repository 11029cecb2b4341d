//! Parts an INSERT from its data.
//!
//! libchdb takes an INSERT with its data in one text, as `clickhouse-client`
//! does, but then reads the data only up to the first empty line and drops the
//! rest without an error: measured with RowBinary rows that hold the bytes
//! 0x0A 0x0A. So data goes through its stream interface, which wants the
//! statement without FORMAT or VALUES, the format's name, and the bytes.

use std::io::{self, Read};

use crate::exception::{Exception, code};
use crate::words::{Token, Words};

/// An INSERT and what it brings.
#[derive(Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The statement up to its FORMAT or VALUES.
    pub head: &'a [u8],
    /// The data's format.
    pub format: &'a str,
    /// The data.
    pub data: &'a [u8],
}

/// What kind of statement a text is, as far as its data is concerned.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// It brings no data.
    Plain,
    /// It brings data.
    Insert(Insert<'a>),
    /// `INSERT … SELECT … FROM input(…) FORMAT …`, which the engine's
    /// stream interface does not take.
    InsertFromInput,
}

/// Whether the text, without data, is more than one statement: something
/// follows a semicolon.
pub fn is_several(sql: &[u8]) -> bool {
    let mut words = Words::of(sql).map(|word| word.text);
    words.any(|word| word == b";") && words.any(|word| word != b";")
}

/// The exception for it.
pub fn several_statements() -> Exception {
    let text = "Syntax error (Multi-statements are not allowed): something follows a semicolon";
    Exception::new(code::SYNTAX_ERROR, text)
}

/// Reads data of `VALUES`, which the engine reads up to its first semicolon
/// only, dropping the rest without an error: what follows one is an error here.
pub struct OneStatement<R> {
    data: R,
    state: Within,
}

#[derive(Clone, Copy)]
enum Within {
    Rows,
    Quotes(u8),
    /// After a backslash within these quotes.
    Escape(u8),
    /// After a semicolon.
    End,
}

impl<R: Read> OneStatement<R> {
    /// Reads from `data`.
    pub fn new(data: R) -> Self {
        Self { data, state: Within::Rows }
    }
}

impl<R: Read> Read for OneStatement<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.data.read(out)?;
        for byte in &out[..length] {
            self.state = match (self.state, *byte) {
                (Within::Rows, quote @ (b'\'' | b'"' | b'`')) => Within::Quotes(quote),
                (Within::Rows, b';') => Within::End,
                (Within::Quotes(quote), b'\\') => Within::Escape(quote),
                (Within::Quotes(quote), byte) if byte == quote => Within::Rows,
                (Within::Escape(quote), _) => Within::Quotes(quote),
                (Within::End, byte) if byte != b';' && !byte.is_ascii_whitespace() => {
                    return Err(io::Error::other(several_statements()));
                }
                (state, _) => state,
            };
        }
        Ok(length)
    }
}

/// Looks at a statement's words, no further than to its data.
pub fn classify(sql: &[u8]) -> Kind<'_> {
    let mut words = Words::of(sql);
    match words.next() {
        Some(Token { text, .. }) if text.eq_ignore_ascii_case(b"INSERT") => {}
        _ => return Kind::Plain,
    }
    let (mut selects, mut reads_input) = (false, false);
    let mut after_name_marker = false;
    while let Some(Token { text, start, depth, .. }) = words.next() {
        let is = |word: &str| text.eq_ignore_ascii_case(word.as_bytes());
        // What follows these is a name, whatever it looks like.
        let is_name = std::mem::replace(&mut after_name_marker, is("INTO") || is("TABLE"));
        if is_name && !is("TABLE") && !is("FUNCTION") {
            after_name_marker = false;
            continue;
        }
        if is("SELECT") || (depth == 0 && is("FROM")) {
            selects = true;
        } else if selects && is("input") {
            reads_input = true;
        } else if depth == 0 && is("FORMAT") {
            if selects {
                return if reads_input { Kind::InsertFromInput } else { Kind::Plain };
            }
            let Some(format) = words.next().and_then(|token| std::str::from_utf8(token.text).ok()) else {
                return Kind::Plain;
            };
            let head = &sql[..start];
            return Kind::Insert(Insert { head, format, data: data_after_format(words.rest()) });
        } else if depth == 0 && !selects && is("VALUES") {
            let head = &sql[..start];
            return Kind::Insert(Insert { head, format: "Values", data: words.rest() });
        }
    }
    Kind::Plain
}

/// Blanks and one line feed are between the format's name and the data.
fn data_after_format(rest: &[u8]) -> &[u8] {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | 0x0c)).count();
    let rest = &rest[blanks..];
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    rest.strip_prefix(b"\n").unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// "head | format | data", "plain" or "input".
    fn check(sql: &str, expected: &str) {
        let shown = match classify(sql.as_bytes()) {
            Kind::Plain => "plain".to_owned(),
            Kind::InsertFromInput => "input".to_owned(),
            Kind::Insert(Insert { head, format, data }) => format!(
                "{} | {format} | {}",
                String::from_utf8_lossy(head).trim_end(),
                String::from_utf8_lossy(data)
            ),
        };
        assert_eq!(shown, expected, "{sql}");
    }

    #[test]
    fn statements_without_data() {
        check("", "plain");
        check("SELECT 1 FORMAT JSON", "plain");
        check("CREATE TABLE values (format String) ENGINE = Memory", "plain");
        check("INSERT INTO t SELECT * FROM u", "plain");
        check("INSERT INTO t SELECT * FROM u FORMAT Null", "plain");
        check("INSERT INTO t (SELECT 1)", "plain");
        check("INSERT INTO t FROM INFILE 'x' FORMAT CSV", "plain");
        check("INSERT INTO t", "plain");
        check("INSERT INTO t FORMAT", "plain");
        check("INSERT INTO t 'unfinished FORMAT CSV", "plain");
    }

    #[test]
    fn statements_with_data() {
        check("INSERT INTO t FORMAT CSV\n1\n\n2", "INSERT INTO t | CSV | 1\n\n2");
        check(
            "insert into d.t(a, b) format RowBinary \t\n\n\tx",
            "insert into d.t(a, b) | RowBinary | \n\tx",
        );
        check("INSERT INTO t FORMAT JSONEachRow{\"a\":1}", "INSERT INTO t | JSONEachRow | {\"a\":1}");
        check("INSERT INTO t FORMAT CSV\r\n\r\n", "INSERT INTO t | CSV | \r\n");
        check("INSERT INTO t VALUES (1), (2)", "INSERT INTO t | Values |  (1), (2)");
        check("\u{feff}INSERT\u{a0}INTO t FORMAT\u{a0}CSV\n1", "\u{feff}INSERT\u{a0}INTO t | CSV | 1");
        check("// it's\nINSERT INTO t FORMAT CSV\n1", "// it's\nINSERT INTO t | CSV | 1");
        check("INSERT INTO t VALUES(1)", "INSERT INTO t | Values | (1)");
        check(
            "/* FORMAT */ INSERT INTO t SETTINGS async_insert=0 -- FORMAT x\nFORMAT CSV\n1",
            "/* FORMAT */ INSERT INTO t SETTINGS async_insert=0 -- FORMAT x | CSV | 1",
        );
        check(
            "INSERT INTO FUNCTION file('a''b FORMAT c', CSV) FORMAT TSV\n1",
            "INSERT INTO FUNCTION file('a''b FORMAT c', CSV) | TSV | 1",
        );
    }

    #[test]
    fn several_statements() {
        let check = |sql: &str, expected| assert_eq!(is_several(sql.as_bytes()), expected, "{sql}");
        check("", false);
        check("SELECT 1;", false);
        check("SELECT 1 ; ; -- and no more\n;", false);
        check("SELECT ';' AS `;`, $$;$$, $a$ $b$; $a$ /* ; */", false);
        check("SELECT a$b$c FROM t WHERE d$b$;", false);
        check("SELECT 1; SELECT 2", true);
        check("SELECT 1; 'x'", true);
        check("SELECT $$a; SELECT 2", true);
        check("SELECT $a b$; $a b$", true);
        check("SELECT 1 // '\n; SELECT ' 2", true);
        check("SELECT 1 /* /* */ ; */", false);
    }

    /// The data that is read, or the word "several".
    #[test]
    fn data_of_values_ends_with_its_statement() {
        let check = |data: &str, is_whole| {
            // Byte by byte: whatever is cut, the state goes on.
            let read = BufReader::with_capacity(1, OneStatement::new(data.as_bytes()))
                .bytes()
                .collect::<Result<Vec<u8>, _>>();
            assert_eq!(read.ok().as_deref(), Some(data.as_bytes()).filter(|_| is_whole), "{data}");
        };
        check("(1), (2)", true);
        check("(1), ('a;b', 'c\\'; d', 'it''s; e'), (`;`, \";\");\n ; ", true);
        check("(1); (2)", false);
        check("(1); SELECT 1", false);
        check("('\\\\'); ('x')", false);
    }

    #[test]
    fn names_that_look_like_keywords() {
        check("INSERT INTO values VALUES (1)", "INSERT INTO values | Values |  (1)");
        check("INSERT INTO TABLE format FORMAT CSV\n1", "INSERT INTO TABLE format | CSV | 1");
        check("INSERT INTO d.format (values) VALUES (1)", "INSERT INTO d.format (values) | Values |  (1)");
        check("INSERT INTO `FORMAT CSV` FORMAT TSV\n1", "INSERT INTO `FORMAT CSV` | TSV | 1");
        check("INSERT INTO `d`.`t`(`a`) FORMAT TSV\n1", "INSERT INTO `d`.`t`(`a`) | TSV | 1");
        check("INSERT INTO \"d\".values FORMAT TSV\n1", "INSERT INTO \"d\".values | TSV | 1");
    }

    #[test]
    fn data_through_the_input_function() {
        check("INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1", "input");
    }
}
