//! The test that gates everything: names that nobody could know are found, under the right
//! parents, through the request that DeepFlow documents.

use hearth_e2e::daemon::wait_for;
use hearth_e2e::{Agent, Collector, Flame, Program, machine, policy, random_letters, unique_name};
use uuid::Uuid;

/// Enough for a share to be within 2 points, four times out of any doubt.
const SAMPLES: i64 = 8000;

/// `main` calls `chain[0]`, which calls `chain[1]` and so on; the last one calls two siblings
/// alternately, the first of which works twice as long.
fn source(chain: &[String; 5], siblings: &[String; 2]) -> String {
    let [long, short] = siblings;
    let mut source = format!(
        "FUNCTION void {long}(unsigned long n) {{ BURN(n); }}\n\
         FUNCTION void {short}(unsigned long n) {{ BURN(n); }}\n"
    );
    // No turn is as long as the last: turns that are as long as some ticks would be seen at the same place each time.
    let mut callee = format!(
        "for (unsigned int r = 1;;) {{ r = r * 1103515245 + 12345; unsigned long n = 350000 + (r >> 8) % 700000; \
         {long}(2 * n); {short}(n); }}"
    );
    for name in chain.iter().rev() {
        source += &format!("FUNCTION void {name}(void) {{ {callee} }}\n");
        callee = format!("{name}();");
    }
    source + &format!("int main(void) {{ {callee} }}\n")
}

#[test]
fn random_names_are_found_with_their_parents() {
    let _machine = machine::alone();
    let chain: [String; 5] = std::array::from_fn(|_| random_letters(12));
    let siblings: [String; 2] = std::array::from_fn(|_| random_letters(12));
    let comm = unique_name("gate");
    let program = Program::compile(&comm, &source(&chain, &siblings));

    let collector = Collector::shared();
    let mut agent = Agent::start(&policy("gate", &format!("regex: '^{comm}$', frequency: 997")));
    let process = program.start::<&str>(&[]);
    agent.wait_for_samples(&comm, SAMPLES);
    process.kill();
    agent.stop();

    let flame = collector.flame(&comm, &agent.node).unwrap();
    let root = flame.root();
    assert_eq!((root.name.as_str(), root.id.as_str(), root.parent.as_str()), (&comm[..], "", "-1"));
    let selves: i64 = flame.nodes.iter().map(|node| node.self_value).sum();
    assert_eq!(root.total, selves, "the root's total is the sum of all selves");
    ids_are_those_of_the_paths(&flame);

    // From the thread down: what calls `main` is the C library's.
    let thread = format!("[t] {comm}");
    assert!(flame.at(&[&thread]).is_some(), "{:?}", flame.names());
    for sibling in &siblings {
        let hottest = flame.nodes.iter().filter(|node| node.name == *sibling).max_by_key(|node| node.total);
        let node = hottest.unwrap_or_else(|| panic!("{sibling} is not in {:?}", flame.names()));
        let path = flame.path_of(node);
        assert_eq!(path[0], thread);
        let main = path.iter().position(|name| *name == "main").unwrap_or_else(|| panic!("{path:?}"));
        let expected: Vec<&str> = chain.iter().chain([sibling]).map(String::as_str).collect();
        assert_eq!(path[main + 1..], expected, "the callers of {sibling}");
        let off_the_path = flame.total_of(sibling) - node.total;
        assert!(
            (off_the_path as f64) < root.total as f64 / 100.0,
            "{off_the_path} µs of {sibling} have other callers"
        );
    }

    let [long, short] = siblings.each_ref().map(|sibling| flame.total_of(sibling) as f64);
    let share = long / (long + short) * 100.0;
    assert!((share - 200.0 / 3.0).abs() < 2.0, "{share:.2} % instead of two thirds");
    assert!(long + short > 0.98 * root.total as f64, "nearly all time is in the siblings");
}

/// Every id is the UUIDv5 of the path's frames, and every parent is there.
fn ids_are_those_of_the_paths(flame: &Flame) {
    for node in flame.nodes.iter().filter(|node| node.parent != "-1") {
        let path = flame.path_of(node).join(";");
        assert_eq!(node.id, Uuid::new_v5(&Uuid::NAMESPACE_OID, path.as_bytes()).to_string(), "{path}");
        assert!(flame.nodes.iter().any(|parent| parent.id == node.parent), "the parent of {path}");
    }
}

#[test]
fn names_are_found_although_the_process_ended_before_anybody_asked() {
    let _machine = machine::together();
    let leaf = random_letters(12);
    let comm = unique_name("ended");
    // Half a second of work, and it is gone before its window is closed or shortly after.
    let program = Program::compile(
        &comm,
        &format!(
            "FUNCTION void {leaf}(void) {{ while (clock() < CLOCKS_PER_SEC / 2) BURN(100000); }}\n\
             int main(void) {{ {leaf}(); return 0; }}"
        ),
    );
    let mut agent = Agent::start(&policy("ended", &format!("regex: '^{comm}$', frequency: 499")));
    program.start::<&str>(&[]).wait();
    let collector = Collector::shared();
    let flame = wait_for("the flame graph", || collector.flame(&comm, &agent.node).ok());
    agent.stop();
    let total = collector.flame(&comm, &agent.node).unwrap().root().total;
    assert!(flame.total_of(&leaf) > 0, "{leaf} is not in {:?}", flame.names());
    assert!((400_000..600_000).contains(&total), "{total} µs of half a second");
}
