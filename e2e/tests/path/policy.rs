//! What a policy says is what is done: rates, CPU numbers, names, changes while running, bad files.

use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use hearth_e2e::daemon::wait_for;
use hearth_e2e::{Agent, Collector, Program, Running, machine, policy, unique_name};

/// Starts a process of `program` on one CPU.
fn start_on(program: &Program, cpu: u32) -> Running {
    program.start_by::<_, &str>(&["taskset", "-c", &cpu.to_string()], &[])
}

/// Sum of an app service's stored values on a node, in seconds.
fn stored_seconds(node: &str, app_service: &str) -> f64 {
    let query = format!(
        "SELECT sum(profile_value) FROM profile.in_process_local \
         WHERE pod_node = '{node}' AND app_service = '{app_service}'"
    );
    Collector::shared().number(&query) as f64 / 1e6
}

#[test]
fn every_policy_gets_its_own_rate_on_one_node() {
    let _machine = machine::alone();
    let names = ["slow", "fast", "cpu"].map(unique_name);
    let [slow, fast, kept] = names.each_ref().map(|name| Program::burner(name));
    let policies = [
        policy("slow", &format!("regex: '^{}$', frequency: 99", slow.name())),
        policy("fast", &format!("regex: '^{}$', frequency: 499", fast.name())),
        policy("kept", &format!("regex: '^{}$', frequency: 997, cpu: 1", kept.name())),
    ];
    let mut agent = Agent::start(&policies.concat());
    assert!(agent.log().contains("at 997 Hz by 3 policies"), "the node's rate is the highest");
    // Two share a CPU: at the mercy of the scheduler, their samples spread by the root of their number.
    let processes = [(&slow, 0), (&fast, 1), (&kept, 1)].map(|(program, cpu)| start_on(program, cpu));
    let collector = Collector::shared();
    agent.wait_for_samples(slow.name(), 8 * 99);
    let truths = processes.map(Running::kill);
    agent.stop();

    // What no policy matches is counted at the node's rate, until the very end.
    let others = "app_service = '' AND profile_value != sample_count * 1003";
    assert_eq!(collector.samples(&agent.node, others), 0, "a tick at 997 Hz is worth 1003 µs");
    for ((program, truth), frequency) in [&slow, &fast, &kept].iter().zip(truths).zip([99, 499, 997]) {
        let (node, name) = (&agent.node, program.name());
        let stored = stored_seconds(node, name);
        let error = (stored / truth - 1.0).abs() * 100.0;
        assert!(error < 5.0, "{frequency} Hz: {stored:.2} s stored of {truth:.2} s");
        let period = 1_000_000 / frequency;
        let other = format!("app_service = '{name}' AND profile_value != sample_count * {period}");
        assert_eq!(collector.samples(node, &other), 0, "{frequency} Hz: a sample is worth {period} µs");
        let cpus = collector.sql(&format!(
            "SELECT DISTINCT cpu FROM profile.in_process_local WHERE pod_node = '{node}' AND app_service = '{name}'"
        ));
        assert_eq!(cpus, [if frequency == 997 { "1" } else { "4095" }], "{frequency} Hz");
    }
    // Where the CPU is kept, one can be asked for.
    let of_cpu = |filter: &str| {
        let filter = format!("pod_node = '{}' AND {filter}", agent.node);
        collector.flame_between(kept.name(), &filter, 1, i64::from(u32::MAX))
    };
    let stored = (stored_seconds(&agent.node, kept.name()) * 1e6).round() as i64;
    assert_eq!(of_cpu("cpu = 1").unwrap().root().total, stored);
    let reason = of_cpu("cpu = 0").expect_err("it never ran there");
    assert!(reason.contains("the filter matches none of them"), "{reason}");
}

#[test]
fn a_disabled_policy_and_the_name_of_the_file() {
    let _machine = machine::together();
    let (off, on) = (Program::burner(&unique_name("off")), Program::burner(&unique_name("on")));
    let policies = [
        policy("off", &format!("disabled: true, regex: '^{}$', frequency: 997", off.name())),
        policy("on", &format!("regex: '^{}$', frequency: 99, appService: exe", on.name())),
    ];
    let mut agent = Agent::start(&policies.concat());
    assert!(agent.log().contains("at 99 Hz by 2 policies"), "a disabled policy asks for no rate");
    let processes = [start_on(&off, 0), start_on(&on, 1)];
    let exe = on.path().canonicalize().unwrap();
    let name_of_exe = on.name();
    let collector = Collector::shared();
    let condition = format!("process_name = '{name_of_exe}' AND app_service != ''");
    wait_for("samples", || (collector.samples(&agent.node, &condition) >= 50).then_some(()));
    drop(processes);
    agent.stop();
    let apps = collector.sql(&format!(
        "SELECT DISTINCT app_service, process_name FROM profile.in_process_local \
         WHERE pod_node = '{}' AND app_service != ''",
        agent.node
    ));
    let [app] = &apps[..] else { panic!("{apps:?}") };
    let (app, process) = app.split_once('\t').unwrap();
    assert_eq!(process, name_of_exe);
    assert!(
        exe.to_str().unwrap().ends_with(app) && app.ends_with(name_of_exe),
        "{app} is the name of {exe:?}"
    );
    // Its time is counted all the same: it is seen under Total.
    assert!(collector.flame("Total", &agent.node).unwrap().total_of(&format!("[p] {}", off.name())) > 0);
}

/// Waits for samples that were taken from two seconds from now on, each worth `period` microseconds:
/// of windows that begin after all that is under way now.
fn wait_for_later_samples(agent: &mut Agent, app_service: &str, period: u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let later = format!("app_service = '{app_service}' AND toUnixTimestamp(time) >= {}", now + 2);
    wait_for(&format!("later samples of {app_service}"), || {
        assert!(agent.ended().is_none(), "the agent ended");
        (Collector::shared().samples(&agent.node, &later) >= 50).then_some(())
    });
    let other = format!("{later} AND profile_value != sample_count * {period}");
    assert_eq!(Collector::shared().samples(&agent.node, &other), 0, "a sample is worth {period} µs");
}

#[test]
fn policies_change_while_the_agent_runs() {
    let _machine = machine::together();
    let names = ["first", "second", "third"].map(unique_name);
    let programs = names.each_ref().map(|name| Program::burner(name));
    let one = |index: usize, frequency: u32| {
        policy("one", &format!("regex: '^{}$', frequency: {frequency}", names[index]))
    };
    let mut agent = Agent::start(&one(0, 99));
    let collector = Collector::shared();
    let pid = agent.pid();
    let _processes = programs.each_ref().map(|program| program.start::<&str>(&[]));
    agent.wait_for_samples(&names[0], 20);

    // An edit is seen by itself.
    agent.write_policies(&one(1, 199));
    agent.wait_for_log("1 policies in force at 199 Hz");
    agent.wait_for_samples(&names[1], 20);

    // SIGHUP reads it again; with nothing new nothing changes.
    agent.signal(libc::SIGHUP);
    agent.wait_for_log("SIGHUP: reading the policy file again");
    agent.wait_for_log("the policy file says nothing new");

    // A bad file is refused with line and field, and what was in force stays.
    agent.write_policies(&one(2, 1001));
    let line = agent.wait_for_log("spec.frequency is 1001");
    assert!(line.contains("policy.yaml:5: spec.frequency"), "{line}");
    agent.wait_for_log("the policies from before stay in force");
    assert!(agent.metric("hearth_agent_configs_refused_total") >= 1.0);
    wait_for_later_samples(&mut agent, &names[1], 5025);

    // The next good one is taken.
    agent.write_policies(&one(2, 149));
    agent.wait_for_log("1 policies in force at 149 Hz");
    agent.wait_for_samples(&names[2], 20);
    assert_eq!(agent.pid(), pid);
    agent.stop();
    let rates = collector.sql(&format!(
        "SELECT app_service, groupUniqArray(intDiv(profile_value, sample_count)) FROM profile.in_process_local \
         WHERE pod_node = '{}' AND app_service != '' GROUP BY app_service ORDER BY min(time)",
        agent.node
    ));
    let expected: Vec<String> = names
        .iter()
        .zip(["10101", "5025", "6711"])
        .map(|(name, period)| format!("{name}\t[{period}]"))
        .collect();
    assert_eq!(rates, expected);
}

#[test]
fn without_an_enabled_policy_the_agent_says_that_nothing_is_sampled() {
    let _machine = machine::together();
    let program = Program::burner(&unique_name("idle"));
    let with = |more: &str| policy("one", &format!("regex: '^{}$', frequency: 99{more}", program.name()));
    let mut agent = Agent::start(&with(""));
    assert_eq!(agent.get("/readyz").body, "sampling\n");
    agent.write_policies(&with(", disabled: true"));
    agent.wait_for_log("sampling nothing: no enabled policy among 1, Total stays empty");
    assert_eq!(agent.get("/readyz").body, "no enabled policy: nothing is sampled\n");
    // One that begins meanwhile is known when a policy asks for it again.
    let _process = program.start::<&str>(&[]);
    agent.write_policies(&with(""));
    agent.wait_for_samples(program.name(), 20);
    agent.stop();
}

#[test]
fn sighup_reads_a_file_again_whose_change_nobody_saw() {
    let _machine = machine::together();
    let program = Program::burner(&unique_name("hup"));
    let name = program.name();
    let at = |frequency: u32| policy("hup", &format!("regex: '^{name}$', frequency: {frequency}"));
    let mut agent = Agent::start(&at(99));
    let _process = program.start::<&str>(&[]);

    // Through another name of the file, in another folder: the agent watches that of the policy file.
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("other-name.yaml");
    std::fs::hard_link(agent.policy_file(), &link).unwrap();
    std::fs::write(&link, at(199)).unwrap();
    wait_for_later_samples(&mut agent, name, 10_101);
    assert!(!agent.log().contains("in force at"), "the change was seen without SIGHUP: {}", agent.log());

    agent.signal(libc::SIGHUP);
    agent.wait_for_log("1 policies in force at 199 Hz");
    wait_for_later_samples(&mut agent, name, 5025);
    agent.stop();
}

#[test]
fn an_agent_that_starts_without_an_enabled_policy_says_so_and_total_says_why_it_is_empty() {
    let _machine = machine::together();
    let spec = "disabled: true, regex: '.*', frequency: 99";
    let mut agent = Agent::start(&(policy("off", spec) + &policy("off-too", spec)));
    let line = agent.wait_for_log("sampling nothing");
    assert!(line.contains("WARN") && line.contains("no enabled policy among 2"), "{line}");
    agent.stop();
    // By what other tests have stored until then.
    let reason = Collector::shared().flame("Total", &agent.node).expect_err("nothing was sampled");
    assert!(reason.contains("the filter matches") || reason.starts_with("nothing is stored: "), "{reason}");
}

/// A spec in; exit code 2 and a message with file, line and field, and `remedy`, out.
fn check_refused(policies: &str, place: &str, remedy: &str) {
    let Output { status, stderr, stdout } = Agent::run_to_end::<&str>(&[], policies);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{policies}\n{stderr}");
    assert_eq!(stdout, b"", "{policies}");
    let line = stderr.lines().find(|line| line.contains(&format!("policy.yaml:{place}")));
    let line = line.unwrap_or_else(|| panic!("policy.yaml:{place} is not in {stderr}"));
    assert!(line.contains(remedy), "{line:?} does not say {remedy:?}");
}

#[test]
fn a_bad_file_at_the_start_is_told_file_line_and_field() {
    let spec = |spec: &str| policy("bad", &format!("regex: x, {spec}"));
    check_refused(&spec("frequency: 0"), "5: spec.frequency is 0", "from 1 to 1000");
    check_refused(&spec("frequency: 1001"), "5: spec.frequency is 1001", "from 1 to 1000");
    check_refused(&spec("cpu: 2"), "5: spec.cpu is 2", "write 0 or 1");
    let defer = "5: spec.javaSymbolFileRefreshDeferInterval is 4s";
    check_refused(&spec("javaSymbolFileRefreshDeferInterval: 4s"), defer, "from 5s to 3600s");
    check_refused(&policy("bad", "regex: '('"), "5: spec.regex", "write a regular expression");
    check_refused(&spec("frequencey: 99"), "5: spec.frequencey", "frequency");
    let namespaced = spec("frequency: 99").replace("ClusterProfilingPolicy", "ProfilingPolicy");
    check_refused(&namespaced, "5: spec.hostProcesses", "ClusterProfilingPolicy");
    check_refused("apiVersion: [\n", "", "this is no YAML");
    check_refused(&spec("frequency: 99").replace("v1alpha1", "v9"), "2: apiVersion", "v1alpha1");
    // All errors at once, not the first alone.
    let two = format!("{}{}", spec("cpu: 2"), spec("frequency: 0").replace("bad", "worse"));
    check_refused(&two, "5: spec.cpu", "write 0 or 1");
    check_refused(&two, "10: spec.frequency", "from 1 to 1000");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = std::process::Command::new(hearth_e2e::daemon::binary("hearth-node-agent"))
        .args(["--policy", "/nowhere/policy.yaml"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/nowhere/policy.yaml") && stderr.contains("--policy"), "{stderr}");
}

#[test]
fn a_multiple_of_ten_is_taken_with_a_warning() {
    let _machine = machine::together();
    let mut agent = Agent::start(&policy("round", "regex: '^nobody$', frequency: 100"));
    let line = agent.wait_for_log("lockstep");
    assert!(line.contains("WARN") && line.contains("policy.yaml:5: spec.frequency is 100"), "{line}");
    assert!(line.contains("prefer 99"), "{line}");
    assert!(agent.log().contains("at 100 Hz"), "it is taken as it is");
    agent.stop();
}

#[test]
fn a_file_can_be_checked_without_sampling() {
    let check = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let agent = hearth_e2e::daemon::binary("hearth-node-agent");
        let output = std::process::Command::new(agent)
            .arg("--check")
            .arg("--policy")
            .arg(file.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check(&policy("good", "regex: x, frequency: 499"));
    assert_eq!(code, Some(0));
    assert!(text.contains("1 policies, node rate 499 Hz"), "{text}");
    assert_eq!(check(&policy("bad", "regex: x, frequency: -1")).0, Some(2));
}
