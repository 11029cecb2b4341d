#!/usr/bin/env bash
# Builds what the chart is made and tested with into the cache: Helm, its unit tests, and the writer of what follows from
# values.yaml, all from their Go modules (charts/tools/go.mod pins the versions), and kubernetes-validate from PyPI
# (charts/tools/requirements.txt).
#
# The first time in about 3 minutes on 2 cores, later in seconds. Progress goes to stderr; the last line on stdout is the
# folder of the programs: helm, helm-unittest, values, python3.
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/packages.sh"

tools=$root/charts/tools
version=$(sed -n 's|^\t*helm.sh/helm/v4 v\([^ ]*\).*|\1|p' "$tools/go.mod")
bin=$HEARTH_CACHE/helm-$version
venv=$HEARTH_CACHE/kubernetes-validate-$(sha256sum "$tools/requirements.txt" | cut -c1-12)

has_command go golang-go
has_command python3 python3
python3 -c 'import ensurepip' 2>/dev/null || packages python3-venv

[ -x "$bin/helm" ] || say "building Helm $version (about 3 minutes) into $bin"
mkdir -p "$bin"
build() { # PACKAGE PROGRAM
  (cd "$tools" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$bin/$2" "$1" >&2)
}
build helm.sh/helm/v4/cmd/helm helm
build github.com/helm-unittest/helm-unittest/cmd/helm-unittest helm-unittest
build ./values values

# Whole or not there: another name until everything is in it.
if [ ! -x "$venv/bin/python3" ]; then
  say "installing kubernetes-validate into $venv"
  rm -rf "$venv" "$venv.part"
  python3 -m venv "$venv.part" >&2
  "$venv.part/bin/python3" -m pip install --quiet --disable-pip-version-check -r "$tools/requirements.txt" >&2
  mv "$venv.part" "$venv"
fi
# Not a link: a python finds its packages by where it is called.
printf '#!/bin/sh\nexec "%s" "$@"\n' "$venv/bin/python3" >"$bin/python3.part"
chmod +x "$bin/python3.part"
mv "$bin/python3.part" "$bin/python3"
echo "$bin"
