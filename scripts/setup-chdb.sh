#!/usr/bin/env bash
# Installs the pinned ClickHouse engine, libchdb.so, into the cache.
#
# The engine is the npm package named below; version and digest are pinned in
# clickhouse-embedded/chdb.version. Progress goes to stderr; the last line on
# stdout is the path of the library. Running it again, or twice at once, is
# harmless. 180 MB of download, 750 MB of disk.
#
#   HEARTH_CACHE        where to put it [$HOME/.cache/hearth]
#   HEARTH_CHDB_TGZ     use this package file instead of downloading one
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/npm-package.sh"

pin=$root/clickhouse-embedded/chdb.version
library=$HEARTH_CACHE/chdb/$(head -n 1 "$pin")/libchdb.so
npm_package @chdb/lib-linux-x64-gnu "$pin" package/libchdb.so "$library" "${HEARTH_CHDB_TGZ:-}"
