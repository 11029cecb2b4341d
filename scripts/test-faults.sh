#!/usr/bin/env bash
# Kills every process 20 times at every point of the list, keeps the store away for a minute, and prints what
# was lost and what was doubled. Needs root; about ten minutes.
#
#   HEARTH_FAULT_RUNS=100           more runs of each point
#   HEARTH_FAULT_AWAY_SECONDS=300   a longer time without a store
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" test
[ "$(id -u)" = 0 ] || fail "the tests load BPF programs: run them as root (sudo -E make test-faults)"

HEARTH_LIBCHDB=$("$root/scripts/setup-chdb.sh" | tail -n 1)
export HEARTH_LIBCHDB HEARTH_FAULT_RUNS=${HEARTH_FAULT_RUNS:-20}
export HEARTH_FAULT_AWAY_SECONDS=${HEARTH_FAULT_AWAY_SECONDS:-60}
say "building"
cargo build --quiet --workspace --bins --locked
say "testing"
cargo test --quiet --package hearth-e2e --test faults --locked -- --nocapture "$@"
