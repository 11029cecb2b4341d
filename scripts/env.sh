# Sourced by the other scripts: where things are, and how to say what is done.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Everything that is built or fetched once and is no part of the checkout. Not exported where it is the
# default, which the agent's build script knows too: a changed environment makes cargo build the agent anew.
HEARTH_CACHE=${HEARTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth}
bpf_linker_version=0.13.0
bpf_linker=${HEARTH_BPF_LINKER:-$HEARTH_CACHE/bpf-linker-$bpf_linker_version/bin/bpf-linker}
target=${CARGO_TARGET_DIR:-$root/target}
# A go that is older than a go.mod asks for fetches the newer one; some distributions have that switched off.
export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}

say() { printf '\n== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command as root.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -E "$@"
  else fail "this needs root: run it as root, or install sudo ($*)"
  fi
}
