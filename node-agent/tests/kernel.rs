//! The BPF programs on the real kernel.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hearth_node_agent::kernel::programs::Programs;
use hearth_node_agent::kernel::sample::{RawSample, comm_name};
use hearth_node_agent_ebpf::record::{COUNT_UNMATCHED, CountKey, DECISION_UNMATCHED, Exit};

/// A process that burns CPU until it is dropped.
struct Burner(Child);

impl Burner {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    fn tgid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Reads until `enough` says so of the samples of one process.
fn samples(programs: &mut Programs, tgid: u32, enough: impl Fn(&[RawSample]) -> bool) -> Vec<RawSample> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut samples = Vec::new();
    while !enough(&samples) {
        assert!(Instant::now() < deadline, "only {} samples in 20 s", samples.len());
        programs
            .read_samples(|sample| samples.extend(sample.ok().filter(|sample| sample.header.tgid == tgid)));
        std::thread::yield_now();
    }
    samples
}

fn count(programs: &Programs, tgid: u32) -> u64 {
    let mut counts: HashMap<CountKey, u64> = HashMap::new();
    programs.read_counts(&mut counts).unwrap();
    let of_burner = counts.iter().filter(|(key, _)| key.tgid == tgid && key.kind == COUNT_UNMATCHED);
    of_burner.map(|(_, ticks)| ticks).sum()
}

#[test]
fn an_undecided_process_is_sampled_with_its_stack() {
    let burner = Burner::start();
    let mut programs = Programs::load(99).unwrap();
    assert!(programs.exec_unattached().is_none());
    programs.set_rate(99).unwrap();
    let samples = samples(&mut programs, burner.tgid(), |samples| samples.len() >= 50);
    for sample in &samples {
        assert_eq!((sample.header.rate, sample.header.node_rate), (0, 99));
        assert_eq!(comm_name(&sample.header.comm), "sh");
        assert!(!sample.user.is_empty(), "a process of user space has a user stack: {sample:?}");
        assert!(sample.user.iter().all(|address| *address < 1 << 47), "{sample:?}");
        assert!(sample.kernel.iter().all(|address| *address > 1 << 63), "{sample:?}");
    }
}

#[test]
fn an_unmatched_process_is_counted_and_a_matched_one_thinned() {
    let burner = Burner::start();
    let mut programs = Programs::load(499).unwrap();
    programs.set_rate(499).unwrap();
    programs.decide(burner.tgid(), 99).unwrap();
    samples(&mut programs, burner.tgid(), |samples| {
        samples.iter().filter(|sample| sample.header.rate == 99).count() >= 50
    });
    let exits = programs.read_exits().unwrap();
    let (sampled, thinned) = (exits[Exit::Sampled as usize], exits[Exit::Thinned as usize]);
    // 99 of 499 ticks are kept, by the clock of each CPU.
    let share = sampled as f64 / (sampled + thinned) as f64;
    assert!((0.15..0.25).contains(&share), "{sampled} sampled, {thinned} thinned");

    programs.decide(burner.tgid(), DECISION_UNMATCHED).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(&programs, burner.tgid()) < 100 {
        assert!(Instant::now() < deadline, "the ticks of an unmatched process are not counted");
        std::thread::yield_now();
    }
}

#[test]
fn a_new_program_is_undecided_again() {
    let mut programs = Programs::load(99).unwrap();
    programs.set_rate(99).unwrap();
    // The shell waits for a line, then becomes another program.
    let mut shell = Command::new("sh")
        .args(["-c", "read line; exec sh -c 'while :; do :; done'"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    programs.decide(shell.id(), DECISION_UNMATCHED).unwrap();
    drop(shell.stdin.take());
    let burner = Burner(shell);
    let samples = samples(&mut programs, burner.tgid(), |samples| samples.len() >= 5);
    assert!(samples.iter().all(|sample| sample.header.rate == 0), "undecided since its exec");
}

/// The program of `fixtures/chain.c`: given ready in `HEARTH_CHAIN` where there is no
/// compiler (another kernel's small root file system), else compiled here.
fn chain() -> (Option<tempfile::TempDir>, std::path::PathBuf) {
    if let Some(ready) = std::env::var_os("HEARTH_CHAIN") {
        return (None, ready.into());
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("chain");
    let source = std::env::var("CARGO_MANIFEST_DIR").unwrap() + "/tests/fixtures/chain.c";
    let flags = [
        "-O1",
        "-static",
        "-fno-omit-frame-pointer",
        "-mno-omit-leaf-frame-pointer",
        "-fno-optimize-sibling-calls",
        "-o",
    ];
    let status = Command::new("cc").args(flags).arg(&program).arg(source).status().unwrap();
    assert!(status.success(), "cc failed");
    (Some(folder), program)
}

#[test]
fn a_stack_is_walked_by_frame_pointers() {
    use std::io::{BufRead, BufReader};
    let (_folder, program) = chain();
    let mut child = Command::new(program)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let starts: Vec<u64> = line
        .split_whitespace()
        .map(|address| u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap())
        .collect();
    let function = |address: &u64| {
        let names = ["burn", "middle", "outer", "main"];
        let (name, _) = names
            .iter()
            .zip(&starts)
            .filter(|(_, start)| *start <= address)
            .max_by_key(|(_, start)| **start)?;
        Some(*name)
    };
    let burner = Burner(child);
    let mut programs = Programs::load(99).unwrap();
    programs.set_rate(99).unwrap();
    let samples = samples(&mut programs, burner.tgid(), |samples| samples.len() >= 50);
    let whole = samples.iter().filter(|sample| {
        let named: Vec<_> = sample.user.iter().take(4).filter_map(function).collect();
        named == ["burn", "middle", "outer", "main"]
    });
    // A sample may hit `middle`, `outer` or the poll between two rounds of work.
    let whole = whole.count();
    assert!(
        whole * 10 >= samples.len() * 9,
        "only {whole} of {} stacks are whole: {samples:#x?}",
        samples.len()
    );
}
