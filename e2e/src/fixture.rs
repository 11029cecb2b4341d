//! Programs to profile: sources that are compiled at that moment, and their processes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::daemon::{bound_to_us, spawn, wait_for};
use crate::proc_fs;

/// Every fixture begins with this: functions that the compiler neither inlines nor clones nor
/// merges, and a loop that burns the same time wherever it stands. The loop asks for its frame's
/// address, because gcc leaves a function that calls nothing without a frame whatever the flags
/// say, and no walk by frame pointers can then see who called it.
const PRELUDE: &str = r#"
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#define FUNCTION __attribute__((noipa, aligned(64)))
#define BURN(n) do { __asm__ volatile("" : : "r"(__builtin_frame_address(0))); \
  for (unsigned long i_ = (n); i_; i_--) __asm__ volatile("" : "+r"(i_)); } while (0)
"#;

/// With frame pointers and with every call a call.
pub const WITH_FRAME_POINTERS: &[&str] =
    &["-O1", "-fno-omit-frame-pointer", "-fno-inline", "-fno-optimize-sibling-calls"];

/// Milliseconds after which the turns of [`Program::in_turns`] begin again.
pub const TURNS: u32 = 400;

/// A compiled program in a folder of its own.
#[derive(Debug)]
pub struct Program {
    folder: TempDir,
    name: String,
}

impl Program {
    /// Compiles C. `name` becomes the comm of its processes.
    ///
    /// # Panics
    /// If gcc refuses it.
    pub fn compile(name: &str, source: &str) -> Self {
        Self::compile_with(name, source, WITH_FRAME_POINTERS)
    }

    /// The same with other flags.
    pub fn compile_with(name: &str, source: &str, flags: &[&str]) -> Self {
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-Wall"]).args(flags);
        Self::build(name, "source.c", &format!("{PRELUDE}\n{source}"), gcc)
    }

    /// Compiles Rust, with frame pointers. `name` becomes the comm of its processes.
    pub fn compile_rust(name: &str, source: &str) -> Self {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition=2024", "-O", "-C", "force-frame-pointers=yes", "--crate-name=fixture"]);
        Self::build(name, "source.rs", source, rustc)
    }

    /// Compiles Go, which has frame pointers. `name` becomes the comm of its processes.
    pub fn compile_go(name: &str, source: &str) -> Self {
        let mut go = Command::new("go");
        // No other toolchain is fetched, whatever the machine's settings ask for.
        go.arg("build").env("GOTOOLCHAIN", "local");
        Self::build(name, "source.go", source, go)
    }

    /// Compiles `source` by a compiler that takes `-o BINARY FILE` behind its other arguments.
    fn build(name: &str, file_name: &str, source: &str, mut compiler: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join(file_name);
        std::fs::write(&file, source).expect("the folder can be written");
        compiler.arg("-o").arg(folder.path().join(name)).arg(&file);
        let output = compiler.output().unwrap_or_else(|error| {
            panic!("cannot start {compiler:?}: {error}; scripts/setup.sh test installs it")
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{compiler:?}: {stderr}\n{source}");
        Self { folder, name: name.to_owned() }
    }

    /// A program that burns CPU in `main` → `burn` until it is killed.
    pub fn burner(name: &str) -> Self {
        Self::compile(name, "FUNCTION void burn(void) { for (;;) BURN(1000000); } int main(void) { burn(); }")
    }

    /// A program that burns CPU in `main` → `work_in_c` in its turn only: from `argv[1]` to
    /// `argv[2]` milliseconds of every [`TURNS`], by the machine's clock. Those whose turns do not
    /// overlap never wait for each other.
    pub fn in_turns(name: &str) -> Self {
        Self::compile(
            name,
            &format!(
                "FUNCTION void work_in_c(void) {{ BURN(100000); }}
                int main(int argc, char **argv) {{
                  long from = atol(argv[1]), until = atol(argv[2]);
                  for (;;) {{
                    struct timespec t;
                    clock_gettime(CLOCK_REALTIME, &t);
                    long at = (t.tv_sec * 1000 + t.tv_nsec / 1000000) % {TURNS};
                    if (from <= at && at < until) work_in_c();
                    else usleep((from - at + {TURNS}) % {TURNS} * 1000);
                  }}
                }}"
            ),
        )
    }

    /// The comm of its processes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// The folder it stands in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, and waits until it runs under its own name.
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Running {
        self.start_by::<&str, S>(&[], arguments)
    }

    /// The same with a pipe to its stdin, for [`Running::write_line`].
    pub fn start_with_stdin(&self) -> Running {
        let mut command = bound_to_us(&self.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        self.spawn(command)
    }

    /// The same, started by a program that ends its arguments with ours, as `taskset -c 0` does.
    pub fn start_by<L: AsRef<std::ffi::OsStr>, S: AsRef<std::ffi::OsStr>>(
        &self,
        launcher: &[L],
        arguments: &[S],
    ) -> Running {
        let mut command = match launcher {
            [] => bound_to_us(&self.path()),
            [program, rest @ ..] => {
                let mut command = bound_to_us(program.as_ref().as_ref());
                command.args(rest).arg(self.path());
                command
            }
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        self.spawn(command)
    }

    fn spawn(&self, command: Command) -> Running {
        let running = Running { child: spawn(command) };
        let exe = self.path().canonicalize().expect("the program was compiled");
        wait_for(&format!("{} to run", self.name), || {
            let link = std::fs::read_link(format!("/proc/{}/exe", running.pid()));
            // One that ended already has run.
            link.map_or(Some(()), |link| (link == exe).then_some(()))
        });
        running
    }
}

/// A process of a fixture; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far in seconds, by the kernel's account.
    pub fn cpu_seconds(&self) -> f64 {
        proc_fs::cpu_seconds(self.pid())
    }

    /// Kills it; its CPU time until then in seconds.
    pub fn kill(mut self) -> f64 {
        let seconds = self.cpu_seconds();
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        seconds
    }

    /// Waits until it ends by itself; what it printed.
    pub fn wait(mut self) -> String {
        use std::io::Read as _;
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().expect("stdout is a pipe");
        stdout.read_to_string(&mut text).expect("fixtures print UTF-8");
        let status: ExitStatus = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "the fixture ended with {status}: {text}");
        text
    }

    /// The next line it prints.
    pub fn read_line(&mut self) -> String {
        use std::io::Read as _;
        let stdout = self.child.stdout.as_mut().expect("stdout is a pipe");
        let mut line = Vec::new();
        let mut byte = [0];
        // A byte at a time: nothing that follows the line may be taken from the pipe.
        while stdout.read(&mut byte).expect("a pipe can be read") == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("fixtures print UTF-8")
    }

    /// Sends it an empty line.
    pub fn write_line(&mut self) {
        use std::io::Write as _;
        let stdin = self.child.stdin.as_mut().expect("it was started with a pipe to stdin");
        stdin.write_all(b"\n").expect("it reads the line");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is as good as killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
