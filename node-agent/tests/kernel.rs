//! The BPF programs on the real kernel.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hearth_node_agent::kernel::counts::Count;
use hearth_node_agent::kernel::programs::{Programs, Sizes, online};
use hearth_node_agent::kernel::sample::{RawSample, comm_name};
use hearth_node_agent_ebpf::limits::MAX_DECISIONS;
use hearth_node_agent_ebpf::record::{COUNT_UNMATCHED, DECISION_UNMATCHED, EXITS, Exit};

/// A process that burns CPU until it is dropped.
struct Burner(Child);

impl Burner {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }

    fn tgid(&self) -> u32 {
        self.0.id()
    }

    /// Ends its burning for a while; it lives.
    fn pause(&self) {
        // SAFETY: a plain system call on a child that is not waited for yet.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, libc::SIGSTOP) }, 0);
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

/// Waits for it, with the ring buffer emptied meanwhile.
fn wait_until(what: &str, programs: &mut Programs, mut is_so: impl FnMut(&mut Programs) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so(programs) {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        programs.read_samples(|_| {});
        std::thread::yield_now();
    }
}

fn loaded(rate: u32) -> Programs {
    Programs::load(Sizes::for_rate(online().unwrap().len(), rate)).unwrap()
}

/// The counted ticks of a process.
fn ticks_of(tgid: u32, counts: &[Count]) -> u64 {
    let of_process =
        counts.iter().filter(|count| count.key.tgid == tgid && count.key.kind == COUNT_UNMATCHED);
    of_process.flat_map(|count| &count.ticks).sum()
}

/// Ticks of the sampler by how each ended.
fn ends(exits: &[u64; EXITS as usize]) -> u64 {
    let steps = [Exit::NoKernelStack, Exit::WalkBroken, Exit::WalkTruncated, Exit::ExecCleared];
    let ends = Exit::ALL.iter().filter(|exit| !steps.contains(exit));
    ends.map(|exit| exits[*exit as usize]).sum()
}

#[test]
fn an_undecided_process_is_sampled_with_its_stack() {
    let burner = Burner::start();
    let mut programs = loaded(99);
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
    let mut programs = loaded(499);
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
    let mut counted = 0;
    wait_until("the ticks of an unmatched process", &mut programs, |programs| {
        counted += ticks_of(burner.tgid(), &programs.take_counts().unwrap().0);
        counted >= 100
    });
}

#[test]
fn a_sample_without_room_in_the_ring_buffer_is_counted() {
    let (decided, undecided) = (Burner::start(), Burner::start());
    let mut programs = Programs::load(Sizes { ring_bytes: 4096, ..Sizes::for_rate(1, 99) }).unwrap();
    let started: u64 = programs.read_ticks().unwrap().iter().sum();
    programs.decide(decided.tgid(), 997).unwrap();
    programs.set_rate(997).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while programs.read_exits().unwrap()[Exit::RingFull as usize] < 200 {
        assert!(Instant::now() < deadline, "the ring buffer is never full");
        std::thread::yield_now();
    }
    programs.set_rate(0).unwrap();

    let mut sampled = 0;
    programs.read_samples(|sample| sampled += u64::from(sample.is_ok()));
    let (counts, _) = programs.take_counts().unwrap();
    let exits = programs.read_exits().unwrap();
    let exit = |exit: Exit| exits[exit as usize];
    let lost = |tgid: Option<u32>| {
        let lost = counts.iter().filter(|count| tgid.is_none_or(|tgid| count.key.tgid == tgid));
        lost.flat_map(|count| &count.ticks).sum::<u64>()
    };
    assert!(lost(Some(decided.tgid())) > 0 && lost(Some(undecided.tgid())) > 0);
    assert_eq!(lost(None), exit(Exit::RingFull), "every sample without room is in the table");
    assert_eq!(sampled, exit(Exit::Sampled) + exit(Exit::SampledUndecided));
    let ticks = programs.read_ticks().unwrap();
    assert_eq!(ticks.iter().sum::<u64>() - started, ends(&exits), "every tick ended in one way");
    assert!(counts.iter().all(|count| count.ticks.len() == ticks.len()), "lost samples keep their CPU");
}

#[test]
fn a_tick_without_room_in_the_table_of_counts_is_counted() {
    let burners = [Burner::start(), Burner::start()];
    let mut programs = Programs::load(Sizes { counts: 1, ..Sizes::for_rate(2, 997) }).unwrap();
    for burner in &burners {
        programs.decide(burner.tgid(), DECISION_UNMATCHED).unwrap();
    }
    programs.set_rate(997).unwrap();
    wait_until("a full table", &mut programs, |programs| {
        let exits = programs.read_exits().unwrap();
        exits[Exit::CountsFull as usize] > 50 && exits[Exit::Counted as usize] > 50
    });
    programs.set_rate(0).unwrap();
    let (counts, _) = programs.take_counts().unwrap();
    let counted: u64 = counts.iter().flat_map(|count| &count.ticks).sum();
    let exits = programs.read_exits().unwrap();
    assert_eq!(counted, exits[Exit::Counted as usize] + exits[Exit::RingFull as usize]);
}

#[test]
fn a_thread_that_stopped_ticking_gives_its_place_back_though_it_lives() {
    let first = Burner::start();
    let mut programs = Programs::load(Sizes { counts: 1, ..Sizes::for_rate(2, 997) }).unwrap();
    programs.decide(first.tgid(), DECISION_UNMATCHED).unwrap();
    programs.set_rate(997).unwrap();
    let mut counted = 0;
    wait_until("ticks of the first", &mut programs, |programs| {
        let (counts, slipped) = programs.take_counts().unwrap();
        counted += ticks_of(first.tgid(), &counts) + slipped;
        counted > 50
    });
    first.pause();
    let second = Burner::start();
    wait_until("ticks of the second", &mut programs, |programs| {
        // Again and again: the end of its exec, which may be still to come, clears the decision.
        programs.decide(second.tgid(), DECISION_UNMATCHED).unwrap();
        let (counts, slipped) = programs.take_counts().unwrap();
        let of_second = ticks_of(second.tgid(), &counts);
        counted += ticks_of(first.tgid(), &counts) + of_second + slipped;
        of_second > 0
    });
    programs.set_rate(0).unwrap();
    let (counts, slipped) = programs.take_counts().unwrap();
    counted += counts.iter().flat_map(|count| &count.ticks).sum::<u64>() + slipped;
    let exits = programs.read_exits().unwrap();
    assert_eq!(counted, exits[Exit::Counted as usize], "no tick went with the places");
}

#[test]
fn a_decision_without_room_is_said() {
    let mut programs = loaded(99);
    // No process has a pid this high.
    let refused = (0..2 * MAX_DECISIONS).find(|n| !programs.decide((1 << 23) + n, 99).unwrap());
    assert_eq!(refused, Some(MAX_DECISIONS));
}

#[test]
fn exit_counters_go_on_in_programs_that_take_over() {
    let mut programs = loaded(997);
    programs.set_rate(997).unwrap();
    wait_until("ticks", &mut programs, |programs| ends(&programs.read_exits().unwrap()) > 100);
    programs.set_rate(0).unwrap();
    let before = programs.read_exits().unwrap();
    let larger = Programs::load(Sizes { ring_bytes: 1 << 21, ..programs.sizes() }).unwrap();
    let mut larger = larger.take_over(&programs).unwrap();
    drop(programs);
    assert_eq!(larger.read_exits().unwrap(), before);
    larger.set_rate(997).unwrap();
    wait_until("more ticks", &mut larger, |programs| {
        ends(&programs.read_exits().unwrap()) > ends(&before) + 100
    });
}

/// Takes a CPU away and brings it back; brings it back whatever happens.
struct Offline(u32);

impl Offline {
    fn set(&self, online: &str) {
        std::fs::write(format!("/sys/devices/system/cpu/cpu{}/online", self.0), online)
            .expect("CPUs can be taken offline here");
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        self.set("1");
    }
}

#[test]
#[ignore = "takes a CPU offline for a moment: scripts/test-kernels.sh does it in its own machine"]
fn a_cpu_that_is_gone_when_it_is_attached_is_no_error() {
    let cpus = online().unwrap();
    let last = *cpus.last().unwrap();
    let cpu = Offline(last);
    cpu.set("0");
    let mut programs = loaded(99);
    programs.set_rate(99).unwrap();
    assert_eq!(programs.follow_cpus(&cpus).unwrap(), [0; 0]);
    assert_eq!(programs.cpus(), cpus.len() - 1);
    let sideband = hearth_node_agent::kernel::sideband::Sideband::open(&cpus).unwrap();
    assert!(!sideband.covers(&cpus) && sideband.covers(&online().unwrap()));
    cpu.set("1");
    assert_eq!(programs.follow_cpus(&cpus).unwrap(), [last]);
}

#[test]
fn a_new_program_is_undecided_again() {
    let mut programs = loaded(99);
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
    let mut programs = loaded(99);
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
