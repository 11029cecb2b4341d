#!/usr/bin/env bash
# What a change must satisfy beside its tests: format, lints, modules, fuzz targets, licences.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" build

say "format"
cargo fmt --all --check
say "lints"
cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
say "modules"
"$root/scripts/check-mods.sh"
say "Go"
"$root/scripts/setup-cluster.sh" >/dev/null
(cd e2e/cluster && test -z "$(gofmt -l . | tee /dev/stderr)" && CGO_ENABLED=0 go vet -trimpath ./... && go mod tidy -diff)
(cd e2e/cluster/dns && CGO_ENABLED=0 go vet -trimpath ./... && go mod tidy -diff)
"$root/scripts/setup-helm.sh" >/dev/null
(cd charts/tools && test -z "$(gofmt -l . | tee /dev/stderr)" && CGO_ENABLED=0 go vet -trimpath ./... && go mod tidy -diff)
say "fuzz targets"
# A workspace of its own; its versions are those of the project's. Stable Rust compiles it, only fuzzing needs nightly.
cp Cargo.lock fuzz/Cargo.lock
cargo check --quiet --manifest-path fuzz/Cargo.toml --target-dir "$target"
say "licences, bans, sources"
deny=$HEARTH_CACHE/cargo-deny-0.20.2
if [ ! -x "$deny/bin/cargo-deny" ]; then
  say "building cargo-deny (some minutes) into $HEARTH_CACHE"
  env -u CARGO_TARGET_DIR cargo install --quiet --locked cargo-deny --version 0.20.2 --root "$deny"
fi
"$deny/bin/cargo-deny" --workspace --all-features check licenses bans sources
