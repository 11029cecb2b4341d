#!/bin/sh
# Installs the pinned ClickHouse engine, libchdb.so, into the cache.
#
# The engine is the npm package named below; version and digest are pinned in
# clickhouse-embedded/chdb.version. Progress goes to stderr; the last line on
# stdout is the path of the library. Running it again, or twice at once, is
# harmless. Needs npm, tar, openssl or sha512sum, 180 MB of download, 750 MB of disk.
#
#   HEARTH_CACHE        where to put it [$HOME/.cache/hearth]
#   HEARTH_CHDB_TGZ     use this package file instead of downloading one
set -eu

package=@chdb/lib-linux-x64-gnu
pin="$(dirname "$0")/../clickhouse-embedded/chdb.version"
version=$(sed -n 1p "$pin")
integrity=$(sed -n 2p "$pin")
dir="${HEARTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth}/chdb/$version"
lib="$dir/libchdb.so"

say() { echo "setup-chdb: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

if [ -f "$lib" ]; then
    say "$lib is there"
    echo "$lib"
    exit 0
fi

mkdir -p "$dir"
# Everything happens in a directory of our own and ends in one rename, so that
# two of us never see each other's half-written file.
work=$(mktemp -d "$dir/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

tgz=${HEARTH_CHDB_TGZ:-}
if [ -z "$tgz" ]; then
    command -v npm >/dev/null || fail "npm is missing; install it (Debian: apt-get install npm) and run this again"
    say "downloading $package@$version (178 MB) with npm"
    (cd "$work" && npm pack --silent "$package@$version" >/dev/null) || fail "npm pack $package@$version failed"
    for tgz in "$work"/*.tgz; do :; done
fi

say "verifying sha512"
if command -v openssl >/dev/null; then
    digest=$(openssl dgst -sha512 -binary "$tgz" | base64 | tr -d '\n')
else
    digest=$(sha512sum "$tgz" | cut -d' ' -f1 | xxd -r -p | base64 | tr -d '\n')
fi
[ "sha512-$digest" = "$integrity" ] || fail "$tgz has digest sha512-$digest, pinned is $integrity"

say "unpacking libchdb.so (566 MB)"
tar -xzf "$tgz" -C "$work" --strip-components=1 package/libchdb.so
mv "$work/libchdb.so" "$lib"
say "installed $lib"
echo "$lib"
