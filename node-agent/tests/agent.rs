//! The agent's pipeline on the real kernel: policies and processes in, windows out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use hearth_node_agent::agent::{Agent, Command as Tell, Options};
use hearth_node_agent::clock::Clock;
use hearth_node_agent::export::batch::{Row, Window};
use hearth_node_agent::kernel::programs::KernelError;
use hearth_node_agent::metrics::Metrics;
use hearth_node_agent::pods::{Change, Pod, PodOptions};
use hearth_node_agent::policies::PolicySet;
use hearth_node_agent::symbols::{Limits, Symbolizer};
use hearth_policy::{EffectivePolicy, Environment, parse_policy_file};
use hearth_proto::collector::v1::StackEnd;

/// The policy that samples processes of this name.
fn policy(name: &str, frequency: u32) -> PolicySet {
    let text = format!(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ClusterProfilingPolicy\nmetadata: {{name: test}}\n\
         spec: {{regex: '^{name}$', hostProcesses: true, frequency: {frequency}}}\n"
    );
    let policies = EffectivePolicy::from_file(parse_policy_file(&text).unwrap().0);
    PolicySet::new(policies, Environment::Standalone, 1000).unwrap()
}

/// An agent at work.
struct Running {
    commands: Sender<Tell>,
    windows: Receiver<Window>,
    thread: JoinHandle<Result<(), KernelError>>,
}

impl Running {
    fn start(options: Options, policies: PolicySet) -> Self {
        let (sink, windows) = channel();
        let (commands, receiver) = channel();
        let agent = Agent::start(
            options,
            policies,
            Symbolizer::new(Limits::default()),
            Arc::new(Metrics::default()),
            Box::new(move |window| drop(sink.send(window))),
        );
        let agent = agent.unwrap();
        let thread = std::thread::spawn(move || agent.run(&receiver));
        Self { commands, windows, thread }
    }

    /// The windows until they are enough.
    fn windows(&self, what: &str, enough: impl Fn(&[Window]) -> bool) -> Vec<Window> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut windows = Vec::new();
        while !enough(&windows) {
            let left = deadline.saturating_duration_since(Instant::now());
            windows
                .push(self.windows.recv_timeout(left).unwrap_or_else(|_| panic!("{what}: not within 30 s")));
        }
        windows
    }

    fn stop(self) {
        self.commands.send(Tell::Stop).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

/// A process of a program compiled at this moment; killed when dropped.
struct Fixture {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn start(name: &str, flags: &[&str], source: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, program) = (folder.path().join("source.c"), folder.path().join(name));
        std::fs::write(&file, source).unwrap();
        let status = Command::new("cc").args(flags).arg("-o").args([&program, &file]).status().unwrap();
        assert!(status.success(), "cc failed");
        Self { process: spawn(&program), _folder: folder }
    }
}

fn spawn(program: &Path) -> Child {
    Command::new(program).stdin(Stdio::null()).spawn().unwrap()
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The rows of a process that matched.
fn rows_of<'a>(windows: &'a [Window], name: &'a str) -> impl Iterator<Item = &'a Row> {
    windows.iter().flat_map(|window| &window.rows).filter(move |row| &*row.process.app_service == name)
}

fn samples<'a>(rows: impl Iterator<Item = &'a Row>) -> u64 {
    rows.map(|row| u64::from(row.samples)).sum()
}

/// What is said of most of the stacks of a program: how they end, and their frames.
fn check_stack(name: &str, flags: &[&str], source: &str, expected: &str) {
    let _fixture = Fixture::start(name, flags, source);
    let agent = Running::start(Options::new(1), policy(name, 199));
    let windows = agent.windows("samples", |windows| samples(rows_of(windows, name)) >= 100);
    agent.stop();
    let mut stacks: BTreeMap<String, u32> = BTreeMap::new();
    for row in rows_of(&windows, name) {
        // What the kernel did meanwhile is not the program's.
        let frames = row.stack.iter().flat_map(|stack| stack.iter());
        let frames: Vec<&str> =
            frames.map(|frame| &**frame).filter(|frame| !frame.starts_with("[k]")).collect();
        let end = row.end.as_str_name().trim_start_matches("STACK_END_").to_lowercase();
        *stacks.entry(format!("{} {end}", frames.join(";"))).or_default() += row.samples;
    }
    let most = stacks.iter().max_by_key(|(_, samples)| **samples).unwrap();
    assert_eq!(most.0, expected, "{stacks:#?}");
    assert!(u64::from(*most.1) * 10 >= samples(rows_of(&windows, name)) * 8, "{stacks:#?}");
}

/// For a process that begins in our own code, with zero in the register as the ABI says.
const BARE: [&str; 5] = ["-O2", "-nostdlib", "-static", "-fno-pie", "-no-pie"];

/// `_start` with these instructions.
fn start(instructions: &str) -> String {
    format!(
        "__asm__(\".globl _start; .type _start, @function; _start: xor %ebp, %ebp; {instructions};\"
         \".size _start, .-_start\");"
    )
}

/// `_start` → `outer` → `burn`; the first two are nothing but a call.
fn calls() -> String {
    "__attribute__((noinline)) void burn(void) { for (;;) __asm__ volatile(\"\" : : \"r\"(__builtin_frame_address(0))); }
     __attribute__((noinline)) void outer(void) { burn(); __asm__ volatile(\"\"); }"
        .to_owned()
        + &start("call outer; hlt")
}

#[test]
fn a_stack_with_frame_pointers_is_complete() {
    let flags = [&BARE[..], &["-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"]].concat();
    check_stack("hearth-t-fp", &flags, &calls(), "_start;outer;burn complete");
}

#[test]
fn a_leaf_without_frame_pointers_is_not_complete_though_the_register_is_zero() {
    // Without asking for its frame, `burn` gets none.
    let source = calls().replace(" : : \"r\"(__builtin_frame_address(0))", "");
    let flags = [&BARE[..], &["-fomit-frame-pointer"]].concat();
    check_stack("hearth-t-nofp", &flags, &source, "burn no_unwind_info");
}

#[test]
fn the_entry_of_a_process_is_a_complete_stack() {
    check_stack("hearth-t-entry", &BARE, &start("1: jmp 1b"), "_start complete");
}

/// A shell that burns CPU until it is dropped; no policy of these tests matches it.
struct Burner(Child);

impl Burner {
    fn start() -> Self {
        Self(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Burner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn ticks_without_room_in_the_table_of_counts_are_a_row() {
    let _burners = [Burner::start(), Burner::start()];
    let options = Options { max_counts: 1, ..Options::new(1) };
    let agent = Running::start(options, policy("nobody-has-it", 499));
    let lost = |windows: &[Window]| {
        let rows = windows.iter().flat_map(|window| &window.rows);
        samples(rows.filter(|row| &*row.process.name == "[lost]" && row.end == StackEnd::Counted))
    };
    agent.windows("time under [lost]", |windows| lost(windows) > 0);
    agent.stop();
}

#[test]
fn a_process_that_began_while_nothing_was_sampled_is_known_when_it_is_asked_for() {
    let name = "hearth-t-late";
    let nothing = PolicySet::new(Vec::new(), Environment::Standalone, 1000).unwrap();
    let agent = Running::start(Options::new(1), nothing);
    let _fixture = Fixture::start(name, &BARE, &start("1: jmp 1b"));
    agent.commands.send(Tell::Policies(policy(name, 199))).unwrap();
    agent.windows("samples", |windows| samples(rows_of(windows, name)) >= 50);
    agent.stop();
}

#[test]
fn samples_go_on_in_a_larger_ring_buffer() {
    let name = "hearth-t-more";
    let _fixture = Fixture::start(name, &BARE, &start("1: jmp 1b"));
    let agent = Running::start(Options::new(1), policy(name, 99));
    agent.windows("samples", |windows| samples(rows_of(windows, name)) >= 20);
    agent.commands.send(Tell::Policies(policy(name, 1000))).unwrap();
    let at_new_rate = |row: &&Row| row.process.period_micros == 1000;
    let windows = agent.windows("samples at the new rate", |windows| {
        samples(rows_of(windows, name).filter(at_new_rate)) >= 500
    });
    agent.stop();
    assert!(samples(rows_of(&windows, name)) >= 500);
}

#[test]
fn a_clock_that_is_set_back_closes_the_window() {
    let _burner = Burner::start();
    let back = Arc::new(AtomicU64::new(0));
    let of_clock = back.clone();
    let clock = Clock::new(move || SystemTime::now() - Duration::from_secs(of_clock.load(Ordering::Relaxed)));
    let agent = Running::start(Options { clock: clock.clone(), ..Options::new(60) }, policy("nobody", 99));
    let mut starts: Vec<i64> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while starts.len() < 3 {
        assert!(Instant::now() < deadline, "only {} windows are closed", starts.len());
        back.fetch_add(7200, Ordering::Relaxed);
        // One that was set back before anything ticked leaves no window.
        let Ok(window) = agent.windows.recv_timeout(Duration::from_millis(300)) else { continue };
        assert!(window.start_unix <= clock.unix_seconds(), "a window of the time to come is refused");
        starts.push(window.start_unix);
    }
    agent.stop();
    assert!(starts.windows(2).all(|pair| pair[1] < pair[0] - 7000), "{starts:?}");
}

#[test]
fn no_window_holds_ticks_of_two_rates() {
    let _burner = Burner::start();
    let agent = Running::start(Options::new(60), policy("nobody", 997));
    let mut windows = Vec::new();
    let mut rates = [49, 499, 20].into_iter().cycle();
    let deadline = Instant::now() + Duration::from_secs(30);
    // A rate that was in force too briefly for a tick leaves no window.
    while windows.len() < 5 {
        assert!(Instant::now() < deadline, "only {} windows are closed", windows.len());
        agent.commands.send(Tell::Policies(policy("nobody", rates.next().unwrap()))).unwrap();
        windows.extend(agent.windows.recv_timeout(Duration::from_millis(100)).ok());
    }
    agent.stop();
    for window in &windows {
        let mut periods: Vec<u32> = window.rows.iter().map(|row| row.process.period_micros).collect();
        periods.sort_unstable();
        periods.dedup();
        assert_eq!(periods.len(), 1, "{periods:?} in one window");
    }
}

/// A cgroup that is removed when dropped, with whatever it was put into for it.
struct Cgroup(std::path::PathBuf);

impl Cgroup {
    /// In the first hierarchy that takes one: v2 alone, or any beside it.
    fn make(path: &str) -> Self {
        let hierarchies =
            ["", "unified", "pids", "systemd"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        let usable = hierarchies.iter().filter(|dir| dir.join("cgroup.procs").exists());
        let made = usable.map(|dir| dir.join(path)).find(|dir| std::fs::create_dir_all(dir).is_ok());
        Self(made.expect("a cgroup can be made"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Up to the first directory that somebody else uses, the hierarchy's own at the latest.
        let mut dir = self.0.as_path();
        while std::fs::remove_dir(dir).is_ok() {
            dir = dir.parent().unwrap();
        }
    }
}

/// Uid of a pod, and id of its only container `app`.
const POD: (&str, &str) = ("0ec90011-b5ae-4efc-8a54-d9fc34119605", "f5cfbbf0ab83c29c42f4c1e84f12ca91");

/// What the API server says of it.
fn pod() -> Change {
    Change::All(vec![Pod {
        uid: POD.0.into(),
        namespace: "shop".into(),
        name: "web-1".into(),
        containers: vec![(POD.1.into(), "app".into())],
        ..Pod::default()
    }])
}

/// An agent that samples the processes `name` in that container, and such a process, which a runtime
/// began as runtimes do: into the cgroup, then the program.
fn in_pod(name: &str, options: Options) -> (Running, Fixture, Cgroup) {
    let (uid, id) = POD;
    let cgroup = Cgroup::make(&format!("{name}-{}/kubepods/besteffort/pod{uid}/{id}", std::process::id()));
    let text = format!(
        "apiVersion: profiling.hearth.dev/v1alpha1\nkind: ProfilingPolicy\n\
         metadata: {{name: test, namespace: shop}}\nspec: {{regex: '^{name}$', frequency: 199, containers: [app]}}\n"
    );
    let policies = EffectivePolicy::from_file(parse_policy_file(&text).unwrap().0);
    let kubernetes = Environment::Kubernetes { node_labels: Default::default() };
    let policies = PolicySet::new(policies, kubernetes, 1000).unwrap();
    let agent = Running::start(Options { pods: Some(PodOptions::default()), ..options }, policies);
    let folder = tempfile::tempdir().unwrap();
    let (file, program) = (folder.path().join("source.c"), folder.path().join(name));
    std::fs::write(&file, start("1: jmp 1b")).unwrap();
    assert!(Command::new("cc").args(BARE).arg("-o").args([&program, &file]).status().unwrap().success());
    let enter = format!("echo $$ > {}/cgroup.procs && exec {}", cgroup.0.display(), program.display());
    let process = Command::new("sh").args(["-c", &enter]).spawn().unwrap();
    (agent, Fixture { process, _folder: folder }, cgroup)
}

/// Samples of this process that have no stack.
fn counted(windows: &[Window], name: &str) -> u64 {
    let rows = windows.iter().flat_map(|window| &window.rows);
    samples(rows.filter(|row| &*row.process.name == name && row.stack.is_none()))
}

#[test]
fn a_process_in_a_pods_cgroup_is_sampled_by_that_pods_policy_and_rows_name_the_pod() {
    let name = "hearth-t-pod";
    let (agent, fixture, cgroup) = in_pod(name, Options::new(1));
    // Its pod is not known: time under Total, without a pod.
    let before =
        agent.windows("time of a process whose pod is not known", |windows| counted(windows, name) >= 20);
    assert!(rows_of(&before, name).next().is_none(), "no policy has it yet");
    agent.commands.send(Tell::Pods(pod())).unwrap();
    let windows = agent.windows("samples", |windows| samples(rows_of(windows, name)) >= 50);
    agent.stop();
    for row in rows_of(&windows, name) {
        let inside = row.process.inside.as_ref().unwrap();
        assert_eq!((&*inside.pod.namespace, &*inside.pod.name, &*inside.container), ("shop", "web-1", "app"));
        assert_eq!(&*row.process.policy, "shop/test");
    }
    drop(fixture);
    drop(cgroup);
}

#[test]
fn a_process_that_waits_for_its_pod_loses_no_stack_of_the_window() {
    let name = "hearth-t-wait";
    // The window does not end before it is told to.
    let now = SystemTime::now();
    let (agent, fixture, cgroup) =
        in_pod(name, Options { clock: Clock::new(move || now), ..Options::new(60) });
    // A second of CPU time, which is 100 ticks.
    let stat = format!("/proc/{}/stat", fixture.process.id());
    let is_busy = || {
        let text = std::fs::read_to_string(&stat).unwrap();
        let fields = text.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(11).unwrap().parse::<u64>().unwrap() >= 100
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_busy() {
        assert!(Instant::now() < deadline, "the process does not run");
        std::thread::yield_now();
    }
    agent.commands.send(Tell::Pods(pod())).unwrap();
    agent.commands.send(Tell::Stop).unwrap();
    let window = agent.windows.recv_timeout(Duration::from_secs(30)).unwrap();
    agent.thread.join().unwrap().unwrap();
    let windows = [window];
    let with_stacks = samples(rows_of(&windows, name));
    assert!(with_stacks >= 150, "{with_stacks} samples in a second of CPU time");
    assert_eq!(counted(&windows, name), 0);
    drop(fixture);
    drop(cgroup);
}
