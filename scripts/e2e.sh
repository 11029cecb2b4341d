#!/usr/bin/env bash
# Sets up, builds and runs the tests on a real Kubernetes cluster. An argument chooses tests by name.
#   HEARTH_OUTAGE_SECONDS  how long the operator, the API server and the collector are away at least [0]
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" test
[ "$(id -u)" = 0 ] || fail "the cluster makes namespaces and cgroups: run it as root (sudo -E make e2e)"

HEARTH_LIBCHDB=$("$root/scripts/setup-chdb.sh" | tail -n 1)
HEARTH_KCLUSTER=$("$root/scripts/setup-cluster.sh" | tail -n 1)
HEARTH_HELM=$("$root/scripts/setup-helm.sh" | tail -n 1)
export HEARTH_LIBCHDB HEARTH_KCLUSTER HEARTH_HELM
say "building"
cargo build --quiet --workspace --bins --locked
say "testing"
cargo test --quiet --package hearth-e2e --test cluster --locked -- "$@"
