//! Connections that break, and collectors that an agent moves between.

use hearth_e2e::daemon::wait_for;
use hearth_e2e::proc_fs::is_stopped;

use crate::instance::{Instance, SharedStore};
use crate::ledger::{Ledger, Outcome};
use crate::proxy::{Cut, Proxy};
use crate::sender::{Habit, Sender};

#[test]
fn a_connection_that_is_cut_in_the_middle_of_a_frame() {
    let instance = Instance::start("", &[]);
    // Within the preface, the settings, the headers, the first batch, and later ones.
    let sent = [10, 40, 150, 600, 1500, 4000].map(Cut::Sent);
    let answered = [5, 50, 100, 200].map(Cut::Answered);
    let cuts: Vec<Cut> = sent.into_iter().chain(answered).collect();
    let senders: Vec<(Proxy, Sender)> = (0..)
        .zip(&cuts)
        .map(|(number, cut)| {
            let proxy = Proxy::start(instance.collector.grpc, &[*cut]);
            let url = format!("http://{}", proxy.address);
            (proxy, Sender::start(url, &format!("node-{number}"), Habit::default()))
        })
        .collect();
    let mut ledger = Ledger::default();
    for ((proxy, sender), cut) in senders.into_iter().zip(cuts) {
        sender.wait_for_more(20);
        assert_eq!(proxy.cuts_left(), 0);
        println!("{cut:?}: {} streams", sender.streams());
        assert!(sender.streams() >= 2, "{cut:?} cut nothing");
        ledger.add(sender.finish());
    }
    assert_eq!(ledger.compare(&instance.collector), Outcome::default());
}

#[test]
fn an_agent_that_moves_between_two_collectors_while_one_is_killed() {
    let store = SharedStore::start();
    let [first, second] = [(); 2].map(|()| store.collector());
    let [first_folder, second_folder] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut first_running = store.start_collector(&first, first_folder.path(), "collector-after-insert:2");
    let mut second_running = store.start_collector(&second, second_folder.path(), "");
    let proxy = Proxy::start(first.grpc, &[]);
    let sender = Sender::start(format!("http://{}", proxy.address), "node-a", Habit::default());

    // The first has stored what it does not acknowledge any more.
    wait_for("the first collector to stop", || is_stopped(first_running.pid()).then_some(()));
    let before = sender.acknowledged();
    assert!(before > 0, "it acknowledged its first INSERT");
    proxy.move_to(second.grpc);
    sender.wait_for_more(10);
    first_running.signal(libc::SIGKILL);
    first_running.wait();

    // And back, while the second dies at whatever it does.
    let mut first_running = store.start_collector(&first, first_folder.path(), "");
    sender.wait_for_more(10);
    proxy.move_to(first.grpc);
    second_running.signal(libc::SIGKILL);
    second_running.wait();
    sender.wait_for_more(10);
    let ledger = sender.finish();
    assert_eq!(ledger.compare(&first), Outcome::default());
    assert!(first_running.terminate().success(), "a collector that was asked to ends well");
}
