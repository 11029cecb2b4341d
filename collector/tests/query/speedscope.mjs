// Checks a file against speedscope's JSON schema, and what the schema cannot say: node speedscope.mjs SCHEMA FILE
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const [schema, file] = process.argv.slice(2).map((path) => JSON.parse(readFileSync(path, "utf8")));
// What of JSON schema the published one uses. Anything else must not pass unchecked.
const KNOWN = ["$schema", "$ref", "definitions", "title", "type", "const", "enum", "anyOf", "items", "properties", "required"];

function problem(rule, value, path) {
  for (const keyword of Object.keys(rule)) assert.ok(KNOWN.includes(keyword), `the schema has a new keyword: ${keyword}`);
  if (rule.$ref) return problem(rule.$ref.split("/").slice(1).reduce((at, key) => at[key], schema), value, path);
  if (rule.anyOf) {
    const problems = rule.anyOf.map((option) => problem(option, value, path));
    return problems.includes(null) ? null : problems.join("; or ");
  }
  const type = Array.isArray(value) ? "array" : typeof value;
  if (rule.type && rule.type !== type) return `${path} is ${type}, not ${rule.type}`;
  if (rule.const !== undefined && rule.const !== value) return `${path} is not ${rule.const}`;
  if (rule.enum && !rule.enum.includes(value)) return `${path} is none of ${rule.enum}`;
  for (const field of rule.required ?? []) if (!(field in value)) return `${path}.${field} is missing`;
  const parts = type === "array" ? value.map((part) => [rule.items, part]) : [];
  if (rule.properties) {
    for (const [field, part] of Object.entries(value)) {
      if (!rule.properties[field]) return `${path}.${field} is not in the schema`;
      parts.push([rule.properties[field], part]);
    }
  }
  for (const [part, item] of parts) {
    const found = problem(part, item, `${path}[…]`);
    if (found) return found;
  }
  return null;
}

assert.equal(problem(schema, file, "file"), null);
assert.ok(file.profiles.length > 0, "speedscope opens no file without a profile");
for (const { samples, weights, startValue, endValue } of file.profiles) {
  assert.equal(samples.length, weights.length);
  assert.equal(weights.reduce((sum, weight) => sum + weight, startValue), endValue);
  assert.ok(samples.flat().every((frame) => Number.isInteger(frame) && frame >= 0 && frame < file.shared.frames.length));
}
