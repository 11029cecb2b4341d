//! The same program under `perf record` and the agent at once: both see the same stacks.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use hearth_e2e::daemon::{send_signal, spawn, wait_for};
use hearth_e2e::{Agent, Collector, Folded, Program, machine, policy, unique_name};

/// Three levels of calls below `main`, so many callees each: their product is the paths.
const LEVELS: [usize; 3] = [7, 6, 5];
/// Samples per path, so that none of them is missing on either side by chance, and that its weight
/// is beyond chance too.
const SAMPLES_PER_PATH: i64 = 60;
/// Turns of the loop that a path of weight 1 burns, on average.
const UNIT: u32 = 50_000;

/// The seven functions of the first level are `a0` to `a6`; every one calls all of the second
/// level, `b0` to `b5`, and so on: who called whom tells the paths apart. Half of the paths burn five
/// times as long as the others, by their numbers, so that a path under a wrong parent has a wrong
/// share. `unit` changes all the time: no rate of sampling falls into step with the loop.
fn source() -> String {
    let [first, second, third] = LEVELS;
    let functions = |letter: char, count: usize, body: &str| -> String {
        (0..count)
            .map(|index| format!("FUNCTION void {letter}{index}(unsigned long n) {{ {body} }}\n"))
            .collect()
    };
    let calls = |letter: char, count: usize, argument: &str| -> String {
        (0..count)
            .map(|index| format!("{letter}{index}({}); ", argument.replace("NEXT", &(index + 1).to_string())))
            .collect()
    };
    // What is handed down is the product of the numbers so far.
    format!("static volatile unsigned long unit = {UNIT};\n")
        + &functions('c', third, "BURN(unit * (n % 11 < 5 ? 5 : 1));")
        + &functions('b', second, &calls('c', third, "n * NEXT"))
        + &functions('a', first, &calls('b', second, "n * NEXT"))
        + &format!(
            "int main(void) {{ for (;;) {{ unit = {UNIT} / 2 + rand() % {UNIT}; {} }} }}\n",
            calls('a', first, "NEXT")
        )
}

/// The path that a stack took: the program's own functions from `main` on. What is above `main`
/// starts the program, and the two sides name it differently; what the kernel does in an interrupt
/// is its leaf's time. A stack without `main` is no path.
fn path(frames: &[String]) -> Option<Vec<String>> {
    let start = frames.iter().position(|frame| frame == "main")?;
    let own = frames[start..].iter().take_while(|frame| !frame.starts_with('[') && !is_kernel(frame));
    Some(own.cloned().collect())
}

/// Values of the whole paths, `main` and a function of each level, as shares of all time, also of
/// that in other stacks.
fn shares(folded: &Folded) -> BTreeMap<Vec<String>, f64> {
    let mut shares = BTreeMap::new();
    for (frames, value) in &folded.0 {
        if let Some(path) = path(frames).filter(|path| path.len() == 1 + LEVELS.len()) {
            *shares.entry(path).or_default() += *value as f64 / folded.total() as f64;
        }
    }
    shares
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
    let theirs = fold(&String::from_utf8_lossy(&output.stdout));
    let ours = collector.folded(&comm, &agent.node);
    let samples = [&ours, &theirs].map(|folded| folded.total() as f64);
    // A sample of the agent is worth a period.
    let samples = [samples[0] / 1003.0, samples[1]];
    let shares = [shares(&ours), shares(&theirs)];
    println!("{paths} paths; {:.0} samples of the agent, {:.0} of perf", samples[0], samples[1]);
    same_paths(&shares, samples, paths);
}

/// Both have all the paths, in 99 % of all time, and every path has its share on both sides.
fn same_paths([ours, theirs]: &[BTreeMap<Vec<String>, f64>; 2], samples: [f64; 2], paths: usize) {
    assert!(paths >= 200);
    assert_eq!((ours.len(), theirs.len()), (paths, paths), "both see every path");
    let common = |one: &BTreeMap<Vec<String>, f64>, other: &BTreeMap<Vec<String>, f64>| -> f64 {
        one.iter().filter(|(path, _)| other.contains_key(*path)).map(|(_, share)| share * 100.0).sum()
    };
    let (in_theirs, in_ours) = (common(ours, theirs), common(theirs, ours));
    println!("{in_theirs:.2} % of our time is in perf's paths, {in_ours:.2} % of perf's in ours");
    assert!(in_theirs >= 99.0 && in_ours >= 99.0, "{in_theirs:.2} %, {in_ours:.2} %");
    for (path, share) in ours {
        let counts = [share * samples[0], theirs[path] * samples[1]];
        // Five standard deviations of what two counts of the same thing differ by, were all samples
        // taken at random; by the wrong parent's weight they differ by more.
        let deviation = (counts[0] + counts[1]).sqrt();
        let ratio = samples[0] / samples[1];
        let difference = (counts[0] - counts[1] * ratio).abs();
        assert!(
            difference < 5.0 * deviation,
            "{path:?}: {:.0} of ours, {:.0} of perf's",
            counts[0],
            counts[1]
        );
    }
}
