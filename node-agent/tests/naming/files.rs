//! Code of files: programs, libraries, the vDSO, the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use hearth_node_agent::proc_fs::stat;
use hearth_node_agent::symbols::{AddressSpace, KernelNames, Limits, ProcessImage, Symbolizer, UserNames};
use tempfile::TempDir;

use crate::running::*;

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
