//! Builds the BPF programs of `node-agent-ebpf` and hands them to the agent as bytes.
//!
//! Needed: a `rustc` with `core` for `bpfel-unknown-none` (Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`, or a nightly toolchain with `rust-src`) and `bpf-linker`.
//! `scripts/setup.sh` installs both.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const TARGET: &str = "bpfel-unknown-none";
const BIN: &str = "hearth-bpf";
/// Where Debian installs the `rustc` of its `rustc-web` package.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// The directory that `scripts/setup.sh` installs the linker into.
const LINKER_IN_CACHE: &str = "bpf-linker-0.13.0/bin/bpf-linker";

fn main() {
    println!("cargo::rerun-if-changed=../node-agent-ebpf/src");
    println!("cargo::rerun-if-changed=../node-agent-ebpf/Cargo.toml");
    for name in ["HEARTH_BPF_RUSTC", "HEARTH_BPF_LINKER", "HEARTH_CACHE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(message) = build() {
        eprintln!("{message}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let of_cargo = |name: &str| {
        env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set: not run by cargo"))
    };
    let out = of_cargo("OUT_DIR")?;
    // Asked now, not when this was compiled: two checkouts may share a target folder, and with it this program.
    let checkout = of_cargo("CARGO_MANIFEST_DIR")?.join("..");
    let linker = linker()?;
    let mut cargo = match rustc() {
        Some(rustc) => {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
            // A stable compiler takes the unstable target this way only.
            cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
            cargo
        }
        None => {
            let mut cargo = Command::new("rustup");
            cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]).env_remove("RUSTC");
            cargo
        }
    };
    cargo
        .args(["--release", "--locked", "--package", "hearth-node-agent-ebpf", "--features", "bpf"])
        .args(["--bin", BIN, "--target", TARGET, "--target-dir"])
        .arg(out.join("bpf"))
        .current_dir(checkout)
        // --btf also cleans the names of Rust types, which the kernel would refuse.
        .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clinker={}\x1f-Clink-arg=--btf", linker.display()))
        // BTF is made from debug information, of the dependencies' functions too: one
        // without makes the kernel refuse all of it, and with it every callback.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    // What cargo and clippy set for the host's build is not meant for this one.
    for name in
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "RUSTUP_TOOLCHAIN"]
    {
        cargo.env_remove(name);
    }
    let status = cargo.status().map_err(|error| format!("cannot run {cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!(
            "building the BPF programs failed ({status}); scripts/setup.sh installs what it needs"
        ));
    }
    let built = out.join("bpf").join(TARGET).join("release").join(BIN);
    std::fs::copy(&built, out.join(BIN))
        .map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    Ok(())
}

/// A compiler that has `core` for BPF ready, if there is one.
fn rustc() -> Option<PathBuf> {
    let rustc = env::var_os("HEARTH_BPF_RUSTC").map_or_else(|| DEBIAN_RUSTC.into(), PathBuf::from);
    let answer = Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
    let libdir = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    libdir.is_dir().then_some(rustc)
}

fn linker() -> Result<PathBuf, String> {
    if let Some(linker) = env::var_os("HEARTH_BPF_LINKER") {
        return Ok(linker.into());
    }
    let cache = env::var_os("HEARTH_CACHE").map(PathBuf::from).or_else(|| {
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?.join("hearth"))
    });
    let in_path =
        || env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("bpf-linker")).find(|p| p.is_file());
    cache
        .map(|cache| cache.join(LINKER_IN_CACHE))
        .filter(|linker| linker.is_file())
        .or_else(in_path)
        .ok_or_else(|| {
            "bpf-linker not found: run scripts/setup.sh, or name it in HEARTH_BPF_LINKER".to_owned()
        })
}
