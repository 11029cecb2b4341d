package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is a key of values.yaml.
type value struct {
	// From the top, with dots.
	path string
	// What its comment says, on one line.
	doc string
	// JSON schema of what may be written there.
	schema map[string]any
	// What is there, as JSON.
	fallback string
	// The keys of a map that takes no others.
	children []value
}

const mark = "@schema "

// parse reads a values.yaml.
func parse(text []byte) ([]value, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if document.Kind != yaml.DocumentNode || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("no map at the top")
	}
	return children("", document.Content[0])
}

func children(path string, node *yaml.Node) ([]value, error) {
	var values []value
	for i := 0; i < len(node.Content); i += 2 {
		child, err := one(path, node.Content[i], node.Content[i+1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", node.Content[i].Line, err)
		}
		values = append(values, child)
	}
	return values, nil
}

func one(parent string, key, node *yaml.Node) (value, error) {
	path := strings.TrimPrefix(parent+"."+key.Value, ".")
	doc, given, err := comment(key.HeadComment)
	if err != nil {
		return value{}, fmt.Errorf("%s: %w", path, err)
	}
	v := value{path: path, doc: doc, schema: map[string]any{}}
	switch kind := kindOf(node); kind {
	case "object":
		v.schema["type"] = kind
		if _, free := given["additionalProperties"]; !free {
			if v.children, err = children(path, node); err != nil {
				return value{}, err
			}
			if len(v.children) == 0 {
				return value{}, fmt.Errorf("%s: an empty map needs additionalProperties in its @schema", path)
			}
		}
	case "array":
		v.schema["type"] = kind
		if _, typed := given["items"]; !typed {
			return value{}, fmt.Errorf("%s: a list needs items in its @schema", path)
		}
	case "":
		return value{}, fmt.Errorf("%s: null has no type: write the empty value of the one that it has", path)
	default:
		v.schema["type"] = kind
	}
	// A map whose keys have sentences of their own may go without.
	if doc == "" && v.children == nil {
		return value{}, fmt.Errorf("%s: no comment says what it is", path)
	}
	for name, rule := range given {
		v.schema[name] = rule
	}
	var fallback any
	if err := node.Decode(&fallback); err != nil {
		return value{}, err
	}
	encoded, err := json.Marshal(fallback)
	v.fallback = string(encoded)
	return v, err
}

// kindOf is the JSON type of a node.
func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "object"
	case yaml.SequenceNode:
		return "array"
	}
	return map[string]string{"!!str": "string", "!!int": "integer", "!!float": "number", "!!bool": "boolean"}[node.Tag]
}

// comment splits what is for readers from what is for Helm.
func comment(text string) (doc string, schema map[string]any, err error) {
	var words []string
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		rule, found := strings.CutPrefix(line, mark)
		switch {
		case schema != nil && line != "":
			return "", nil, errors.New("@schema is not the last line of the comment")
		case found:
			if err := yaml.Unmarshal([]byte(rule), &schema); err != nil {
				return "", nil, fmt.Errorf("@schema: %w", err)
			}
		case line != "":
			words = append(words, line)
		}
	}
	return strings.Join(words, " "), schema, nil
}
