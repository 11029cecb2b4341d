// Runs the pure part of the page's script on the page's data: node model.mjs PAGE
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const data = JSON.parse(page.match(/<script type="application\/json" id="data">(.*?)<\/script>/s)[1]);
const source = readFileSync(new URL("../../src/write/html/model.js", import.meta.url), "utf8");
const names = "makeModel layout nodeAt childAt deepest search matchedValue formatTime formatShare change colour KINDS contains";
const m = new Function(`${source}; return { ${names.split(" ").join(", ")} };`)();

const model = m.makeModel(data);
const name = (node) => (node < 0 ? null : model.names[model.name[node]]);
const node = (...path) => path.reduce((at, wanted) => m.childAt(model, at, (child) => name(child) === wanted), 0);
const drawn = (zoomed, width, first = 0, last = 99) => {
  const bars = [];
  m.layout(model, zoomed, width, first, last, (node, x, wide) => bars.push(`${name(node)} ${x}+${wide}`));
  return bars;
};

// Totals, and children from the left, the rest is the parent's own.
assert.equal(model.total[0], 100);
assert.equal(model.total[node("[t] a", "main", "work")], 70);
assert.deepEqual(drawn(0, 1000), [
  "app 0+1000", "[t] a 0+900", "main 0+900", "work 0+700", "work 0+600", "[l] memcpy 0+600", "[k] read 700+200",
  "[t] b 900+100", "</script> 900+100",
]);
assert.deepEqual(drawn(0, 1000, 1, 1), ["[t] a 0+900", "[t] b 900+100"], "only the levels that are seen");

// Zoomed: as wide as the picture, and so is what is above it.
assert.deepEqual(drawn(node("[t] a", "main", "[k] read"), 500), ["main 0+500", "[t] a 0+500", "app 0+500", "[k] read 0+500"]);

// Bars below half a pixel are not drawn at all.
assert.deepEqual(drawn(0, 4.9).map((bar) => bar.split(" 0+")[0].replace(/ \d.*/, "")),
  ["app", "[t] a", "main", "work", "work", "[l] memcpy", "[k] read"]);

// What is under the pointer is what is drawn there.
for (const zoomed of [0, node("[t] a", "main"), node("[t] b")]) {
  m.layout(model, zoomed, 1000, 0, 99, (node, x, wide) => {
    assert.equal(m.nodeAt(model, zoomed, 1000, x + wide / 2, model.level[node]), node, name(node));
  });
}
assert.equal(m.nodeAt(model, 0, 1000, 950, 3), -1, "below a leaf is nothing");
assert.equal(m.nodeAt(model, 0, 1000, 750, 4), -1);
assert.equal(m.deepest(model, node("[t] b")), 2);
assert.ok(m.contains(model, node("[t] a"), node("[t] a", "main", "work")));
assert.ok(!m.contains(model, node("[t] b"), node("[t] a")));

// Search: text as it stands in any case, or /a regular expression/; recursion counts once.
const share = (text, zoomed = 0) => m.matchedValue(model, zoomed, m.search(model, text));
assert.equal(share("WORK"), 70);
assert.equal(share("[k]"), 20);
assert.equal(share("/^\\[[kl]\\]/"), 80);
assert.equal(share("</script>"), 10);
assert.equal(share("work", node("[t] a", "main", "work")), 70);
assert.equal(share("nothing"), 0);
assert.equal(m.search(model, ""), null);
assert.equal(m.search(model, "/(/"), null);

assert.deepEqual([0, 999, 1000, 999_949, 1_500_000, -2_000].map(m.formatTime),
  ["0 µs", "999 µs", "1.0 ms", "999.9 ms", "1.50 s", "-2.0 ms"]);
assert.deepEqual([[0, 10], [1, 100_000], [1, 3], [99_999, 100_000], [3, 3], [0, 0]].map(([a, b]) => m.formatShare(a, b)),
  ["0.0 %", "< 0.1 %", "33.3 %", "> 99.9 %", "100.0 %", "0.0 %"]);

// Every kind that the writer gives has a colour.
for (const kind of "HPTKCL?A") assert.ok(m.KINDS[kind], kind);
assert.equal(m.colour(model, 0), m.colour(model, 0));

// Two profiles: bars are as wide as both.
const both = m.makeModel({ ...data, base: data.self.map((value) => value * 3) });
assert.deepEqual([both.total[0], both.base[0], both.now[0]], [400, 300, 100]);
assert.equal(m.change(both, 0), -0.5);
const gone = m.makeModel({ ...data, base: data.self.map(() => 0) });
assert.equal(m.change(gone, 0), 1);
