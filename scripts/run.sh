#!/usr/bin/env bash
# Profiles this machine: sets up, builds, starts the collector with its embedded store and the agent
# with deploy/examples/local.yaml, and says where to look. Ctrl-C ends everything.
#
#   RUN_SECONDS=30      end by itself, print the hottest functions, leave a flame graph
#   POLICY=FILE         another policy
#   HEARTH_FLAME_SVG    where the flame graph is left [flame.svg]
#   HEARTH_RUN_DIR      where the logs are [.run]
#   HEARTH_DATA_DIR     where the data is kept [HEARTH_RUN_DIR/data]
#   HEARTH_HTTP         address of the API and the page [127.0.0.1:20416]
#   HEARTH_GRPC         address that the agent sends to [127.0.0.1:20417]
#   HEARTH_CLICKHOUSE   address of the embedded store [127.0.0.1:8123]
#   HEARTH_WINDOW       samples are summed over this long [10s]
#   HEARTH_PROFILE      cargo's profile: dev builds sooner and takes more CPU [release]
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" build

policy=${POLICY:-deploy/examples/local.yaml}
seconds=${RUN_SECONDS:-}
[[ $seconds =~ ^[0-9]*$ ]] || { echo "error: RUN_SECONDS=$seconds is no number of seconds" >&2; exit 2; }
state=${HEARTH_RUN_DIR:-$root/.run}
http=${HEARTH_HTTP:-127.0.0.1:20416}
grpc=${HEARTH_GRPC:-127.0.0.1:20417}
clickhouse=${HEARTH_CLICKHOUSE:-127.0.0.1:8123}
window=${HEARTH_WINDOW:-10s}
data=${HEARTH_DATA_DIR:-$state/data}
svg=${HEARTH_FLAME_SVG:-flame.svg}
profile=${HEARTH_PROFILE:-release}
mkdir -p "$state"

say "building (the first time takes some minutes)"
cargo build --quiet --profile "$profile" --locked --bin hearth-collector --bin hearth-clickhouse --bin hearth-node-agent
bin=$target/$profile
[ "$profile" != dev ] || bin=$target/debug # cargo's only folder with another name than its profile
libchdb=$("$root/scripts/setup-chdb.sh" 2>/dev/null | tail -n 1)

pids=()
stop() {
  trap '' INT TERM # A second Ctrl-C would leave half of it running.
  trap - EXIT
  # The agent first: it sends what it has. sudo hands the signal on.
  for pid in "${pids[@]}"; do
    kill -TERM "$pid" 2>/dev/null || as_root kill -TERM "$pid" 2>/dev/null || continue
    wait "$pid" || true
  done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "starting the collector with its embedded store (log: $state/collector.log)"
"$bin/hearth-collector" --http "$http" --grpc "$grpc" --data-dir "$data" \
  --libchdb "$libchdb" --clickhouse-http "$clickhouse" --window "$window" >"$state/collector.log" 2>&1 &
collector=$!
pids=("$collector")
for _ in $(seq 300); do
  kill -0 "$collector" 2>/dev/null || { tail -n 20 "$state/collector.log" >&2; fail "the collector ended; its log is above"; }
  curl -sf "http://$http/readyz" >/dev/null 2>&1 && break
  sleep 0.2
done
curl -sf "http://$http/readyz" >/dev/null || { tail -n 20 "$state/collector.log" >&2; fail "the collector is not ready after a minute"; }

say "starting the agent with $policy (log: $state/agent.log)"
# Not through a function: its process would be a shell's, and signals would end with that.
root_launcher=()
[ "$(id -u)" = 0 ] || root_launcher=(sudo -E)
"${root_launcher[@]}" "$bin/hearth-node-agent" --policy "$policy" --collector "http://$grpc" --window "$window" \
  >"$state/agent.log" 2>&1 &
agent=$!
pids=("$agent" "$collector")
for _ in $(seq 100); do
  grep -q 'sampling .* CPUs\|sampling nothing' "$state/agent.log" && break
  if ! kill -0 "$agent" 2>/dev/null; then
    cat "$state/agent.log" >&2
    wait "$agent" || exit $?
  fi
  sleep 0.1
done
grep -h 'WARN\|sampling .* CPUs' "$state/agent.log" >&2 || true

cat >&2 <<TEXT

Profiling this machine. Look at it here:
  http://$http/                                       what is hot
  http://$http/api/v1/flamegraph?app_service=Total&format=html
and ask as DeepFlow's users do:
  curl -X POST http://$http/v1/profile/ProfileTracing -H 'Content-Type: application/json' -d '{
    "app_service": "Total", "profile_language_type": "eBPF", "profile_event_type": "on-cpu",
    "tag_filter": "", "time_start": $(date -d '-5 minutes' +%s), "time_end": $(date -d '+1 hour' +%s)}'
or by SQL:
  curl http://$clickhouse/ -H "X-ClickHouse-Key: \$(cat '$data/clickhouse-password')" \\
    -d 'SELECT app_service, sum(profile_value) FROM profile.in_process GROUP BY app_service'
TEXT

if [ -z "$seconds" ]; then
  echo "Ctrl-C ends it." >&2
  wait "$agent"
  exit
fi

from=$(date +%s)
say "sampling for $seconds seconds"
# In the background: a signal is answered at once, not after a program that is waited for in the foreground.
sleep "$seconds" &
pids+=("$!")
wait "$!"
until=$(date +%s)
say "closing the last window"
kill -TERM "$agent" 2>/dev/null || as_root kill -TERM "$agent"
wait "$agent" || { tail -n 20 "$state/agent.log" >&2; fail "the agent ended with an error"; }
pids=("$collector")

"$root/scripts/top.sh" "$http" "$from" "$until" "$svg"
