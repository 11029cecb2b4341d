//! Processes that were written to harm whoever looks at them: the agent stays up, bounded, and
//! names the others as always.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use hearth_e2e::{Agent, Collector, Program, Running, machine, policy, proc_fs, random_letters, unique_name};

/// Most memory that the agent may ever have had; a debug build with all kernel names takes half.
const MOST_MEMORY: u64 = 300 << 20;

/// Renames itself to what would break folded stacks, log lines and text columns.
const STRANGE_NAME: &str = r#"
    FUNCTION void burn_with_strange_name(void) { for (;;) BURN(1000000); }
    int main(void) { prctl(PR_SET_NAME, "a;b\nc\xff\xfe d", 0, 0, 0);
      puts("ready"); fflush(stdout); burn_with_strange_name(); }"#;

/// 50,000 executable mappings: neighbours differ, so that the kernel cannot merge them.
const MANY_MAPPINGS: &str = r#"
    FUNCTION void burn_amid_mappings(void) { for (;;) BURN(1000000); }
    int main(int argc, char **argv) {
      int fd = open(argv[0], O_RDONLY);
      for (int i = 0; i < 50000; i++)
        if (mmap(0, 4096, i % 2 ? PROT_READ | PROT_EXEC : PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED) return 1;
      puts("ready"); fflush(stdout); burn_amid_mappings(); }"#;

/// The same, in a process that forks as often as it can; the children do nothing.
const FORKING_MAPPINGS: &str = r#"
    FUNCTION void burn_and_fork(void) {
      for (;;) {
        BURN(1000000);
        pid_t child = fork();
        if (child == 0) _exit(0);
        waitpid(child, 0, 0);
      } }
    int main(int argc, char **argv) {
      int fd = open(argv[0], O_RDONLY);
      for (int i = 0; i < 50000; i++)
        if (mmap(0, 4096, i % 2 ? PROT_READ | PROT_EXEC : PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED) return 1;
      puts("ready"); fflush(stdout); burn_and_fork(); }"#;

/// The main thread ends; another one goes on.
const LEADERLESS: &str = r#"
    #include <pthread.h>
    static pthread_t leader;
    FUNCTION void burn_without_leader(void) { for (;;) BURN(1000000); }
    FUNCTION void *rest(void *unused) {
      pthread_join(leader, 0);
      puts("ready"); fflush(stdout); burn_without_leader(); return unused; }
    int main(void) {
      leader = pthread_self();
      pthread_t thread;
      if (pthread_create(&thread, 0, rest, 0)) return 1;
      pthread_exit(0); }"#;

/// Runs code in anonymous memory, as a JIT would: `mov rax, n; dec rax; jnz; ret`.
const JIT: &str = r#"
    FUNCTION void call_generated(void (*code)(void)) { for (;;) { code(); BURN(1); } }
    int main(void) {
      static const unsigned char loop[] = { 0x55, 0x48, 0x89, 0xe5, 0xb8, 0x40, 0x42, 0x0f, 0x00,
        0xff, 0xc8, 0x75, 0xfc, 0x5d, 0xc3 };
      unsigned char *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (code == MAP_FAILED) return 1;
      memcpy(code, loop, sizeof loop);
      printf("%p\n", (void *)code); fflush(stdout);
      getchar();
      call_generated((void (*)(void))(void *)code); }"#;

/// Runs code out of a file that claims to be an ELF object: the bytes from 4096 on are the loop above.
const FOREIGN_FILE: &str = r#"
    FUNCTION void call_mapped(void (*code)(void)) { for (;;) { code(); BURN(1); } }
    int main(int argc, char **argv) {
      int fd = open(argv[1], O_RDONLY);
      unsigned char *file = mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
      if (file == MAP_FAILED) return 1;
      puts("ready"); fflush(stdout);
      call_mapped((void (*)(void))(void *)(file + 4096)); }"#;

/// `push rbp; mov rbp, rsp; mov eax, 1000000; 1: dec eax; jnz 1b; pop rbp; ret`
const LOOP: [u8; 15] =
    [0x55, 0x48, 0x89, 0xe5, 0xb8, 0x40, 0x42, 0x0f, 0x00, 0xff, 0xc8, 0x75, 0xfc, 0x5d, 0xc3];

/// An agent, an ordinary program beside the hostile one, and what must hold in the end.
struct Scene {
    agent: Agent,
    honest: Running,
    honest_name: String,
    leaf: String,
    hostile_name: String,
    _honest_program: Program,
}

impl Scene {
    /// Profiles processes of this name and an honest one.
    fn open(hostile_name: &str) -> Self {
        let honest_name = unique_name("honest");
        let leaf = random_letters(12);
        let program = Program::compile(
            &honest_name,
            &format!(
                "FUNCTION void {leaf}(void) {{ for (;;) BURN(1000000); }} int main(void) {{ {leaf}(); }}"
            ),
        );
        let regex = format!("regex: '^({honest_name}|{hostile_name})', frequency: 199");
        let agent = Agent::start(&policy("hostile", &regex));
        let honest = program.start::<&str>(&[]);
        let hostile_name = hostile_name.to_owned();
        Self { agent, honest, honest_name, leaf, hostile_name, _honest_program: program }
    }

    /// Waits for samples of both, and holds the agent to its promises; the hostile one's names.
    fn close(mut self, hostile: &str) -> Vec<String> {
        let collector = Collector::shared();
        self.agent.wait_for_samples(hostile, 100);
        // From now on: what the hostile process did to it shows in what follows.
        let so_far = collector.samples(&self.agent.node, &format!("app_service = '{}'", self.honest_name));
        self.agent.wait_for_samples(&self.honest_name, so_far + 50);
        assert!(self.agent.ended().is_none(), "the agent ended: {}", self.agent.log());
        assert_eq!(self.agent.get("/readyz").status, 200);
        let peak = proc_fs::peak_memory(self.agent.pid());
        println!("{}: the agent had {} MiB at most", self.hostile_name, peak >> 20);
        assert!(peak < MOST_MEMORY, "the agent had {} MiB", peak >> 20);
        self.honest.kill();
        let log = self.agent.stop();
        assert!(!log.contains("panicked"), "{log}");

        let flame = collector.flame(&self.honest_name, &self.agent.node).unwrap();
        let below_main =
            flame.nodes.iter().find(|node| node.name == self.leaf).map(|node| flame.path_of(node));
        let path = below_main.unwrap_or_else(|| panic!("{} is not in {:?}", self.leaf, flame.names()));
        assert_eq!(path[path.len() - 2], "main");
        assert!(flame.total_of(&self.leaf) as f64 > 0.95 * flame.root().total as f64);

        let flame = collector.flame(hostile, &self.agent.node).unwrap();
        flame.names().into_iter().map(str::to_owned).collect()
    }
}

fn has(names: &[String], name: &str) {
    assert!(names.iter().any(|other| other == name), "{name} is not in {names:?}");
}

#[test]
fn a_name_of_separators_and_broken_text() {
    let _machine = machine::together();
    // What is left of it in rows: one line, no separator, UTF-8.
    let scene = Scene::open("a:b");
    let program = Program::compile(&unique_name("strange"), STRANGE_NAME);
    let mut process = program.start::<&str>(&[]);
    assert_eq!(process.read_line(), "ready");
    let node = scene.agent.node.clone();
    let apps = || {
        let apps = Collector::shared().sql(&format!(
            "SELECT DISTINCT app_service FROM profile.in_process_local \
             WHERE pod_node = '{node}' AND app_service LIKE 'a:b%'"
        ));
        apps.first().cloned()
    };
    let shown = hearth_e2e::daemon::wait_for("the strange name", apps);
    assert!(!shown.contains([';', '\n']), "{shown:?}");
    assert!(shown.starts_with("a:b") && shown.ends_with('d'), "{shown:?}");
    // As TSV escapes it: no backslash means nothing had to be escaped.
    assert!(!shown.contains('\\'), "{shown:?}");
    let names = scene.close(&shown);
    has(&names, "burn_with_strange_name");
    has(&names, &format!("[t] {shown}"));
}

#[test]
fn fifty_thousand_mappings() {
    let _machine = machine::together();
    let name = unique_name("maps");
    let scene = Scene::open(&name);
    let program = Program::compile(&name, MANY_MAPPINGS);
    let mut process = program.start::<&str>(&[]);
    assert_eq!(process.read_line(), "ready");
    let names = scene.close(&name);
    has(&names, "burn_amid_mappings");
}

#[test]
fn fifty_thousand_mappings_in_every_fork() {
    let _machine = machine::together();
    let comm = unique_name("forks");
    let mut scene = Scene::open(&comm);
    let program = Program::compile(&comm, FORKING_MAPPINGS);
    let mut process = program.start::<&str>(&[]);
    assert_eq!(process.read_line(), "ready");
    // Some seconds of forks.
    scene.agent.wait_for_samples(&comm, 1000);
    has(&scene.close(&comm), "burn_and_fork");
}

#[test]
fn a_main_thread_that_ended_before_the_agent_came() {
    let _machine = machine::together();
    let comm = unique_name("leader");
    let program = Program::compile(&comm, LEADERLESS);
    let mut process = program.start::<&str>(&[]);
    assert_eq!(process.read_line(), "ready");
    has(&Scene::open(&comm).close(&comm), "burn_without_leader");
}

/// More text in one stack than a collector takes: what is too much is cut, and the others' rows arrive.
#[test]
fn a_long_name_that_calls_itself() {
    let _machine = machine::together();
    let comm = unique_name("long");
    let scene = Scene::open(&comm);
    let function = random_letters(3900);
    let program = Program::compile(
        &comm,
        &format!(
            "FUNCTION void {function}(int depth) {{ if (depth) {function}(depth - 1); else for (;;) BURN(1000000); BURN(1); }}
             int main(void) {{ {function}(60); }}"
        ),
    );
    let _process = program.start::<&str>(&[]);
    let names = scene.close(&comm);
    has(&names, &function);
    has(&names, "[truncated]");
}

#[test]
fn a_name_that_demangles_for_ever() {
    let _machine = machine::together();
    // f(A<int, int>, A<S0, S0>, A<S1, S1>, …): every parameter is twice as long as the one before.
    let digits = |number: usize| match number {
        0..10 => number.to_string(),
        _ => char::from(b'A' + u8::try_from(number - 10).unwrap()).to_string(),
    };
    let parameters: String = (0..36).map(|level| format!("S_IS{0}_S{0}_E", digits(level))).collect();
    let symbol = format!("_Z1f1AIiiE{parameters}");
    let name = unique_name("mangle");
    let scene = Scene::open(&name);
    let program = Program::compile(
        &name,
        &format!(
            "FUNCTION void bomb(void) __asm__(\"{symbol}\"); FUNCTION void bomb(void) {{ for (;;) BURN(1000000); }}
             FUNCTION void calls_it(void) {{ bomb(); }} int main(void) {{ calls_it(); }}"
        ),
    );
    let _process = program.start::<&str>(&[]);
    let names = scene.close(&name);
    has(&names, "calls_it");
    assert!(names.iter().all(|name| name.len() < 64 << 10), "a name is longer than any reader's patience");
}

/// Runs generated code with this perf map, until the frame expected for its pid is shown for it.
fn with_perf_map(expected: impl FnOnce(u32) -> String, write: impl FnOnce(&std::fs::File, u64)) {
    let _machine = machine::together();
    let name = unique_name("jit");
    let scene = Scene::open(&name);
    let program = Program::compile(&name, JIT);
    let mut process = program.start_with_stdin();
    let address = process.read_line();
    let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).unwrap();
    let pid = process.pid();
    let path = format!("/tmp/perf-{pid}.map");
    let file = std::fs::File::create(&path).unwrap();
    /// Removes the file, whatever happens.
    struct Remove(String);
    impl Drop for Remove {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).expect("the test's own file can be removed");
        }
    }
    let _remove = Remove(path);
    write(&file, address);
    process.write_line();
    // The loader's own samples may come before the map, which is then looked for a second later.
    let expected = expected(pid);
    let is_shown = || {
        let flame = Collector::shared().flame(&name, &scene.agent.node).ok()?;
        flame.names().contains(&expected.as_str()).then_some(())
    };
    hearth_e2e::daemon::wait_for(&expected, is_shown);
    scene.close(&name);
}

/// What is shown for code that the map does not list.
fn map_frame(pid: u32) -> String {
    format!("[/tmp/perf-{pid}.map]")
}

#[test]
fn a_perf_map_names_generated_code() {
    with_perf_map(
        |_| "LHello:::world".to_owned(),
        |mut file, address| writeln!(file, "{address:x} 100 LHello;::world").unwrap(),
    );
}

#[test]
fn a_perf_map_of_a_gibibyte() {
    with_perf_map(map_frame, |file, address| {
        file.set_len(1 << 30).unwrap();
        // The only entry, behind everything that is ever read.
        file.write_at(format!("\n{address:x} 100 far_away\n").as_bytes(), (1 << 30) - 64).unwrap();
    });
}

#[test]
fn a_perf_map_of_noise() {
    with_perf_map(map_frame, |mut file, _| {
        // Reproducible noise with line ends, broken UTF-8 and numbers too large in it.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut noise = Vec::new();
        for _ in 0..200_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend(state.to_le_bytes());
        }
        noise.extend(b"\nffffffffffffffff ffffffffffffffff overflow\nzz 10 nohex\n10 \n\n");
        file.write_all(&noise).unwrap();
    });
}

/// Runs code of a file that begins with these bytes; what is shown for it.
fn with_mapped_file(name: &str, head: &[u8]) {
    let comm = unique_name("elf");
    let scene = Scene::open(&comm);
    let program = Program::compile(&comm, FOREIGN_FILE);
    let path = program.folder().join(name);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(8192).unwrap();
    file.write_at(head, 0).unwrap();
    file.write_at(&LOOP, 4096).unwrap();
    let mut process = program.start(&[path.to_str().unwrap()]);
    assert_eq!(process.read_line(), "ready");
    let names = scene.close(&comm);
    has(&names, "main");
    // No name can be known; which module it is can.
    assert!(names.iter().any(|shown| shown.starts_with('[') && shown.contains(name)), "{names:?}");
}

/// A 64-bit ELF header with these places and counts of its tables.
fn elf_header(section_offset: u64, sections: u16, name_section: u16) -> Vec<u8> {
    let mut head = b"\x7fELF\x02\x01\x01".to_vec();
    head.resize(16, 0);
    head.extend(3_u16.to_le_bytes()); // shared object
    head.extend(62_u16.to_le_bytes()); // x86-64
    head.extend(1_u32.to_le_bytes());
    head.extend(0_u64.to_le_bytes()); // entry
    head.extend(64_u64.to_le_bytes()); // program headers
    head.extend(section_offset.to_le_bytes());
    head.extend(0_u32.to_le_bytes());
    head.extend([64_u16, 56, 1, 64, sections, name_section].iter().flat_map(|number| number.to_le_bytes()));
    head
}

#[test]
fn a_truncated_and_self_contradicting_files_that_claim_to_be_elf() {
    let _machine = machine::together();
    with_mapped_file("cut.so", b"\x7fELF\x02\x01\x01");
    // Section headers far behind the end, as many as can be, names in none of them.
    with_mapped_file("liar.so", &elf_header(u64::MAX - 63, u16::MAX, u16::MAX - 1));
    // Sections that are the header itself, whose sizes are therefore nonsense.
    with_mapped_file("self.so", &elf_header(0, 120, 0));
}
