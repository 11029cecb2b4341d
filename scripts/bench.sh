#!/usr/bin/env bash
# Benchmarks beside perf and bpftrace; prints one Markdown table. Needs root; half an
# hour of an otherwise idle machine.
#
#   ROUNDS=2            fewer rounds than 10
#   make bench ARGS=…   or scripts/bench.sh …: arguments of hearth-bench, such as --rows kernel,agent
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" bench

say "building with optimization (some minutes the first time)"
cargo build --quiet --release --locked --workspace --bins
libchdb=$("$root/scripts/setup-chdb.sh" 2>/dev/null | tail -n 1)
HEARTH_KCLUSTER=$("$root/scripts/setup-cluster.sh" | tail -n 1)
HEARTH_HELM=$("$root/scripts/setup-helm.sh" | tail -n 1)
export HEARTH_KCLUSTER HEARTH_HELM
as_root "$target/release/hearth-bench" --libchdb "$libchdb" ${ROUNDS:+--rounds "$ROUNDS"} ${ARGS:-} "$@"
