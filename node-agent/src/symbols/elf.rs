//! What symbolization needs of an ELF file: where its code lies, its build id,
//! and where its symbol tables are. 64-bit little-endian files only.
//!
//! Every number here was written by somebody else. Tables are cut at the bounds
//! below, offsets are checked by reading (beyond the end is an error, not a
//! guess), and sums wrap into nothing.

use std::io;
use std::ops::Range;

use super::address_space::BuildId;
use super::read::{ReadAt, fill_at};

/// Program headers that are looked at; real files have about a dozen.
const MAX_SEGMENTS: usize = 1024;
/// Section headers that are looked at; real files have about forty.
const MAX_SECTIONS: usize = 8192;
/// Bytes of one note segment that are searched for the build id.
const MAX_NOTE_BYTES: usize = 64 * 1024;
/// Note segments that are searched.
const MAX_NOTE_SEGMENTS: usize = 16;
/// User addresses of x86-64 and arm64 have fewer bits.
pub(super) const ADDRESS_BITS: u32 = 56;

const FILE_HEADER: usize = 64;
const SEGMENT_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
/// Bytes of one entry of a symbol table.
pub(super) const SYMBOL: usize = 24;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// Why a file gives no symbols.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It does not begin as an ELF file does.
    #[error("not an ELF file")]
    NotElf,
    /// 32-bit or big-endian.
    #[error("not a 64-bit little-endian ELF file")]
    UnsupportedClass,
    /// An object file, a core dump.
    #[error("neither an executable nor a shared library")]
    UnsupportedType,
    /// A header points beyond the end of the file.
    #[error("{what} lies beyond the end of the file")]
    Truncated {
        /// What was read.
        what: &'static str,
    },
    /// Entry sizes and the like that contradict the format.
    #[error("{what} contradicts the format")]
    Malformed {
        /// What was read.
        what: &'static str,
    },
    /// Nothing in it is executable.
    #[error("no executable segment")]
    NoCode,
    /// Reading failed.
    #[error("reading {what} failed")]
    Read {
        /// What was read.
        what: &'static str,
        /// What the file system said.
        source: io::Error,
    },
}

/// An executable `PT_LOAD` segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Bytes of the file.
    pub file: Range<u64>,
    /// Address of the first byte as the file counts addresses.
    pub address: u64,
}

/// A symbol table and the strings of its names, as offsets in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolSection {
    /// The symbols.
    pub symbols: Range<u64>,
    /// Their names.
    pub strings: Range<u64>,
}

/// What symbolization needs of an ELF file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elf {
    /// Executable segments.
    pub segments: Vec<Segment>,
    /// The GNU build id.
    pub build_id: Option<BuildId>,
    /// Addresses of executable sections, sorted.
    pub code: Vec<Range<u64>>,
    /// `.symtab`, unless the file is stripped.
    pub symtab: Option<SymbolSection>,
    /// `.dynsym`
    pub dynsym: Option<SymbolSection>,
}

impl Elf {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`ElfError`] when the file is not one whose symbols can be read. Damage
    /// to section headers is not an error: the code can be mapped without them.
    pub fn parse(reader: &(impl ReadAt + ?Sized)) -> Result<Self, ElfError> {
        let header = read_exact::<FILE_HEADER>(reader, 0, "the file header")?;
        if header[..4] != *b"\x7fELF" {
            return Err(ElfError::NotElf);
        }
        if header[4] != 2 || header[5] != 1 {
            return Err(ElfError::UnsupportedClass);
        }
        if !matches!(u16_at(&header, 16), ET_EXEC | ET_DYN) {
            return Err(ElfError::UnsupportedType);
        }
        let mut elf = Self::default();
        elf.read_segments(reader, &header)?;
        if elf.segments.is_empty() {
            return Err(ElfError::NoCode);
        }
        elf.read_sections(reader, &header)?;
        Ok(elf)
    }

    /// Bytes of executable segments.
    pub fn text_size(&self) -> u64 {
        self.segments.iter().fold(0, |sum, s| sum.saturating_add(s.file.end - s.file.start))
    }

    /// The file's own address of an offset in it, if that is code.
    pub fn address_of(&self, file_offset: u64) -> Option<u64> {
        // A mapping covers whole pages, so it shows bytes around its segment.
        self.segments
            .iter()
            .find(|s| s.file.contains(&file_offset))
            .map(|s| s.address.wrapping_add(file_offset - s.file.start))
    }

    fn read_segments(&mut self, reader: &(impl ReadAt + ?Sized), header: &[u8]) -> Result<(), ElfError> {
        let what = "the program headers";
        let offset = u64_at(header, 32);
        let count = usize::from(u16_at(header, 56)).min(MAX_SEGMENTS);
        if count > 0 && usize::from(u16_at(header, 54)) != SEGMENT_HEADER {
            return Err(ElfError::Malformed { what });
        }
        let mut notes = 0;
        for bytes in read_table(reader, offset, count, SEGMENT_HEADER, what)?.chunks_exact(SEGMENT_HEADER) {
            let (file_offset, address, size) = (u64_at(bytes, 8), u64_at(bytes, 16), u64_at(bytes, 32));
            match u32_at(bytes, 0) {
                PT_LOAD if u32_at(bytes, 4) & PF_X != 0 => {
                    if let Some(end) = file_offset.checked_add(size)
                        && size > 0
                    {
                        self.segments.push(Segment { file: file_offset..end, address });
                    }
                }
                PT_NOTE if self.build_id.is_none() && notes < MAX_NOTE_SEGMENTS => {
                    notes += 1;
                    self.build_id = read_build_id(reader, file_offset, size)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_sections(&mut self, reader: &(impl ReadAt + ?Sized), header: &[u8]) -> Result<(), ElfError> {
        let what = "the section headers";
        let offset = u64_at(header, 40);
        if offset == 0 || usize::from(u16_at(header, 58)) != SECTION_HEADER {
            return Ok(());
        }
        let count = usize::from(u16_at(header, 60)).min(MAX_SECTIONS);
        let table = match read_table(reader, offset, count, SECTION_HEADER, what) {
            Ok(table) => table,
            // Stripped of them, or cut off: the segments still tell the code.
            Err(ElfError::Truncated { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let section = |index: usize| table.chunks_exact(SECTION_HEADER).nth(index);
        for bytes in table.chunks_exact(SECTION_HEADER) {
            let (kind, flags) = (u32_at(bytes, 4), u64_at(bytes, 8));
            if flags & (SHF_ALLOC | SHF_EXECINSTR) == SHF_ALLOC | SHF_EXECINSTR && kind != SHT_NOBITS {
                let (address, size) = (u64_at(bytes, 16), u64_at(bytes, 32));
                if let Some(end) = address.checked_add(size).filter(|end| end >> ADDRESS_BITS == 0) {
                    self.code.push(address..end);
                }
            }
            if !matches!(kind, SHT_SYMTAB | SHT_DYNSYM) || u64_at(bytes, 56) != SYMBOL as u64 {
                continue;
            }
            let strings = usize::try_from(u32_at(bytes, 40)).ok().and_then(section);
            let (Some(symbols), Some(strings)) = (content(bytes), strings.and_then(content)) else {
                continue;
            };
            let found = Some(SymbolSection { symbols, strings });
            if kind == SHT_SYMTAB { self.symtab = found } else { self.dynsym = found }
        }
        self.code.sort_unstable_by_key(|range| (range.start, range.end));
        Ok(())
    }
}

/// Bytes of the file that a section header names.
fn content(section: &[u8]) -> Option<Range<u64>> {
    let start = u64_at(section, 24);
    let end = start.checked_add(u64_at(section, 32))?;
    (u32_at(section, 4) != SHT_NOBITS).then_some(start..end)
}

fn read_build_id(
    reader: &(impl ReadAt + ?Sized),
    offset: u64,
    size: u64,
) -> Result<Option<BuildId>, ElfError> {
    let what = "a note";
    let length = usize::try_from(size).unwrap_or(MAX_NOTE_BYTES).min(MAX_NOTE_BYTES);
    let mut notes = vec![0; length];
    let filled = fill_at(reader, offset, &mut notes).map_err(|source| ElfError::Read { what, source })?;
    let mut rest = &notes[..filled];
    while rest.len() >= 12 {
        let (name_size, id_size) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize);
        let kind = u32_at(rest, 8);
        let name_end = 12usize.saturating_add(name_size);
        let id_start = name_end.saturating_add(3) & !3;
        let id_end = id_start.saturating_add(id_size);
        let (Some(name), Some(id)) = (rest.get(12..name_end), rest.get(id_start..id_end)) else { break };
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Ok(BuildId::new(id));
        }
        rest = rest.get((id_end.saturating_add(3)) & !3..).unwrap_or(&[]);
    }
    Ok(None)
}

fn read_exact<const N: usize>(
    reader: &(impl ReadAt + ?Sized),
    offset: u64,
    what: &'static str,
) -> Result<[u8; N], ElfError> {
    let mut bytes = [0; N];
    match fill_at(reader, offset, &mut bytes) {
        Ok(filled) if filled == N => Ok(bytes),
        // Too short to be one at all.
        Ok(_) if offset == 0 => Err(ElfError::NotElf),
        Ok(_) => Err(ElfError::Truncated { what }),
        Err(source) => Err(ElfError::Read { what, source }),
    }
}

fn read_table(
    reader: &(impl ReadAt + ?Sized),
    offset: u64,
    count: usize,
    entry: usize,
    what: &'static str,
) -> Result<Vec<u8>, ElfError> {
    let mut bytes = vec![0; count * entry];
    match fill_at(reader, offset, &mut bytes) {
        Ok(filled) if filled == bytes.len() => Ok(bytes),
        Ok(_) => Err(ElfError::Truncated { what }),
        Err(source) => Err(ElfError::Read { what, source }),
    }
}

// The callers read from slices of a known length.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
