//! The functions of one file: 16 bytes each in memory, names left in the file.

use std::cmp::Reverse;
use std::io;
use std::ops::Range;

use super::demangle::demangle;
use super::elf::{ADDRESS_BITS, Elf, SYMBOL, SymbolSection, u16_at, u32_at, u64_at};
use super::read::{ReadAt, fill_at};

/// Symbols with one address that compete for the name.
const MAX_ALIASES: usize = 64;
/// How far back a lookup goes for a symbol that encloses the address.
const MAX_ENCLOSING: usize = 16;
/// Longest raw name that is read, bytes.
const MAX_NAME_BYTES: usize = 4096;
/// Bytes of a symbol table that are read at a time.
const CHUNK_BYTES: usize = SYMBOL * 16 * 1024;
/// Set in a name's offset when it is one in `.dynstr`.
const DYNAMIC: u32 = 1 << 31;

const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_GLOBAL: u8 = 1;
const STB_WEAK: u8 = 2;
const SHN_UNDEF: u16 = 0;
const SHN_ABS: u16 = 0xfff1;
const STV_INTERNAL: u8 = 1;
const STV_HIDDEN: u8 = 2;

/// The functions of one file, by address.
#[derive(Debug, Default)]
pub struct SymbolTable {
    symbols: Vec<Symbol>,
    code: Vec<Range<u64>>,
    /// Of `.symtab` and `.dynsym`.
    strings: [Range<u64>; 2],
    truncated: bool,
}

/// 16 bytes, which the table's memory bound relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Symbol {
    /// Address in the upper 56 bits, [`rank`] in the lower 8: sorting by it puts
    /// the best name for an address first.
    key: u64,
    /// Bytes; 0 when the file does not say.
    size: u32,
    /// Offset of the name in its string table, and which one ([`DYNAMIC`]).
    name: u32,
}

const _: () = assert!(size_of::<Symbol>() == 16);

impl Symbol {
    fn address(self) -> u64 {
        self.key >> 8
    }

    fn covers(self, address: u64) -> bool {
        self.address() <= address && address - self.address() < u64::from(self.size)
    }
}

/// Which of several names for one address is best, smaller first. The order is
/// that of `perf`: a size, a type, not weak, global.
fn rank(size: u64, kind: u8, binding: u8) -> u8 {
    u8::from(size == 0) << 3
        | u8::from(kind == STT_NOTYPE) << 2
        | u8::from(binding == STB_WEAK) << 1
        | u8::from(binding != STB_GLOBAL)
}

impl SymbolTable {
    /// Reads the symbol tables of a file: `.symtab` and `.dynsym` together, at
    /// most so many functions.
    ///
    /// # Errors
    /// When reading fails. A table that ends early gives what it has.
    pub fn read(reader: &(impl ReadAt + ?Sized), elf: &Elf, max_symbols: usize) -> io::Result<Self> {
        let mut table = Self { code: elf.code.clone(), ..Self::default() };
        for (index, section) in [&elf.symtab, &elf.dynsym].into_iter().enumerate() {
            if let Some(section) = section {
                let flag = if index == 1 { DYNAMIC } else { 0 };
                table.strings[index] = section.strings.clone();
                table.read_section(reader, section, flag, max_symbols)?;
            }
        }
        table.sort();
        Ok(table)
    }

    /// Bytes of memory that the table takes.
    pub fn bytes(&self) -> usize {
        self.symbols.capacity() * size_of::<Symbol>() + self.code.capacity() * size_of::<Range<u64>>()
    }

    /// How many functions it has.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// Whether functions were left out because there were too many.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// The function that covers an address, as a handle for [`Self::name`].
    ///
    /// An address behind the end of every function is nobody's. A symbol
    /// without a size (assembly) reaches to the next one in its section.
    pub fn find(&self, address: u64) -> Option<usize> {
        let mut end = self.symbols.partition_point(|s| s.address() <= address);
        let mut sizeless = None;
        for distance in 0..MAX_ENCLOSING {
            let nearest = end.checked_sub(1)?;
            let group = self.group_start(nearest);
            if let Some(covering) = (group..end).find(|i| self.symbols[*i].covers(address)) {
                return Some(covering);
            }
            // Behind a function of known size a label that begins inside it is
            // the worse name, so look for that function first.
            if distance == 0 && self.symbols[group].size == 0 && self.same_section(group, address) {
                sizeless = Some(group);
            }
            end = group;
            if end == 0 {
                break;
            }
        }
        sizeless
    }

    /// The name of a function that [`Self::find`] returned, demangled. Of
    /// several the one with the fewest leading underscores, then the longest,
    /// as in `perf`, then the first by alphabet.
    ///
    /// # Errors
    /// When reading fails.
    pub fn name(&self, reader: &(impl ReadAt + ?Sized), found: usize) -> io::Result<Option<String>> {
        let Some(first) = self.symbols.get(found) else { return Ok(None) };
        let mut best: Option<String> = None;
        let aliases = self.symbols[found..]
            .iter()
            .take_while(|s| s.address() == first.address() && s.size == first.size)
            .take(MAX_ALIASES);
        for symbol in aliases {
            let Some(raw) = self.raw_name(reader, symbol.name)? else { continue };
            let name = demangle(&raw);
            if name.is_empty() {
                continue;
            }
            if best.as_deref().is_none_or(|best| preference(&name) < preference(best)) {
                best = Some(name.into_owned());
            }
        }
        Ok(best)
    }

    fn read_section(
        &mut self,
        reader: &(impl ReadAt + ?Sized),
        section: &SymbolSection,
        flag: u32,
        max_symbols: usize,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        // What is no function is read too: a sparse file has any number of it.
        let readable = max_symbols.saturating_mul(2 * SYMBOL) as u64;
        let whole = section.symbols.end.min(reader.size());
        let end = whole.min(section.symbols.start.saturating_add(readable));
        self.truncated |= end < whole;
        let mut at = section.symbols.start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let filled = fill_at(reader, at, &mut chunk[..wanted])?;
            for bytes in chunk[..filled].chunks_exact(SYMBOL) {
                let Some(symbol) = self.function(bytes, flag, &section.strings) else { continue };
                if self.symbols.len() >= max_symbols {
                    self.truncated = true;
                    return Ok(());
                }
                self.symbols.push(symbol);
            }
            if filled < wanted {
                break;
            }
            at += wanted as u64;
        }
        Ok(())
    }

    /// A symbol that names code.
    fn function(&self, bytes: &[u8], flag: u32, strings: &Range<u64>) -> Option<Symbol> {
        let name = u32_at(bytes, 0);
        let (kind, binding, visibility) = (bytes[4] & 0xf, bytes[4] >> 4, bytes[5] & 3);
        let section = u16_at(bytes, 6);
        let (address, size) = (u64_at(bytes, 8), u64_at(bytes, 16));
        match kind {
            STT_FUNC | STT_GNU_IFUNC => {}
            STT_NOTYPE if section != SHN_ABS && !matches!(visibility, STV_INTERNAL | STV_HIDDEN) => {}
            _ => return None,
        }
        let named = name != 0 && name & DYNAMIC == 0 && u64::from(name) < strings.end - strings.start;
        if !named
            || section == SHN_UNDEF
            || address >> ADDRESS_BITS != 0
            || self.section_of(address).is_none()
        {
            return None;
        }
        Some(Symbol {
            key: address << 8 | u64::from(rank(size, kind, binding)),
            size: u32::try_from(size).unwrap_or(u32::MAX),
            name: name | flag,
        })
    }

    fn sort(&mut self) {
        // Larger ones first among equals; then those of `.symtab`.
        self.symbols.sort_unstable_by_key(|s| (s.key, Reverse(s.size), s.name));
        let mut kept: Option<Symbol> = None;
        self.symbols.retain(|symbol| {
            let keep = match kept {
                Some(best) if best.address() == symbol.address() => {
                    // Only equally good names stay. `.dynsym` repeats names of
                    // `.symtab`; where both exist those of the latter suffice.
                    let repeated = symbol.name & DYNAMIC != 0 && best.name & DYNAMIC == 0;
                    best.key == symbol.key && !repeated
                }
                _ => true,
            };
            if keep && kept.is_none_or(|best| best.address() != symbol.address()) {
                kept = Some(*symbol);
            }
            keep
        });
        self.symbols.shrink_to_fit();
    }

    /// Index of the first symbol with the same address.
    fn group_start(&self, index: usize) -> usize {
        let address = self.symbols[index].address();
        self.symbols[..index].partition_point(|s| s.address() < address)
    }

    fn section_of(&self, address: u64) -> Option<&Range<u64>> {
        let after = self.code.partition_point(|range| range.start <= address);
        self.code[..after].iter().rev().take(MAX_ENCLOSING).find(|range| range.contains(&address))
    }

    fn same_section(&self, symbol: usize, address: u64) -> bool {
        self.section_of(self.symbols[symbol].address()).is_some_and(|range| range.contains(&address))
    }

    fn raw_name(&self, reader: &(impl ReadAt + ?Sized), name: u32) -> io::Result<Option<String>> {
        let strings = &self.strings[usize::from(name & DYNAMIC != 0)];
        let Some(start) = strings.start.checked_add(u64::from(name & !DYNAMIC)) else { return Ok(None) };
        let mut short = [0; 128];
        let mut long;
        let limit =
            |bytes: usize| usize::try_from(strings.end.saturating_sub(start)).unwrap_or(bytes).min(bytes);
        let filled = fill_at(reader, start, &mut short[..limit(128)])?;
        let mut bytes = &short[..filled];
        if !bytes.contains(&0) && filled == short.len() {
            long = vec![0; limit(MAX_NAME_BYTES)];
            let filled = fill_at(reader, start, &mut long)?;
            bytes = &long[..filled];
        }
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Ok((end > 0).then(|| String::from_utf8_lossy(&bytes[..end]).into_owned()))
    }
}

/// Sorts the name to show first.
pub(super) fn preference(name: &str) -> (usize, Reverse<usize>, &str) {
    let underscores = name.bytes().take_while(|b| *b == b'_').count();
    (underscores, Reverse(name.len()), name)
}
