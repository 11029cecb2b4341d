//! From addresses to frames.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_profile::frame::{
    LIBRARY, PERF_MAP_FRAME, UNKNOWN, UNKNOWN_START_THREAD, clean_frame, unknown_address,
};

use super::address_space::{AddressSpace, Backing, BackingFile, Mapping, ModuleSlot};
use super::budget::Budget;
use super::generations::Generations;
use super::kernel::{Kernel, KernelNames};
use super::modules::{Answer, ModuleId, ModuleLimits, ModuleStats, Modules};
use super::process::ProcessImage;
use super::reach::{Reach, agrees, candidates, contradicts};

/// Largest vDSO that is read, bytes; real ones have two to four pages.
const MAX_VDSO_BYTES: u64 = 256 * 1024;
/// Module frames (`[/usr/bin/x]`) that are kept apart; more are made anew.
const MAX_MODULE_FRAMES: usize = 4096;

/// Bounds on memory and open files. All are soft by one item at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of symbol tables.
    pub table_bytes: usize,
    /// Files of profiled processes that are open.
    pub open_files: usize,
    /// Functions of one file.
    pub symbols_per_file: usize,
    /// Bytes of names.
    pub name_bytes: usize,
    /// Bytes of perf maps; one process takes at most a quarter.
    pub perf_map_bytes: usize,
    /// Addresses whose frame is remembered; one in compiled code with a long name counts as several.
    pub cached_addresses: usize,
    /// Where kernel functions are listed.
    pub kallsyms: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            table_bytes: 48 << 20,
            open_files: 256,
            symbols_per_file: 4_000_000,
            name_bytes: 8 << 20,
            perf_map_bytes: 48 << 20,
            cached_addresses: 65_536,
            kallsyms: PathBuf::from("/proc/kallsyms"),
        }
    }
}

/// What is to be said of the names of one user stack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserNames {
    /// The outermost frame is one where threads begin (`_start`, `clone3`,
    /// `runtime.goexit`, …): the stack is whole.
    pub outermost_is_entry: bool,
    /// The outermost frame is in code that the process compiled itself.
    pub outermost_is_jit: bool,
    /// Frames in a known module without a function for the address.
    pub without_symbol: u32,
    /// Frames in code that the process compiled itself and did not list.
    pub unresolved_jit: u32,
    /// Frames in no known module.
    pub unknown: u32,
    /// Of the unknown ones, those shown without their address.
    pub over_unknown_budget: u32,
}

/// Counters since the start and what is held now, for logs and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolStats {
    /// Files and their symbol tables.
    pub modules: ModuleStats,
    /// Files that could not be reached, by reason.
    pub unreachable: UnreachableStats,
    /// Bytes of perf maps.
    pub perf_map_bytes: usize,
    /// Perf maps that were not read, for lack of memory or because reading failed.
    pub perf_maps_refused: u64,
    /// Perf maps of which only the beginning was read, for lack of memory or because they are too long.
    pub perf_maps_truncated: u64,
    /// Lines of perf maps that were not understood.
    pub perf_map_noise: u64,
    /// Bytes of kernel function names and addresses.
    pub kernel_bytes: usize,
    /// User frames named.
    pub frames: u64,
    /// User frames in a known module without a function for the address.
    pub without_symbol: u64,
    /// User frames in unlisted code of the process's own making.
    pub unresolved_jit: u64,
    /// User frames in no known module.
    pub unknown: u64,
    /// Unknown frames shown without their address.
    pub over_unknown_budget: u64,
    /// Kernel frames named `[k] [unknown]`.
    pub unknown_kernel: u64,
}

/// Why files behind mappings could not be reached; each mapping counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnreachableStats {
    /// No right to (CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH).
    pub denied: u64,
    /// No such file, or no such process any more.
    pub gone: u64,
    /// The path leads to another file by now.
    pub replaced: u64,
    /// Anything else, a device for example.
    pub other: u64,
}

/// Which frame, and what to say of it.
#[derive(Debug, Clone)]
struct Named {
    frame: Arc<str>,
    kind: Kind,
}

impl Named {
    /// What it counts as in the cache of addresses. A function of a file has its name in the
    /// file's table; that of compiled code is its own, and may be as long as the process likes.
    fn weight(&self) -> usize {
        match self.kind {
            Kind::Jit => 1 + self.frame.len() / 64,
            _ => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    /// A function that the process compiled itself and listed.
    Jit,
    WithoutSymbol,
    UnresolvedJit,
    Unknown,
}

/// What an address meant when it was last asked: valid while neither the
/// mappings nor the perf map of the process change.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CacheKey {
    image: u64,
    generation: u64,
    jit_version: u32,
    address: u64,
}

/// Names addresses of many processes and of the kernel, within [`Limits`].
///
/// Reading a file may block as long as its file system does, so it belongs on a
/// thread of its own, apart from the one that empties the ring buffers; today it is
/// on that one (`docs/ARCHITECTURE.md`, "Not here yet").
#[derive(Debug)]
pub struct Symbolizer {
    modules: Modules,
    kernel: Kernel,
    vdso: Option<ModuleId>,
    addresses: Generations<CacheKey, Named>,
    module_frames: HashMap<Arc<str>, Arc<str>>,
    perf_maps: Budget,
    held_maps: Arc<()>,
    perf_map_frame: Arc<str>,
    unknown_frame: Arc<str>,
    unknown_entry_frame: Arc<str>,
    /// Counts windows.
    window: u64,
    stats: SymbolStats,
}

impl Symbolizer {
    /// Reads the kernel's functions, about 0.1 s of CPU.
    pub fn new(limits: Limits) -> Self {
        let Limits {
            table_bytes,
            open_files,
            symbols_per_file,
            name_bytes,
            perf_map_bytes,
            cached_addresses,
            kallsyms,
        } = limits;
        let mut modules =
            Modules::new(ModuleLimits { table_bytes, open_files, symbols: symbols_per_file, name_bytes });
        let vdso = match read_vdso() {
            Ok(image) => image.map(|image| modules.add_vdso(image)),
            Err(error) => {
                tracing::warn!(%error, "functions of the vDSO have no names: reading it failed");
                None
            }
        };
        Self {
            modules,
            kernel: Kernel::new(kallsyms),
            vdso,
            addresses: Generations::new(cached_addresses / 2),
            module_frames: HashMap::new(),
            perf_maps: Budget::new(perf_map_bytes),
            held_maps: Arc::new(()),
            perf_map_frame: Arc::from(PERF_MAP_FRAME),
            unknown_frame: Arc::from(UNKNOWN),
            unknown_entry_frame: Arc::from(UNKNOWN_START_THREAD),
            window: 0,
            stats: SymbolStats::default(),
        }
    }

    /// Begins a window: the bound on different unknown addresses of a process
    /// counts anew.
    pub fn begin_window(&mut self) {
        self.window += 1;
    }

    /// Whether kernel functions can be named, to be logged at start.
    pub fn kernel_names(&self) -> &KernelNames {
        self.kernel.state()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> SymbolStats {
        SymbolStats {
            modules: self.modules.stats(),
            perf_map_bytes: self.perf_maps.used(),
            perf_maps_refused: self.perf_maps.refused(),
            kernel_bytes: self.kernel.bytes(),
            ..self.stats.clone()
        }
    }

    /// Finds the files behind mappings that are new since the last call, while
    /// the process lives: so one that is gone when its samples are named still
    /// has names. Without new mappings it does nothing.
    pub fn prepare(&mut self, process: &mut ProcessImage) {
        let fresh = process.space.take_unprepared();
        if fresh.is_empty() {
            return;
        }
        let mut found_before: HashMap<Arc<BackingFile>, ModuleSlot> = HashMap::new();
        let mut by_pid = Vec::new();
        let mut has_anonymous = false;
        for &start in fresh.iter() {
            let Some(mapping) = process.space.starting_at(start) else { continue };
            let file = match &mapping.backing {
                Backing::File(file) => file.clone(),
                Backing::Anonymous => {
                    has_anonymous = true;
                    continue;
                }
                Backing::Vdso | Backing::Vsyscall => continue,
            };
            let slot = match found_before.get(&file) {
                Some(slot) => *slot,
                None => {
                    let (slot, used_pid) = self.find_module(process.pid, mapping, &file);
                    if used_pid {
                        by_pid.push(file.clone());
                    }
                    found_before.insert(file, slot);
                    slot
                }
            };
            process.space.set_module(start, slot);
        }
        // Whatever was found through the pid counts only if the pid still is
        // this process's.
        if !by_pid.is_empty() && process.is_replaced() {
            process.space.forget_modules(&by_pid);
        }
        if has_anonymous {
            process.hold_perf_map(&self.held_maps);
        }
    }

    /// Names a user stack, leaf first as the kernel walked it (the sampled
    /// address, then return addresses), and appends its frames root first. An
    /// unknown outermost frame is taken for the thread's entry unless `out`
    /// already has something above it.
    ///
    /// `defer` is how long an address that a perf map does not list waits
    /// before that file is looked at again.
    pub fn name_user(
        &mut self,
        process: &mut ProcessImage,
        addresses: &[u64],
        defer: Duration,
        out: &mut Vec<Arc<str>>,
    ) -> UserNames {
        self.prepare(process);
        // Behind a frame that stands for missing callers nothing is an entry.
        let callers_are_missing = !out.is_empty();
        let mut said = UserNames::default();
        for (level, address) in addresses.iter().enumerate().rev() {
            // A return address may lie behind the last byte of its caller, when
            // the call was the last thing it did.
            let within = if level == 0 { *address } else { address.wrapping_sub(1) };
            let is_outermost = level + 1 == addresses.len();
            let named = self.name(process, within, defer);
            let frame = match named.kind {
                Kind::Function => {
                    said.outermost_is_entry |= is_outermost && is_thread_entry(&named.frame);
                    named.frame
                }
                Kind::Jit => {
                    said.outermost_is_jit |= is_outermost;
                    named.frame
                }
                Kind::WithoutSymbol => {
                    said.without_symbol += 1;
                    named.frame
                }
                Kind::UnresolvedJit => {
                    said.unresolved_jit += 1;
                    said.outermost_is_jit |= is_outermost;
                    named.frame
                }
                Kind::Unknown => {
                    said.unknown += 1;
                    if is_outermost && !callers_are_missing {
                        self.unknown_entry_frame.clone()
                    } else if process.may_show_unknown(*address, self.window) {
                        Arc::from(unknown_address(*address))
                    } else {
                        said.over_unknown_budget += 1;
                        self.unknown_frame.clone()
                    }
                }
            };
            out.push(frame);
        }
        self.stats.frames += addresses.len() as u64;
        self.stats.without_symbol += u64::from(said.without_symbol);
        self.stats.unresolved_jit += u64::from(said.unresolved_jit);
        self.stats.unknown += u64::from(said.unknown);
        self.stats.over_unknown_budget += u64::from(said.over_unknown_budget);
        said
    }

    /// Names a kernel stack, leaf first, and appends its frames root first.
    pub fn name_kernel(&mut self, addresses: &[u64], out: &mut Vec<Arc<str>>) {
        for (level, address) in addresses.iter().enumerate().rev() {
            let within = if level == 0 { *address } else { address.wrapping_sub(1) };
            let (frame, known) = self.kernel.frame(within);
            self.stats.unknown_kernel += u64::from(!known);
            out.push(frame);
        }
    }

    fn name(&mut self, process: &mut ProcessImage, address: u64, defer: Duration) -> Named {
        let key = CacheKey {
            image: process.id,
            generation: process.space.generation(),
            jit_version: process.jit.version,
            address,
        };
        if let Some(named) = self.addresses.get(&key, Named::weight) {
            return named;
        }
        let named = self.look_up(process, address, defer);
        if matches!(named.kind, Kind::Function | Kind::Jit | Kind::WithoutSymbol) {
            let key = CacheKey { jit_version: process.jit.version, ..key };
            self.addresses.insert(key, named.clone(), named.weight());
        }
        named
    }

    fn look_up(&mut self, process: &mut ProcessImage, address: u64, defer: Duration) -> Named {
        let Some(placed) = process.space.find_placed(address) else {
            return self.name_jit(process, address, defer, false);
        };
        let mapping = &placed.mapping;
        let offset = address - mapping.start;
        match &mapping.backing {
            Backing::Anonymous => self.name_jit(process, address, defer, true),
            Backing::Vsyscall => self.module_frame(&Arc::from("[vsyscall]")),
            Backing::Vdso => {
                let answer = self.vdso.map(|id| self.modules.function_at(id, offset, true));
                match answer {
                    Some(Answer::Frame(frame)) => Named { frame, kind: Kind::Function },
                    _ => self.module_frame(&Arc::from("[vdso]")),
                }
            }
            Backing::File(file) => {
                let file = file.clone();
                let file_offset = mapping.file_offset.wrapping_add(offset);
                match self.ask_module(process, address, file_offset, &file) {
                    Answer::Frame(frame) => Named { frame, kind: Kind::Function },
                    // Memory that a runtime shares with itself to write code to.
                    Answer::NotElf if file.path.starts_with("/memfd:") => {
                        self.name_jit(process, address, defer, true)
                    }
                    Answer::NoSymbol | Answer::NotElf | Answer::Dropped => self.module_frame(&file.path),
                }
            }
        }
    }

    /// Asks the module behind a mapping, which is opened again if it was dropped.
    fn ask_module(
        &mut self,
        process: &mut ProcessImage,
        address: u64,
        file_offset: u64,
        file: &BackingFile,
    ) -> Answer {
        let is_library = file.path.contains(".so");
        let Some(placed) = process.space.find_placed(address) else { return Answer::NoSymbol };
        if let ModuleSlot::Known(id) = placed.module {
            match self.modules.function_at(id, file_offset, is_library) {
                Answer::Dropped => {}
                answer => return answer,
            }
        }
        if placed.module == ModuleSlot::Unreachable {
            return Answer::NoSymbol;
        }
        let (slot, used_pid) = self.find_module(process.pid, &placed.mapping, file);
        let slot = if used_pid && process.is_replaced() { ModuleSlot::Unreachable } else { slot };
        let start = placed.mapping.start;
        process.space.set_module(start, slot);
        match slot {
            ModuleSlot::Known(id) => self.modules.function_at(id, file_offset, is_library),
            ModuleSlot::Unprepared | ModuleSlot::Unreachable => Answer::NoSymbol,
        }
    }

    /// An address in memory without a file, or in none that is known.
    fn name_jit(&mut self, process: &mut ProcessImage, address: u64, defer: Duration, mapped: bool) -> Named {
        let mut name = process.jit.find(address);
        if name.is_none()
            && let Some(map) = process.refresh_perf_map(defer, &self.perf_maps)
        {
            name = map.find(address);
            self.stats.perf_maps_truncated += u64::from(map.is_truncated());
            self.stats.perf_map_noise += map.noise();
        }
        if let Some(name) = name {
            return Named { frame: Arc::from(clean_frame(&name)), kind: Kind::Jit };
        }
        if mapped && (process.jit.has_map() || process.maps_jvm()) {
            return Named { frame: self.perf_map_frame.clone(), kind: Kind::UnresolvedJit };
        }
        Named { frame: self.unknown_frame.clone(), kind: Kind::Unknown }
    }

    /// `[/usr/bin/x]`
    fn module_frame(&mut self, path: &Arc<str>) -> Named {
        let frame = match self.module_frames.get(path) {
            Some(frame) => frame.clone(),
            None => {
                let text = if path.starts_with('[') { path.to_string() } else { bracketed(path) };
                let frame: Arc<str> = Arc::from(clean_frame(&text));
                if self.module_frames.len() >= MAX_MODULE_FRAMES {
                    self.module_frames.clear();
                }
                self.module_frames.insert(path.clone(), frame.clone());
                frame
            }
        };
        Named { frame, kind: Kind::WithoutSymbol }
    }

    /// The module behind a mapping, and whether it was found through the pid.
    fn find_module(&mut self, pid: u32, mapping: &Mapping, file: &BackingFile) -> (ModuleSlot, bool) {
        if let Some(build_id) = file.build_id
            && let Some(id) = self.modules.by_build_id(build_id, mapping)
        {
            return (ModuleSlot::Known(id), false);
        }
        let mut last_error = None;
        let mut replaced = false;
        for candidate in candidates(pid, mapping, file) {
            let candidate = match candidate {
                Ok(candidate) => candidate,
                Err(error) => {
                    last_error.get_or_insert(error);
                    continue;
                }
            };
            let identity = candidate.file.identity();
            if agrees(candidate.reach, &identity, file) == Some(false) {
                replaced = true;
                continue;
            }
            let used_pid = candidate.reach == Reach::Mapping;
            let id = match self.modules.by_identity(&identity) {
                Some(id) => id,
                None => match candidate.file.open() {
                    Ok(file) => self.modules.add_file(file),
                    Err(error) => {
                        last_error.get_or_insert(error);
                        continue;
                    }
                },
            };
            if contradicts(file.build_id, self.modules.build_id(id)) {
                replaced = true;
                continue;
            }
            return (ModuleSlot::Known(id), used_pid);
        }
        let counters = &mut self.stats.unreachable;
        match last_error.map(|error| error.kind()) {
            _ if replaced => counters.replaced += 1,
            Some(io::ErrorKind::PermissionDenied) => counters.denied += 1,
            Some(io::ErrorKind::NotFound) => counters.gone += 1,
            _ => counters.other += 1,
        }
        (ModuleSlot::Unreachable, false)
    }
}

fn bracketed(path: &str) -> String {
    format!("[{path}]")
}

/// Whether a frame is one where the stack of a thread begins.
fn is_thread_entry(frame: &str) -> bool {
    const ENTRIES: [&str; 17] = [
        "_start",
        "__libc_start_main",
        "__libc_start_call_main",
        "__libc_start_main_impl",
        "_dl_start_user",
        "start_thread",
        "__clone",
        "clone",
        "__clone3",
        "clone3",
        "thread_start",
        "_start_c",
        "runtime.goexit",
        "runtime.mstart",
        "runtime.rt0_go",
        "runtime.morestack",
        "runtime.mcall",
    ];
    let name = frame.strip_prefix(LIBRARY).unwrap_or(frame);
    let name = name.strip_suffix(".abi0").unwrap_or(name);
    ENTRIES.contains(&name) || name.starts_with("__libc_start_main") || name.starts_with("_rt0_")
}

/// The vDSO from our own memory: it is the same in every 64-bit process.
fn read_vdso() -> io::Result<Option<Vec<u8>>> {
    let space = AddressSpace::read_from_proc(std::process::id())?;
    let Some(vdso) = space.iter().find(|mapping| mapping.backing == Backing::Vdso) else { return Ok(None) };
    let length = (vdso.end - vdso.start).min(MAX_VDSO_BYTES);
    let mut image = vec![0; usize::try_from(length).unwrap_or(0)];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, vdso.start)?;
    Ok(Some(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_compiled_code_weighs_what_it_takes() {
        let weight = |kind, length| Named { frame: "x".repeat(length).into(), kind }.weight();
        assert_eq!([weight(Kind::Jit, 30), weight(Kind::Jit, 4096)], [1, 65]);
        assert_eq!(weight(Kind::Function, 4096), 1);
    }
}
