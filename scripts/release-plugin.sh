#!/usr/bin/env bash
# For the release workflow: the kubectl plugin as an archive with a signature and a list of what is in it, and the manifest by
# which Krew installs it, in the folder that is given. Needs cosign, syft and cargo-auditable; TAG is the release's, HOMEPAGE the project's.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
dist=${1:?a folder}
: "${TAG:?the tag of the release}" "${HOMEPAGE:?the address of the project}"
mkdir -p "$dist"
cargo auditable build --quiet --release --locked -p kubectl-hearth
archive=$dist/kubectl-hearth-$TAG-linux-amd64.tar.gz
# The same bytes for the same binary, whoever packs it and when.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -c \
  -C "$target/release" kubectl-hearth -C "$root" LICENSE NOTICE | gzip -n >"$archive"
sum=$(sha256sum "$archive" | cut -d' ' -f1)
sed -e "s|{{VERSION}}|$TAG|g; s|{{SHA256_LINUX_AMD64}}|$sum|g; s|{{HOMEPAGE}}|$HOMEPAGE|g" \
  -e "s|{{BASE_URL}}|$HOMEPAGE/releases/download/$TAG|g; /^#/d" kubectl-hearth/krew.yaml >"$dist/hearth.yaml"
if grep -n '{{' "$dist/hearth.yaml" >&2; then fail "the manifest has a mark that is not filled"; fi
syft scan "file:$target/release/kubectl-hearth" --output "spdx-json=$archive.spdx.json"
cosign sign-blob --yes --bundle "$archive.sigstore.json" "$archive"
say "$archive $sum"
