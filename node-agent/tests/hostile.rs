//! Processes and files made to hurt whoever profiles them: the answer may be
//! poor, but it comes soon, in bounded memory, and without a panic.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_node_agent::kernel::Monotonic;
use hearth_node_agent::kernel::sideband::{Event, Mapped};
use hearth_node_agent::policies::PolicySet;
use hearth_node_agent::proc_fs::stat;
use hearth_node_agent::process::{Processes, Standing};
use hearth_node_agent::symbols::{AddressSpace, Elf, Limits, PerfMap, ProcessImage, SymbolTable, Symbolizer};
use hearth_policy::{EffectivePolicy, Environment, parse_policy_file};
use tempfile::TempDir;

/// Generous: what is tested is that work does not grow with the claims of the
/// input, and the machine may be busy.
const SOON: Duration = Duration::from_secs(20);
const MAX_SYMBOLS: usize = 1_000_000;

fn compile(directory: &Path, name: &str, source: &str) -> PathBuf {
    let source_path = directory.join(format!("{name}.c"));
    let binary = directory.join(name);
    fs::write(&source_path, source).unwrap();
    let status =
        Command::new("gcc").args(["-O1", "-w", "-o"]).arg(&binary).arg(&source_path).status().unwrap();
    assert!(status.success(), "compiling {name}");
    binary
}

/// A small program as bytes.
fn sample_elf() -> Vec<u8> {
    let dir = TempDir::new().unwrap();
    let program = "int first(int n) { return n + 1; } int main(void) { return first(2); }";
    fs::read(compile(dir.path(), "sample", program)).unwrap()
}

/// Does everything with a file that symbolization does; the result is whether
/// some function was named.
fn name_everything(bytes: &[u8]) -> bool {
    let Ok(elf) = Elf::parse(bytes) else { return false };
    let Ok(table) = SymbolTable::read(bytes, &elf, MAX_SYMBOLS) else { return false };
    assert!(table.len() <= MAX_SYMBOLS && table.bytes() < 64 << 20);
    let mut named = false;
    let starts = elf.code.iter().map(|range| range.start).chain([0, 0x1000, 1 << 47, u64::MAX]);
    for start in starts.take(64) {
        for step in 0..32u64 {
            let address = start.wrapping_add(step * 8);
            if let Some(found) = table.find(address) {
                named |= table.name(bytes, found).is_ok_and(|name| name.is_some_and(|n| n.len() <= 4096 * 3));
            }
            elf.address_of(address);
        }
    }
    named
}

/// xorshift: the same noise in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

#[test]
fn a_program_truncated_anywhere_is_survived() {
    let whole = sample_elf();
    assert!(name_everything(&whole));
    let began = Instant::now();
    for length in (0..whole.len()).step_by(512).chain(0..64) {
        name_everything(&whole[..length]);
    }
    assert!(began.elapsed() < SOON);
}

#[test]
fn flipped_bytes_are_survived() {
    let whole = sample_elf();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let began = Instant::now();
    for round in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=noise.below(16) {
            // Mostly the headers, where it hurts: at the start and at the end.
            let at = match round % 3 {
                0 => noise.below(1024),
                1 => bytes.len() - 1 - noise.below(3000),
                _ => noise.below(bytes.len()),
            };
            bytes[at] = [0, 0xff, 0x80, 0x7f, u8::try_from(noise.below(256)).unwrap()][noise.below(5)];
        }
        name_everything(&bytes);
    }
    assert!(began.elapsed() < SOON * 3, "{:?}", began.elapsed());
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn u64_of(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

#[test]
fn headers_that_contradict_themselves_are_survived() {
    let whole = sample_elf();
    let sections = u64_of(&whole, 40);
    let count = usize::from(u16::from_le_bytes([whole[60], whole[61]]));
    let claims: [&[u8]; 5] = [
        &[0xff; 8],
        &[0; 8],
        &u64::to_le_bytes(1 << 63),
        &u64::to_le_bytes((1 << 63) - 1),
        &u64::to_le_bytes(64),
    ];
    for claim in claims {
        // Offsets and counts of the file header.
        for (at, length) in [(24, 8), (32, 8), (40, 8), (54, 2), (56, 2), (58, 2), (60, 2), (62, 2)] {
            let mut bytes = whole.clone();
            put(&mut bytes, at, &claim[..length]);
            name_everything(&bytes);
        }
        // Address, offset, size, link and entry size of every section.
        for section in 0..count {
            for (at, length) in [(4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (56, 8)] {
                let mut bytes = whole.clone();
                put(&mut bytes, sections + section * 64 + at, &claim[..length]);
                name_everything(&bytes);
            }
        }
        // Every number of every segment.
        for segment in 0..usize::from(u16::from_le_bytes([whole[56], whole[57]])) {
            for at in (0..56).step_by(8) {
                let mut bytes = whole.clone();
                put(&mut bytes, u64_of(&whole, 32) + segment * 56 + at, claim);
                name_everything(&bytes);
            }
        }
    }
}

/// A running program that printed addresses and waits for its input to close.
struct Running {
    child: Child,
    addresses: Vec<u64>,
}

impl Running {
    fn start(program: &Path) -> Self {
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses = line.split_whitespace().map(|a| u64::from_str_radix(a, 16).unwrap()).collect();
        Self { child, addresses }
    }

    fn image(&self) -> ProcessImage {
        let pid = self.child.id();
        ProcessImage::new(pid, stat(pid).unwrap().start_ticks, AddressSpace::read_from_proc(pid).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Without the kernel's functions, which take their time to read.
fn limits() -> Limits {
    Limits { kallsyms: PathBuf::from("/dev/null"), ..Limits::default() }
}

fn frames(image: &mut ProcessImage, addresses: &[u64]) -> (Vec<String>, Symbolizer) {
    let mut symbolizer = Symbolizer::new(limits());
    let mut out: Vec<Arc<str>> = Vec::new();
    symbolizer.name_user(image, addresses, Duration::ZERO, &mut out);
    (out.iter().map(Arc::to_string).collect(), symbolizer)
}

const WAITS: &str = r#"
    #include <stdio.h>
    #include <unistd.h>
    void named_function_placeholder(void) { write(-1, "", 0); }
    int main(void) { printf("%lx\n", (long)named_function_placeholder); fflush(stdout); char c; read(0, &c, 1); return 0; }
"#;

/// Runs the program above with other bytes for the function's name.
fn name_of_a_function_called(name: &[u8]) -> String {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "renamed", WAITS);
    let mut bytes = fs::read(&program).unwrap();
    let placeholder = b"named_function_placeholder\0";
    let mut renamed = name.to_vec();
    renamed.resize(placeholder.len(), 0);
    let at: Vec<usize> =
        (0..bytes.len() - placeholder.len()).filter(|at| bytes[*at..].starts_with(placeholder)).collect();
    for at in at {
        put(&mut bytes, at, &renamed);
    }
    let path = dir.path().join("renamed2");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::metadata(&program).unwrap().permissions()).unwrap();
    let running = Running::start(&path);
    frames(&mut running.image(), &[running.addresses[0] + 1, 0x1000]).0[1].clone()
}

#[test]
fn names_that_would_break_the_format_are_made_storable() {
    assert_eq!(name_of_a_function_called(b"a;b\nc\x1b[31m"), "a:b?c?[31m");
    assert_eq!(name_of_a_function_called(b"\xff\xfe\xc3"), "\u{fffd}\u{fffd}\u{fffd}");
    assert_eq!(name_of_a_function_called("größe\u{85}".as_bytes()), "größe?");
    // A function whose name is empty has none.
    assert!(name_of_a_function_called(b"").starts_with("[/"));
}

#[test]
fn a_function_whose_name_demangles_for_ever_is_named_soon() {
    let dir = TempDir::new().unwrap();
    let mangled = format!("_ZUlDT{}Dn3fooE", "nw".repeat(1500));
    let source = WAITS
        .replace("void named_function_placeholder(void) {", &format!("void named_function_placeholder(void) __asm__(\"{mangled}\");\nvoid named_function_placeholder(void) {{"));
    let running = Running::start(&compile(dir.path(), "forever", &source));
    let mut image = running.image();
    let began = Instant::now();
    let (frames, _) = frames(&mut image, &[running.addresses[0] + 1, 0x1000]);
    assert_eq!(frames[1], mangled);
    assert!(began.elapsed() < SOON);
}

#[test]
fn a_program_with_a_sparse_symbol_table_of_any_size_is_named_soon() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "sparse", WAITS);
    let mut bytes = fs::read(&program).unwrap();
    let sections = u64_of(&bytes, 40);
    for section in 0..usize::from(u16::from_le_bytes([bytes[60], bytes[61]])) {
        let header = sections + section * 64;
        if bytes[header + 4..header + 8] == [2, 0, 0, 0] {
            // The table begins behind the file and goes on for a terabyte.
            let end = bytes.len().next_multiple_of(8) as u64;
            put(&mut bytes, header + 24, &end.to_le_bytes());
            put(&mut bytes, header + 32, &u64::to_le_bytes(1 << 40));
        }
    }
    fs::write(&program, bytes).unwrap();
    File::options().write(true).open(&program).unwrap().set_len(1 << 40).unwrap();
    let running = Running::start(&program);
    let mut image = running.image();
    let began = Instant::now();
    let (frames, symbolizer) = frames(&mut image, &[running.addresses[0] + 1, 0x1000]);
    assert_eq!(frames[1], format!("[{}]", program.display()));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let stats = symbolizer.stats();
    assert!(stats.modules.tables_truncated == 1 && stats.modules.table_bytes < 1 << 20, "{stats:?}");
}

#[test]
fn tables_together_stay_within_their_bound() {
    let dir = TempDir::new().unwrap();
    let mut symbolizer = Symbolizer::new(Limits { table_bytes: 40_000, open_files: 6, ..limits() });
    for n in 0..12 {
        let functions: String = (0..1000).map(|f| format!("void f{n}_{f}(void) {{}}\n")).collect();
        let source = WAITS.replace(
            "void named_function_placeholder",
            &format!("{functions}void named_function_placeholder"),
        );
        let running = Running::start(&compile(dir.path(), &format!("table{n}"), &source));
        let mut out = Vec::new();
        symbolizer.name_user(
            &mut running.image(),
            &[running.addresses[0] + 1, 0x1000],
            Duration::ZERO,
            &mut out,
        );
        assert_eq!(&*out[1], "named_function_placeholder");
        let modules = symbolizer.stats().modules;
        assert!(modules.modules <= 6 && modules.table_bytes <= 40_000, "{modules:?}");
    }
}

/// 25,000 executable mappings, and as many of its file beside them.
const MAPPINGS: &str = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        void named_function(void) { write(-1, "", 0); }
        int main(int argc, char **argv) {
            int self = open("/proc/self/exe", O_RDONLY);
            char *base = mmap(0, 50000 * 4096L, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (long n = 0; n < 50000; n++)
                if (mmap(base + n * 4096, 4096, n % 2 ? PROT_READ : PROT_READ | PROT_EXEC,
                         MAP_PRIVATE | MAP_FIXED, self, n % 2 ? 0 : 4096) == MAP_FAILED) return 1;
            printf("%lx %lx\n", (long)named_function, (long)base);
            fflush(stdout);
            char c;
            read(0, &c, 1);
            return 0;
        }
    "#;

#[test]
fn fifty_thousand_mappings_are_read_and_named_soon() {
    let dir = TempDir::new().unwrap();
    let running = Running::start(&compile(dir.path(), "mappings", MAPPINGS));
    let began = Instant::now();
    let mut image = running.image();
    assert!(image.space.len() >= 25_000, "{}", image.space.len());
    let base = running.addresses[1];
    let (frames, _) = frames(&mut image, &[running.addresses[0] + 1, base + 49_998 * 4096, 0x1000]);
    assert_eq!(frames[2], "named_function");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn a_process_with_many_mappings_that_forks_without_end_takes_no_more_memory_than_one() {
    let dir = TempDir::new().unwrap();
    let running = Running::start(&compile(dir.path(), "forks", MAPPINGS));
    let policy = "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\n\
                  metadata: {name: p}\nspec: {hostProcesses: true, regex: ^forks$}\n";
    let (policies, _) = parse_policy_file(policy).unwrap();
    let policies = PolicySet::new(EffectivePolicy::from_file(policies), Environment::Standalone, 99).unwrap();
    let mut processes = Processes::scan().unwrap();
    let parent = running.child.id();
    assert!(processes.decide(parent, &policies, &mut Vec::new()).image().space.len() >= 25_000);

    let before = resident_bytes();
    let began = Instant::now();
    // Above `pid_max`: none of them is anybody's.
    let children = (1 << 23)..(1 << 23) + 2000;
    for tgid in children.clone() {
        processes.apply(Monotonic::now(), &Event::Fork { tgid, parent }, &policies, &mut Vec::new());
    }
    let last = processes.get(children.end - 1);
    assert!(last.image().space.len() >= 25_000 && matches!(last.standing, Standing::Matched(_)));
    assert!(resident_bytes() - before < 256 << 20, "{} bytes", resident_bytes() - before);

    // Children that map code of their own have copies, until there are too many.
    for tgid in children {
        let path = b"/lib/own.so".to_vec();
        let mapped = Mapped { start: 4096, end: 8192, file_offset: 0, path, build_id: None, file: None };
        processes.apply(Monotonic::now(), &Event::Map { tgid, mapped }, &policies, &mut Vec::new());
    }
    assert!(processes.stats().mappings_dropped > 1_000_000, "{:?}", processes.stats());
    assert!(resident_bytes() - before < 256 << 20, "{} bytes", resident_bytes() - before);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// What this test process has in memory.
fn resident_bytes() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

const JIT: &str = r#"
    #include <stdio.h>
    #include <sys/mman.h>
    #include <unistd.h>
    int main(void) {
        printf("%lx\n", (long)mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        fflush(stdout);
        char c;
        read(0, &c, 1);
        return 0;
    }
"#;

/// The frame of a compiled function at the start of that memory, under a map
/// that `write` makes.
fn frame_under_map(write: impl FnOnce(&mut File, u64)) -> (String, Symbolizer) {
    let dir = TempDir::new().unwrap();
    let running = Running::start(&compile(dir.path(), "jit", JIT));
    let path = PathBuf::from(format!("/tmp/perf-{}.map", running.child.id()));
    write(&mut File::create(&path).unwrap(), running.addresses[0]);
    let mut image = running.image();
    let began = Instant::now();
    let (frames, symbolizer) = frames(&mut image, &[running.addresses[0] + 1, 0x1000]);
    let elapsed = began.elapsed();
    fs::remove_file(&path).unwrap();
    assert!(elapsed < SOON, "{elapsed:?}");
    assert!(symbolizer.stats().perf_map_bytes <= 48 << 20);
    (frames[1].clone(), symbolizer)
}

#[test]
fn a_perf_map_of_a_gigabyte_is_cut() {
    let (frame, _) = frame_under_map(|file, jit| {
        writeln!(file, "{jit:x} 40 early").unwrap();
        file.set_len(1 << 30).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        writeln!(file, "\n{jit:x} 40 late").unwrap();
    });
    assert_eq!(frame, "early");
}

#[test]
fn a_perf_map_of_many_functions_is_cut() {
    let (frame, symbolizer) = frame_under_map(|file, jit| {
        let mut text = format!("{jit:x} 40 first\n");
        for n in 0..2_000_000u64 {
            text.push_str(&format!("{:x} 10 f\n", n * 16));
        }
        file.write_all(text.as_bytes()).unwrap();
    });
    assert_eq!(frame, "first");
    // One process gets a quarter of the whole.
    assert!(symbolizer.stats().perf_map_bytes <= 14 << 20, "{}", symbolizer.stats().perf_map_bytes);
}

#[test]
fn a_perf_map_of_noise_is_read_past() {
    let mut noise = Noise(42);
    let (frame, _) = frame_under_map(|file, jit| {
        let mut bytes: Vec<u8> = (0..4 << 20).map(|_| u8::try_from(noise.below(256)).unwrap()).collect();
        bytes.extend_from_slice(format!("\n{jit:x} 40 found;it\n").as_bytes());
        file.write_all(&bytes).unwrap();
    });
    assert_eq!(frame, "found:it");
}

#[test]
fn a_pipe_in_the_place_of_a_perf_map_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let running = Running::start(&compile(dir.path(), "pipe", JIT));
    let path = format!("/tmp/perf-{}.map", running.child.id());
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let (frames, _) = frames(&mut running.image(), &[running.addresses[0] + 1, 0x1000]);
    fs::remove_file(&path).unwrap();
    assert_eq!(frames[1], format!("[unknown] 0x{:016x}", running.addresses[0] + 1));
}

#[test]
fn noise_is_no_perf_map_and_no_maps_file() {
    let mut noise = Noise(7);
    for _ in 0..300 {
        let alphabet = b"0123456789abcdef \n-:rxp/[]x\xff\0";
        let bytes: Vec<u8> = (0..noise.below(4000)).map(|_| alphabet[noise.below(alphabet.len())]).collect();
        let map = PerfMap::read(bytes.as_slice(), 1 << 20).unwrap();
        map.find(noise.next());
        AddressSpace::read_maps(bytes.as_slice()).unwrap();
    }
}
