#!/usr/bin/env bash
# Installs the pinned speedscope into the cache: the tests read a profile by its schema.
#
# Version and digest are pinned in collector/tests/query/speedscope.version. Progress goes to stderr; the last
# line on stdout is the folder. Running it again, or twice at once, is harmless. 1 MB.
#
#   HEARTH_CACHE        where to put it [$HOME/.cache/hearth]
#   HEARTH_SPEEDSCOPE   for the tests, not for this script: a package folder that is elsewhere
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/npm-package.sh"

pin=$root/collector/tests/query/speedscope.version
npm_package speedscope "$pin" package "$HEARTH_CACHE/speedscope/$(head -n 1 "$pin")"
