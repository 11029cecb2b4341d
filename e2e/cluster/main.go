// kcluster is a Kubernetes cluster for tests on one machine, in one program:
// by the name it is called by it is etcd, the kubelet, kubectl or one of the
// control plane's processes, and under its own name it starts and stops them.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	_ "time/tzdata"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = `usage: kcluster COMMAND

  up [NODES]               starts a cluster (default: of 1 node; 0: the control plane alone)
  down                     ends it, and whatever an earlier one left
  stop|start DAEMON        takes a process away, or brings it back: kube-apiserver, node1-kubelet, as in log/
  image REF DIR [ARG...]   makes an image of a directory's content, for every node; ARGs are its entry point
  build REF DOCKERFILE CONTEXT BASE
                           makes one by a Dockerfile that only copies, on a directory's content
  in NODE COMMAND...       runs a command in a node's namespaces

The state is in $KCLUSTER_STATE (default /tmp/kcluster); its kubeconfig is pki/admin.kubeconfig there.
`

// The programs that are linked in, by the names they are called by.
var programs = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	name := filepath.Base(os.Args[0])
	switch {
	case name == "etcd":
		etcdmain.Main(os.Args)
	case name == "kubectl":
		logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)) //nolint:errcheck // as kubectl itself does
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	case programs[name] != nil:
		os.Exit(cli.Run(programs[name]()))
	default:
		if err := run(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "kcluster:", err)
			os.Exit(1)
		}
	}
}

func run(args []string) error {
	cluster, err := open()
	if err != nil {
		return err
	}
	switch command := strings.Join(args[:min(len(args), 1)], ""); {
	case command == "up" && len(args) <= 2:
		return cluster.up(args[1:])
	case command == "down" && len(args) == 1:
		return cluster.down()
	case command == "stop" && len(args) == 2:
		return cluster.stop(args[1])
	case command == "start" && len(args) == 2:
		return cluster.restart(args[1])
	case command == "image" && len(args) >= 3:
		return cluster.image(args[1], args[2], args[3:])
	case command == "build" && len(args) == 5:
		return cluster.build(args[1], args[2], args[3], args[4])
	case command == "in" && len(args) >= 3:
		return cluster.execIn(args[1], args[2:])
	case command == holdCommand && len(args) == 2:
		return hold(args[1])
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
	return nil
}
