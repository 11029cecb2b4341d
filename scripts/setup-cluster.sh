#!/usr/bin/env bash
# Builds the programs of the Kubernetes cluster for tests into the cache, and installs what they run on.
#
# All are built from their Go modules (e2e/cluster/go.mod pins the versions): the first time in about 6 minutes
# on 2 cores and 600 MB of download, later in seconds. Progress goes to stderr; the last line on stdout is the
# folder of the programs.
set -euo pipefail
source "$(dirname "$0")/env.sh"
source "$root/scripts/packages.sh"

# Kubernetes' own version, which its programs are told by their linker.
version=v$(sed -n 's|^\tk8s.io/kubernetes v||p' "$root/e2e/cluster/go.mod")
bin=$HEARTH_CACHE/kcluster
minor=$(cut -d. -f2 <<<"$version")
names=k8s.io/component-base/version
flags="-s -w -X $names.gitVersion=$version -X $names.gitMajor=1 -X $names.gitMinor=$minor -X $names.gitTreeState=clean"

packages containerd runc containernetworking-plugins iptables nftables conntrack busybox-static iproute2 procps util-linux
has_command go golang-go

[ -x "$bin/kcluster" ] || say "building Kubernetes $version (about 6 minutes) into $bin"
mkdir -p "$bin"
build() { # MODULE PACKAGE PROGRAM
  (cd "$root/e2e/cluster/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$bin/$3" "$2" >&2)
}
build . . kcluster
build . ./pause pause
build dns . coredns
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  ln -sf kcluster "$bin/$name"
done
echo "$bin"
