package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A node is a network namespace and a mount namespace that one process holds,
// with a containerd, a kubelet and a kube-proxy in them. Processes are the
// machine's: every node's pods with hostPID see all of them.
type node struct {
	*cluster
	name string
	ip   string
	// The first three bytes of its pods' addresses.
	pods string
}

func (c *cluster) node(number int) node {
	return node{
		cluster: c,
		name:    fmt.Sprintf("node%d", number),
		ip:      fmt.Sprintf("10.10.0.%d", 10+number),
		pods:    fmt.Sprintf("10.244.%d", number),
	}
}

// What is the node's own under its usual name, so that two kubelets do not meet:
// they use some of these whatever their flags say.
var ownPaths = []string{
	"/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers",
	"/run/containerd", "/run/netns", "/etc/cni/net.d",
	// What the node agent keeps and looks at.
	"/var/lib/hearth", "/run/hearth",
}

const holdCommand = "hold"

func (n node) root(path string) string { return n.path(n.name, path) }

func (n node) start(others []node) error {
	if err := n.makeOwnPaths(); err != nil {
		return err
	}
	if err := n.startHolder(); err != nil {
		return err
	}
	if err := n.connect(others); err != nil {
		return err
	}
	if err := makeCgroups(n.name); err != nil {
		return err
	}
	values := map[string]string{
		"Name": n.name, "IP": n.ip, "Pods": n.pods, "Keys": n.path("pki"), "DNS": hostIP, "Dir": n.path(n.name),
		"Kubeconfig": n.kubeconfig("proxy"), "Pause": pauseImage,
	}
	for file, path := range map[string]string{
		"cni.json": n.root("/etc/cni/net.d/10-kc.conflist"), "containerd.toml": n.root("containerd.toml"),
		"kubelet.yaml": n.root("kubelet.yaml"), "kube-proxy.yaml": n.root("kube-proxy.yaml"),
		"resolv.conf": n.root("resolv.conf"),
	} {
		if err := n.render(file, path, values); err != nil {
			return err
		}
	}
	if err := n.startInside("containerd", "--config", n.root("containerd.toml")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := poll(ctx, "containerd", func() (bool, error) {
		err := n.all([]string{"ctr", "-a", n.socket(), "version"})
		return err == nil, err
	}); err != nil {
		return err
	}
	if err := n.importImages(); err != nil {
		return err
	}
	if err := n.startInside("kubelet", "--config="+n.root("kubelet.yaml"),
		"--kubeconfig="+n.kubeconfig("node-"+n.name), "--hostname-override="+n.name, "--node-ip="+n.ip); err != nil {
		return err
	}
	return n.startInside("kube-proxy", "--config="+n.root("kube-proxy.yaml"))
}

// link is the host's end of its network.
func (n node) link() string { return "kc-" + n.name }

func (n node) socket() string { return n.root("/run/containerd/containerd.sock") }

// makeOwnPaths makes the node's directories, and on the host those over which
// they are mounted. What the host had not is remembered, to be taken away.
func (n node) makeOwnPaths() error {
	made, err := os.OpenFile(n.path("made"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer made.Close()
	// Of static pods.
	if err := os.MkdirAll(n.root("manifests"), 0o755); err != nil {
		return err
	}
	for _, path := range ownPaths {
		if err := os.MkdirAll(n.root(path), 0o755); err != nil {
			return err
		}
		var missing []string
		for dir := path; !exists(dir); dir = filepath.Dir(dir) {
			missing = append(missing, dir)
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		for _, dir := range missing {
			fmt.Fprintln(made, dir)
		}
	}
	return nil
}

// removeMade takes away the host's directories that makeOwnPaths made, where they are empty.
func (c *cluster) removeMade() error {
	made, err := os.ReadFile(c.path("made"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for dir := range strings.Lines(string(made)) {
		// Somebody else uses it meanwhile: then it stays.
		_ = syscall.Rmdir(strings.TrimSpace(dir))
	}
	return err
}

// startHolder starts the process that holds the node's namespaces.
func (n node) startHolder() error {
	cmd, err := n.command(n.name, []string{"kcluster", holdCommand, n.path(n.name)})
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS | syscall.CLONE_NEWNET
	cmd.Stdout = nil
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		return fmt.Errorf("its namespaces: see %s: %w", n.path("log", n.name+".log"), err)
	}
	return n.savePid(n.name, cmd.Process.Pid)
}

// hold mounts a node's own directories over the host's, and lives on.
func hold(root string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	for _, path := range ownPaths {
		if err := syscall.Mount(filepath.Join(root, path), path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", path, err)
		}
	}
	// The kubelet and volumes with mount propagation want it so.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("shared mounts: %w", err)
	}
	if err := syscall.Mount("bpf", "/sys/fs/bpf", "bpf", 0, ""); err != nil {
		return fmt.Errorf("mounting a BPF file system: %w", err)
	}
	fmt.Println("ready")
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return nil
}

// connect gives the node its address and routes.
func (n node) connect(others []node) error {
	pid, err := n.pid(n.name)
	if err != nil {
		return err
	}
	holder := strconv.Itoa(pid)
	inside := func(argv ...string) []string {
		return append([]string{"nsenter", "-t", holder, "-n", "--"}, argv...)
	}
	commands := [][]string{
		{"ip", "link", "add", n.link(), "type", "veth", "peer", "name", "eth0", "netns", holder},
		{"ip", "link", "set", n.link(), "master", bridge, "up"},
		inside("ip", "link", "set", "lo", "up"),
		inside("ip", "addr", "add", n.ip+"/24", "dev", "eth0"),
		inside("ip", "link", "set", "eth0", "up"),
		inside("ip", "route", "add", "default", "via", hostIP),
		// Pods, for the host.
		{"ip", "route", "add", n.pods + ".0/24", "via", n.ip},
		inside("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1"),
	}
	for _, other := range others {
		if other.name != n.name {
			commands = append(commands, inside("ip", "route", "add", other.pods+".0/24", "via", other.ip))
		}
	}
	return n.all(commands...)
}

// inside is a command in the node's namespaces. Its programs need absolute
// paths: nsenter begins at the root directory.
func (n node) inside(argv ...string) ([]string, error) {
	pid, err := n.pid(n.name)
	if own := filepath.Join(n.bin, argv[0]); exists(own) {
		argv = append([]string{own}, argv[1:]...)
	}
	return append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n", "-m", "--"}, argv...), err
}

func (n node) startInside(program string, args ...string) error {
	argv, err := n.inside(append([]string{program}, args...)...)
	if err != nil {
		return err
	}
	return n.cluster.start(n.name+"-"+program, argv)
}

// named is the running node of that name.
func (c *cluster) named(name string) (node, error) {
	number, err := strconv.Atoi(strings.TrimPrefix(name, "node"))
	if err != nil {
		return node{}, fmt.Errorf("no node is called %q: they are node1, node2, …", name)
	}
	found := c.node(number)
	_, err = c.pid(found.name)
	return found, err
}

// execIn replaces this process with a command in a node's namespaces.
func (c *cluster) execIn(name string, command []string) error {
	n, err := c.named(name)
	if err != nil {
		return err
	}
	argv, err := n.inside(command...)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, argv, os.Environ())
}
