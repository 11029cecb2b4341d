// coredns is CoreDNS with only the plugins that a cluster for tests needs.
//
// It is a module of its own: in that of the cluster it would raise the versions
// of libraries that Kubernetes is built with.
package main

import (
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"

	"github.com/coredns/coredns/coremain"
)

func main() { coremain.Run() }
