#!/bin/sh
# Installs the pinned speedscope into the cache: the tests read a profile by its schema.
#
# Version and digest are pinned in collector/tests/query/speedscope.version. Progress goes to stderr; the last
# line on stdout is the folder. Running it again, or twice at once, is harmless. Needs npm, tar, openssl or
# sha512sum, 1 MB.
#
#   HEARTH_CACHE        where to put it [$HOME/.cache/hearth]
#   HEARTH_SPEEDSCOPE   for the tests, not for this script: a package folder that is elsewhere
set -eu

pin="$(dirname "$0")/../collector/tests/query/speedscope.version"
version=$(sed -n 1p "$pin")
integrity=$(sed -n 2p "$pin")
parent="${HEARTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth}/speedscope"
dir="$parent/$version"

say() { echo "setup-speedscope: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

if [ -d "$dir" ]; then
    say "$dir is there"
    echo "$dir"
    exit 0
fi

mkdir -p "$parent"
# Everything happens in a directory of our own and ends in one rename.
work=$(mktemp -d "$parent/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

command -v npm >/dev/null || fail "npm is missing; install it (Debian: apt-get install npm) and run this again"
say "downloading speedscope@$version with npm"
(cd "$work" && npm pack --silent "speedscope@$version" >/dev/null) || fail "npm pack speedscope@$version failed"
for tgz in "$work"/*.tgz; do :; done

if command -v openssl >/dev/null; then
    digest=$(openssl dgst -sha512 -binary "$tgz" | base64 | tr -d '\n')
else
    digest=$(sha512sum "$tgz" | cut -d' ' -f1 | xxd -r -p | base64 | tr -d '\n')
fi
[ "sha512-$digest" = "$integrity" ] || fail "$tgz has digest sha512-$digest, pinned is $integrity"

tar -xzf "$tgz" -C "$work"
# Somebody may have been faster: then this is theirs, and as good.
mv -T "$work/package" "$dir" 2>/dev/null || [ -d "$dir" ] || fail "$dir cannot be made"
say "installed $dir"
echo "$dir"
