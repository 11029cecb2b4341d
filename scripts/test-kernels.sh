#!/usr/bin/env bash
# Boots other kernels in qemu and runs the sampler's kernel tests in them: every program is loaded
# and verified there, samples are taken, a stack is walked.
#
#   scripts/test-kernels.sh [VERSION…]      by default the newest Debian has of 6.1 and 6.12
set -euo pipefail
source "$(dirname "$0")/env.sh"
cd "$root"
"$root/scripts/setup.sh" kernels
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(6.1 6.12)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "building the kernel tests"
tests=$(cargo test --quiet --locked --package hearth-node-agent --test kernel --no-run --message-format json \
  | grep -F '"kind":["test"]' | sed -nE 's/.*"executable":"([^"]+)".*/\1/p' | tail -n 1)
[ -x "$tests" ] || fail "cargo named no test binary"

# A root file system in memory: busybox, the tests, what they are linked with, the program they profile.
image=$work/root
mkdir -p "$image"/{bin,proc,sys,dev,tmp}
cp /bin/busybox "$image/bin/busybox"
ln -s busybox "$image/bin/sh"
cp "$tests" "$image/kernel-tests"
cc -O1 -static -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer -fno-optimize-sibling-calls \
  -o "$image/chain" node-agent/tests/fixtures/chain.c
ldd "$tests" | grep -oE '/[^ ]+' | while read -r library; do
  mkdir -p "$image/$(dirname "$library")"
  cp -L "$library" "$image/$library"
done
cat > "$image/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin HEARTH_CHAIN=/chain TMPDIR=/tmp RUST_BACKTRACE=0
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
echo "KERNEL $(uname -r)"
# The ignored ones take a CPU offline: here that hurts nobody.
/kernel-tests --test-threads=1 --include-ignored && echo "ALL TESTS PASSED"
poweroff -f
INIT
chmod +x "$image/init"
(cd "$image" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/initrd"

passed=0
failed=0
for version in "${versions[@]}"; do
  package=$(apt-cache search --names-only "^linux-image-${version//./\\.}\\..*cloud-amd64\$" | awk '{print $1}' \
    | grep -v -- -unsigned | sort -V | tail -n 1)
  # 6.1 packages are named by their ABI (6.1.0-50).
  [ -n "$package" ] || fail "Debian's list has no cloud kernel $version"
  kernels=$HEARTH_CACHE/kernels/$package
  if ! compgen -G "$kernels/boot/vmlinuz-*" >/dev/null; then
    say "fetching $package"
    mkdir -p "$kernels"
    chmod o+rx "$work" # apt fetches as a user of its own.
    (cd "$work" && apt-get download -qq "$package" && dpkg-deb -x "$package"_*.deb "$kernels")
  fi
  say "booting $package"
  # Emulated: nested virtualisation is often broken, and the tests take seconds.
  timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 1024 -smp 2 -nographic -no-reboot \
    -kernel "$kernels"/boot/vmlinuz-* -initrd "$work/initrd" \
    -append "console=ttyS0 panic=-1 quiet" </dev/null 2>&1 \
    | sed -u 's/\x1b\[[0-9;?]*[a-zA-Z]//g; s/\x1bc//g; s/\r//g' > "$work/console" || true
  grep -E '^(KERNEL|test |ALL TESTS)' "$work/console" || true
  if grep -q '^ALL TESTS PASSED' "$work/console"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    tail -n 40 "$work/console" >&2
  fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
