//! Code in memory without a file: what a perf map says of it, and what is said without one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_node_agent::symbols::{Limits, ProcessImage, Symbolizer};
use tempfile::TempDir;

use crate::running::*;

#[test]
fn memory_without_a_file_is_unknown_by_address() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "anonymous", PROGRAM, &[]));
    let mut image = running.image();
    let jit = running.at("jit");
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    check(&mut image, 0xdead_b000, "[unknown] 0x00000000deadb000");
}

#[test]
fn an_unknown_thread_entry_has_a_name_of_its_own() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "thread", PROGRAM, &[]));
    let mut image = running.image();
    let stack = [running.at("xqzvk"), running.at("jit") + 0x10, running.at("jit") + 0x20];
    let unknown = format!("[unknown] 0x{:016x}", running.at("jit") + 0x10);
    let (frames, said) = name_stack(&mut symbolizer(), &mut image, &stack, AT_ONCE);
    assert_eq!(frames, ["[unknown start_thread?]", &unknown, "xqzvk"]);
    assert_eq!(said.unknown, 2);
    // Under a frame that stands for missing callers it is no entry.
    let mut out: Vec<Arc<str>> = vec!["[truncated]".into()];
    symbolizer().name_user(&mut image, &stack[..2], AT_ONCE, &mut out);
    assert_eq!(&*out[1], unknown);
}

#[test]
fn different_unknown_addresses_are_bounded_per_window() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "many", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let stack: Vec<u64> = (0..300).map(|n| jit + n * 2).collect();
    let (frames, said) = name_stack(&mut symbolizer, &mut image, &stack, AT_ONCE);
    // One of the 300 is the thread's entry.
    assert_eq!(said.over_unknown_budget, 299 - 256);
    assert_eq!(frames.iter().filter(|frame| *frame == "[unknown]").count(), 299 - 256);
    symbolizer.begin_window();
    let (_, said) = name_stack(&mut symbolizer, &mut image, &[jit + 598, jit], AT_ONCE);
    assert_eq!(said.over_unknown_budget, 0);
}

/// Writes a perf map and removes it in the end.
pub(crate) struct MapFile(PathBuf);

impl MapFile {
    fn write(path: PathBuf, text: &str) -> Self {
        fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(crate) fn of(pid: u32, text: &str) -> Self {
        Self::write(PathBuf::from(format!("/tmp/perf-{pid}.map")), text)
    }
}

impl Drop for MapFile {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn a_perf_map_names_compiled_code() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "jit", PROGRAM, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    let _map =
        MapFile::of(running.pid, &format!("{jit:x} 40 Lorg/Example;::work\n{:x} 40 a;b\n", jit + 0x40));
    check(&mut image, jit + 0x3f, "Lorg/Example;::work".replace(';', ":").as_str());
    check(&mut image, jit + 0x40, "a:b");
    let (frames, said) =
        name_stack(&mut symbolizer(), &mut image, &[jit + 0x100, running.at("main")], AT_ONCE);
    assert_eq!(frames[1], "[/tmp/perf-PID.map]");
    assert_eq!(said.unresolved_jit, 1);
}

#[test]
fn a_perf_map_is_read_again_once_deferred_and_changed() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "rejit", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let map = MapFile::of(running.pid, &format!("{jit:x} 40 first\n"));
    let mut name = |defer| name_stack(&mut symbolizer, &mut image, &[jit + 0x48, 0x1000], defer).0[1].clone();
    assert_eq!(name(MUCH_LATER), "[/tmp/perf-PID.map]");
    let text = format!("{jit:x} 40 first\n{:x} 40 second\n", jit + 0x40);
    fs::write(&map.0, text).unwrap();
    assert_eq!(name(MUCH_LATER), "[/tmp/perf-PID.map]");
    assert_eq!(name(AT_ONCE), "second");
}

#[test]
fn a_perf_map_that_comes_later_is_found_without_waiting_for_the_interval() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "latejit", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let mut name = || name_stack(&mut symbolizer, &mut image, &[jit, 0x1000], MUCH_LATER).0[1].clone();
    assert_eq!(name(), format!("[unknown] 0x{jit:016x}"));
    let _map = MapFile::of(running.pid, &format!("{jit:x} 40 late\n"));
    let begun = Instant::now();
    while name() != "late" {
        assert!(begun.elapsed() < Duration::from_secs(30), "still {}", name());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_perf_map_of_a_prepared_process_outlives_it() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::program(&compile(dir.path(), "jitgone", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let _map = MapFile::of(running.pid, &format!("{jit:x} 40 brief\n"));
    symbolizer.prepare(&mut image);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let (frames, _) = name_stack(&mut symbolizer, &mut image, &[jit + 1, 0x1000], AT_ONCE);
    assert_eq!(frames[1], "brief");
}

#[test]
fn a_perf_map_that_grew_after_it_was_opened_is_read_to_its_end() {
    let dir = TempDir::new().unwrap();
    let mut running = Running::program(&compile(dir.path(), "jitgrows", PROGRAM, &[]));
    let (mut image, jit, mut symbolizer) = (running.image(), running.at("jit"), symbolizer());
    let map = MapFile::of(running.pid, "");
    symbolizer.prepare(&mut image);
    fs::write(&map.0, format!("{jit:x} 40 written_later\n")).unwrap();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let (frames, _) = name_stack(&mut symbolizer, &mut image, &[jit + 1, 0x1000], AT_ONCE);
    assert_eq!(frames[1], "written_later");
}

#[test]
fn a_perf_map_that_was_refused_is_tried_again_although_it_did_not_change() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "refused", PROGRAM, &[]);
    let limits = Limits { perf_map_bytes: 100_000, kallsyms: "/dev/null".into(), ..Limits::default() };
    let mut symbolizer = Symbolizer::new(limits);
    let mut name = |running: &Running, image: &mut ProcessImage| {
        let stack = [running.at("jit"), 0x1000];
        name_stack(&mut symbolizer, image, &stack, AT_ONCE).0[1].clone()
    };
    // Four others take a quarter each.
    let long: String = (0..10_000).map(|n| format!("{n:x} 1 function_of_another_process\n")).collect();
    let others: Vec<Running> = (0..4).map(|_| Running::program(&program)).collect();
    let mut images: Vec<ProcessImage> = others.iter().map(Running::image).collect();
    let maps: Vec<MapFile> = others.iter().map(|other| MapFile::of(other.pid, &long)).collect();
    for (other, image) in others.iter().zip(&mut images) {
        assert_eq!(name(other, image), "[/tmp/perf-PID.map]");
    }
    let running = Running::program(&program);
    let mut image = running.image();
    let _map = MapFile::of(running.pid, &format!("{:x} 40 patient\n", running.at("jit")));
    assert_eq!(name(&running, &mut image), "[/tmp/perf-PID.map]");
    drop((images, maps));
    assert_eq!(name(&running, &mut image), "patient");
    let stats = symbolizer.stats();
    assert!(stats.perf_maps_refused > 0 && stats.perf_maps_truncated > 0, "{stats:?}");
}

#[test]
fn a_perf_map_of_somebody_else_or_behind_a_link_is_not_read() {
    let dir = TempDir::new().unwrap();
    let running = Running::program(&compile(dir.path(), "foreign", PROGRAM, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    let text = format!("{jit:x} 40 forged\n");
    let map = MapFile::of(running.pid, &text);
    std::os::unix::fs::chown(&map.0, Some(12345), Some(12345)).unwrap();
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    fs::remove_file(&map.0).unwrap();
    let target = dir.path().join("target");
    fs::write(&target, &text).unwrap();
    std::os::unix::fs::symlink(&target, &map.0).unwrap();
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
}

#[test]
fn a_perf_map_is_found_in_another_mount_and_pid_namespace() {
    let dir = TempDir::new().unwrap();
    let program = compile(dir.path(), "contained", PROGRAM, &[]);
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    // A /tmp of its own, and the program under a path that does not exist outside.
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs tmp {root} && cp {program} {root}/app && mount --bind {root} /mnt \
         && mount -t tmpfs tmp /tmp && exec /mnt/app",
        root = root.display(),
        program = program.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let mut running = Running::start(&mut command);
    // The child of `unshare` is the one in the new pid namespace.
    let children = format!("/proc/{0}/task/{0}/children", running.pid);
    running.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let inner = running.at("pid");
    assert_eq!(inner, 1);
    let jit = running.at("jit");
    let map = PathBuf::from(format!("/proc/{}/root/tmp/perf-{inner}.map", running.pid));
    fs::write(&map, format!("{jit:x} 40 contained_function\n")).unwrap();
    let mut image = running.image();
    check(&mut image, jit + 4, "contained_function");
    check(&mut image, running.at("xqzvk") + 2, "xqzvk");
}

#[test]
fn unlisted_code_of_a_jvm_is_its_maps() {
    let dir = TempDir::new().unwrap();
    let library = compile(dir.path(), "libjvm.so", LIBRARY, &["-shared", "-fPIC"]);
    let loader = compile(dir.path(), "java", LOADER, &[]);
    let running = Running::start(Command::new(&loader).arg(&library));
    let mut image = running.image();
    let (frames, said) =
        name_stack(&mut symbolizer(), &mut image, &[running.at("jit"), running.at("jit") + 8], AT_ONCE);
    assert_eq!(frames, ["[/tmp/perf-PID.map]", "[/tmp/perf-PID.map]"]);
    assert!(said.outermost_is_jit);
}

#[test]
fn code_written_to_shared_memory_is_compiled_code() {
    let dir = TempDir::new().unwrap();
    let source = r#"
        int main(void) {
            int memory = memfd_create("doublemapper", 0);
            ftruncate(memory, 8192);
            show("jit", mmap(0, 8192, PROT_READ | PROT_EXEC, MAP_SHARED, memory, 0));
            wait_for_end();
            return 0;
        }
    "#;
    let running = Running::program(&compile(dir.path(), "double", source, &[]));
    let (mut image, jit) = (running.image(), running.at("jit"));
    check(&mut image, jit, &format!("[unknown] 0x{jit:016x}"));
    let _map = MapFile::of(running.pid, &format!("{jit:x} 40 managed\n"));
    check(&mut image, jit, "managed");
}
