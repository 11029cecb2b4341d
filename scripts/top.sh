#!/usr/bin/env bash
# Prints what was hot in a range, and leaves the flame graph of the hottest app in a file.
#
#   scripts/top.sh HOST:PORT FROM UNTIL [FILE]     Unix seconds; flame.svg in the current folder by default
set -euo pipefail
source "$(dirname "$0")/env.sh"
http=$1 from=$2 until=$3 svg=${4:-flame.svg}

# ask FORMAT APP: the flame graph of an app.
ask() {
  curl -sSf -G "http://$http/api/v1/flamegraph" --data-urlencode "app_service=$2" \
    -d "from=$from&until=$until&format=$1"
}

# Lines "stack microseconds", the root first; leaves are what runs.
say "CPU time by app"
folded=$(mktemp)
trap 'rm -f "$folded"' EXIT
ask folded Total >"$folded"
[ -s "$folded" ] || fail "nothing was sampled; the agent's log says why"
awk '{ value = $NF; sub(/ [0-9]+$/, ""); split($0, frames, ";"); app = frames[2]; sub(/^\[p\] /, "", app)
       time[app] += value; total += value }
     END { for (app in time) printf "%10.2f s %5.1f %%  %s\n", time[app] / 1e6, 100 * time[app] / total, app }' "$folded" \
  | sort -rn | sed -n 1,10p

apps=$(curl -sSf "http://$http/api/v1/apps?from=$from&until=$until" | grep -oE '"name":"([^"\\]|\\.)*"' | cut -d'"' -f4 | sed -n 1,5p)
say "hottest functions of the hottest apps, by their own time"
while read -r app; do
  [ -n "$app" ] || continue
  ask folded "$app" | awk -v app="$app" '
    { value = $NF; sub(/ [0-9]+$/, ""); n = split($0, frames, ";"); time[frames[n]] += value }
    END { for (name in time) printf "%10.2f s  %-15s %s\n", time[name] / 1e6, app, substr(name, 1, 100) }'
done <<<"$apps" | sort -rn | sed -n 1,15p

hottest=$(head -n 1 <<<"$apps")
if [ -n "$hottest" ]; then
  ask svg "$hottest" >"$svg"
  say "$svg shows $hottest"
fi
