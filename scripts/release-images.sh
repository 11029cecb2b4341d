#!/usr/bin/env bash
# For the release workflow: builds the images, pushes them, and attaches to each by its digest a list of what is in it
# (SPDX) and a signature. Needs docker, cosign and syft.
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
: "${HEARTH_REGISTRY:?a registry to push to}" "${HEARTH_TAG:?a tag}"
"$root/scripts/images.sh"
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
for name in operator node-agent collector; do
  image=$HEARTH_REGISTRY/hearth-$name
  docker push --quiet "$image:$HEARTH_TAG" >/dev/null
  # A tag can be moved; what is signed is the content.
  digest=$(docker inspect --format '{{index .RepoDigests 0}}' "$image:$HEARTH_TAG")
  syft scan "$digest" --output "spdx-json=$lists/$name.json"
  cosign attest --yes --type spdxjson --predicate "$lists/$name.json" "$digest"
  cosign sign --yes "$digest"
  say "$digest"
done
