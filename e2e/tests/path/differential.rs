//! The same program under `perf record` and the agent at once: both see the same stacks.

use std::process::{Command, Stdio};

use hearth_e2e::daemon::{send_signal, spawn, wait_for};
use hearth_e2e::{Agent, Collector, Folded, Program, machine, policy, unique_name};

/// Three levels of calls below `main`, so many callees each: their product is the paths.
const LEVELS: [usize; 3] = [7, 6, 5];
/// Samples per path, so that none of them is missing on either side by chance.
const SAMPLES_PER_PATH: i64 = 40;

/// Every path burns the same time. The seven functions of the first level are `a0` to `a6`; every
/// one calls all of the second level, `b0` to `b5`, and so on: who called whom tells the paths apart.
fn source() -> String {
    let [first, second, third] = LEVELS;
    let calls = |letter: char, count: usize| -> String {
        (0..count).map(|index| format!("{letter}{index}(); ")).collect()
    };
    let functions = |letter: char, count: usize, body: &str| -> String {
        (0..count).map(|index| format!("FUNCTION void {letter}{index}(void) {{ {body} }}\n")).collect()
    };
    functions('c', third, "BURN(150000);")
        + &functions('b', second, &calls('c', third))
        + &functions('a', first, &calls('b', second))
        + &format!("int main(void) {{ for (;;) {{ {} }} }}\n", calls('a', first))
}

/// The application's own frames from `main` on; whatever the kernel did there meanwhile is its
/// leaf's time.
fn user_part(frames: &[String]) -> Vec<String> {
    let below = frames.iter().skip_while(|frame| *frame != "main");
    let own = below.filter(|frame| !frame.starts_with('['));
    own.take_while(|frame| !is_kernel(frame)).cloned().collect()
}

/// perf marks the kernel's functions, as it is asked to below.
fn is_kernel(frame: &str) -> bool {
    frame.ends_with("_[k]")
}

/// Stacks of `perf script`, one sample each.
fn fold(script: &str) -> Folded {
    let mut folded = Folded::default();
    for sample in script.split("\n\n") {
        // A line per frame, leaf first: address, function, (module).
        let frames = sample.lines().filter(|line| line.starts_with(['\t', ' ']));
        let mut frames: Vec<String> = frames
            .filter_map(|line| {
                let (_address, rest) = line.trim().split_once(' ')?;
                let (function, module) = rest.rsplit_once(" (")?;
                let kernel = module.starts_with("[kernel") || module.starts_with("[guest");
                Some(if kernel { format!("{function}_[k]") } else { function.to_owned() })
            })
            .collect();
        if !frames.is_empty() {
            frames.reverse();
            *folded.0.entry(frames).or_default() += 1;
        }
    }
    folded
}

#[test]
fn perf_and_the_agent_see_the_same_stacks() {
    let _machine = machine::alone();
    let comm = unique_name("diff");
    let program = Program::compile(&comm, &source());
    let collector = Collector::shared();
    let mut agent = Agent::start(&policy("diff", &format!("regex: '^{comm}$', frequency: 997")));
    let process = program.start_by::<_, &str>(&["taskset", "-c", "1"], &[]);

    let data = program.folder().join("perf.data");
    let mut record = Command::new("perf");
    record.args(["record", "-q", "-e", "cpu-clock", "-F", "997", "--call-graph", "fp", "-o"]).arg(&data);
    record.arg("-p").arg(process.pid().to_string()).stderr(Stdio::null());
    let mut perf = spawn(record);
    wait_for("perf's file", || std::fs::metadata(&data).ok().filter(|file| file.len() > 0));

    let paths = LEVELS.iter().product::<usize>();
    agent.wait_for_samples(&comm, SAMPLES_PER_PATH * i64::try_from(paths).unwrap());
    // perf first, while there is something to record: both end within a moment.
    send_signal(perf.id(), libc::SIGINT);
    process.kill();
    perf.wait().unwrap();
    agent.stop();

    let output = Command::new("perf")
        .args(["script", "--no-inline", "-F", "comm,ip,sym,dso", "-i"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = fold(&String::from_utf8_lossy(&output.stdout)).map(user_part);
    let ours = collector.folded(&comm, &agent.node).map(user_part);

    let whole = |folded: &Folded| {
        let is_path = |frames: &[String]| frames.len() == 4 && frames[0] == "main";
        folded.0.keys().filter(|frames| is_path(frames)).count()
    };
    assert!(paths >= 200);
    assert_eq!((whole(&ours), whole(&theirs)), (paths, paths), "both see every path");
    let (in_theirs, in_ours) = (ours.share_also_in(&theirs) * 100.0, theirs.share_also_in(&ours) * 100.0);
    println!(
        "{paths} paths; {in_theirs:.2} % of our time is in perf's stacks, {in_ours:.2} % of perf's in ours; \
         perf took {} samples, the agent's value is {} µs",
        theirs.total(),
        ours.total()
    );
    assert!(in_theirs >= 99.0 && in_ours >= 99.0, "{in_theirs:.2} %, {in_ours:.2} %");
    // Not empty on both sides: nearly all time is in whole paths.
    let in_paths: i64 = ours.0.iter().filter(|(frames, _)| frames.len() == 4).map(|(_, value)| value).sum();
    assert!(in_paths as f64 > 0.98 * ours.total() as f64, "{in_paths} of {} µs", ours.total());
}
