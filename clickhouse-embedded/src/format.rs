//! What a statement's result looks like, as far as its text says.
//!
//! libchdb streams a result as chunks that are documents of their own. Formats
//! whose documents can be put one after another are streamed, some after their
//! header was taken off; for every other format the result is made whole.

use crate::words::Words;

/// How a result's chunks become one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One after the other.
    Rows,
    /// The same, but only the first keeps its header.
    Header(Header),
    /// Not at all.
    Document,
}

/// What begins a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// That many lines.
    Lines(usize),
    /// The same, where a line feed within quotes ends none.
    QuotedLines(usize),
    /// RowBinary's number of columns, then their names, and their types if there are two texts each.
    Binary(usize),
}

/// What is known of a statement before it runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// It changes nothing: who went away does not miss it.
    pub is_read: bool,
    /// Its result may be streamed if its format's shape allows it.
    pub may_stream: bool,
    /// It may end with totals or extremes, which have no header that could be taken off.
    pub may_have_totals: bool,
    /// Its own FORMAT clause.
    pub format: Option<String>,
}

impl Reading {
    /// Looks at the statement's words.
    pub fn of(sql: &[u8]) -> Self {
        let mut words = Words::of(sql);
        let mut first = None;
        let (mut changes, mut format) = (false, None);
        let mut before: &[u8] = b"";
        while let Some(word) = words.next() {
            if is_any(first.get_or_insert(word.text), &["INSERT"]) {
                // What may follow is data.
                break;
            }
            // With an escape a name may read otherwise than it looks.
            changes |= word.text.starts_with(b"`") && word.text.contains(&b'\\');
            changes |= word.text.starts_with(b"\"") && word.text.contains(&b'\\');
            if word.depth == 0 {
                let follows = |this: &str, other: &str| {
                    word.adjoins && is_any(word.text, &[this]) && is_any(before, &[other])
                };
                // SELECT … INTO OUTFILE, SELECT … PARALLEL WITH SYSTEM ….
                changes |= is_any(word.text, &["INSERT"])
                    || follows("OUTFILE", "INTO")
                    || follows("WITH", "PARALLEL");
                if is_any(word.text, &["FORMAT"]) && !is_any(before, &NAMES_FOLLOW) {
                    format = format_clause(words.clone()).or(format);
                }
            }
            before = word.text;
        }
        let first = first.unwrap_or_default();
        changes |= WRITING_SETTINGS.iter().any(|setting| contains(sql, setting));
        let is_query = is_any(first, &["SELECT", "WITH", "FROM"]);
        let is_read = !changes
            && (is_query || is_any(first, &["SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK"]));
        // A stream ends with its first empty chunk, and what goes to a file leaves all of them empty.
        let may_stream = is_read && is_query && !contains(sql, ARRAY_OF_ROWS);
        let may_have_totals = contains(sql, "TOTALS") || contains(sql, EXTREMES);
        Self { is_read, may_stream, may_have_totals, format }
    }
}

/// After these FORMAT is a name.
const NAMES_FOLLOW: [&str; 8] = ["SELECT", "DISTINCT", "FROM", "JOIN", "AS", "TABLE", "INTO", "BY"];

/// The format's name, if this can follow a FORMAT that is no name itself: only
/// SETTINGS may come after it.
fn format_clause(mut words: Words<'_>) -> Option<String> {
    let name = words.next().filter(|name| name.adjoins)?;
    let is_last = words.next().is_none_or(|next| is_any(next.text, &["SETTINGS", ";"]));
    let is_order = is_any(name.text, &["ASC", "DESC"]);
    let name = std::str::from_utf8(name.text).ok()?;
    (is_last && !is_order && !name.starts_with(['\'', '"', ';'])).then(|| name.to_owned())
}

/// With these settings a read writes: one renames the files of `file()`, the
/// other makes a file with the result's schema.
pub const WRITING_SETTINGS: [&str; 2] = ["rename_files_after_processing", "output_format_schema"];

/// The setting that makes one document of JSONEachRow.
pub const ARRAY_OF_ROWS: &str = "output_format_json_array_of_rows";

/// The setting that adds the least and the greatest of each column.
pub const EXTREMES: &str = "extremes";

/// A format's shape, by its name.
pub fn shape(format: &str) -> Shape {
    let rows = [
        "TabSeparated",
        "TSV",
        "TabSeparatedRaw",
        "TSVRaw",
        "Raw",
        "CSV",
        "TSKV",
        "LineAsString",
        "JSONEachRow",
        "JSONLines",
        "NDJSON",
        "JSONStringsEachRow",
        "JSONCompactEachRow",
        "JSONCompactStringsEachRow",
        "RowBinary",
        "Native",
        "MsgPack",
    ];
    if is_any(format.as_bytes(), &rows) {
        return Shape::Rows;
    }
    let lower = format.to_ascii_lowercase();
    let (base, texts) = match (lower.strip_suffix("withnames"), lower.strip_suffix("withnamesandtypes")) {
        (Some(base), _) => (base, 1),
        (_, Some(base)) => (base, 2),
        _ => return Shape::Document,
    };
    match base {
        "tabseparated" | "tsv" | "jsoncompacteachrow" | "jsoncompactstringseachrow" => {
            Shape::Header(Header::Lines(texts))
        }
        "csv" => Shape::Header(Header::QuotedLines(texts)),
        "rowbinary" => Shape::Header(Header::Binary(texts)),
        _ => Shape::Document,
    }
}

impl Header {
    /// How long the header of this document is; `None` if it has none.
    pub fn length(self, document: &[u8]) -> Option<usize> {
        match self {
            Self::Lines(count) | Self::QuotedLines(count) => {
                let has_quotes = matches!(self, Self::QuotedLines(_));
                let (mut lines, mut quoted) = (0, false);
                for (at, byte) in document.iter().enumerate() {
                    match byte {
                        b'"' if has_quotes => quoted = !quoted,
                        b'\n' if !quoted => lines += 1,
                        _ => continue,
                    }
                    if lines == count {
                        return Some(at + 1);
                    }
                }
                None
            }
            Self::Binary(texts) => {
                let mut rest = document;
                let columns = varint(&mut rest)?;
                for _ in 0..columns.checked_mul(texts)? {
                    let length = varint(&mut rest)?;
                    rest = rest.get(length..)?;
                }
                Some(document.len() - rest.len())
            }
        }
    }
}

/// A number of 7 bits a byte, the lowest first.
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn is_any(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes()))
}

fn contains(text: &[u8], wanted: &str) -> bool {
    text.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "read", "stream" and the FORMAT clause.
    fn check(sql: &str, expected: &str) {
        let Reading { is_read, may_stream, may_have_totals, format } = Reading::of(sql.as_bytes());
        let words = [
            is_read.then_some("read"),
            may_stream.then_some("stream"),
            may_have_totals.then_some("totals"),
            format.as_deref(),
        ];
        assert_eq!(words.into_iter().flatten().collect::<Vec<_>>().join(" "), expected, "{sql}");
    }

    #[test]
    fn a_result_whose_chunks_may_be_empty_is_not_streamed() {
        check("SELECT 1 INTO OUTFILE 'x' FORMAT CSV", "CSV");
        assert_eq!(shape("RawBLOB"), Shape::Document);
    }

    #[test]
    fn statements() {
        check("SELECT 1", "read stream");
        check(" /* x */ with 1 AS x select x format CSV", "read stream CSV");
        check("(SELECT 1) UNION ALL (SELECT 2) FORMAT JSON SETTINGS max_threads = 1;", "read stream JSON");
        check("SELECT a, count() FROM t GROUP BY a with totals", "read stream totals");
        check("SELECT a FROM t SETTINGS extremes = 1", "read stream totals");
        check("SHOW TABLES FORMAT TSV", "read TSV");
        check("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "");
        check("CREATE TABLE t (a String) ENGINE = Memory", "");
        check("SELECT 1 PARALLEL WITH SYSTEM STOP MERGES", "");
        check("SELECT parallel, outfile FROM t", "read stream");
        check("", "");
    }

    #[test]
    fn nothing_hides_from_it_what_a_statement_changes() {
        check("SELECT 1 INTO OUTFILE\u{a0}'x'", "");
        check("SELECT 1 INTO\u{2003}/* */OUTFILE 'x'", "");
        check("SELECT 1 // '\nINTO OUTFILE 'x'", "");
        check("SELECT 1 /* /* */ ' */ INTO OUTFILE 'x' --'", "");
        check("SELECT ‘a' ’ INTO OUTFILE 'x'", "");
        check("SELECT 1 PARALLEL\u{a0}WITH SYSTEM STOP MERGES", "");
        check("SELECT 1 SETTINGS rename_files_after_processing = 'x'", "");
        check("SELECT 1 SETTINGS `output\\x5fformat_schema` = 'x'", "");
        check("SELECT 1 SETTINGS \"output\\x5fformat_schema\" = 'x'", "");
        check("WITH 1 AS x//\nINSERT INTO t SELECT x", "");
        check("$$SELECT$$ 1", "");
        check("", "");
    }

    #[test]
    fn what_looks_like_a_format_clause() {
        check("SELECT formatDateTime(now(), 'FORMAT CSV') -- FORMAT CSV", "read stream");
        check("SELECT * FROM format CSV", "read stream");
        check("SELECT format, CSV FROM t", "read stream");
        check("SELECT format, a FROM t FORMAT RowBinary", "read stream RowBinary");
        check("SELECT * FROM (SELECT 1 AS format)", "read stream");
        check("SELECT $$ FORMAT CSV $$, $a$ INSERT $$ ' $a$", "read stream");
        check("SELECT format CSV", "read stream");
        check("SELECT a, format b FROM t FORMAT TSV", "read stream TSV");
        check("SELECT * FROM t ORDER BY a, format DESC", "read stream");
        check("SELECT * FROM t GROUP BY format LIMIT 1", "read stream");
        check("SELECT 1 FORMAT CSV;", "read stream CSV");
        check("SELECT 1 FORMAT/* x */CSV", "read stream CSV");
        check("SELECT 1 FORMAT\u{a0}CSV", "read stream CSV");
        check("SELECT 1 SETTINGS output_format_json_array_of_rows = 1", "read");
    }

    #[test]
    fn headers() {
        let check = |format: &str, document: &[u8], header: &[u8]| match shape(format) {
            Shape::Header(kind) => assert_eq!(kind.length(document), Some(header.len()), "{format}"),
            other => panic!("{format}: {other:?}"),
        };
        check("TSVWithNames", b"a\"\tb\n1\t2\n", b"a\"\tb\n");
        check("TabSeparatedWithNamesAndTypes", b"a\nUInt8\n1\n", b"a\nUInt8\n");
        check("CSVWithNames", b"\"a\nb\"\"\n\"\n1\n", b"\"a\nb\"\"\n\"\n");
        check("RowBinaryWithNamesAndTypes", b"\x01\x01a\x05UInt8\x07", b"\x01\x01a\x05UInt8");
        check("rowbinarywithnames", b"\x02\x01a\x01b\x07", b"\x02\x01a\x01b");
        assert_eq!(Header::Binary(2).length(b"\x01\x01a\x05UInt"), None);
        assert_eq!(Header::Binary(1).length(&[0xff; 20]), None);
        assert_eq!(Header::Lines(2).length(b"a\n"), None);
        assert_eq!(shape("Native"), Shape::Rows);
        for format in ["JSON", "Parquet", "PrettyCompact", "TSVRawWithNames", "nosuch"] {
            assert_eq!(shape(format), Shape::Document, "{format}");
        }
    }
}
