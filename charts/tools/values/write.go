package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// schemaFile is values.schema.json.
func schemaFile(values []value) ([]byte, error) {
	root := object(values)
	root["$schema"] = "http://json-schema.org/draft-07/schema#"
	root["$comment"] = "Generated from values.yaml by `make generate`."
	// What Helm gives every chart that is part of another.
	root["properties"].(map[string]any)["global"] = map[string]any{"type": "object"}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(root)
	return out.Bytes(), err
}

// object is the schema of a map that takes these keys and no others.
func object(values []value) map[string]any {
	properties := map[string]any{}
	for _, v := range values {
		schema := map[string]any{}
		if v.children != nil {
			schema = object(v.children)
		}
		if v.doc != "" {
			schema["description"] = v.doc
		}
		for name, rule := range v.schema {
			schema[name] = rule
		}
		properties[v.path[strings.LastIndex(v.path, ".")+1:]] = schema
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// readme is the introduction and a table for each key at the top; single ones share the first.
func readme(introduction string, values []value) []byte {
	var out bytes.Buffer
	fmt.Fprintln(&out, "<!-- Generated from charts/hearth/values.yaml and charts/tools/introduction.md by `make generate`. -->")
	fmt.Fprintln(&out, strings.TrimRight(introduction, "\n"))
	var single []value
	for _, v := range values {
		if v.children == nil {
			single = append(single, v)
		}
	}
	table(&out, "All components", "", single)
	for _, v := range values {
		if v.children != nil {
			table(&out, "`"+v.path+"`", v.doc, leaves(v.children))
		}
	}
	return out.Bytes()
}

func table(out *bytes.Buffer, title, doc string, rows []value) {
	fmt.Fprintf(out, "\n### %s\n", title)
	if doc != "" {
		fmt.Fprintf(out, "\n%s\n", doc)
	}
	fmt.Fprint(out, "\n| value | default | |\n| --- | --- | --- |\n")
	cell := strings.NewReplacer("|", "\\|")
	for _, v := range rows {
		fmt.Fprintf(out, "| `%s` | `%s` | %s%s |\n", v.path, cell.Replace(v.fallback), cell.Replace(v.doc), choices(v))
	}
}

func leaves(values []value) []value {
	var found []value
	for _, v := range values {
		if v.children == nil {
			found = append(found, v)
		} else {
			found = append(found, leaves(v.children)...)
		}
	}
	return found
}

// choices names what may be written where that is one of a few, unless the sentence does.
func choices(v value) string {
	list, ok := v.schema["enum"].([]any)
	if !ok {
		return ""
	}
	var words []string
	said := true
	for _, choice := range list {
		word := fmt.Sprintf("`%v`", choice)
		words = append(words, word)
		said = said && strings.Contains(v.doc, word)
	}
	if said {
		return ""
	}
	return " One of " + strings.Join(words, ", ") + "."
}
