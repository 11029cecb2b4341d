#!/usr/bin/env bash
# Builds release binaries into target/images, the context of deploy/images/*.Dockerfile, and the images by docker,
# podman or buildah, whichever is there, and prints how large each is. HEARTH_REGISTRY [localhost] and HEARTH_TAG [latest]
# name them; HEARTH_CARGO [cargo] is what builds, such as "cargo auditable".
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" build
context=$target/images
say "building into $context"
${HEARTH_CARGO:-cargo} build --quiet --release --locked -p hearth-operator -p hearth-node-agent -p hearth-collector -p hearth-clickhouse --bins
mkdir -p "$context"
# Line tables are four fifths of a program; names, by which Hearth profiles itself, stay.
for program in hearth-{operator,node-agent,collector,clickhouse}; do
  strip --strip-debug -o "$context/$program" "$target/release/$program"
done
cp "$("$root/scripts/setup-chdb.sh" | tail -n 1)" "$context"/

# The engine is the most of the collector's.
mib() { du -ck --apparent-size "$@" | awk 'END {printf "%.1f MiB", $1 / 1024}'; }
echo "hearth-operator $(mib "$context/hearth-operator"), hearth-node-agent $(mib "$context/hearth-node-agent"), hearth-collector $(mib "$context"/{hearth-collector,hearth-clickhouse,libchdb.so}), without the base" >&2

for builder in docker podman buildah none; do
  command -v "$builder" >/dev/null && break
done
for name in operator node-agent collector; do
  image=${HEARTH_REGISTRY:-localhost}/hearth-$name:${HEARTH_TAG:-latest}
  recipe=deploy/images/$name.Dockerfile
  if [ "$builder" = none ]; then
    echo "no docker, podman or buildah here; elsewhere: docker build -t $image -f $recipe $context"
  else
    say "$image"
    "$builder" build -t "$image" -f "$recipe" "$context"
  fi
done
