//! Kernel functions, from `/proc/kallsyms`: those of the kernel itself, of its
//! modules and of BPF programs.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_profile::frame::{KERNEL, UNKNOWN, clean_frame};

use super::address_space::hex;
use super::generations::Generations;
use super::table::preference;

/// Modules and BPF programs come and go; an address that nothing covers makes
/// the table be read again, at most once in this time. Twice as long each time that
/// this was in vain: some addresses stay unknown, and reading costs 0.1 s of CPU.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);
/// The interval grows no longer than this.
const MAX_REREAD_INTERVAL: Duration = Duration::from_secs(3600);
/// Most bytes that are read; 6.18 with every module loaded has 20 MB.
const MAX_BYTES: u64 = 256 << 20;
/// Most functions that are kept.
const MAX_SYMBOLS: usize = 2_000_000;
/// Longest name that is kept, bytes (the kernel's own limit is 512).
const MAX_NAME_BYTES: usize = 512;
/// Kernel addresses are the upper half.
const LOWEST_ADDRESS: u64 = 1 << 63;
/// How far the last function before another module's reaches at most. The file
/// tells no sizes.
const MAX_LAST_BYTES: u64 = 64 * 1024;
/// Weight of the names in use, bytes.
const MAX_CACHED_BYTES: usize = 1 << 20;
/// In [`KernelTable::names`]: from here on nothing is known.
const NOBODY: u32 = u32::MAX;

/// Whether kernel functions can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelNames {
    /// They can; this many are known.
    Available(usize),
    /// The file shows no addresses: needs CAP_SYSLOG, or `kernel.kptr_restrict`
    /// below 2.
    Hidden,
    /// The file cannot be read.
    Unreadable(String),
}

impl std::fmt::Display for KernelNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Available(count) => write!(f, "{count} kernel functions known"),
            Self::Hidden => write!(
                f,
                "kernel functions have no names: /proc/kallsyms hides its addresses (needs CAP_SYSLOG and kernel.kptr_restrict below 2)"
            ),
            Self::Unreadable(error) => {
                write!(f, "kernel functions have no names: reading /proc/kallsyms failed: {error}")
            }
        }
    }
}

/// Names for kernel addresses.
#[derive(Debug)]
pub(super) struct Kernel {
    path: PathBuf,
    table: KernelTable,
    state: KernelNames,
    read_at: Instant,
    reread_interval: Duration,
    /// By index in the table.
    frames: Generations<usize, Arc<str>>,
    unknown: Arc<str>,
}

impl Kernel {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut kernel = Self {
            path,
            table: KernelTable::default(),
            state: KernelNames::Hidden,
            read_at: Instant::now(),
            reread_interval: REREAD_INTERVAL,
            frames: Generations::new(MAX_CACHED_BYTES),
            unknown: Arc::from(format!("{KERNEL}{UNKNOWN}")),
        };
        kernel.read();
        kernel
    }

    pub(super) fn state(&self) -> &KernelNames {
        &self.state
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.frames.weight()
    }

    /// The frame of an address, and whether it is known.
    pub(super) fn frame(&mut self, address: u64) -> (Arc<str>, bool) {
        let mut found = self.table.find(address);
        let is_due = || self.read_at.elapsed() >= self.reread_interval;
        if found.is_none() && address >= LOWEST_ADDRESS && is_due() {
            self.read();
            found = self.table.find(address);
            self.reread_interval = match found {
                Some(_) => REREAD_INTERVAL,
                None => (self.reread_interval * 2).min(MAX_REREAD_INTERVAL),
            };
        }
        let Some(index) = found else { return (self.unknown.clone(), false) };
        let weight = |frame: &Arc<str>| frame.len() + 64;
        if let Some(frame) = self.frames.get(&index, weight) {
            return (frame, true);
        }
        let frame: Arc<str> = Arc::from(format!("{KERNEL}{}", clean_frame(self.table.name(index))));
        let bytes = weight(&frame);
        self.frames.insert(index, frame.clone(), bytes);
        (frame, true)
    }

    fn read(&mut self) {
        self.read_at = Instant::now();
        self.frames = Generations::new(MAX_CACHED_BYTES);
        match File::open(&self.path)
            .and_then(|file| KernelTable::read(BufReader::with_capacity(64 * 1024, file)))
        {
            Ok(table) if table.is_empty() => self.state = KernelNames::Hidden,
            Ok(table) => {
                self.state = KernelNames::Available(table.len());
                self.table = table;
            }
            Err(error) => self.state = KernelNames::Unreadable(error.to_string()),
        }
    }
}

/// The functions of a kallsyms file: 12 bytes each and their names.
#[derive(Debug, Default)]
pub struct KernelTable {
    addresses: Vec<u64>,
    /// Where each one's name begins in `text`; [`NOBODY`] where an address ends
    /// what is known.
    names: Vec<u32>,
    /// Names, each closed by a newline.
    text: String,
}

struct Line<'a> {
    address: u64,
    kind: u8,
    name: &'a str,
    module: &'a str,
}

/// What sorting needs of one line.
struct Draft {
    address: u64,
    /// `T` before `W` before `t`, as for other symbols.
    rank: u8,
    name: u32,
    module: u32,
}

impl KernelTable {
    /// Reads the text of a kallsyms file. Without any address it is empty.
    ///
    /// # Errors
    /// When reading fails. Lines that are not understood are left out.
    pub fn read(file: impl BufRead) -> io::Result<Self> {
        let mut text = String::new();
        let mut drafts: Vec<Draft> = Vec::new();
        let mut modules: Vec<String> = vec![String::new()];
        let mut line = Vec::new();
        let mut file = file.take(MAX_BYTES);
        while file.read_until(b'\n', &mut line)? > 0 {
            if let Some(parsed) = parse_line(&line)
                && drafts.len() < MAX_SYMBOLS
            {
                // The lines of a module stand together.
                if modules.last().is_none_or(|last| last != parsed.module) {
                    modules.push(parsed.module.to_owned());
                }
                // What is not code still ends the function before it.
                let is_code = matches!(parsed.kind, b't' | b'T' | b'w' | b'W');
                let name = if is_code { u32::try_from(text.len()).unwrap_or(NOBODY) } else { NOBODY };
                if name != NOBODY {
                    text.push_str(parsed.name);
                    text.push('\n');
                }
                let rank = match parsed.kind {
                    b'T' => 0,
                    b't' => 1,
                    b'w' | b'W' => 2,
                    _ => 3,
                };
                let module = u32::try_from(modules.len() - 1).unwrap_or(0);
                drafts.push(Draft { address: parsed.address, rank, name, module });
            }
            line.clear();
        }
        text.shrink_to_fit();
        Ok(Self::arrange(drafts, text))
    }

    /// Index of the function that holds an address, for [`Self::name`].
    pub fn find(&self, address: u64) -> Option<usize> {
        let index = self.addresses.partition_point(|a| *a <= address).checked_sub(1)?;
        (self.names[index] != NOBODY).then_some(index)
    }

    /// The name of a function that [`Self::find`] returned.
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", |name| name_at(&self.text, *name))
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.names.iter().filter(|name| **name != NOBODY).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.iter().all(|name| *name == NOBODY)
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.addresses.capacity() * 8 + self.names.capacity() * 4 + self.text.capacity()
    }

    fn arrange(mut drafts: Vec<Draft>, text: String) -> Self {
        drafts.sort_unstable_by(|a, b| {
            let preferred = |d: &Draft| preference(name_at(&text, d.name));
            a.address.cmp(&b.address).then(a.rank.cmp(&b.rank)).then_with(|| preferred(a).cmp(&preferred(b)))
        });
        drafts.dedup_by_key(|draft| draft.address);
        let mut table = Self { text, ..Self::default() };
        let mut rest = drafts.iter().peekable();
        while let Some(draft) = rest.next() {
            if draft.name == NOBODY && table.names.last() == Some(&NOBODY) {
                continue;
            }
            table.addresses.push(draft.address);
            table.names.push(draft.name);
            let next = rest.peek().map(|next| (next.address, next.module));
            let end = draft.address.saturating_add(MAX_LAST_BYTES);
            if draft.name != NOBODY
                && next.is_none_or(|(address, module)| module != draft.module && address > end)
            {
                table.addresses.push(end);
                table.names.push(NOBODY);
            }
        }
        table.addresses.shrink_to_fit();
        table.names.shrink_to_fit();
        table
    }
}

fn name_at(text: &str, name: u32) -> &str {
    let tail = usize::try_from(name).ok().and_then(|at| text.get(at..)).unwrap_or("");
    tail.split_once('\n').map_or(tail, |(name, _)| name)
}

/// `ffffffff81000000 T name [module]`, with a tab before the module
fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let line = str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let address = hex(fields.next()?.as_bytes())?;
    let kind = *fields.next()?.as_bytes().first()?;
    let name = fields.next()?;
    let module = fields.next().unwrap_or("");
    (address >= LOWEST_ADDRESS && name.len() <= MAX_NAME_BYTES).then_some(Line {
        address,
        kind,
        name,
        module,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn check(kallsyms: &str, address: u64, expected: Option<&str>) {
        let table = KernelTable::read(kallsyms.as_bytes()).unwrap();
        assert_eq!(table.find(address).map(|found| table.name(found)), expected);
    }

    const KALLSYMS: &str = "\
        0000000000000000 A fixed_percpu_data\n\
        ffffffff81000000 T srso_alias_untrain_ret\n\
        ffffffff81000000 T _stext\n\
        ffffffff81000100 t local_one\n\
        ffffffff81000100 W weak_one\n\
        ffffffff81000200 T __x64_sys_read\n\
        ffffffff81000200 T _x64_sys_read\n\
        ffffffff82000000 D some_data\n\
        ffffffffc0000000 t helper\t[ext4]\n\
        ffffffffc0000040 T ext4_read\t[ext4]\n\
        ffffffffc1000000 t bpf_prog_6deef7357e7b4530_f\t[bpf]\n\
        noise\n\
        ffffffff8100030z T bad\n";

    #[test]
    fn addresses_belong_to_the_function_before_them() {
        check(KALLSYMS, 0xffff_ffff_8100_0000, Some("srso_alias_untrain_ret"));
        check(KALLSYMS, 0xffff_ffff_8100_00ff, Some("srso_alias_untrain_ret"));
        check(KALLSYMS, 0xffff_ffff_8100_0100, Some("local_one"));
        check(KALLSYMS, 0xffff_ffff_8100_0201, Some("_x64_sys_read"));
        check(KALLSYMS, 0xffff_ffff_c000_0041, Some("ext4_read"));
        check(KALLSYMS, 0xffff_ffff_c100_0010, Some("bpf_prog_6deef7357e7b4530_f"));
    }

    #[test]
    fn data_and_gaps_end_a_function() {
        check(KALLSYMS, 0xffff_ffff_80ff_ffff, None);
        check(KALLSYMS, 0xffff_ffff_8200_0001, None);
        check(KALLSYMS, 0xffff_ffff_c001_0041, None);
        check(KALLSYMS, u64::MAX, None);
        check(KALLSYMS, 0x10, None);
    }

    #[test]
    fn hidden_addresses_are_noticed() {
        let hidden = "0000000000000000 T _stext\n0000000000000000 t f\t[ext4]\n";
        assert!(KernelTable::read(hidden.as_bytes()).unwrap().is_empty());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kallsyms");
        std::fs::write(&path, hidden).unwrap();
        let mut kernel = Kernel::new(path);
        assert_eq!(kernel.state(), &KernelNames::Hidden);
        assert_eq!(kernel.frame(0xffff_ffff_8100_0000), (Arc::from("[k] [unknown]"), false));
        let missing = Kernel::new(directory.path().join("missing"));
        assert!(matches!(missing.state(), KernelNames::Unreadable(_)));
    }

    #[test]
    fn an_unknown_address_makes_the_table_be_read_again_ever_more_rarely() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kallsyms");
        let mut kernel = Kernel::new(path.clone());
        let address = 0xffff_ffff_8100_0100;
        let mut known_after = |wait: u64| {
            kernel.read_at = Instant::now().checked_sub(Duration::from_secs(wait)).unwrap();
            kernel.frame(address).1
        };
        // What could not be read is tried again, after 1, 2, 4, … minutes, and at last each hour.
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            std::fs::write(&path, KALLSYMS).unwrap();
            assert!(!known_after(minutes * 60 - 10), "{minutes}");
            std::fs::remove_file(&path).unwrap();
            assert!(!known_after(minutes * 60), "{minutes}");
        }
        std::fs::write(&path, KALLSYMS).unwrap();
        assert!(known_after(3600));
        // A reading that found the address: the next unknown one waits a minute again.
        assert_eq!((kernel.reread_interval, kernel.state()), (REREAD_INTERVAL, &KernelNames::Available(6)));
    }

    #[test]
    fn the_running_kernel_is_readable_and_compact() {
        let table = KernelTable::read(BufReader::new(File::open("/proc/kallsyms").unwrap())).unwrap();
        assert!(table.bytes() < 40 << 20, "{} bytes for {} functions", table.bytes(), table.len());
    }
}
