#!/usr/bin/env bash
# Every Rust source file is named by some `mod`, so that none is silently left out of build and tests.
# The compiler is asked: each artifact's dep-info lists the files it was made from. Only the artifacts
# that cargo names now count: a used target folder also holds the lists of files that are in no mod any more.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"

compiled=$(mktemp)
trap 'rm -f "$compiled"' EXIT
cargo check --quiet --workspace --all-targets --message-format json \
  | grep -oE '"[^"]+/deps/lib[^"/]+\.rmeta"' | tr -d '"' | sort -u \
  | sed -E 's|/lib([^/]+)\.rmeta$|/\1.d|' \
  | while read -r list; do if [ -f "$list" ]; then cat "$list"; fi; done \
  | grep -oE '[^ :\\]+\.rs' | sed "s|^$root/||" | sort -u > "$compiled"
[ -s "$compiled" ] || fail "cargo named no source file"

status=0
while read -r file; do
  case $file in
    fuzz/*) continue ;; # A workspace of its own.
    # Build scripts are no rmeta, and the BPF program is built for another target; the files its mods
    # would name are the library's.
    */build.rs | node-agent-ebpf/src/main.rs) continue ;;
  esac
  if ! grep -qxF "$file" "$compiled"; then
    echo "error: $file is in no mod: name it in its parent, or remove it" >&2
    status=1
  fi
done < <(git ls-files --cached --others --exclude-standard '*.rs')
exit $status
