//! What the machine gives and withholds: another agent beside, capabilities, namespaces, CPUs.

use std::io::Write as _;

use hearth_e2e::daemon::wait_for;
use hearth_e2e::{Agent, Collector, Program, machine, policy, proc_fs, unique_name};

/// Number of the capability (`include/uapi/linux/capability.h`).
const CAP_SYS_RESOURCE: u32 = 24;

#[test]
fn two_agents_on_one_machine_both_work() {
    let _machine = machine::together();
    let program = Program::burner(&unique_name("both"));
    let name = program.name();
    let mut first = Agent::start(&policy("first", &format!("regex: '^{name}$', frequency: 99")));
    let mut second = Agent::start(&policy("second", &format!("regex: '^{name}$', frequency: 199")));
    let process = program.start::<&str>(&[]);
    let collector = Collector::shared();
    for agent in [&mut first, &mut second] {
        agent.wait_for_samples(name, 50);
        assert_eq!(agent.get("/readyz").status, 200);
        assert_eq!(agent.get("/healthz").status, 200);
    }
    process.kill();
    for (agent, period) in [(&mut first, 10_101), (&mut second, 5_025)] {
        agent.stop();
        let flame = collector.flame(name, &agent.node).unwrap();
        assert!(flame.total_of("burn") > 0, "{:?}", flame.names());
        assert_eq!(flame.root().total % period, 0, "each has its own rate");
    }
}

/// Runs the agent by `launcher`; it must end with 1 and one line that says `expected`.
fn check_refuses(launcher: &[&str], expected: &str) {
    let output = Agent::run_to_end(launcher, &policy("any", "regex: '^nobody$'"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{launcher:?}: {stderr}");
    let fatal: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [line] = fatal[..] else { panic!("{launcher:?}: not one line: {stderr}") };
    assert!(line.contains(expected), "{launcher:?}: {line:?} does not say {expected:?}");
    assert!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
}

#[test]
fn a_missing_capability_is_named_in_one_line() {
    let without = |capabilities: &str| {
        let launcher = ["setpriv", "--inh-caps", "-all", "--bounding-set", capabilities, "--"];
        launcher.map(str::to_owned)
    };
    for (capabilities, expected) in [
        ("-perfmon,-sys_admin", "needs CAP_PERFMON: to sample every CPU"),
        ("-bpf,-sys_admin", "needs CAP_BPF: to load BPF programs"),
    ] {
        let launcher = without(capabilities);
        check_refuses(&launcher.each_ref().map(String::as_str), expected);
    }
}

#[test]
fn another_pid_namespace_is_refused_in_one_line() {
    check_refuses(&["unshare", "--pid", "--fork", "--mount-proc"], "needs the host's pid namespace");
}

#[test]
fn a_kernel_without_btf_is_refused_in_one_line() {
    // In a mount namespace of its own, so that it is missing there alone.
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    check_refuses(&["unshare", "--mount", "sh", "-c", hide, "sh"], "needs a kernel with BTF");
}

/// The capabilities that suffice, as the README promises.
const PROMISED: [&str; 6] =
    ["bpf", "perfmon", "sys_ptrace", "dac_read_search", "syslog", "checkpoint_restore"];

/// An agent that has the promised capabilities and no others, but for one that is left out.
fn with_promised_capabilities(left_out: &str, policies: &str) -> Agent {
    let kept = PROMISED.iter().filter(|name| **name != left_out);
    let set: String =
        std::iter::once("-all".to_owned()).chain(kept.map(|name| format!(",+{name}"))).collect();
    Agent::start_by(&["setpriv", "--inh-caps", "-all", "--bounding-set", &set, "--"], policies)
}

#[test]
fn six_capabilities_suffice_also_to_name_a_deleted_binary() {
    let _machine = machine::together();
    let program = Program::burner(&unique_name("sixcaps"));
    let name = program.name();
    let _process = program.start::<&str>(&[]);
    std::fs::remove_file(program.path()).unwrap();
    let policies = policy("six", &format!("regex: '^{name}$', frequency: 199"));
    let collector = Collector::shared();

    let mut agent = with_promised_capabilities("", &policies);
    agent.wait_for_samples(name, 100);
    let log = agent.stop();
    assert!(!log.contains("is missing"), "{log}");
    let flame = collector.flame(name, &agent.node).unwrap();
    assert!(flame.total_of("burn") as f64 > 0.9 * flame.root().total as f64, "{:?}", flame.names());
    assert!(flame.names().iter().all(|name| *name != "[k] [unknown]"), "{:?}", flame.names());

    // Each of those that names depend on is told by name when it is missing, with what it is for.
    for (capability, line) in [
        (
            "sys_ptrace",
            "CAP_SYS_PTRACE is missing: functions of other users' processes, and of those with more capabilities, have no names",
        ),
        (
            "dac_read_search",
            "CAP_DAC_READ_SEARCH is missing: files that only other users may read cannot be named",
        ),
        ("checkpoint_restore", "CAP_CHECKPOINT_RESTORE is missing: deleted binaries cannot be named"),
    ] {
        let mut agent = with_promised_capabilities(capability, &policies);
        agent.wait_for_samples(name, 20);
        let log = agent.stop();
        let missing: Vec<&str> = log.lines().filter(|line| line.contains("is missing")).collect();
        assert!(
            missing.len() == 1 && missing[0].contains(line) && missing[0].contains("WARN"),
            "{missing:?}"
        );
        if capability == "checkpoint_restore" {
            let names = collector.flame(name, &agent.node).unwrap();
            assert_eq!(names.total_of("burn"), 0, "{:?}", names.names());
        }
    }
}

#[test]
fn what_the_machine_lacks_without_harm_is_said_and_what_is_done_is_reported() {
    let _machine = machine::alone();
    let program = Program::burner(&unique_name("report"));
    let name = program.name();
    let _process = program.start_by::<_, &str>(&["taskset", "-c", "1"], &[]);
    let mut agent = Agent::start(&policy("report", &format!("regex: '^{name}$', frequency: 99")));

    let log = agent.log();
    let exists = |path: &str| std::path::Path::new(path).exists();
    for (is_there, line) in [
        (exists("/proc/modules"), "no /proc/modules: functions of modules are named from /proc/kallsyms"),
        (exists("/sys/kernel/tracing/events"), "no tracefs: raw tracepoints do without it"),
        (proc_fs::has_capability(agent.pid(), CAP_SYS_RESOURCE), "no CAP_SYS_RESOURCE: "),
        (exists("/sys/bus/event_source/devices/cpu"), "no hardware counters: samples are taken by cpu-clock"),
    ] {
        assert_eq!(log.contains(line), !is_there, "{line:?} in {log}");
    }

    // A line every ten seconds.
    let used = proc_fs::cpu_seconds(agent.pid());
    let line = agent.wait_for_log("own CPU");
    let used_since = proc_fs::cpu_seconds(agent.pid()) - used;
    agent.stop();
    let words: Vec<&str> = line.split(" INFO ").nth(1).unwrap().split(' ').collect();
    let number = |unit: &[&str]| -> f64 {
        let at = words.windows(unit.len()).position(|words| words == unit);
        let at = at.unwrap_or_else(|| panic!("{unit:?} is not in {line:?}"));
        words[at - 1].parse().unwrap()
    };
    let seconds = number(&["s:"]);
    assert!((10.0..13.0).contains(&seconds), "{line}");
    // One CPU is the burner's; whatever it shares with others is not.
    let samples = number(&["samples,"]);
    assert!(samples > 0.7 * 99.0 * seconds && samples < 1.05 * 99.0 * seconds, "{line}");
    assert!(number(&["ticks", "counted,"]) > 0.0, "{line}");
    assert!(number(&["stacks", "lost,"]) < 5.0, "{line}");
    assert!(line.contains("; 1 of "), "{line}");
    let own = number(&["%", "of", "a", "core;"]) * seconds / 100.0;
    assert!(
        own > 0.0 && own > used_since - 0.1 && own < used + used_since + 0.1,
        "{line}: {used_since} s used"
    );
}

#[test]
fn without_cap_syslog_the_kernel_has_no_names_and_that_is_said() {
    let _machine = machine::together();
    // A third of its time at least is the kernel's.
    let program = Program::compile(
        &unique_name("syslog"),
        "FUNCTION void ask(void) { char c; int fd = open(\"/dev/zero\", O_RDONLY);
             for (;;) if (pread(fd, &c, 1, 0) != 1) exit(1); }
         int main(void) { ask(); }",
    );
    let name = program.name();
    let launcher = ["setpriv", "--bounding-set", "-syslog", "--"];
    let mut agent =
        Agent::start_by(&launcher, &policy("syslog", &format!("regex: '^{name}$', frequency: 199")));
    let log = agent.log();
    assert!(log.contains("CAP_SYSLOG is missing: kernel functions show as [k] [unknown]"), "{log}");
    let _process = program.start::<&str>(&[]);
    let collector = Collector::shared();
    agent.wait_for_samples(name, 100);
    agent.stop();
    let flame = collector.flame(name, &agent.node).unwrap();
    assert!(flame.total_of("[k] [unknown]") > 0, "{:?}", flame.names());
    let is_named = |name: &&str| name.starts_with("[k] ") && *name != "[k] [unknown]";
    let named: Vec<&str> = flame.names().into_iter().filter(is_named).collect();
    assert!(named.is_empty(), "{named:?}");
    assert!(flame.total_of("ask") > 0, "the program's own functions keep their names");
}

#[test]
fn a_cpu_that_goes_and_comes_is_sampled_again() {
    const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";
    let _machine = machine::alone();
    if !std::fs::exists(SWITCH).unwrap() {
        // One CPU only, or one that cannot be switched off: then nothing can be said of it here.
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        // Not by a macro: of a test that passes its output is hidden.
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "NOT TESTED: no CPU can be switched off here, {SWITCH} is missing (CPUs {})",
            online.trim()
        )
        .unwrap();
        return;
    }
    let program = Program::burner(&unique_name("cpu"));
    let name = program.name();
    let spec = format!("regex: '^{name}$', frequency: 199, cpu: 1");
    let mut agent = Agent::start(&policy("cpu", &spec));
    let before = agent.wait_for_log("sampling ");
    let cpus: u32 = before.split("sampling ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    /// Switches the CPU on again, whatever happens.
    struct On;
    impl Drop for On {
        fn drop(&mut self) {
            std::fs::write(SWITCH, "1").expect("a CPU can be switched on");
        }
    }
    let on = On;
    std::fs::write(SWITCH, "0").expect("a CPU can be switched off");
    agent.wait_for_log(&format!("{} CPUs are online now", cpus - 1));
    drop(on);
    agent.wait_for_log(&format!("{cpus} CPUs are online now"));

    let process = program.start_by::<_, &str>(&["taskset", "-c", "1"], &[]);
    let collector = Collector::shared();
    let on_cpu = format!("app_service = '{name}' AND cpu = 1");
    wait_for("samples of CPU 1", || (collector.samples(&agent.node, &on_cpu) >= 100).then_some(()));
    let seconds = process.kill();
    agent.stop();
    let found = collector.flame(name, &agent.node).unwrap().root().total as f64 / 1e6;
    assert!((found / seconds - 1.0).abs() < 0.1, "{found:.2} s found of {seconds:.2} s");
}
