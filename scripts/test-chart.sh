#!/usr/bin/env bash
# Tests the chart without a cluster and without a network: its unit tests, each scenario of charts/hearth/ci in each version of
# Kubernetes, what it must refuse, and that generated files say what they are generated from. The last line is
# "N passed, M failed".
set -uo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
bin=$("$root/scripts/setup-helm.sh" | tail -n 1)
[ -x "$bin/helm" ] || fail "the tools of the chart could not be set up"
chart=charts/hearth
# The oldest that the chart takes, to the newest that there is.
versions="1.33 1.34 1.35 1.36 1.37"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Helm keeps files of its own; a test leaves none behind.
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm
# What a scenario may need beside Kubernetes itself.
others=(--api-versions cert-manager.io/v1 --api-versions monitoring.coreos.com/v1)

passed=0 failed=0
# Counts a command as a test, and prints what it says if it fails.
check() { # WHAT COMMAND...
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    printf 'FAILED %s\n%s\n' "$what" "$said"
  fi
}
# Adds what a tool counted itself in "N passed, M failed"; one that did not get there failed.
add() { # WHAT OUTPUT
  local counts
  if counts=$(grep -oE '^[0-9]+ passed, [0-9]+ failed$' <<<"$2"); then
    read -r p _ f _ <<<"$counts"
    passed=$((passed + p)) failed=$((failed + f))
    [ "$f" = 0 ] && return
  else
    failed=$((failed + 1))
  fi
  printf 'FAILED %s\n%s\n' "$1" "$2"
}

unit_tests() {
  local said total ok
  said=$("$bin/helm-unittest" --strict --color=false "$chart" 2>&1)
  # Tests:       50 passed, 50 total
  ok=$(sed -nE 's/^Tests: .* ([0-9]+) passed, .*/\1/p' <<<"$said")
  total=$(sed -nE 's/^Tests: .* ([0-9]+) total.*/\1/p' <<<"$said")
  [ -n "$total" ] && said+=$'\n'"${ok:-0} passed, $((total - ${ok:-0})) failed"
  add "unit tests of the chart" "$said"
}

scenarios() {
  local file version
  for file in "$chart"/ci/*.yaml; do
    check "lint with $file" "$bin/helm" lint --strict --quiet "$chart" -f "$file"
    for version in $versions; do
      mkdir -p "$work/$version"
      check "render $file for $version" render "$file" "$version"
    done
  done
  add "rendered objects" "$("$bin/python3" charts/tools/validate.py "$chart" $(printf "$work/%s " $versions) 2>&1)"
}
render() { # FILE VERSION
  "$bin/helm" template hearth "$chart" --namespace hearth --kube-version "$2" "${others[@]}" -f "$1" >"$work/$2/$(basename "$1")"
}

# What Helm says when it renders with these arguments, which it must refuse.
refused() { # MESSAGE ARGUMENTS...
  local message=$1 said
  shift
  if said=$("$bin/helm" template hearth "$chart" --namespace hearth "$@" 2>&1); then
    echo "it was taken"
    return 1
  fi
  grep -qF -- "$message" <<<"$said" || { printf 'said    %s\nwithout %s\n' "$said" "$message"; return 1; }
}
refusals() {
  check "an unknown value is refused" refused \
    "- at '/collector': additional properties 'replicaz' not allowed" --set collector.replicaz=1
  check "an unknown component is refused" refused "- at '': additional properties 'agents' not allowed" --set agents.x=1
  check "a value of another type is refused" refused "- at '/operator/replicas': got string, want integer" --set-string operator.replicas=2
  check "what is not one of a few is refused" refused "- at '/tls/source': value must be one of 'operator', 'secret', 'certManager'" \
    --set tls.source=none
  check "two replicas on one volume are refused" refused \
    "collector.replicas is 2, but the embedded store is one process on one volume: set collector.replicas=1, or clickhouse.mode=external with a ClickHouse of yours" \
    --set collector.replicas=2
  check "an old Kubernetes is refused" refused \
    "chart requires kubeVersion: >=1.33.0-0 which is incompatible with Kubernetes v1.30.0" --kube-version 1.30.0
  check "an early 1.33 of a provider is taken" "$bin/helm" template hearth "$chart" --kube-version v1.33.0-gke.1
}

# Each metric that an alert or the dashboard names is one that a program has.
metrics_exist() {
  local named component name missing=0
  named=$(grep -ohE 'hearth_(agent|operator|collector)_[a-z_]+' "$chart/templates/alerts.yaml" "$chart/files/dashboards/hearth.json" | sort -u)
  [ -n "$named" ] || { echo "none is named"; return 1; }
  while IFS=_ read -r _ component name; do
    name=$(sed -E 's/_(total|seconds_sum|seconds_count)$//' <<<"$name")
    [ "$component" = agent ] && component=node-agent
    grep -qF "\"$name\"" "$component/src/metrics.rs" || { echo "$component has no metric $name"; missing=1; }
  done <<<"$named"
  return $missing
}

generated() {
  "$root/scripts/generate.sh" "$work/generated" >/dev/null 2>&1 || { echo "scripts/generate.sh failed"; return 1; }
  local file
  (cd "$work/generated" && find . -type f) | while read -r file; do
    diff -u "$root/$file" "$work/generated/$file" || exit 1
  done || { echo "run make generate"; return 1; }
}
crds_are_the_same() {
  diff -r deploy/crds "$chart/files/crds" || { echo "run make generate"; return 1; }
}

say "testing the chart"
check "the writer of schema and README" env -C charts/tools CGO_ENABLED=0 go test -trimpath ./values
check "generated files are up to date" generated
check "the chart has the kinds of deploy/crds" crds_are_the_same
check "alerts and dashboard name metrics that there are" metrics_exist
unit_tests
scenarios
refusals
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
