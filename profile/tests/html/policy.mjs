// Compares the hashes in the page's policy with its script and style: node policy.mjs PAGE
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const policy = page.match(/http-equiv="Content-Security-Policy" content="([^"]*)"/)[1];
const hash = (pattern) => `'sha256-${createHash("sha256").update(page.match(pattern)[1]).digest("base64")}'`;
const expected = `default-src 'none'; script-src ${hash(/<script>(.*?)<\/script>/s)}; ` +
  `style-src ${hash(/<style>(.*?)<\/style>/s)}; base-uri 'none'; form-action 'none'`;
assert.equal(policy, expected, "the script or the style changed: write this into POLICY of html.rs");
