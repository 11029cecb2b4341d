//! Names of addresses in real processes: each row of the naming table.
//!
//! The programs are compiled by the tests. Each prints where its functions are
//! and waits for its standard input to close.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hearth_node_agent::proc_fs::stat;
use hearth_node_agent::symbols::{AddressSpace, KernelNames, Limits, ProcessImage, Symbolizer, UserNames};
use tempfile::TempDir;

const AT_ONCE: Duration = Duration::ZERO;
const MUCH_LATER: Duration = Duration::from_secs(3600);

/// Prints `name address` lines and waits. `JIT` is executable memory.
const PRELUDE: &str = r#"
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/auxv.h>
    #include <sys/mman.h>
    #include <time.h>
    #include <unistd.h>
    #ifdef __cplusplus
    #define C_FUNCTION extern "C"
    #else
    #define C_FUNCTION
    #endif
    static void show(const char *name, const void *at) { printf("%s %lx\n", name, (unsigned long)at); }
    static void wait_for_end(void) { printf("pid %x\nready 0\n", getpid()); fflush(stdout); char c; while (read(0, &c, 1) > 0) {} }
    static void *executable_memory(void) {
        void *p = mmap(0, 16384, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(p, 0xc3, 16384);
        return p;
    }
"#;

/// Compiles `source` with the prelude before it.
fn compile(directory: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let is_cpp = arguments.contains(&"-xc++");
    let source_path = directory.join(format!("{name}.{}", if is_cpp { "cc" } else { "c" }));
    let binary = directory.join(name);
    fs::write(&source_path, format!("{PRELUDE}{source}")).unwrap();
    let status = Command::new(if is_cpp { "g++" } else { "gcc" })
        .args(["-O1", "-fno-omit-frame-pointer", "-fno-inline", "-fno-optimize-sibling-calls", "-w"])
        .args(arguments)
        .arg("-o")
        .arg(&binary)
        .arg(&source_path)
        .arg("-ldl")
        .status()
        .unwrap();
    assert!(status.success(), "compiling {name}");
    binary
}

/// A running program that waits, and the addresses that it printed.
struct Running {
    child: Child,
    pid: u32,
    addresses: HashMap<String, u64>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut addresses = HashMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let (name, address) = line.split_once(' ').unwrap();
            if name == "ready" {
                break;
            }
            addresses.insert(name.to_owned(), u64::from_str_radix(address, 16).unwrap());
        }
        Self { pid: child.id(), child, addresses }
    }

    fn program(path: &Path) -> Self {
        Self::start(&mut Command::new(path))
    }

    fn at(&self, name: &str) -> u64 {
        *self.addresses.get(name).unwrap_or_else(|| panic!("{name} was not printed"))
    }

    fn image(&self) -> ProcessImage {
        let space = AddressSpace::read_from_proc(self.pid).unwrap();
        ProcessImage::new(self.pid, stat(self.pid).unwrap().start_ticks, space)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It may be gone already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One that does not read the kernel's functions, which takes its time.
fn symbolizer() -> Symbolizer {
    Symbolizer::new(Limits { kallsyms: PathBuf::from("/dev/null"), ..Limits::default() })
}

/// Names a stack, leaf first, and returns its frames root first.
fn name_stack(
    symbolizer: &mut Symbolizer,
    image: &mut ProcessImage,
    addresses: &[u64],
    defer: Duration,
) -> (Vec<String>, UserNames) {
    let mut out = Vec::new();
    let said = symbolizer.name_user(image, addresses, defer, &mut out);
    (out.iter().map(Arc::to_string).collect(), said)
}

/// The frame of one address that is not the thread's entry.
fn name_of(image: &mut ProcessImage, address: u64) -> String {
    let (frames, _) = name_stack(&mut symbolizer(), image, &[address, 0x1000], AT_ONCE);
    frames.into_iter().nth(1).unwrap()
}

fn check(image: &mut ProcessImage, address: u64, expected: &str) {
    assert_eq!(name_of(image, address), expected, "at {address:x}");
}

fn bracketed(path: &Path) -> String {
    format!("[{}]", path.display())
}

const PROGRAM: &str = r#"
    C_FUNCTION int xqzvk(int n) { volatile int x = n; return x * 7 + 1; }
    static int only_here(int n) { volatile int x = n; return x + 1; }
    int main(void) {
        show("xqzvk", (void *)xqzvk);
        show("only_here", (void *)only_here);
        show("main", (void *)main);
        show("jit", executable_memory());
        wait_for_end();
        return xqzvk(1) + only_here(2);
    }
"#;

#[test]
fn the_applications_own_functions_have_plain_names() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "plain", PROGRAM, &[]));
    let mut image = running.image();
    check(&mut image, running.at("xqzvk"), "xqzvk");
    check(&mut image, running.at("xqzvk") + 3, "xqzvk");
    check(&mut image, running.at("only_here"), "only_here");
    check(&mut image, running.at("main") + 8, "main");
}

#[test]
fn a_program_that_is_not_position_independent_too() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "fixed", PROGRAM, &["-no-pie"]));
    check(&mut running.image(), running.at("only_here") + 1, "only_here");
}

#[test]
fn a_stack_is_named_root_first_and_callers_before_their_return_address() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "stack", PROGRAM, &[]));
    let mut image = running.image();
    // The first byte of `main` as a return address belongs to what ends before it.
    let stack = [running.at("xqzvk"), running.at("main"), running.at("main") + 9];
    let (frames, said) = name_stack(&mut symbolizer(), &mut image, &stack, AT_ONCE);
    assert_eq!((frames[0].as_str(), frames[2].as_str()), ("main", "xqzvk"));
    assert_ne!(frames[1], "main");
    assert_eq!(said, UserNames::default());
}

#[test]
fn where_threads_begin_is_recognized() {
    let dir = TempDir::new().unwrap();
    let source = format!(
        "extern void _start(void);\n{}",
        PROGRAM.replace("show(\"main\"", "show(\"_start\", (void*)_start); show(\"main\"")
    );
    let running = Running::program(&compile(dir.path(), "entry", &source, &[]));
    let mut image = running.image();
    let stack = [running.at("main"), running.at("_start") + 8];
    let (frames, said) = name_stack(&mut symbolizer(), &mut image, &stack, AT_ONCE);
    assert_eq!(frames, ["_start", "main"]);
    assert!(said.outermost_is_entry);
}

const LIBRARY: &str = r#"
    C_FUNCTION int shared_function(int n) { volatile int x = n; return x * 3; }
    static int hidden(int n) { volatile int x = n; return x * 5; }
    C_FUNCTION void *hidden_address(void) { return (void *)hidden; }
"#;

/// A program that loads the library in its first argument.
const LOADER: &str = r#"
    int main(int argc, char **argv) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
        show("shared_function", dlsym(library, "shared_function"));
        show("hidden", ((void *(*)(void))dlsym(library, "hidden_address"))());
        show("jit", executable_memory());
        wait_for_end();
        return 0;
    }
"#;

#[test]
fn functions_of_a_shared_library_are_marked() {
    let dir = TempDir::new().unwrap();
    let library = compile(dir.path(), "libshared.so.1", LIBRARY, &["-shared", "-fPIC"]);
    let loader = compile(dir.path(), "loader", LOADER, &[]);
    let running = Running::start(Command::new(&loader).arg(&library));
    let mut image = running.image();
    check(&mut image, running.at("shared_function") + 2, "[l] shared_function");
    check(&mut image, running.at("hidden") + 2, "[l] hidden");
}

#[test]
fn a_stripped_program_is_named_by_its_path() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "stripped", PROGRAM, &["-s"]);
    let running = Running::program(&program);
    let (frames, said) =
        name_stack(&mut symbolizer(), &mut running.image(), &[running.at("xqzvk"), 0x1000], AT_ONCE);
    assert_eq!(frames[1], bracketed(&program));
    assert_eq!(said.without_symbol, 1);
}

#[test]
fn a_stripped_library_still_names_what_it_exports() {
    let dir = TempDir::new().unwrap();
    let library = compile(dir.path(), "libstripped.so", LIBRARY, &["-shared", "-fPIC", "-s"]);
    let loader = compile(dir.path(), "loader", LOADER, &[]);
    let running = Running::start(Command::new(&loader).arg(&library));
    let mut image = running.image();
    check(&mut image, running.at("shared_function") + 2, "[l] shared_function");
    // Not the name of the exported function before it.
    check(&mut image, running.at("hidden") + 2, &bracketed(&library));
}

#[test]
fn a_deleted_program_keeps_its_names() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "deleted", PROGRAM, &[]);
    let running = Running::program(&program);
    fs::remove_file(&program).unwrap();
    check(&mut running.image(), running.at("xqzvk") + 2, "xqzvk");
}

#[test]
fn a_deleted_and_stripped_program_is_named_by_the_path_it_had() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "gone", PROGRAM, &["-s"]);
    let running = Running::program(&program);
    fs::remove_file(&program).unwrap();
    check(&mut running.image(), running.at("xqzvk") + 2, &bracketed(&program));
}

#[test]
fn a_replaced_program_does_not_lend_its_names() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "replaced", PROGRAM, &[]);
    let running = Running::program(&program);
    let mut image = running.image();
    let address = running.at("xqzvk") + 2;
    // The process is gone and another file has the path.
    drop(running);
    fs::rename(&program, dir.path().join("old")).unwrap();
    compile(dir.path(), "replaced", &PROGRAM.replace("xqzvk", "wrong"), &[]);
    check(&mut image, address, &bracketed(&program));
}

#[test]
fn a_process_that_is_gone_has_names_if_it_was_prepared() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "short", PROGRAM, &[]);
    let running = Running::program(&program);
    let (mut image, address) = (running.image(), running.at("xqzvk") + 2);
    let mut symbolizer = symbolizer();
    symbolizer.prepare(&mut image);
    drop(running);
    fs::remove_file(&program).unwrap();
    let (frames, _) = name_stack(&mut symbolizer, &mut image, &[address, 0x1000], AT_ONCE);
    assert_eq!(frames[1], "xqzvk");
}

#[test]
fn cpp_names_are_demangled() {
    let dir = TempDir::new().unwrap();
    let source = r#"
        #include <vector>
        namespace outer {
            struct Worker { int spin(const std::vector<int> &v) { volatile int x = v.size(); return x; } };
            template <class T> int apply(T t) { volatile int x = sizeof(t); return x; }
        }
        int main() {
            int (outer::Worker::*member)(const std::vector<int> &) = &outer::Worker::spin;
            void *at; memcpy(&at, &member, sizeof at);
            show("spin", at);
            show("apply", (void *)&outer::apply<short>);
            wait_for_end();
            return 0;
        }
    "#;
    let running = Running::program(&compile(dir.path(), "cpp", source, &["-xc++"]));
    let mut image = running.image();
    check(&mut image, running.at("spin") + 1, "outer::Worker::spin");
    check(&mut image, running.at("apply") + 1, "outer::apply<short>");
}

#[test]
fn rust_names_are_demangled_without_their_hash() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("rusty.rs");
    fs::write(
        &source,
        r#"mod inner { #[inline(never)] pub fn spin(n: u64) -> u64 { std::hint::black_box(n) + 1 } }
           fn main() { println!("spin {:x}\nready 0", inner::spin as fn(u64) -> u64 as usize);
                       std::io::stdin().read_line(&mut String::new()).unwrap(); }"#,
    )
    .unwrap();
    for mangling in ["legacy", "v0"] {
        let program = dir.path().join(format!("rusty-{mangling}"));
        let mut command = Command::new("rustc");
        command.env("RUSTC_BOOTSTRAP", "1").args(["-Zunstable-options", "-C"]);
        command.arg(format!("symbol-mangling-version={mangling}")).arg("-o").arg(&program).arg(&source);
        assert!(command.status().unwrap().success());
        let running = Running::program(&program);
        check(&mut running.image(), running.at("spin") + 1, "rusty::inner::spin");
    }
}

#[test]
fn functions_of_the_vdso_are_library_functions() {
    let dir = TempDir::new().unwrap();
    let source = r#"
        int main(void) {
            char *base = (char *)getauxval(AT_SYSINFO_EHDR);
            void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
            if (!vdso) { fprintf(stderr, "%s\n", dlerror()); return 1; }
            show("clock_gettime", dlsym(vdso, "__vdso_clock_gettime"));
            show("header", base + 8);
            wait_for_end();
            return 0;
        }
    "#;
    let running = Running::program(&compile(dir.path(), "vdso", source, &[]));
    let mut image = running.image();
    check(&mut image, running.at("clock_gettime") + 1, "[l] __vdso_clock_gettime");
    check(&mut image, running.at("header"), "[vdso]");
}

#[test]
fn memory_without_a_file_is_unknown_by_address() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "anonymous", PROGRAM, &[]));
    let mut image = running.image();
    let jit = running.at("jit");
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    check(&mut image, 0xdead_b000, "[unknown] 0x00000000deadb000");
}

#[test]
fn an_unknown_thread_entry_has_a_name_of_its_own() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "thread", PROGRAM, &[]));
    let mut image = running.image();
    let stack = [running.at("xqzvk"), running.at("jit") + 0x10, running.at("jit") + 0x20];
    let unknown = format!("[unknown] 0x{:016x}", running.at("jit") + 0x10);
    let (frames, said) = name_stack(&mut symbolizer(), &mut image, &stack, AT_ONCE);
    assert_eq!(frames, ["[unknown start_thread?]", &unknown, "xqzvk"]);
    assert_eq!((said.unknown, said.unmapped), (2, 0));
    // Under a frame that stands for missing callers it is no entry.
    let mut out: Vec<Arc<str>> = vec!["[truncated]".into()];
    symbolizer().name_user(&mut image, &stack[..2], AT_ONCE, &mut out);
    assert_eq!(&*out[1], unknown);
}

#[test]
fn different_unknown_addresses_are_bounded_per_window() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "many", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let stack: Vec<u64> = (0..300).map(|n| jit + n * 2).collect();
    let (frames, said) = name_stack(&mut symbolizer, &mut image, &stack, AT_ONCE);
    // One of the 300 is the thread's entry.
    assert_eq!(said.over_unknown_budget, 299 - 256);
    assert_eq!(frames.iter().filter(|frame| *frame == "[unknown]").count(), 299 - 256);
    symbolizer.begin_window();
    let (_, said) = name_stack(&mut symbolizer, &mut image, &[jit + 598, jit], AT_ONCE);
    assert_eq!(said.over_unknown_budget, 0);
}

/// Writes a perf map and removes it in the end.
struct MapFile(PathBuf);

impl MapFile {
    fn write(path: PathBuf, text: &str) -> Self {
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn of(pid: u32, text: &str) -> Self {
        Self::write(PathBuf::from(format!("/tmp/perf-{pid}.map")), text)
    }
}

impl Drop for MapFile {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn a_perf_map_names_compiled_code() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "jit", PROGRAM, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    let _map =
        MapFile::of(running.pid, &format!("{jit:x} 40 Lorg/Example;::work\n{:x} 40 a;b\n", jit + 0x40));
    check(&mut image, jit + 0x3f, "Lorg/Example;::work".replace(';', ":").as_str());
    check(&mut image, jit + 0x40, "a:b");
    let (frames, said) =
        name_stack(&mut symbolizer(), &mut image, &[jit + 0x100, running.at("main")], AT_ONCE);
    assert_eq!(frames[1], "[/tmp/perf-PID.map]");
    assert_eq!(said.unresolved_jit, 1);
}

#[test]
fn a_perf_map_is_read_again_once_deferred_and_changed() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "rejit", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let map = MapFile::of(running.pid, &format!("{jit:x} 40 first\n"));
    let mut name = |defer| name_stack(&mut symbolizer, &mut image, &[jit + 0x48, 0x1000], defer).0[1].clone();
    assert_eq!(name(MUCH_LATER), "[/tmp/perf-PID.map]");
    let text = format!("{jit:x} 40 first\n{:x} 40 second\n", jit + 0x40);
    fs::write(&map.0, text).unwrap();
    assert_eq!(name(MUCH_LATER), "[/tmp/perf-PID.map]");
    assert_eq!(name(AT_ONCE), "second");
}

#[test]
fn a_perf_map_of_a_prepared_process_outlives_it() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::program(&compile(dir.path(), "jitgone", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let _map = MapFile::of(running.pid, &format!("{jit:x} 40 brief\n"));
    symbolizer.prepare(&mut image);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let (frames, _) = name_stack(&mut symbolizer, &mut image, &[jit + 1, 0x1000], AT_ONCE);
    assert_eq!(frames[1], "brief");
}

#[test]
fn a_perf_map_of_somebody_else_or_behind_a_link_is_not_read() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "foreign", PROGRAM, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    let text = format!("{jit:x} 40 forged\n");
    let map = MapFile::of(running.pid, &text);
    std::os::unix::fs::chown(&map.0, Some(12345), Some(12345)).unwrap();
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    fs::remove_file(&map.0).unwrap();
    let target = dir.path().join("target");
    fs::write(&target, &text).unwrap();
    std::os::unix::fs::symlink(&target, &map.0).unwrap();
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
}

#[test]
fn a_perf_map_is_found_in_another_mount_and_pid_namespace() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "contained", PROGRAM, &[]);
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // A /tmp of its own, and the program under a path that does not exist outside.
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs tmp {root} && cp {program} {root}/app && mount --bind {root} /mnt \
         && mount -t tmpfs tmp /tmp && exec /mnt/app",
        root = root.display(),
        program = program.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let mut running = Running::start(&mut command);
    // The child of `unshare` is the one in the new pid namespace.
    let children = format!("/proc/{0}/task/{0}/children", running.pid);
    running.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let inner = running.at("pid");
    assert_eq!(inner, 1);
    let jit = running.at("jit");
    let map = PathBuf::from(format!("/proc/{}/root/tmp/perf-{inner}.map", running.pid));
    fs::write(&map, format!("{jit:x} 40 contained_function\n")).unwrap();
    let mut image = running.image();
    check(&mut image, jit + 4, "contained_function");
    check(&mut image, running.at("xqzvk") + 2, "xqzvk");
}

#[test]
fn unlisted_code_of_a_jvm_is_its_maps() {
    let dir = TempDir::new().unwrap();
    let library = compile(dir.path(), "libjvm.so", LIBRARY, &["-shared", "-fPIC"]);
    let loader = compile(dir.path(), "java", LOADER, &[]);
    let running = Running::start(Command::new(&loader).arg(&library));
    let mut image = running.image();
    let (frames, said) =
        name_stack(&mut symbolizer(), &mut image, &[running.at("jit"), running.at("jit") + 8], AT_ONCE);
    assert_eq!(frames, ["[/tmp/perf-PID.map]", "[/tmp/perf-PID.map]"]);
    assert!(said.outermost_is_jit);
}

#[test]
fn a_program_run_from_memory_has_names() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "inner", PROGRAM, &[]);
    let source = r#"
        #include <fcntl.h>
        int main(int argc, char **argv) {
            int from = open(argv[1], O_RDONLY), to = memfd_create("loaded", 0);
            char buffer[65536]; ssize_t n;
            while ((n = read(from, buffer, sizeof buffer)) > 0) write(to, buffer, n);
            char *arguments[] = {"loaded", 0}, *environment[] = {0};
            fexecve(to, arguments, environment);
            return 1;
        }
    "#;
    let running = Running::start(Command::new(compile(dir.path(), "exec", source, &[])).arg(&program));
    check(&mut running.image(), running.at("xqzvk") + 2, "xqzvk");
}

#[test]
fn code_written_to_shared_memory_is_compiled_code() {
    let dir = TempDir::new().unwrap();
    let source = r#"
        int main(void) {
            int memory = memfd_create("doublemapper", 0);
            ftruncate(memory, 8192);
            show("jit", mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, memory, 0));
            wait_for_end();
            return 0;
        }
    "#;
    let running = Running::program(&compile(dir.path(), "double", source, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    let _map = MapFile::of(running.pid, &format!("{jit:x} 40 managed\n"));
    check(&mut image, jit, "managed");
}

#[test]
fn of_several_names_the_one_that_perf_shows_wins() {
    let dir = TempDir::new().unwrap();
    let source = r#"
        __asm__(".globl longest_name, short_name, __underscored, weak_but_longer_name\n"
                ".weak weak_but_longer_name\n"
                ".type longest_name,@function\n.type short_name,@function\n"
                ".type __underscored,@function\n.type weak_but_longer_name,@function\n"
                "longest_name:\nshort_name:\n__underscored:\nweak_but_longer_name:\nlocal_and_even_longer:\nret\nnop\nret\n"
                ".size longest_name,3\n.size short_name,3\n.size __underscored,3\n.size weak_but_longer_name,3\n"
                "sizeless:\nnop\nnop\nnop\nret\n"
                ".type behind,@function\nbehind: ret\n.size behind,1\n.skip 16\n.section .fini_extra,\"ax\"\nlast: ret\n.text\n");
        extern char longest_name[];
        int main(void) { show("aliases", longest_name); wait_for_end(); return 0; }
    "#;
    let running = Running::program(&compile(dir.path(), "aliases", source, &["-O0"]));
    let (mut image, at) = (running.image(), running.at("aliases"));
    check(&mut image, at + 1, "longest_name");
    check(&mut image, at + 3, "sizeless");
    check(&mut image, at + 6, "sizeless");
    check(&mut image, at + 7, "behind");
    // Behind the end of a function of known size nobody is named.
    check(&mut image, at + 8, &bracketed(&dir.path().join("aliases")));
}

#[test]
fn names_are_read_without_the_right_to_map_files() {
    // Another user's program, reached by its path alone: as without
    // CAP_CHECKPOINT_RESTORE, when its mappings are not those of its start.
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let running = Running::program(&compile(dir.path(), "merged", PROGRAM, &[]));
    let space = AddressSpace::read_from_proc(running.pid).unwrap();
    let mut cut = AddressSpace::new();
    for mapping in space.iter() {
        let mut mapping = mapping.clone();
        // No such range in map_files.
        mapping.end -= 1;
        cut.insert(mapping);
    }
    let mut image = ProcessImage::new(running.pid, stat(running.pid).unwrap().start_ticks, cut);
    check(&mut image, running.at("xqzvk") + 2, "xqzvk");
}

#[test]
fn kernel_functions_are_named_from_kallsyms() {
    let mut symbolizer = Symbolizer::new(Limits::default());
    assert!(matches!(symbolizer.kernel_names(), KernelNames::Available(count) if *count > 10_000));
    let kallsyms = fs::read_to_string("/proc/kallsyms").unwrap();
    let address_of = |name: &str| {
        let line = kallsyms.lines().find(|line| line.ends_with(&format!(" T {name}"))).unwrap();
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    };
    let mut out = Vec::new();
    symbolizer.name_kernel(&[address_of("vfs_read") + 4, address_of("schedule") + 8, 1 << 63], &mut out);
    assert_eq!(
        out.iter().map(|f| &**f).collect::<Vec<_>>(),
        ["[k] [unknown]", "[k] schedule", "[k] vfs_read"]
    );
}

#[test]
fn one_file_is_opened_once_for_many_processes() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "shared", PROGRAM, &[]);
    let copy = dir.path().join("copy");
    fs::copy(&program, &copy).unwrap();
    let mut symbolizer = symbolizer();
    let before = symbolizer.stats().modules.modules;
    for path in [&program, &program, &copy] {
        let running = Running::program(path);
        let (frames, _) =
            name_stack(&mut symbolizer, &mut running.image(), &[running.at("xqzvk"), 0x1000], AT_ONCE);
        assert_eq!(frames[1], "xqzvk");
    }
    // The program (by build id also its copy), libc, and the loader.
    assert!(symbolizer.stats().modules.modules - before <= 3, "{:?}", symbolizer.stats());
}
