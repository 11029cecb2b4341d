package main

import (
	"strings"
	"testing"
)

// check compares a part of the schema, or the error, that a values.yaml gives.
func check(t *testing.T, text, expected string) {
	t.Helper()
	values, err := parse([]byte(text))
	outcome := ""
	if err != nil {
		outcome = err.Error()
	} else {
		schema, err := schemaFile(values)
		if err != nil {
			t.Fatal(err)
		}
		outcome = strings.Join(strings.Fields(string(schema)), " ")
	}
	if !strings.Contains(outcome, expected) {
		t.Errorf("%s\ngives\n%s\nwithout\n%s", text, outcome, expected)
	}
}

func TestTypesFollowFromDefaults(t *testing.T) {
	check(t, "# Some.\na: x\n", `"a": { "description": "Some.", "type": "string" }`)
	check(t, "# Some.\na: 1\n", `"type": "integer"`)
	check(t, "# Some.\na: true\n", `"type": "boolean"`)
}

func TestASchemaIsLaidOverThem(t *testing.T) {
	check(t, "# Some,\n# or more.\n# @schema {minimum: 1, type: number}\na: 1\n",
		`"a": { "description": "Some, or more.", "minimum": 1, "type": "number" }`)
}

func TestUnknownKeysAreRefusedUnlessAMapIsTheUsers(t *testing.T) {
	check(t, "a:\n  # Some.\n  b: 1\n", `"a": { "additionalProperties": false, "properties": { "b":`)
	check(t, "# Some.\n# @schema {additionalProperties: {type: string}}\na: {b: c}\n",
		`"a": { "additionalProperties": { "type": "string" }, "description": "Some.", "type": "object" }`)
}

func TestWhatIsNotSaidIsAnError(t *testing.T) {
	check(t, "a: 1\n", "line 1: a: no comment says what it is")
	check(t, "a:\n  b: 1\n", "a.b: no comment says what it is")
	check(t, "# Some.\na: {}\n", "an empty map needs additionalProperties")
	check(t, "# Some.\na: []\n", "a list needs items")
	check(t, "# Some.\na:\n", "null has no type")
	check(t, "# @schema {minimum: 1}\n# Some.\na: 1\n", "@schema is not the last line")
	check(t, "# Some.\n# @schema {minimum\na: 1\n", "@schema: ")
}

func TestTheReadmeHasADefaultAndASentenceForEachLeaf(t *testing.T) {
	values, err := parse([]byte("# Some.\n# @schema {enum: [x, y]}\na: x\nb:\n  # More|less.\n  c: 1\n  # `x` or `y`.\n  # @schema {enum: [x, y]}\n  d: x\n"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(readme("# T\n", values))
	if strings.Count(text, "One of") != 1 {
		t.Errorf("%s\nnames the choices of d again", text)
	}
	for _, expected := range []string{"| `a` | `\"x\"` | Some. One of `x`, `y`. |", "### `b`", "| `b.c` | `1` | More\\|less. |"} {
		if !strings.Contains(text, expected) {
			t.Errorf("%s\nhas no\n%s", text, expected)
		}
	}
}
