//! A cgroup of one's own: the kernel's account of everything that ran in it, also of what ended.

use std::path::{Path, PathBuf};

use crate::daemon::LOOK;
use crate::unique_name;

/// A cgroup; removed when dropped, by when its processes must have ended.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// A new one, in the unified hierarchy or in version 1's of CPU accounts, whichever this
    /// machine has.
    pub fn create() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let parent = if unified { root.to_owned() } else { root.join("cpuacct") };
        let folder = parent.join(unique_name("hearth"));
        std::fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self { folder, unified }
    }

    /// Starts a program in it: a launcher that ends its arguments with the program's.
    pub fn launcher(&self) -> [String; 4] {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.folder.display());
        ["sh".to_owned(), "-c".to_owned(), enter, "sh".to_owned()]
    }

    /// CPU time of all that ever ran in it, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        let file = self.folder.join(if self.unified { "cpu.stat" } else { "cpuacct.usage" });
        let text = std::fs::read_to_string(&file).expect("a cgroup has an account of CPU time");
        let number = |text: &str| -> f64 { text.trim().parse().expect("times are numbers") };
        if self.unified {
            let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
            number(line.expect("cpu.stat has usage_usec"))
        } else {
            number(&text) / 1000.0
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets go of an ended process a moment after it was waited for. Nothing panics
        // here: a failed test's own message would be lost.
        let mut tries = 0;
        while let Err(error) = std::fs::remove_dir(&self.folder) {
            tries += 1;
            if tries > 100 {
                eprintln!("cannot remove {}: {error}", self.folder.display());
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
