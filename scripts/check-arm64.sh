#!/usr/bin/env bash
# Checks that all but the node agent compiles for arm64: that one reads the registers of amd64. Needs rustup.
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/packages.sh"
cd "$root"
arm64=aarch64-unknown-linux-gnu
# Some crates compile C.
packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross
rustup target add "$arm64" || fail "rustup cannot add the target $arm64"
cargo check --quiet --locked --target "$arm64" \
  -p hearth-operator -p hearth-collector -p hearth-clickhouse -p kubectl-hearth
say "the operator, the collector with its engine's process, and the plugin compile for arm64"
