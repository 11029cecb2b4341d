package main

import (
	"archive/tar"
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
	archive, err := c.makeImage(ref, []*layer{folderLayer(dir)}, "", entrypoint)
	if err != nil {
		return err
	}
	return c.importEverywhere(archive)
}

func (c *cluster) importEverywhere(archive string) error {
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
	_, err = c.makeImage(pauseImage, []*layer{folderLayer(pause)}, "", []string{"/pause"})
	if err != nil {
		return err
	}
	_, err = c.makeImage(busyboxImage, []*layer{folderLayer(shell)}, "", []string{"/bin/sh"})
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

// makeImage writes an archive as `docker save` does: a manifest, a configuration, layers.
func (c *cluster) makeImage(ref string, layers []*layer, user string, entrypoint []string) (string, error) {
	var names, digests []string
	dir, err := os.MkdirTemp(c.path("images"), "layers-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for i, layer := range layers {
		name := fmt.Sprintf("layer%d.tar", i)
		digest, err := layer.write(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		names, digests = append(names, name), append(digests, digest)
	}
	for name, content := range map[string]any{
		"config.json": map[string]any{
			"architecture": runtime.GOARCH, "os": "linux", "created": time.Unix(0, 0).UTC(),
			"config": map[string]any{
				"Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "User": user, "Entrypoint": entrypoint,
			},
			"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
		},
		"manifest.json": []any{map[string]any{"Config": "config.json", "RepoTags": []string{ref}, "Layers": names}},
	} {
		text, err := json.Marshal(content)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	archive := &layer{}
	for _, name := range append([]string{"manifest.json", "config.json"}, names...) {
		archive.add(filepath.Join(dir, name), "/"+name)
	}
	path := c.path("images", strings.NewReplacer("/", "_", ":", "_").Replace(ref)+".tar")
	_, err = archive.write(path)
	return path, err
}

// A layer is files, links and directories, all of them root's and of no time.
type layer struct {
	// Where each is on this machine, and in the image.
	from, to []string
	failed   error
}

func (l *layer) add(from, to string) {
	l.from, l.to = append(l.from, from), append(l.to, to)
}

// folderLayer is everything in a directory; of an empty name it is nothing.
func folderLayer(dir string) *layer {
	l := &layer{}
	if dir == "" {
		return l
	}
	l.failed = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			l.add(path, strings.TrimPrefix(path, dir))
		}
		return err
	})
	return l
}

// write makes a tar archive of it; its digest.
func (l *layer) write(path string) (string, error) {
	if l.failed != nil {
		return "", l.failed
	}
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	digest := sha256.New()
	archive := tar.NewWriter(io.MultiWriter(file, digest))
	for i, from := range l.from {
		if err := addTo(archive, from, strings.TrimPrefix(l.to[i], "/")); err != nil {
			return "", errors.Join(fmt.Errorf("%s: %w", from, err), file.Close())
		}
	}
	err = errors.Join(archive.Close(), file.Close())
	return fmt.Sprintf("sha256:%x", digest.Sum(nil)), err
}

func addTo(archive *tar.Writer, from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(from); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name, header.ModTime = to, time.Unix(0, 0)
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}
