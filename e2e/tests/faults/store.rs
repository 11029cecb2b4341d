//! The store is away, or its disk is full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hearth_e2e::daemon::{send_signal, wait_for};

use crate::instance::Instance;
use crate::ledger::Outcome;
use crate::sender::{Habit, Sender};
use crate::setting;

#[test]
fn a_store_that_is_away_for_a_while() {
    let mut instance = Instance::start("", &[]);
    let sender = Sender::start(instance.url(), "node-a", Habit::default());
    sender.wait_for_more(5);
    // It hangs, with whatever it was asked, and then dies: the worse kind of away.
    send_signal(instance.engine(), libc::SIGSTOP);
    let away = Instant::now();
    let before = sender.acknowledged();
    let seconds = setting("HEARTH_FAULT_AWAY_SECONDS", 10);
    wait_for("the time to pass", || (away.elapsed() > Duration::from_secs(seconds)).then_some(()));
    let meanwhile = sender.acknowledged() - before;
    // What it had stored when it stopped may have been acknowledged a moment after.
    assert!(meanwhile < 20, "{meanwhile} batches were acknowledged without a store");
    instance.kill_engine();
    sender.wait_for_more(20);
    assert_eq!(sender.dropped(), (0, 0), "the queue keeps it all");
    let ledger = sender.finish();
    assert_eq!(ledger.compare(&instance.collector), Outcome::default());
}

#[test]
fn what_a_full_queue_drops_arrives_as_loss() {
    let mut instance = Instance::start("", &[]);
    // Some twenty windows.
    let habit = Habit { queue_bytes: Some(100 << 10), ..Habit::default() };
    let sender = Sender::start(instance.url(), "node-a", habit);
    sender.wait_for_more(5);
    let engine = instance.engine();
    send_signal(engine, libc::SIGSTOP);
    wait_for("the queue to overflow", || (sender.dropped().0 >= 10).then_some(()));
    send_signal(engine, libc::SIGCONT);
    // A loss goes with the next window that is closed.
    sender.wait_for_more(60);
    let (batches, samples) = sender.dropped();
    let ledger = sender.finish();
    println!("{batches} batches with {samples} samples were dropped of {}", ledger.samples());
    assert_eq!(ledger.compare(&instance.collector), Outcome { lost: samples, doubled: 0 });
    assert_eq!(instance.metric("hearth_collector_samples_lost_total"), samples);
    let rows = "SELECT sum(samples) FROM profile.losses WHERE reason = 'queue-full' AND pod_node = 'node-a'";
    assert_eq!(instance.collector.number(rows).cast_unsigned(), samples);
}

#[test]
fn a_disk_that_is_full_and_then_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mount(&folder.path().join("data"));
    let mut instance = Instance::start_in(folder, "", &[]);
    let sender = Sender::start(instance.url(), "node-a", Habit::default());
    sender.wait_for_more(5);
    disk.fill();
    wait_for("an INSERT to fail", || {
        (instance.metric("hearth_collector_insert_failures_total") >= 2).then_some(())
    });
    let before = sender.acknowledged();
    disk.free();
    sender.wait_for_more(20);
    println!("{before} batches were acknowledged before the disk was full");
    let ledger = sender.finish();
    assert_eq!(ledger.compare(&instance.collector), Outcome::default());
    instance.kill_collector();
    instance.kill_engine();
    drop(disk);
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128m", "hearth-faults"]).arg(folder);
        assert!(mount.status().unwrap().success(), "tmpfs cannot be mounted on {}", folder.display());
        Self(folder.to_owned())
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).unwrap();
        for block in [1 << 20, 4 << 10] {
            let block = vec![0; block];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: an engine that was killed a moment ago may still have files open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}
