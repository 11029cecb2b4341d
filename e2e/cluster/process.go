package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Each process of a cluster has this in its environment, but for its pods'.
const mark = "KCLUSTER_PART_OF"

// start runs a program in a session of its own, which lives on when this process
// ends; its output is in log/NAME.log.
func (c *cluster) start(name string, argv []string) error {
	cmd, err := c.command(name, argv)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	line, err := json.Marshal(argv)
	if err != nil {
		return err
	}
	return errors.Join(c.savePid(name, cmd.Process.Pid), os.WriteFile(c.path("pid", name+".json"), line, 0o644))
}

// restart starts a daemon that was stopped, as it was.
func (c *cluster) restart(name string) error {
	var argv []string
	line, err := os.ReadFile(c.path("pid", name+".json"))
	if err == nil {
		err = json.Unmarshal(line, &argv)
	}
	if err != nil {
		return fmt.Errorf("%s never ran: %w", name, err)
	}
	return c.start(name, argv)
}

// stop kills a daemon; what it started goes on.
func (c *cluster) stop(name string) error {
	pid, err := c.pid(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return poll(ctx, "the end of "+name, func() (bool, error) { return !c.isOurs(pid), nil })
}

func (c *cluster) command(name string, argv []string) (*exec.Cmd, error) {
	log, err := os.OpenFile(c.path("log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	program := argv[0]
	if own := filepath.Join(c.bin, program); exists(own) {
		program = own
	}
	cmd := exec.Command(program, argv[1:]...)
	cmd.Env = append(os.Environ(), mark+"="+c.state)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

func (c *cluster) savePid(name string, pid int) error {
	return os.WriteFile(c.path("pid", name), []byte(strconv.Itoa(pid)), 0o644)
}

// pid of a running process that we started: a file may be older than the machine's last boot.
func (c *cluster) pid(name string) (int, error) {
	text, err := os.ReadFile(c.path("pid", name))
	if err != nil {
		return 0, fmt.Errorf("%s does not run: %w", name, err)
	}
	pid, err := strconv.Atoi(string(text))
	if err == nil && !c.isOurs(pid) {
		err = fmt.Errorf("%s does not run any more", name)
	}
	return pid, err
}

func (c *cluster) isOurs(pid int) bool {
	environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for pair := range bytes.SplitSeq(environment, []byte{0}) {
		if string(pair) == mark+"="+c.state {
			return true
		}
	}
	return false
}

// killAll ends our processes and those of the pods, until none is left.
func (c *cluster) killAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return poll(ctx, "the end of the cluster's processes", func() (bool, error) {
		pids := podProcesses()
		entries, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return false, err
		}
		for _, entry := range entries {
			if pid, _ := strconv.Atoi(filepath.Base(entry)); pid != os.Getpid() && c.isOurs(pid) {
				pids = append(pids, pid)
			}
		}
		for _, pid := range pids {
			// One that ended meanwhile is no failure.
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0, fmt.Errorf("pids %v", pids)
	})
}

// all runs commands one after the other, up to the first that fails.
func (c *cluster) all(commands ...[]string) error {
	for _, argv := range commands {
		if output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(output))
		}
	}
	return nil
}

// poll asks five times a second until it is so; the error is the last one.
func poll(ctx context.Context, what string, isSo func() (bool, error)) error {
	for {
		ok, err := isSo()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up waiting for %s: %w", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

//go:embed templates
var templates embed.FS

// render fills a template in.
func (c *cluster) render(name, path string, values any) error {
	parsed, err := template.New(name).Option("missingkey=error").ParseFS(templates, "templates/"+name)
	if err != nil {
		return err
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(parsed.Execute(file, values), file.Close())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
