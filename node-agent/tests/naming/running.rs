//! Programs that print where their functions are and wait, and the naming of their addresses.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hearth_node_agent::proc_fs::stat;
use hearth_node_agent::symbols::{AddressSpace, Limits, ProcessImage, Symbolizer, UserNames};

pub(crate) const AT_ONCE: Duration = Duration::ZERO;
pub(crate) const MUCH_LATER: Duration = Duration::from_secs(3600);

/// Prints `name address` lines and waits. `JIT` is executable memory.
pub(crate) const PRELUDE: &str = r#"
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
pub(crate) fn compile(directory: &Path, name: &str, source: &str, arguments: &[&str]) -> PathBuf {
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
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) addresses: HashMap<String, u64>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
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

    pub(crate) fn program(path: &Path) -> Self {
        Self::start(&mut Command::new(path))
    }

    pub(crate) fn at(&self, name: &str) -> u64 {
        *self.addresses.get(name).unwrap_or_else(|| panic!("{name} was not printed"))
    }

    pub(crate) fn image(&self) -> ProcessImage {
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
pub(crate) fn symbolizer() -> Symbolizer {
    Symbolizer::new(Limits { kallsyms: PathBuf::from("/dev/null"), ..Limits::default() })
}

/// Names a stack, leaf first, and returns its frames root first.
pub(crate) fn name_stack(
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
pub(crate) fn name_of(image: &mut ProcessImage, address: u64) -> String {
    let (frames, _) = name_stack(&mut symbolizer(), image, &[address, 0x1000], AT_ONCE);
    frames.into_iter().nth(1).unwrap()
}

pub(crate) fn check(image: &mut ProcessImage, address: u64, expected: &str) {
    assert_eq!(name_of(image, address), expected, "at {address:x}");
}

pub(crate) fn bracketed(path: &Path) -> String {
    format!("[{}]", path.display())
}

pub(crate) const PROGRAM: &str = r#"
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

pub(crate) const LIBRARY: &str = r#"
    C_FUNCTION int shared_function(int n) { volatile int x = n; return x * 3; }
    static int hidden(int n) { volatile int x = n; return x * 5; }
    C_FUNCTION void *hidden_address(void) { return (void *)hidden; }
"#;

/// A program that loads the library in its first argument.
pub(crate) const LOADER: &str = r#"
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
