// Command values writes what follows from a chart's values.yaml: the schema that Helm checks values by, and the chart's
// README.
//
//	values CHART INTRODUCTION OUT
//
// In CHART/values.yaml each key has a comment that says what it is. The comment's last line may be `# @schema {…}`: JSON
// schema, as YAML on one line, that is laid over what the default says. A map with `additionalProperties` there is
// of the user's making; every other map takes the keys that it has and no more.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: values CHART INTRODUCTION OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(chart, introduction, out string) error {
	file := filepath.Join(chart, "values.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	values, err := parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	begin, err := os.ReadFile(introduction)
	if err != nil {
		return err
	}
	schema, err := schemaFile(values)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "values.schema.json"), schema, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "README.md"), readme(string(begin), values), 0o644)
}
