#!/usr/bin/env bash
# Prints the hottest functions of a collector's range, and leaves the hottest app's flame graph in flame.svg.
#
#   scripts/top.sh HOST:PORT FROM UNTIL       Unix seconds
set -euo pipefail
source "$(dirname "$0")/env.sh"
http=$1 from=$2 until=$3
range="from=$from&until=$until"

say "apps, by CPU time"
apps=$(curl -sf "http://$http/api/v1/apps?$range")
node -e '
  const { apps } = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const total = apps.reduce((sum, app) => sum + app.value, 0) || 1;
  for (const app of apps.slice(0, 10))
    console.log(`${(app.value / 1e6).toFixed(2).padStart(9)} s ${(app.value / total * 100).toFixed(1).padStart(5)} %  ${app.app_service}`);
' <<<"$apps"
