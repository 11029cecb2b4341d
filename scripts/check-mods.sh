#!/usr/bin/env bash
# Every Rust source file is named by some `mod`, so that none is silently left out of build and tests.
# The compiler is asked, by its list of the files it read.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"

# Touching nothing: the dep-info of an up-to-date check names every source file. The BPF program is
# built for another target, whose dep-info is below the agent's.
cargo check --quiet --workspace --all-targets
read_by_compiler=$(find "$target/debug" -name '*.d' -newer Cargo.toml -o -name '*.d' | xargs cat \
  | grep -oE '[^ :\\]+\.rs' | sed "s|^$root/||" | sort -u)
status=0
while read -r file; do
  case $file in fuzz/*) continue ;; esac # A crate of its own, outside the workspace.
  if ! grep -qxF "$file" <<<"$read_by_compiler"; then
    echo "error: $file is in no mod: name it in its parent, or remove it" >&2
    status=1
  fi
done < <(git ls-files --cached --others --exclude-standard '*.rs')
exit $status
