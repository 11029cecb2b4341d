//! The flame graph in a terminal, which tmux plays.

use std::path::Path;
use std::process::Command;

use crate::binary::until;
use crate::fake::Fake;

/// A tmux of its own, which ends with the test.
struct Tmux<'a>(&'a Path);

impl Tmux<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.0.join("tmux")).args(["-f", "/dev/null"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments).output().expect("tmux is installed: scripts/setup.sh test");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        // Of a test that has failed it may be gone already.
        let _ = self.command(&["kill-server"]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flame_graph_is_walked_through_in_a_terminal_until_q() {
    let fake = Fake::new();
    fake.flame("redis", &[]);
    let address = fake.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let tmux = Tmux(folder.path());
    let program = env!("CARGO_BIN_EXE_kubectl-hearth");
    let line = format!("{program} flame app/redis --server http://{address}; echo ended with $?; exec cat");
    tmux.run(&["new-session", "-d", "-x", "100", "-y", "30", &line]);
    until(|| tmux.screen().contains("redis_work")).await;
    let screen = tmux.screen();
    assert!(screen.contains("redis_main") && screen.contains("[t] redis"), "{screen}");
    assert!(!screen.contains("ended with"), "{screen}");
    tmux.run(&["send-keys", "q"]);
    until(|| tmux.screen().contains("ended with 0")).await;
    let screen = tmux.screen();
    assert!(!screen.contains("redis_work"), "the screen of before is back: {screen}");
}
