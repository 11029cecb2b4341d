package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The pods of node1 are below kc/node1 in every hierarchy: by that they are told
// from those of other nodes, whose processes are the same machine's.
const (
	cgroupMount = "/sys/fs/cgroup"
	cgroupTop   = "kc"
)

// hierarchies of version 1. In a hybrid layout runc makes its cgroups in that of
// version 2 by itself.
func hierarchies() ([]string, error) {
	if exists(cgroupMount + "/cgroup.controllers") {
		return nil, errors.New("this machine has cgroups of version 2 only; the nodes were made for version 1 or hybrid")
	}
	all, err := filepath.Glob(cgroupMount + "/*/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, path := range all {
		if dir := filepath.Dir(path); !exists(dir + "/cgroup.controllers") {
			found = append(found, dir)
		}
	}
	return found, nil
}

// makeCgroups makes a node's branch: the kubelet wants its root to exist.
func makeCgroups(name string) error {
	found, err := hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range found {
		parent := hierarchy
		for _, part := range []string{cgroupTop, name} {
			dir := filepath.Join(parent, part)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			// A new cpuset has neither, and takes no process.
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(parent, file))
				if errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), value, 0o644)); err != nil {
					return err
				}
			}
			parent = dir
		}
	}
	return nil
}

// podProcesses are those in the nodes' cgroups.
func podProcesses() []int {
	var pids []int
	for _, dir := range cgroups() {
		text, _ := os.ReadFile(dir + "/cgroup.procs")
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// cgroups of all nodes, parents first.
func cgroups() []string {
	var found []string
	tops, _ := filepath.Glob(cgroupMount + "/*/" + cgroupTop)
	for _, top := range tops {
		// One that goes away meanwhile is no failure.
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

func removeCgroups() error {
	var failed []error
	for _, dir := range slices.Backward(cgroups()) {
		if err := os.Remove(dir); err != nil {
			failed = append(failed, fmt.Errorf("cgroup: %w", err))
		}
	}
	return errors.Join(failed...)
}
