#!/usr/bin/env bash
# Sets up, builds and runs every test. The last line is "N passed, M failed".
set -uo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" test || exit $?

# Tests that load BPF programs, look into other processes and make namespaces need root.
[ "$(id -u)" = 0 ] || fail "the tests load BPF programs: run them as root (sudo -E make test)"

HEARTH_LIBCHDB=$("$root/scripts/setup-chdb.sh" | tail -n 1)
export HEARTH_LIBCHDB
HEARTH_KCLUSTER=$("$root/scripts/setup-cluster.sh" | tail -n 1)
export HEARTH_KCLUSTER
HEARTH_HELM=$("$root/scripts/setup-helm.sh" | tail -n 1)
export HEARTH_HELM
say "building"
# The end-to-end tests start the binaries that users start.
cargo build --quiet --workspace --bins --locked || exit 1

say "testing"
output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo test --workspace --locked --no-fail-fast -- "$@" 2>&1 | tee "$output"
status=${PIPESTATUS[0]}

# Each test binary closes with "test result: ok. 3 passed; 0 failed; …". One that died before that
# has no such line, but then cargo's status is not 0.
counts=$(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed; .*/\1 \2/p' "$output" \
  | awk '{p += $1; f += $2} END {print p + 0, f + 0}')
read -r passed failed <<<"$counts"
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then failed=1; fi

# The chart's; without arguments only, which choose tests by their names.
if [ $# = 0 ]; then
  "$root/scripts/test-chart.sh" 2>&1 | tee "$output"
  status=${PIPESTATUS[0]}
  read -r chart_passed _ chart_failed _ < <(tail -n 1 "$output" | grep -E '^[0-9]+ passed, [0-9]+ failed$' || echo "0 passed, 1 failed")
  if [ "$status" != 0 ] && [ "$chart_failed" = 0 ]; then chart_failed=1; fi
  passed=$((passed + chart_passed)) failed=$((failed + chart_failed))
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
