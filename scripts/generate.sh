#!/usr/bin/env bash
# Writes what follows from the chart: its schema and README from values.yaml, and deploy/kubernetes from its templates.
#   scripts/generate.sh [FOLDER]   into another folder than the checkout
set -euo pipefail
source "$(dirname "$0")/env.sh"
out=${1:-$root}
bin=$("$root/scripts/setup-helm.sh" | tail -n 1)
cd "$root"

mkdir -p "$out/charts/hearth/tests" "$out/deploy/kubernetes"
"$bin/values" charts/hearth charts/tools/introduction.md "$out/charts/hearth"

# How the chart meets kinds that are, or are not, those of its files.
{
  echo "# Generated from charts/tools/kept_test.yaml by \`make generate\`."
  digest() { sha256sum "charts/hearth/files/crds/$1.yaml" | cut -c1-32; }
  sed "s/DIGEST_OF_profilingpolicies/$(digest profilingpolicies)/; s/DIGEST_OF_clusterprofilingpolicies/$(digest clusterprofilingpolicies)/" \
    charts/tools/kept_test.yaml
} >"$out/charts/hearth/tests/kept_test.yaml"

for part in rbac operator collector node-agent warnings; do
  {
    echo "# Generated from charts/hearth/templates/$part.yaml by \`make generate\`."
    # Without what only Helm uses.
    "$bin/helm" template hearth charts/hearth --namespace hearth --show-only "templates/$part.yaml" \
      | grep -vE '^# Source: |^ +helm\.sh/chart: |^ +app\.kubernetes\.io/managed-by: ' | sed '1d; /^$/d'
  } >"$out/deploy/kubernetes/$part.yaml"
done
