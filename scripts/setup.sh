#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks. Says what it does; what is there stays.
#
#   scripts/setup.sh build     to build and run
#   scripts/setup.sh test      and to run every test
#   scripts/setup.sh bench     and to run the benchmarks
#   scripts/setup.sh kernels   and to boot other kernels
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/packages.sh"
want=${1:-build}

need_rust() {
  local wanted=1.95 found
  if ! command -v cargo >/dev/null; then
    echo "error: cargo is not installed; install Rust $wanted or newer: https://rustup.rs" >&2
    exit 2
  fi
  found=$(cargo --version | awk '{print $2}')
  if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "error: cargo $found is too old, $wanted or newer is needed; run: rustup update stable" >&2
    exit 2
  fi
}

# A rustc with `core` for BPF: Debian's, or a nightly with its sources.
bpf_rustc() {
  local libdir
  libdir=$(/usr/bin/rustc --print target-libdir --target bpfel-unknown-none 2>/dev/null) && [ -d "$libdir" ] && return
  if command -v rustup >/dev/null && rustup component list --toolchain nightly 2>/dev/null | grep -q '^rust-src.*installed'; then
    return
  fi
  packages rustc-web libstd-rust-web-dev-bpf
}

bpf_linker() {
  [ -x "$bpf_linker" ] && return
  packages llvm-22-dev libpolly-22-dev
  say "building bpf-linker $bpf_linker_version (about a minute) into $HEARTH_CACHE"
  env -u CARGO_TARGET_DIR LLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 \
    cargo install --quiet bpf-linker --version "$bpf_linker_version" --no-default-features --features llvm-22 \
    --root "$HEARTH_CACHE/bpf-linker-$bpf_linker_version" >&2
}

need_rust
has_command cc gcc
has_command curl curl
bpf_rustc
bpf_linker
has_command npm npm
"$root/scripts/setup-chdb.sh" >/dev/null

case $want in
  build) ;;
  test | bench | kernels)
    # Compilers of the programs that the tests profile, others to profile, perf to compare with, and a terminal
    # for the plugin.
    packages gcc g++ libc6-dev util-linux linux-perf redis-server redis-tools tmux
    has_command go golang-go
    # go builds its tools when they are first used, which takes half a minute.
    go tool -n pprof >/dev/null
    "$root/scripts/setup-speedscope.sh" >/dev/null
    ;;&
  test)
    "$root/scripts/setup-helm.sh" >/dev/null
    ;;
  bench | kernels)
    packages bpftrace
    ;;&
  kernels)
    packages qemu-system-x86 cpio busybox-static
    ;;
  bench) ;;
  *) echo "usage: scripts/setup.sh [build|test|bench|kernels]" >&2; exit 2 ;;
esac
