//! What is executable in a process, and which file each piece came from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::sync::Arc;

use super::budget::{Budget, Charge};
use super::modules::ModuleId;

/// Most executable mappings that are kept of one process; 16 times what the
/// largest real programs have. More are counted and left out.
pub const MAX_MAPPINGS: usize = 65_536;
/// Most bytes of `/proc/PID/maps` that are read: the kernel's default limit of
/// 65,530 mappings with long paths fits.
const MAX_MAPS_BYTES: u64 = 64 << 20;
/// A longer path than the kernel allows is no path.
const MAX_PATH_BYTES: usize = 4096;
/// What the kernel appends to the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

/// A GNU build id of up to 20 bytes, which is what the kernel reports too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BuildId {
    length: u8,
    bytes: [u8; 20],
}

impl BuildId {
    /// `None` for no bytes, more than 20, or nothing but zeros.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 20];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let length = u8::try_from(id.len()).ok()?;
        id.iter().any(|b| *b != 0).then_some(Self { length, bytes })
    }

    /// The id itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// One executable mapping. Addresses are the process's virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Offset in the file of the first address, bytes.
    pub file_offset: u64,
    /// Where its bytes come from.
    pub backing: Backing,
}

/// Where the bytes of a mapping come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A file.
    File(Arc<BackingFile>),
    /// The kernel's own library in every process.
    Vdso,
    /// Its predecessor, at a fixed address.
    Vsyscall,
    /// No file: code that the process wrote itself.
    Anonymous,
}

/// A mapped file as far as the kernel told it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackingFile {
    /// As the process sees it, without the kernel's ` (deleted)`.
    pub path: Arc<str>,
    /// Device and inode where they are known (a record with a build id has none).
    pub inode: Option<Inode>,
    /// From the side-band record; `/proc` does not tell it.
    pub build_id: Option<BuildId>,
    /// The file has no name any more.
    pub deleted: bool,
}

/// A file's number on its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Inode number.
    pub number: u64,
}

impl Backing {
    /// Reads what the kernel says of a mapping in `/proc/PID/maps` or an MMAP2
    /// record: a path or a label, (major, minor, inode), a build id.
    pub fn from_kernel(path: &[u8], inode: Option<(u32, u32, u64)>, build_id: Option<&[u8]>) -> Self {
        let path = String::from_utf8_lossy(&path[..path.len().min(MAX_PATH_BYTES + DELETED.len())]);
        match path.as_ref() {
            "[vdso]" => return Self::Vdso,
            "[vsyscall]" => return Self::Vsyscall,
            _ if is_anonymous(&path) => return Self::Anonymous,
            _ => {}
        }
        let (path, deleted) = match path.strip_suffix(DELETED) {
            Some(path) => (path, true),
            None => (path.as_ref(), false),
        };
        Self::File(Arc::new(BackingFile {
            path: Arc::from(path),
            inode: inode.filter(|(_, _, number)| *number != 0).map(|(major, minor, number)| Inode {
                major,
                minor,
                number,
            }),
            build_id: build_id.and_then(BuildId::new),
            deleted,
        }))
    }
}

/// Labels and pseudo files that stand for memory without a file. A `memfd` is a
/// file: programs are run from them.
fn is_anonymous(path: &str) -> bool {
    path.is_empty()
        || path.starts_with('[')
        || path.starts_with("//")
        || path.starts_with("/dev/zero")
        || path.starts_with("/anon_hugepage")
        || path.starts_with("/SYSV")
        || path.starts_with("anon_inode:")
}

/// What is known of the module behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ModuleSlot {
    /// Not looked for yet.
    #[default]
    Unprepared,
    /// Found; it may have been dropped from the cache since.
    Known(ModuleId),
    /// Looked for in vain.
    Unreachable,
}

#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) mapping: Mapping,
    pub(super) module: ModuleSlot,
}

/// Executable mappings of one process: disjoint, sorted, bounded by
/// [`MAX_MAPPINGS`] and by a budget of all processes. A copy shares them until one
/// of the two changes, as after a fork.
#[derive(Debug, Clone)]
pub struct AddressSpace {
    mappings: Arc<Mappings>,
    /// Mappings that did not fit.
    dropped: u64,
    /// Changes with every insertion, so that what was derived can be dropped.
    generation: u64,
    /// Where mappings begin whose modules were not looked for yet.
    unprepared: Arc<Vec<u64>>,
}

#[derive(Debug, Clone)]
struct Mappings {
    /// By start address.
    placed: BTreeMap<u64, Placed>,
    /// One for each.
    charge: Charge,
}

impl Default for AddressSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl AddressSpace {
    /// Nothing mapped, and no bound but its own.
    pub fn new() -> Self {
        Self::within(&Budget::new(usize::MAX))
    }

    /// Nothing mapped; what will be counts towards a budget.
    pub fn within(budget: &Budget) -> Self {
        let mappings = Mappings { placed: BTreeMap::new(), charge: budget.charge(0) };
        Self { mappings: Arc::new(mappings), dropped: 0, generation: 0, unprepared: Arc::default() }
    }

    /// Reads `/proc/PID/maps`, executable mappings only.
    ///
    /// # Errors
    /// When the file cannot be opened or read: mostly a process that is gone.
    pub fn read_from_proc(pid: u32) -> io::Result<Self> {
        let mut space = Self::new();
        space.add_from_proc(pid)?;
        Ok(space)
    }

    /// Adds what `/proc/PID/maps` tells.
    ///
    /// # Errors
    /// As [`Self::read_from_proc`]; what was read until then is added.
    pub fn add_from_proc(&mut self, pid: u32) -> io::Result<()> {
        let maps = File::open(format!("/proc/{pid}/maps"))?;
        self.add_maps(BufReader::with_capacity(64 * 1024, maps))
    }

    /// Reads the text of a `/proc/PID/maps`.
    ///
    /// # Errors
    /// When reading fails. Lines that are not understood are left out.
    pub fn read_maps(maps: impl BufRead) -> io::Result<Self> {
        let mut space = Self::new();
        space.add_maps(maps)?;
        Ok(space)
    }

    fn add_maps(&mut self, maps: impl BufRead) -> io::Result<()> {
        let mut maps = io::Read::take(maps, MAX_MAPS_BYTES);
        let mut line = Vec::with_capacity(256);
        while maps.read_until(b'\n', &mut line)? > 0 {
            if let Some(mapping) = parse_line(line.trim_ascii_end()) {
                self.insert(mapping);
            }
            line.clear();
        }
        Ok(())
    }

    /// Adds a mapping. It replaces what it overlaps, as `mmap` does.
    pub fn insert(&mut self, mapping: Mapping) {
        if mapping.start >= mapping.end {
            return;
        }
        self.generation += 1;
        if self.is_copy_beyond_budget() {
            // Rather no mapping than one that is not there any more.
            self.count_dropped(self.len() as u64);
            let charge = self.mappings.charge.budget().charge(0);
            self.mappings = Arc::new(Mappings { placed: BTreeMap::new(), charge });
            self.unprepared = Arc::default();
        }
        let mappings = Arc::make_mut(&mut self.mappings);
        let mut dropped = mappings.cut_out(mapping.start..mapping.end);
        if mappings.has_room() {
            if self.unprepared.len() < 2 * MAX_MAPPINGS {
                Arc::make_mut(&mut self.unprepared).push(mapping.start);
            }
            mappings.placed.insert(mapping.start, Placed { mapping, module: ModuleSlot::Unprepared });
        } else {
            dropped += 1;
        }
        mappings.charge.set(mappings.placed.len());
        self.count_dropped(dropped);
    }

    /// The mapping that holds an address.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        self.find_placed(address).map(|placed| &placed.mapping)
    }

    /// All mappings, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.placed.values().map(|placed| &placed.mapping)
    }

    /// How many mappings there are.
    pub fn len(&self) -> usize {
        self.mappings.placed.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.mappings.placed.is_empty()
    }

    /// How many mappings were left out because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn find_placed(&self, address: u64) -> Option<&Placed> {
        let (_, placed) = self.mappings.placed.range(..=address).next_back()?;
        (address < placed.mapping.end).then_some(placed)
    }

    /// Where mappings begin that were added since the last call.
    pub(super) fn take_unprepared(&mut self) -> Arc<Vec<u64>> {
        std::mem::take(&mut self.unprepared)
    }

    pub(super) fn starting_at(&self, start: u64) -> Option<&Mapping> {
        self.mappings.placed.get(&start).map(|placed| &placed.mapping)
    }

    /// What was found of these files does not hold.
    pub(super) fn forget_modules(&mut self, files: &[Arc<BackingFile>]) {
        let of_file = |placed: &Placed| match &placed.mapping.backing {
            Backing::File(file) => files.contains(file),
            Backing::Vdso | Backing::Vsyscall | Backing::Anonymous => false,
        };
        let starts: Vec<u64> =
            self.mappings.placed.iter().filter(|(_, placed)| of_file(placed)).map(|(at, _)| *at).collect();
        for start in starts {
            self.set_module(start, ModuleSlot::Unreachable);
        }
    }

    /// Notes which module is behind a mapping; a copy beyond the budget is asked again each time.
    pub(super) fn set_module(&mut self, start: u64, module: ModuleSlot) {
        let is_known = self.mappings.placed.get(&start).is_none_or(|placed| placed.module == module);
        if is_known || self.is_copy_beyond_budget() {
            return;
        }
        if let Some(placed) = Arc::make_mut(&mut self.mappings).placed.get_mut(&start) {
            placed.module = module;
        }
    }

    /// Whether a change would copy shared mappings that the budget has no room for.
    fn is_copy_beyond_budget(&self) -> bool {
        Arc::strong_count(&self.mappings) > 1 && self.mappings.charge.budget().left() < self.len()
    }

    fn count_dropped(&mut self, mappings: u64) {
        self.dropped += mappings;
        self.mappings.charge.budget().refuse(mappings);
    }
}

impl Mappings {
    fn has_room(&self) -> bool {
        let growth = (self.placed.len() + 1).saturating_sub(self.charge.amount());
        self.placed.len() < MAX_MAPPINGS && growth <= self.charge.budget().left()
    }

    /// Removes a range, keeping what stands out of it on either side. How many were
    /// left out for want of room.
    fn cut_out(&mut self, range: Range<u64>) -> u64 {
        let overlapping: Vec<u64> = self
            .placed
            .range(..range.end)
            .rev()
            .take_while(|(_, placed)| placed.mapping.end > range.start)
            .map(|(start, _)| *start)
            .collect();
        let mut dropped = 0;
        for start in overlapping {
            let Some(old) = self.placed.remove(&start) else { continue };
            let tail = (old.mapping.end > range.end).then(|| {
                let mut tail = old.clone();
                tail.mapping.file_offset = tail.mapping.file_offset.wrapping_add(range.end - start);
                tail.mapping.start = range.end;
                tail
            });
            if start < range.start {
                let mut head = old;
                head.mapping.end = range.start;
                self.placed.insert(start, head);
            }
            match tail {
                Some(tail) if self.has_room() => {
                    self.placed.insert(range.end, tail);
                }
                Some(_) => dropped += 1,
                None => {}
            }
        }
        dropped
    }
}

/// One line of `/proc/PID/maps`, if it is executable:
/// `7f00-7f01 r-xp 00001000 fd:01 1234   /lib/x.so (deleted)`.
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let (range, rest) = split_field(line)?;
    let (permissions, rest) = split_field(rest)?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let (offset, rest) = split_field(rest)?;
    let (device, rest) = split_field(rest)?;
    let (inode, path) = split_field(rest).unwrap_or((rest, b""));
    let mut range = range.splitn(2, |b| *b == b'-');
    let mut device = device.splitn(2, |b| *b == b':');
    let major = u32::try_from(hex(device.next()?)?).ok()?;
    let minor = u32::try_from(hex(device.next()?)?).ok()?;
    let inode = str::from_utf8(inode).ok()?.parse().ok()?;
    // The kernel escapes newlines in paths, and only those.
    let path = path.trim_ascii_start();
    let unescaped;
    let path = if path.windows(4).any(|w| w == b"\\012") {
        unescaped = String::from_utf8_lossy(path).replace("\\012", "\n");
        unescaped.as_bytes()
    } else {
        path
    };
    Some(Mapping {
        start: hex(range.next()?)?,
        end: hex(range.next()?)?,
        file_offset: hex(offset)?,
        backing: Backing::from_kernel(path, Some((major, minor, inode)), None),
    })
}

fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|b| *b == b' ')?;
    Some((&line[..end], line[end..].trim_ascii_start()))
}

/// A hexadecimal number without prefix, of at most 64 bits.
pub(super) fn hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn check(maps: &str, expected: &str) {
        let space = AddressSpace::read_maps(maps.as_bytes()).unwrap();
        assert_eq!(show(&space), expected);
    }

    fn show(space: &AddressSpace) -> String {
        let mut text = String::new();
        for m in space.iter() {
            let backing = match &m.backing {
                Backing::File(file) => format!("{}{}", file.path, if file.deleted { " deleted" } else { "" }),
                other => format!("{other:?}"),
            };
            text.push_str(&format!("{:x}-{:x}+{:x} {backing}\n", m.start, m.end, m.file_offset));
        }
        text
    }

    fn file(start: u64, end: u64, path: &str) -> Mapping {
        Mapping { start, end, file_offset: start, backing: Backing::from_kernel(path.as_bytes(), None, None) }
    }

    #[test]
    fn only_executable_mappings_are_kept() {
        check(
            "1000-2000 r--p 00000000 fd:01 42  /bin/a\n2000-3000 r-xp 00001000 fd:01 42  /bin/a\n",
            "2000-3000+1000 /bin/a\n",
        );
    }

    #[test]
    fn labels_and_deleted_files_are_told_apart() {
        check(
            "1000-2000 r-xp 00000000 00:00 0 \n2000-3000 r-xp 00000000 00:00 0    [vdso]\n\
             3000-4000 r-xp 0 fd:01 9 /tmp/a b.so (deleted)\n4000-5000 rwxs 0 00:01 5 /memfd:jit (deleted)\n\
             5000-6000 rwxp 0 00:00 0 [anon:code]\n6000-7000 rwxs 0 00:01 7 /dev/zero (deleted)\n\
             ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n",
            "1000-2000+0 Anonymous\n2000-3000+0 Vdso\n3000-4000+0 /tmp/a b.so deleted\n\
             4000-5000+0 /memfd:jit deleted\n5000-6000+0 Anonymous\n6000-7000+0 Anonymous\n\
             ffffffffff600000-ffffffffff601000+0 Vsyscall\n",
        );
    }

    #[test]
    fn an_escaped_newline_is_a_newline_and_noise_is_left_out() {
        check(
            "1000-2000 r-xp 0 fd:01 9 /tmp/a\\012b\nnoise\n1-\n-\nzz-yy r-xp 0 fd:01 9 /x\n\
             3000-2000 r-xp 0 fd:01 9 /x\n11111111111111111-2 r-xp 0 fd:01 9 /x\n1 r-xp\n",
            "1000-2000+0 /tmp/a\nb\n",
        );
    }

    #[test]
    fn a_later_mapping_replaces_what_it_overlaps() {
        let mut space = AddressSpace::new();
        space.insert(file(0x1000, 0x9000, "/a"));
        space.insert(file(0x3000, 0x4000, "/b"));
        assert_eq!(show(&space), "1000-3000+1000 /a\n3000-4000+3000 /b\n4000-9000+4000 /a\n");
        space.insert(file(0x2000, 0xa000, "/c"));
        assert_eq!(show(&space), "1000-2000+1000 /a\n2000-a000+2000 /c\n");
        space.insert(file(0x1000, 0x1000, "/empty"));
        assert_eq!(space.find(0x1fff).unwrap().start, 0x1000);
        assert_eq!(space.find(0xa000), None);
        assert_eq!(space.find(0xfff), None);
    }

    #[test]
    fn the_number_of_mappings_is_bounded() {
        let mut space = AddressSpace::new();
        space.insert(file(1 << 40, 1 << 41, "/a"));
        for n in 0..MAX_MAPPINGS as u64 + 9 {
            space.insert(Mapping {
                start: n * 2,
                end: n * 2 + 1,
                file_offset: 0,
                backing: Backing::Anonymous,
            });
        }
        assert_eq!((space.len(), space.dropped()), (MAX_MAPPINGS, 10));
        // Splitting does not get around it.
        for n in 0..100 {
            space.insert(file((1 << 40) + n * 0x2000, (1 << 40) + n * 0x2000 + 0x1000, "/b"));
        }
        assert_eq!(space.len(), MAX_MAPPINGS);
    }

    #[test]
    fn a_copy_shares_its_mappings_until_one_of_the_two_changes() {
        let budget = Budget::new(1000);
        let mut parent = AddressSpace::within(&budget);
        (0..400).for_each(|n| parent.insert(file(n * 2, n * 2 + 1, "/a")));
        let mut child = parent.clone();
        assert_eq!((budget.used(), child.len()), (400, 400));
        child.insert(file(0x9000, 0xa000, "/b"));
        assert_eq!((budget.used(), parent.len(), child.len()), (801, 400, 401));
        drop(parent);
        assert_eq!(budget.used(), 401);
    }

    #[test]
    fn the_mappings_of_all_spaces_are_bounded_together() {
        let budget = Budget::new(1000);
        let mut parent = AddressSpace::within(&budget);
        (0..700).for_each(|n| parent.insert(file(n * 2, n * 2 + 1, "/a")));
        // No room for the copy: nothing is known of the child, rather than what is no longer true.
        let mut child = parent.clone();
        child.insert(file(0, 0x9000, "/b"));
        assert_eq!((show(&child).as_str(), child.dropped()), ("0-9000+0 /b\n", 700));
        (700..2000).for_each(|n| parent.insert(file(n * 2, n * 2 + 1, "/a")));
        assert_eq!((parent.len(), budget.used(), budget.refused()), (999, 1000, 700 + 1001));
        // What takes another's place needs no room.
        parent.insert(file(0, 1, "/c"));
        assert_eq!(
            (parent.find(0).map(|found| &found.backing), budget.used()),
            (Some(&file(0, 1, "/c").backing), 1000)
        );
    }

    #[test]
    fn build_ids_have_one_to_twenty_bytes() {
        assert_eq!(BuildId::new(&[1, 2]).unwrap().as_bytes(), [1, 2]);
        assert!(
            BuildId::new(&[]).is_none()
                && BuildId::new(&[0; 20]).is_none()
                && BuildId::new(&[1; 21]).is_none()
        );
    }
}
