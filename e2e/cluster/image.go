package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	pauseImage   = "kc.local/pause:1"
	busyboxImage = "kc.local/busybox:1"
)

// image makes an image whose only layer is a directory's content, and brings it to every node.
func (c *cluster) image(ref, dir string, entrypoint []string) error {
	archive, err := c.makeImage(ref, dir, entrypoint)
	if err != nil {
		return err
	}
	for i := 1; i <= maxNodes; i++ {
		n := c.node(i)
		if _, err := c.pid(n.name); err != nil {
			continue
		}
		if err := n.importImage(archive); err != nil {
			return err
		}
	}
	return nil
}

// makeBaseImages makes the image that holds a pod's namespaces, and one with a shell.
func (c *cluster) makeBaseImages() error {
	dir, err := os.MkdirTemp("", "kcluster-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	pause, shell := filepath.Join(dir, "pause"), filepath.Join(dir, "busybox")
	for _, path := range []string{pause, filepath.Join(shell, "bin"), filepath.Join(shell, "tmp")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(c.bin, "pause"), filepath.Join(pause, "pause")); err != nil {
		return err
	}
	if err := copyFile("/bin/busybox", filepath.Join(shell, "bin", "busybox")); err != nil {
		return err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			if err := os.Symlink("busybox", filepath.Join(shell, "bin", applet)); err != nil {
				return err
			}
		}
	}
	_, err = c.makeImage(pauseImage, pause, []string{"/pause"})
	if err != nil {
		return err
	}
	_, err = c.makeImage(busyboxImage, shell, []string{"/bin/sh"})
	return err
}

func (n node) importImages() error {
	archives, err := filepath.Glob(n.path("images", "*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := n.importImage(archive); err != nil {
			return err
		}
	}
	return nil
}

func (n node) importImage(archive string) error {
	return n.all([]string{"ctr", "-a", n.socket(), "-n", "k8s.io", "images", "import", archive})
}

// makeImage writes an archive as `docker save` does: a manifest, a configuration, a layer.
func (c *cluster) makeImage(ref, dir string, entrypoint []string) (string, error) {
	layer, err := layerOf(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": time.Unix(0, 0).UTC(),
		"config": map[string]any{"Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "Entrypoint": entrypoint},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return "", err
	}
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return "", err
	}
	path := c.path("images", strings.NewReplacer("/", "_", ":", "_").Replace(ref)+".tar")
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	archive := tar.NewWriter(file)
	for _, part := range []struct {
		name string
		data []byte
	}{{"manifest.json", manifest}, {"config.json", config}, {"layer.tar", layer}} {
		header := &tar.Header{Name: part.name, Mode: 0o644, Size: int64(len(part.data))}
		if err := archive.WriteHeader(header); err != nil {
			return "", err
		}
		if _, err := archive.Write(part.data); err != nil {
			return "", err
		}
	}
	return path, errors.Join(archive.Close(), file.Close())
}

// layerOf is a directory as a layer: everything in it, root's.
func layerOf(dir string) ([]byte, error) {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		header.Name, err = filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		header.Uid, header.Gid, header.Uname, header.Gname, header.ModTime = 0, 0, "", "", time.Unix(0, 0)
		if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(archive, file)
		return err
	})
	return layer.Bytes(), errors.Join(err, archive.Close())
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
