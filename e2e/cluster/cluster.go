package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	bridge       = "kc0"
	hostIP       = "10.10.0.1" // of the control plane, of DNS, and of the tests
	serverURL    = "https://" + hostIP + ":6443"
	serviceCIDR  = "10.96.0.0/16"
	firstService = "10.96.0.1" // the API server's own Service
	maxNodes     = 9
	// How long any one part may take to come up: some 5 s each on an idle machine.
	patience = 90 * time.Second
)

// The kubelet writes these for the whole machine.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// cluster is one on this machine: there is at most one, since its addresses and names are fixed.
type cluster struct {
	// Everything that it writes.
	state string
	// Where the programs are.
	bin string
}

func open() (*cluster, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	state := os.Getenv("KCLUSTER_STATE")
	if state == "" {
		state = "/tmp/kcluster"
	}
	state, err = filepath.Abs(state)
	return &cluster{state: state, bin: filepath.Dir(self)}, err
}

func (c *cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.state}, parts...)...)
}

func (c *cluster) kubeconfig(user string) string { return c.path("pki", user+".kubeconfig") }

// up starts a cluster where none is, or what is left of one that did not end well.
func (c *cluster) up(args []string) error {
	count := 1
	if len(args) == 1 {
		var err error
		if count, err = strconv.Atoi(args[0]); err != nil || count < 0 || count > maxNodes {
			return fmt.Errorf("NODES is a number from 0 to %d, not %q", maxNodes, args[0])
		}
	}
	if err := c.down(); err != nil {
		return err
	}
	began := time.Now()
	var nodes []node
	for i := 1; i <= count; i++ {
		nodes = append(nodes, c.node(i))
	}
	for _, step := range []func([]node) error{c.prepare, c.startControlPlane, c.startNodes, c.awaitReady} {
		if err := step(nodes); err != nil {
			return err
		}
	}
	say("%d nodes ready after %.1f s; export KUBECONFIG=%s", count, time.Since(began).Seconds(), c.kubeconfig("admin"))
	return nil
}

// prepare makes directories, certificates and the host's side of the network.
func (c *cluster) prepare(nodes []node) error {
	for _, dir := range []string{"log", "pid", "images"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := c.saveSysctls(); err != nil {
		return err
	}
	if err := c.makeKeys(nodes); err != nil {
		return err
	}
	return c.all(
		[]string{"ip", "link", "add", bridge, "type", "bridge"},
		[]string{"ip", "addr", "add", hostIP + "/24", "dev", bridge},
		[]string{"ip", "link", "set", bridge, "up"},
	)
}

func (c *cluster) startControlPlane([]node) error {
	keys := c.path("pki")
	if err := c.render("Corefile", c.path("Corefile"), map[string]string{
		"Address": hostIP, "Kubeconfig": c.kubeconfig("admin"),
	}); err != nil {
		return err
	}
	if err := c.render("audit.yaml", c.path("audit.yaml"), nil); err != nil {
		return err
	}
	own := func(name string) []string { // kubeconfig flags of a control-plane process
		file := c.kubeconfig(name)
		return []string{"--kubeconfig=" + file, "--authentication-kubeconfig=" + file, "--authorization-kubeconfig=" + file,
			"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"}
	}
	for _, daemon := range [][]string{
		{"etcd", "--name=c", "--data-dir=" + c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
			// Not the usual ports: other tests on this machine may want them.
			"--listen-client-urls=http://127.0.0.1:12379", "--advertise-client-urls=http://127.0.0.1:12379",
			"--listen-peer-urls=http://127.0.0.1:12380", "--initial-advertise-peer-urls=http://127.0.0.1:12380",
			"--initial-cluster=c=http://127.0.0.1:12380"},
		{"kube-apiserver", "--etcd-servers=http://127.0.0.1:12379",
			"--bind-address=" + hostIP, "--advertise-address=" + hostIP, "--secure-port=6443",
			"--tls-cert-file=" + keys + "/apiserver.crt", "--tls-private-key-file=" + keys + "/apiserver.key",
			"--client-ca-file=" + keys + "/ca.crt", "--service-cluster-ip-range=" + serviceCIDR,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + keys + "/sa.pub", "--service-account-signing-key-file=" + keys + "/sa.key",
			"--kubelet-client-certificate=" + keys + "/apiserver-kubelet-client.crt",
			"--kubelet-client-key=" + keys + "/apiserver-kubelet-client.key",
			"--kubelet-certificate-authority=" + keys + "/ca.crt", "--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=" + keys + "/front-proxy-ca.crt",
			"--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + keys + "/front-proxy-client.crt",
			"--proxy-client-key-file=" + keys + "/front-proxy-client.key",
			"--audit-policy-file=" + c.path("audit.yaml"), "--audit-log-path=" + c.path("log/audit"),
			// Webhooks and aggregated APIs are dialled at their endpoints: the host has no kube-proxy.
			"--enable-aggregator-routing=true", "--allow-privileged=true", "--profiling=false", "--event-ttl=2h"},
		append([]string{"kube-controller-manager", "--root-ca-file=" + keys + "/ca.crt",
			"--service-account-private-key-file=" + keys + "/sa.key", "--use-service-account-credentials=true",
			"--cluster-signing-cert-file=" + keys + "/ca.crt", "--cluster-signing-key-file=" + keys + "/ca.key",
			"--allocate-node-cidrs=false", "--node-monitor-grace-period=40s"}, own("controller-manager")...),
		append([]string{"kube-scheduler"}, own("scheduler")...),
		{"coredns", "-conf", c.path("Corefile")},
	} {
		if err := c.start(daemon[0], daemon); err != nil {
			return err
		}
		if daemon[0] == "kube-apiserver" {
			if err := c.await("the API server", func(ctx context.Context, api *kubernetes.Clientset) (bool, error) {
				_, err := api.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
				return err == nil, err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *cluster) startNodes(nodes []node) error {
	if len(nodes) == 0 {
		return nil
	}
	if err := c.makeBaseImages(); err != nil {
		return err
	}
	for _, node := range nodes {
		if err := node.start(nodes); err != nil {
			return fmt.Errorf("%s: %w", node.name, err)
		}
	}
	// Services, for the host: the first node's kube-proxy knows them.
	return c.all([]string{"ip", "route", "add", serviceCIDR, "via", nodes[0].ip})
}

// awaitReady waits for what a test needs at once: nodes that take pods, and the
// service account without which a pod is refused.
func (c *cluster) awaitReady(nodes []node) error {
	if err := c.await("the nodes", func(ctx context.Context, api *kubernetes.Clientset) (bool, error) {
		list, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, node := range list.Items {
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		return ready == len(nodes), fmt.Errorf("%d of %d are ready", ready, len(nodes))
	}); err != nil {
		return err
	}
	return c.await("the default service account", func(ctx context.Context, api *kubernetes.Clientset) (bool, error) {
		_, err := api.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	})
}

// await asks the API server until it is so; the error says what it was last.
func (c *cluster) await(what string, isSo func(context.Context, *kubernetes.Clientset) (bool, error)) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig("admin"))
	if err != nil {
		return err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return poll(ctx, what, func() (bool, error) { return isSo(ctx, api) })
}

// down ends every process of a cluster and takes away its network, mounts, cgroups and state.
func (c *cluster) down() error {
	var failed []error
	failed = append(failed, c.killAll(), c.restoreSysctls())
	// The nodes' ends go with their namespaces, but these may live on for a while
	// after their last process: a connection that nobody answers holds them.
	for _, link := range c.links() {
		if exec.Command("ip", "link", "show", link).Run() == nil {
			failed = append(failed, c.all([]string{"ip", "link", "del", link}))
		}
	}
	failed = append(failed, removeCgroups(), c.removeMade(), os.RemoveAll(c.state))
	return errors.Join(failed...)
}

// links are the host's ends of the network.
func (c *cluster) links() []string {
	names := []string{bridge}
	for i := 1; i <= maxNodes; i++ {
		names = append(names, c.node(i).link())
	}
	return names
}

func (c *cluster) saveSysctls() error {
	var saved strings.Builder
	for _, name := range sysctls {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&saved, "%s %s", name, value)
	}
	return os.WriteFile(c.path("sysctl"), []byte(saved.String()), 0o644)
}

func (c *cluster) restoreSysctls() error {
	saved, err := os.ReadFile(c.path("sysctl"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var failed []error
	for line := range strings.Lines(string(saved)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		failed = append(failed, os.WriteFile("/proc/sys/"+name, []byte(value), 0o644))
	}
	return errors.Join(failed...)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "kcluster: "+format+"\n", args...) }
