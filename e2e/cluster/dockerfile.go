package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A recipe is a Dockerfile that only copies: the very file that a release builds
// its image by, so that there is no second list of what is in it.
type recipe struct {
	copies     []copied
	user       string
	entrypoint []string
}

type copied struct {
	files  []string
	folder string
}

// readRecipe refuses every instruction that does more than copy.
func readRecipe(path string) (*recipe, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	made := &recipe{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		words := strings.Fields(rest)
		var wrong error
		switch instruction {
		case "", "#", "ARG", "FROM":
			// What it stands on is what the caller gives.
		case "COPY":
			last := len(words) - 1
			if last < 1 || !strings.HasSuffix(words[last], "/") || strings.Contains(rest, "--") {
				wrong = fmt.Errorf("COPY wants files and a folder that ends with /")
				break
			}
			made.copies = append(made.copies, copied{files: words[:last], folder: words[last]})
		case "USER":
			made.user = rest
		case "ENTRYPOINT":
			wrong = json.Unmarshal([]byte(rest), &made.entrypoint)
		default:
			wrong = fmt.Errorf("%s: only ARG, FROM, COPY, USER and ENTRYPOINT are known", instruction)
		}
		if wrong != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, wrong)
		}
	}
	return made, nil
}

// build makes an image by a Dockerfile from a context folder, on a base folder,
// and brings it to every node.
func (c *cluster) build(ref, dockerfile, context, base string) error {
	recipe, err := readRecipe(dockerfile)
	if err != nil {
		return err
	}
	own := &layer{}
	for _, copied := range recipe.copies {
		for _, file := range copied.files {
			own.add(filepath.Join(context, file), filepath.Join(copied.folder, filepath.Base(file)))
		}
	}
	archive, err := c.makeImage(ref, []*layer{folderLayer(base), own}, recipe.user, recipe.entrypoint)
	if err != nil {
		return err
	}
	return c.importEverywhere(archive)
}
