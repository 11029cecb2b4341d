//! `/tmp/perf-PID.map`: functions that a runtime compiled, written by itself.
//!
//! One function a line: start and size in hexadecimal, then the name to the end
//! of the line. A runtime appends to it for as long as it lives, so a later line
//! for the same memory is the one that holds.

use std::io;

use super::address_space::hex;
use super::read::{ReadAt, fill_at};

/// Most bytes of a file that are read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most functions that are kept of one file.
const MAX_ENTRIES: usize = 1_000_000;
/// A longer line is noise.
const MAX_LINE_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 64 * 1024;
/// How many functions that begin before an address are looked at for one that
/// covers it; more overlap only where memory was reused often.
const MAX_OVERLAPPING: usize = 64;

/// The functions of one map file.
#[derive(Debug, Default)]
pub struct PerfMap {
    /// By start, one for each start.
    functions: Vec<Function>,
    names: Vec<u8>,
    noise: u64,
    truncated: bool,
}

#[derive(Debug, Clone, Copy)]
struct Function {
    start: u64,
    size: u32,
    /// Number of the line among those understood: the higher one is newer.
    order: u32,
    name: u32,
    name_length: u32,
}

impl PerfMap {
    /// Reads a map, at most so many bytes of memory.
    ///
    /// # Errors
    /// When reading fails.
    pub fn read(reader: &(impl ReadAt + ?Sized), max_bytes: usize) -> io::Result<Self> {
        let mut map = Self::default();
        let mut buffer = vec![0; CHUNK_BYTES];
        // Bytes of the buffer that belong to a line whose end is not read yet.
        let mut pending = 0;
        let mut skipping = false;
        let mut offset = 0;
        // To the end as it is now: the runtime may have written most of it since the file was opened.
        while offset < MAX_FILE_BYTES && !map.is_full(max_bytes) {
            let left = usize::try_from(MAX_FILE_BYTES - offset).unwrap_or(usize::MAX);
            let room = (buffer.len() - pending).min(left);
            let filled = fill_at(reader, offset, &mut buffer[pending..pending + room])?;
            if filled == 0 {
                break;
            }
            offset += filled as u64;
            let available = pending + filled;
            let mut line_start = 0;
            while let Some(length) = buffer[line_start..available].iter().position(|b| *b == b'\n') {
                let line = line_start..line_start + length;
                line_start = line.end + 1;
                if skipping {
                    skipping = false;
                } else {
                    map.add_line(&buffer[line]);
                }
            }
            pending = available - line_start;
            if pending > MAX_LINE_BYTES {
                map.noise += u64::from(!skipping);
                skipping = true;
                pending = 0;
            } else {
                buffer.copy_within(line_start..available, 0);
            }
        }
        if !skipping && pending > 0 {
            map.add_line(&buffer[..pending]);
        }
        map.truncated = map.is_full(max_bytes) || fill_at(reader, MAX_FILE_BYTES, &mut [0])? > 0;
        map.sort();
        Ok(map)
    }

    /// The name of the function that covers an address.
    pub fn find(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|f| f.start <= address);
        let function = self.functions[..after]
            .iter()
            .rev()
            .take(MAX_OVERLAPPING)
            .filter(|f| address - f.start < u64::from(f.size))
            .max_by_key(|f| f.order)?;
        let start = function.name as usize;
        let name = self.names.get(start..start + function.name_length as usize)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// Lines that were not understood.
    pub fn noise(&self) -> u64 {
        self.noise
    }

    /// Whether something was left out because the file is too large.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.functions.capacity() * size_of::<Function>() + self.names.capacity()
    }

    fn is_full(&self, max_bytes: usize) -> bool {
        let used = self.functions.len() * size_of::<Function>() + self.names.len();
        self.functions.len() >= MAX_ENTRIES || used >= max_bytes
    }

    fn add_line(&mut self, line: &[u8]) {
        if self.functions.len() >= MAX_ENTRIES || self.parse_line(line).is_none() {
            self.noise += 1;
        }
    }

    fn parse_line(&mut self, line: &[u8]) -> Option<()> {
        let line = line.trim_ascii();
        if line.len() > MAX_LINE_BYTES {
            return None;
        }
        let (start, rest) = field(line)?;
        let (size, name) = field(rest)?;
        if name.is_empty() || size == 0 {
            return None;
        }
        start.checked_add(size)?;
        self.functions.push(Function {
            start,
            size: u32::try_from(size).ok()?,
            order: u32::try_from(self.functions.len()).ok()?,
            name: u32::try_from(self.names.len()).ok()?,
            name_length: u32::try_from(name.len()).ok()?,
        });
        self.names.extend_from_slice(name);
        Some(())
    }

    fn sort(&mut self) {
        // Of several with one start the newest first; the others are gone.
        self.functions.sort_unstable_by_key(|f| (f.start, std::cmp::Reverse(f.order)));
        self.functions.dedup_by_key(|f| f.start);
        self.functions.shrink_to_fit();
        self.names.shrink_to_fit();
    }
}

/// A hexadecimal number and what follows it.
fn field(line: &[u8]) -> Option<(u64, &[u8])> {
    let end = line.iter().position(u8::is_ascii_whitespace)?;
    let digits = &line[..end];
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    Some((hex(digits)?, line[end..].trim_ascii_start()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn check(text: &[u8], address: u64, expected: Option<&str>) {
        let map = PerfMap::read(text, 1 << 20).unwrap();
        assert_eq!(map.find(address).as_deref(), expected, "{}", String::from_utf8_lossy(text));
    }

    #[test]
    fn lines_become_functions() {
        let map = b"7f00 10 LjavaClass;::method\n0x8000 0x20 LazyCompile:~f /a b.js:1:2\nffff 1 last";
        check(map, 0x7f00, Some("LjavaClass;::method"));
        check(map, 0x7f0f, Some("LjavaClass;::method"));
        check(map, 0x7f10, None);
        check(map, 0x801f, Some("LazyCompile:~f /a b.js:1:2"));
        check(map, 0xffff, Some("last"));
        check(map, 0x7eff, None);
    }

    #[test]
    fn a_later_line_replaces_an_earlier_one() {
        check(b"1000 100 old\n1000 10 new\n", 0x1008, Some("new"));
        check(b"1000 100 old\n1050 10 new\n", 0x1055, Some("new"));
        check(b"1050 10 old\n1000 100 new\n", 0x1055, Some("new"));
        check(b"1000 100 old\n1050 10 new\n", 0x1061, Some("old"));
    }

    #[test]
    fn noise_is_counted_and_skipped() {
        let mut text = b"\x00\xff;\n\n1000\n1000 10\nzz 10 a\n1000 0 a\nffffffffffffffff 10 a\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 200_000));
        text.extend_from_slice(b"\n2000 10 good\n");
        text.extend(std::iter::repeat_n(b'1', 5_000));
        let map = PerfMap::read(text.as_slice(), 1 << 20).unwrap();
        assert_eq!((map.len(), map.noise()), (1, 9));
        assert_eq!(map.find(0x2008).as_deref(), Some("good"));
    }

    #[test]
    fn a_file_larger_than_its_memory_is_cut() {
        let text: String = (0..100_000).map(|n| format!("{:x} 10 function{n}\n", n * 16)).collect();
        let map = PerfMap::read(text.as_bytes(), 100_000).unwrap();
        assert!(map.is_truncated() && map.bytes() < 300_000 && map.find(0x18).is_some());
    }
}
