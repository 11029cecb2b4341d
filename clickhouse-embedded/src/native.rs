//! The Native format as a client of the binary protocol wants it.
//!
//! With `client_protocol_version` in the URL ClickHouse writes two things more
//! into Native blocks, which clickhouse-go relies on: what kind of block it is,
//! and, before each column's data, whether that is stored in another way than
//! its type says. The engine knows no such version, so they are put in here; to
//! find where, the columns' data has to be passed over by its type.

use crate::exception::{Exception, code};

/// From here on each column says how it is stored.
const CUSTOM_SERIALIZATION: u64 = 54_454;
/// Field 1: not an overflow block. Field 2: bucket −1, none. No more fields.
const BLOCK_INFO: &[u8] = &[1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0];

/// Rewrites blocks for a client of that protocol version.
pub fn for_client(blocks: &[u8], version: u64) -> Result<Vec<u8>, Exception> {
    if version == 0 {
        return Ok(blocks.to_vec());
    }
    let mut input = Input(blocks);
    let mut out = Vec::with_capacity(blocks.len() + 64);
    while !input.0.is_empty() {
        out.extend_from_slice(BLOCK_INFO);
        let (counts, (columns, rows)) =
            input.taken(|input| Some((input.varint()?, input.varint()?))).ok_or_else(cut)?;
        out.extend_from_slice(counts);
        for _ in 0..columns {
            let (names, type_name) =
                input.taken(|input| input.text().and_then(|_| input.text())).ok_or_else(cut)?;
            out.extend_from_slice(names);
            if version >= CUSTOM_SERIALIZATION {
                out.push(0);
            }
            let name = std::str::from_utf8(type_name).unwrap_or("?");
            let column = Type::parse(name).ok_or_else(|| {
                Exception::new(
                    code::NOT_IMPLEMENTED,
                    format_args!("type {name} in Native blocks for client_protocol_version {version}"),
                )
            })?;
            if rows > 0 {
                let (data, ()) = input.taken(|input| column.pass(input, rows)).ok_or_else(cut)?;
                out.extend_from_slice(data);
            }
        }
    }
    Ok(out)
}

fn cut() -> Exception {
    Exception::new(code::UNKNOWN_EXCEPTION, "a Native block of the engine is not what its types say")
}

/// A type, as far as its data's length is concerned.
#[derive(Debug, PartialEq)]
enum Type {
    Fixed(usize),
    String,
    Nullable(Box<Self>),
    Array(Box<Self>),
    Tuple(Vec<Self>),
    /// Of the dictionary's type, which is never nullable.
    LowCardinality(Box<Self>),
}

impl Type {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), split_arguments(rest.strip_suffix(')')?)),
            None => (text, Vec::new()),
        };
        let parse = |text: &&str| Self::parse(text);
        let only = || Self::parse(arguments.first()?);
        let number = || arguments.first()?.trim().parse::<usize>().ok();
        let point = || Self::Tuple(vec![Self::Fixed(8), Self::Fixed(8)]);
        let array = |inner| Self::Array(Box::new(inner));
        Some(match name {
            "Int8" | "UInt8" | "Bool" | "Enum8" | "Nothing" => Self::Fixed(1),
            "Int16" | "UInt16" | "Enum16" | "Date" | "BFloat16" => Self::Fixed(2),
            "Int32" | "UInt32" | "Float32" | "Date32" | "DateTime" | "IPv4" | "Time" => Self::Fixed(4),
            "Int64" | "UInt64" | "Float64" | "DateTime64" | "Time64" => Self::Fixed(8),
            "Int128" | "UInt128" | "UUID" | "IPv6" => Self::Fixed(16),
            "Int256" | "UInt256" => Self::Fixed(32),
            _ if name.starts_with("Interval") => Self::Fixed(8),
            "Decimal" => Self::Fixed(match number()? {
                0..=9 => 4,
                10..=18 => 8,
                19..=38 => 16,
                _ => 32,
            }),
            "FixedString" => Self::Fixed(number()?),
            "String" => Self::String,
            "Nullable" => Self::Nullable(Box::new(only()?)),
            "Array" => array(only()?),
            "Map" => array(Self::Tuple(arguments.iter().map(parse).collect::<Option<_>>()?)),
            "Tuple" => Self::Tuple(elements(&arguments)?),
            "Nested" => array(Self::Tuple(elements(&arguments)?)),
            "LowCardinality" => Self::LowCardinality(Box::new(match only()? {
                Self::Nullable(inner) => *inner,
                inner => inner,
            })),
            "SimpleAggregateFunction" => Self::parse(arguments.get(1)?)?,
            "Point" => point(),
            "Ring" | "LineString" => array(point()),
            "Polygon" | "MultiLineString" => array(array(point())),
            "MultiPolygon" => array(array(array(point()))),
            _ => return None,
        })
    }

    /// Passes over a column of that many rows.
    fn pass(&self, input: &mut Input<'_>, rows: usize) -> Option<()> {
        self.pass_prefix(input)?;
        self.pass_data(input, rows)
    }

    /// Dictionaries have a version each, before all data.
    fn pass_prefix(&self, input: &mut Input<'_>) -> Option<()> {
        match self {
            Self::Fixed(_) | Self::String => Some(()),
            Self::Nullable(inner) | Self::Array(inner) => inner.pass_prefix(input),
            Self::Tuple(elements) => elements.iter().try_for_each(|element| element.pass_prefix(input)),
            Self::LowCardinality(_) => input.skip(8),
        }
    }

    fn pass_data(&self, input: &mut Input<'_>, rows: usize) -> Option<()> {
        match self {
            Self::Fixed(bytes) => input.skip(rows.checked_mul(*bytes)?),
            Self::String => (0..rows).try_for_each(|_| input.text().map(drop)),
            Self::Nullable(inner) => {
                input.skip(rows)?;
                inner.pass_data(input, rows)
            }
            Self::Array(inner) => {
                // The last offset is the number of elements.
                input.skip(rows.checked_sub(1).map_or(Some(0), |before| before.checked_mul(8))?)?;
                let elements = if rows == 0 { 0 } else { input.number()? };
                inner.pass_data(input, elements)
            }
            // An empty tuple has a byte for each row.
            Self::Tuple(elements) if elements.is_empty() => input.skip(rows),
            Self::Tuple(elements) => elements.iter().try_for_each(|element| element.pass_data(input, rows)),
            Self::LowCardinality(_) if rows == 0 => Some(()),
            Self::LowCardinality(inner) => {
                // Bytes of an index as a power of two, and whether keys follow.
                let flags = input.number()?;
                if flags & 0x200 != 0 {
                    let keys = input.number()?;
                    inner.pass_data(input, keys)?;
                }
                let indexes = input.number()?;
                input.skip(indexes.checked_mul(1 << (flags & 3))?)
            }
        }
    }
}

/// The types of a tuple's elements, which may have names.
fn elements(arguments: &[&str]) -> Option<Vec<Type>> {
    let element = |text: &&str| {
        let text = text.trim();
        let after_name = match text.strip_prefix('`') {
            Some(quoted) => quoted.rsplit_once("` ").map(|(_, rest)| rest),
            None => text.split_once(' ').filter(|(name, _)| !name.contains('(')).map(|(_, rest)| rest),
        };
        Type::parse(after_name.unwrap_or(text))
    };
    arguments.iter().map(element).collect()
}

/// Cuts at commas outside of parentheses and quotes.
fn split_arguments(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0usize, 0);
    let mut quote = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => drop(bytes.next()),
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'`') => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            (None, b',') if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        out.push(&text[start..]);
    }
    out
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// What `read` reads, as it stands here.
    fn taken<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<(&'a [u8], T)> {
        let before = self.0;
        let value = read(self)?;
        Some((&before[..before.len() - self.0.len()], value))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn number(&mut self) -> Option<usize> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    }

    fn varint(&mut self) -> Option<usize> {
        crate::format::varint(&mut self.0)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.varint()?;
        let text = self.0.get(..length)?;
        self.0 = &self.0[length..];
        Some(text)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Type::parse(text).map_or("unknown".into(), |t| format!("{t:?}")), expected, "{text}");
        };
        check("UInt8", "Fixed(1)");
        check("DateTime64(6, 'Europe/Berlin')", "Fixed(8)");
        check("Decimal(18, 4)", "Fixed(8)");
        check("Enum8('a(,' = 1, 'it\\'s' = 2)", "Fixed(1)");
        check(
            "Map(LowCardinality(String), Array(UInt8))",
            "Array(Tuple([LowCardinality(String), Array(Fixed(1))]))",
        );
        check("Tuple(a UInt8, `b c(` Nullable(FixedString(3)))", "Tuple([Fixed(1), Nullable(Fixed(3))])");
        check("Tuple(Array(Tuple(x UInt8)), String)", "Tuple([Array(Tuple([Fixed(1)])), String])");
        check("LowCardinality(Nullable(String))", "LowCardinality(String)");
        check("JSON", "unknown");
        check("Array(Dynamic)", "unknown");
    }

    #[test]
    fn blocks_for_a_client() {
        // One column n of UInt8 with two rows, then one without rows.
        let block = b"\x01\x02\x01n\x05UInt8\x07\x08\x01\x00\x01n\x05UInt8";
        assert_eq!(for_client(block, 0).unwrap(), block);
        let info = BLOCK_INFO;
        let expected =
            [info, b"\x01\x02\x01n\x05UInt8\x00\x07\x08", info, b"\x01\x00\x01n\x05UInt8\x00"].concat();
        assert_eq!(for_client(block, 54_460).unwrap(), expected);
        for end in [1, 3, 5, 11] {
            assert!(for_client(&block[..end], 54_460).is_err(), "{end}");
        }
    }
}
