//! The files whose functions are known, shared between processes and bounded.
//!
//! A file stays open while it is in use, so that its names can be read when a
//! sample asks for them, long after the process that had it mapped is gone. Of
//! its symbols only addresses are in memory, and those only once needed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use hearth_profile::frame::{LIBRARY, clean_frame};

use super::address_space::{BuildId, Mapping};
use super::elf::{Elf, ElfError};
use super::generations::Generations;
use super::read::{FileIdentity, ForeignFile, ReadAt};
use super::table::SymbolTable;

/// Mappings cover whole pages.
const PAGE_BYTES: u64 = 4096;

/// Handle of a module. It may have been dropped from the cache since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ModuleId(u32);

/// A file, or the kernel's own library.
#[derive(Debug)]
enum Image {
    File(ForeignFile),
    Memory(Vec<u8>),
}

impl ReadAt for Image {
    fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.size(),
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(offset, buffer),
            Self::Memory(bytes) => bytes.as_slice().read_at(offset, buffer),
        }
    }
}

/// What is known of a module.
#[derive(Debug)]
struct Module {
    content: Content,
    last_used: u64,
    pinned: bool,
}

#[derive(Debug)]
enum Content {
    Readable {
        image: Image,
        elf: Box<Elf>,
        table: Table,
    },
    /// Not an ELF file at all, or a damaged one.
    Broken {
        is_elf: bool,
    },
}

#[derive(Debug)]
enum Table {
    NotRead,
    Read(SymbolTable),
    Failed,
}

/// What a module says of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The frame of the function.
    Frame(Arc<str>),
    /// None of its functions covers it.
    NoSymbol,
    /// The mapped file is no program: memory that the process filled itself.
    NotElf,
    /// Not in the cache any more.
    Dropped,
}

/// Bounds of the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModuleLimits {
    pub(super) table_bytes: usize,
    pub(super) open_files: usize,
    pub(super) symbols: usize,
    pub(super) name_bytes: usize,
}

/// What the cache holds and what went wrong, for logs and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModuleStats {
    /// Modules in the cache, damaged ones included.
    pub modules: usize,
    /// Bytes of symbol tables.
    pub table_bytes: usize,
    /// Bytes of names.
    pub name_bytes: usize,
    /// Modules dropped to stay within the bound on open files.
    pub modules_dropped: u64,
    /// Symbol tables dropped to stay within the bound on bytes.
    pub tables_dropped: u64,
    /// Symbol tables that were cut because they have too many functions.
    pub tables_truncated: u64,
    /// Mapped files that are no ELF files.
    pub not_elf: u64,
    /// ELF files of a kind that is not supported (32-bit, big-endian).
    pub unsupported: u64,
    /// ELF files that are cut off or contradict the format.
    pub damaged: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

#[derive(Debug)]
pub(super) struct Modules {
    by_id: HashMap<ModuleId, Module>,
    by_build_id: HashMap<BuildId, ModuleId>,
    by_identity: HashMap<FileIdentity, ModuleId>,
    names: Generations<(ModuleId, usize, bool), Arc<str>>,
    limits: ModuleLimits,
    next_id: u32,
    clock: u64,
    stats: ModuleStats,
}

impl Modules {
    pub(super) fn new(limits: ModuleLimits) -> Self {
        Self {
            by_id: HashMap::new(),
            by_build_id: HashMap::new(),
            by_identity: HashMap::new(),
            names: Generations::new(limits.name_bytes / 2),
            limits,
            next_id: 0,
            clock: 0,
            stats: ModuleStats::default(),
        }
    }

    pub(super) fn stats(&self) -> ModuleStats {
        ModuleStats { modules: self.by_id.len(), name_bytes: self.names.weight(), ..self.stats }
    }

    /// A module with a build id whose text has the place that a mapping gives it.
    pub(super) fn by_build_id(&mut self, build_id: BuildId, mapping: &Mapping) -> Option<ModuleId> {
        let id = *self.by_build_id.get(&build_id)?;
        let Content::Readable { elf, .. } = &self.by_id.get(&id)?.content else { return None };
        has_text_of(elf, mapping).then_some(id)
    }

    pub(super) fn by_identity(&self, identity: &FileIdentity) -> Option<ModuleId> {
        self.by_identity.get(identity).copied()
    }

    /// The build id that a module's file has; `None` also for a damaged one.
    pub(super) fn build_id(&self, id: ModuleId) -> Option<BuildId> {
        match &self.by_id.get(&id)?.content {
            Content::Readable { elf, .. } => elf.build_id,
            Content::Broken { .. } => None,
        }
    }

    /// Adds an open file.
    pub(super) fn add_file(&mut self, file: ForeignFile) -> ModuleId {
        let identity = file.identity();
        let parsed = Elf::parse(&file);
        if let Ok(elf) = &parsed
            && let Some(known) = self.same_content(elf, identity.size)
        {
            // Another copy of a file that is open: share its table.
            self.by_identity.insert(identity, known);
            return known;
        }
        let id = self.add(Image::File(file), parsed, false);
        self.by_identity.insert(identity, id);
        id
    }

    /// Adds the kernel's library, which is never dropped.
    pub(super) fn add_vdso(&mut self, image: Vec<u8>) -> ModuleId {
        let parsed = Elf::parse(image.as_slice());
        self.add(Image::Memory(image), parsed, true)
    }

    /// The function at an offset of a module's file.
    pub(super) fn function_at(&mut self, id: ModuleId, file_offset: u64, is_library: bool) -> Answer {
        self.clock += 1;
        let Some(module) = self.by_id.get_mut(&id) else { return Answer::Dropped };
        module.last_used = self.clock;
        let Content::Readable { image, elf, table } = &mut module.content else {
            let is_elf = !matches!(module.content, Content::Broken { is_elf: false });
            return if is_elf { Answer::NoSymbol } else { Answer::NotElf };
        };
        let Some(address) = elf.address_of(file_offset) else { return Answer::NoSymbol };
        let was_read = !matches!(table, Table::NotRead);
        if !was_read {
            *table = read_table(image, elf, &self.limits, &mut self.stats);
        }
        let answer = Self::lookup(&mut self.names, &mut self.stats, id, (image, table), address, is_library);
        if !was_read {
            self.bound_tables(id);
        }
        answer
    }

    fn lookup(
        names: &mut Generations<(ModuleId, usize, bool), Arc<str>>,
        stats: &mut ModuleStats,
        id: ModuleId,
        (image, table): (&Image, &Table),
        address: u64,
        is_library: bool,
    ) -> Answer {
        let Table::Read(table) = table else { return Answer::NoSymbol };
        let Some(found) = table.find(address) else { return Answer::NoSymbol };
        let key = (id, found, is_library);
        let weight = |frame: &Arc<str>| frame.len() + 64;
        if let Some(frame) = names.get(&key, weight) {
            return Answer::Frame(frame);
        }
        match table.name(image, found) {
            Ok(Some(name)) => {
                let prefix = if is_library { LIBRARY } else { "" };
                let frame: Arc<str> = Arc::from(clean_frame(&format!("{prefix}{name}")));
                let bytes = weight(&frame);
                names.insert(key, frame.clone(), bytes);
                Answer::Frame(frame)
            }
            Ok(None) => Answer::NoSymbol,
            Err(_) => {
                stats.read_errors += 1;
                Answer::NoSymbol
            }
        }
    }

    /// A module of the same build id that is byte for byte laid out the same.
    fn same_content(&self, elf: &Elf, size: u64) -> Option<ModuleId> {
        let id = *self.by_build_id.get(&elf.build_id?)?;
        match &self.by_id.get(&id)?.content {
            Content::Readable { image, elf: known, .. } if **known == *elf && image.size() == size => {
                Some(id)
            }
            _ => None,
        }
    }

    fn add(&mut self, image: Image, parsed: Result<Elf, ElfError>, pinned: bool) -> ModuleId {
        let id = ModuleId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let content = match parsed {
            Ok(elf) => {
                if let Some(build_id) = elf.build_id {
                    self.by_build_id.entry(build_id).or_insert(id);
                }
                Content::Readable { image, elf: Box::new(elf), table: Table::NotRead }
            }
            Err(error) => {
                let is_elf = !matches!(error, ElfError::NotElf);
                match &error {
                    ElfError::NotElf => self.stats.not_elf += 1,
                    ElfError::UnsupportedClass | ElfError::UnsupportedType => self.stats.unsupported += 1,
                    ElfError::Truncated { .. } | ElfError::Malformed { .. } | ElfError::NoCode => {
                        self.stats.damaged += 1;
                    }
                    ElfError::Read { .. } => self.stats.read_errors += 1,
                }
                tracing::debug!(%error, "a mapped file gives no names");
                Content::Broken { is_elf }
            }
        };
        self.clock += 1;
        self.by_id.insert(id, Module { content, last_used: self.clock, pinned });
        self.bound_modules(id);
        id
    }

    fn bound_modules(&mut self, keep: ModuleId) {
        while self.by_id.len() > self.limits.open_files.max(2) {
            let Some(oldest) = self.least_used(keep, |module| !module.pinned) else { return };
            self.stats.modules_dropped += 1;
            if let Some(Module { content: Content::Readable { table: Table::Read(table), .. }, .. }) =
                self.by_id.remove(&oldest)
            {
                self.stats.table_bytes -= table.bytes();
            }
            self.by_identity.retain(|_, id| *id != oldest);
            self.by_build_id.retain(|_, id| *id != oldest);
        }
        // Many files may share one module's table.
        if self.by_identity.len() > self.limits.open_files.saturating_mul(8) {
            self.by_identity.clear();
        }
    }

    fn bound_tables(&mut self, keep: ModuleId) {
        while self.stats.table_bytes > self.limits.table_bytes {
            let has_table = |m: &Module| {
                matches!(m.content, Content::Readable { table: Table::Read(_), .. }) && !m.pinned
            };
            let Some(oldest) = self.least_used(keep, has_table) else { return };
            if let Some(Module { content: Content::Readable { table, .. }, .. }) = self.by_id.get_mut(&oldest)
                && let Table::Read(read) = table
            {
                self.stats.table_bytes -= read.bytes();
                self.stats.tables_dropped += 1;
                *table = Table::NotRead;
            }
        }
    }

    fn least_used(&self, keep: ModuleId, eligible: impl Fn(&Module) -> bool) -> Option<ModuleId> {
        self.by_id
            .iter()
            .filter(|(id, module)| **id != keep && eligible(module))
            .min_by_key(|(_, module)| module.last_used)
            .map(|(id, _)| *id)
    }
}

fn read_table(image: &Image, elf: &Elf, limits: &ModuleLimits, stats: &mut ModuleStats) -> Table {
    match SymbolTable::read(image, elf, limits.symbols.min(limits.table_bytes / 16)) {
        Ok(read) => {
            stats.table_bytes += read.bytes();
            stats.tables_truncated += u64::from(read.is_truncated());
            Table::Read(read)
        }
        Err(_) => {
            stats.read_errors += 1;
            Table::Failed
        }
    }
}

/// Whether a mapping shows executable text of a file, as far as their sizes and
/// places tell.
fn has_text_of(elf: &Elf, mapping: &Mapping) -> bool {
    let Some(end) = mapping.file_offset.checked_add(mapping.end - mapping.start) else { return false };
    elf.segments.iter().any(|segment| {
        let first = segment.file.start / PAGE_BYTES * PAGE_BYTES;
        let last = segment.file.end.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        first <= mapping.file_offset && end <= last
    })
}
