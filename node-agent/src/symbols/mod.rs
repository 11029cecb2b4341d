//! Names for addresses: of the kernel, of files that processes have mapped, of
//! the vDSO, and of code that runtimes compiled and listed in a perf map.
//!
//! ```text
//! AddressSpace ──mapping──► reach ──file──► elf ──► table ──┐
//! (side-band records,       (map_files,     (headers)       ├─► demangle ─► frame
//!  /proc/PID/maps)           root, path)      perf_map ─────┤
//!                                             kernel ───────┘
//! ```
//!
//! Everything that is read here may have been written by somebody hostile.
//! Sizes are bounded, offsets are checked, files are read with `pread`, and an
//! address that cannot be named gets an honest frame instead of the nearest
//! name. What a file claims is believed for the processes that map it; a build
//! id is believed for every process that maps text of the same size under it.

mod address_space;
mod budget;
pub mod demangle;
mod elf;
mod generations;
mod kernel;
mod modules;
mod perf_map;
mod process;
mod reach;
mod read;
mod symbolizer;
mod table;

pub use address_space::{AddressSpace, Backing, BackingFile, BuildId, Inode, MAX_MAPPINGS, Mapping};
pub use budget::Budget;
pub use elf::{Elf, ElfError, Segment, SymbolSection};
pub use kernel::{KernelNames, KernelTable};
pub use modules::ModuleStats;
pub use perf_map::PerfMap;
pub use process::{MAX_UNKNOWN_ADDRESSES, ProcessImage};
pub use read::ReadAt;
pub use symbolizer::{Limits, SymbolStats, Symbolizer, UnreachableStats, UserNames};
pub use table::SymbolTable;
