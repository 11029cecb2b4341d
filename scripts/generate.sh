#!/usr/bin/env bash
# Writes what follows from the chart: its schema and README from values.yaml, and deploy/kubernetes from its templates.
#   scripts/generate.sh [FOLDER]   into another folder than the checkout
set -euo pipefail
source "$(dirname "$0")/env.sh"
out=${1:-$root}
bin=$("$root/scripts/setup-helm.sh" | tail -n 1)
cd "$root"

mkdir -p "$out/charts/hearth" "$out/deploy/kubernetes"
"$bin/values" charts/hearth charts/tools/introduction.md "$out/charts/hearth"

for part in rbac operator collector node-agent warnings; do
  {
    echo "# Generated from charts/hearth/templates/$part.yaml by \`make generate\`."
    # Without what only Helm uses.
    "$bin/helm" template hearth charts/hearth --namespace hearth --show-only "templates/$part.yaml" \
      | grep -vE '^# Source: |^ +helm\.sh/chart: |^ +app\.kubernetes\.io/managed-by: ' | sed 1d
  } >"$out/deploy/kubernetes/$part.yaml"
done
