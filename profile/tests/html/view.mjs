// Runs the page's whole script on a document that only remembers what is drawn: node view.mjs PAGE
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const page = readFileSync(process.argv[2], "utf8");
const [data, script] = [/<script type="application\/json" id="data">(.*?)<\/script>/s, /<script>(.*?)<\/script>/s]
  .map((pattern) => page.match(pattern)[1]);

// What of the DOM the script uses.
class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], listeners: {}, attributes: {}, style: {}, value: "", scrollTop: 0 });
    Object.assign(this, { clientWidth: 1000, clientHeight: 400, offsetWidth: 100, offsetHeight: 50 });
    this.classList = { toggle: (name, on) => { this.attributes[name] = on; } };
    created.push(this);
  }
  setAttribute(name, value) { this.attributes[name] = value; if (name === "hidden") this.hidden = true; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener(type, listener) { this.listeners[type] = listener; }
  getBoundingClientRect() { return { left: 0, top: 0 }; }
  focus() { document.activeElement = this; }
  getContext() { return context; }
  get text() { return typeof this.textContent === "string" ? this.textContent : this.children.map((c) => c.text ?? c).join(" "); }
  fire(type, event = {}) { this.listeners[type]({ preventDefault() {}, ...event }); }
}
const created = [];
let drawn = [];
let frames = [];
const context = {
  setTransform() {}, clearRect() { drawn = []; }, measureText: () => ({ width: 8 }),
  fillRect(x, y, width) { drawn.push({ x, y, width, colour: this.fillStyle }); },
  fillText(text) { drawn.at(-1).text = text; },
  strokeRect() { drawn.at(-1).focused = true; },
};
const header = new Element("header");
const body = new Element("body");
const document = Object.assign(new Element("document"), {
  body, createElement: (tag) => new Element(tag), querySelector: () => header,
  getElementById: (id) => ({ textContent: id === "data" ? data : "" }),
});
const window = Object.assign(new Element("window"), { devicePixelRatio: 2, innerWidth: 1000, innerHeight: 500 });
const requestAnimationFrame = (draw) => frames.push(draw);
new Function("document", "window", "requestAnimationFrame", script)(document, window, requestAnimationFrame);

const one = (tag) => created.find((element) => element.tag === tag);
const [canvas, query, reset, matched, status] = ["canvas", "input", "button", "output", "footer"].map(one);
const tip = created.find((element) => element.attributes.class === "tip");
const texts = () => {
  while (frames.length > 0) frames.shift()();
  return drawn.filter((bar) => bar.text).map((bar) => bar.text);
};
const ROW = 19;
const at = (x, level) => ({ clientX: x, clientY: level * ROW + 5 });

// As it opens: everything, and what the root has.
assert.deepEqual(texts(), ["app", "[t] a", "main", "work", "work", "[l] memcpy", "[k] read", "[t] b", "</script>"]);
assert.equal(status.text, "app  ·  total: 100 µs, 100.0 %  ·  self: 0 µs, 0.0 %");
assert.equal(reset.disabled, true);
assert.deepEqual([canvas.width, canvas.style.width], [2000, "1000px"], "sharp on a dense screen");
for (const kind of ["process", "thread", "application", "library", "kernel"]) assert.ok(header.text.includes(kind), kind);
assert.ok(!header.text.includes("CUDA"), "only the kinds that are there");

// The pointer.
canvas.fire("mousemove", at(800, 3));
assert.equal(tip.hidden, false);
assert.equal(tip.text, "[k] read total: 20 µs, 20.0 % self: 20 µs, 20.0 %");
canvas.fire("mousemove", at(950, 5));
assert.equal(tip.hidden, true, "nothing is there");

// A click zooms in, and the tip then says the share of that too.
canvas.fire("click", at(100, 3));
assert.deepEqual(texts(), ["main", "[t] a", "app", "work", "work", "[l] memcpy"]);
canvas.fire("mousemove", at(100, 4));
assert.match(tip.text, /^work total: 60 µs, 60.0 % self: 0 µs, 0.0 % of the zoomed frame: 85.7 %$/);

// Search highlights, and says the share of what is seen.
const colourOf = (text) => { texts(); return drawn.find((bar) => bar.text === text).colour; };
const before = colourOf("[l] memcpy");
query.value = "MEMCPY";
query.fire("input");
assert.equal(matched.text, "matched 85.7 %, 60 µs");
assert.notEqual(colourOf("[l] memcpy"), before);
assert.notEqual(colourOf("[l] memcpy"), colourOf("work"));
query.value = "/(/";
query.fire("input");
assert.equal(matched.text, "not a regular expression");
query.value = "  ";
query.fire("input");
assert.deepEqual([matched.text, reset.disabled], ["", false], "spaces search nothing, and can be taken back");

// Escape takes both back.
canvas.fire("keydown", { key: "Escape" });
assert.deepEqual([query.value, matched.text, texts().length], ["", "", 9]);

// The keyboard alone.
document.fire("keydown", { key: "/" });
assert.equal(document.activeElement, query);
for (const key of ["ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown"]) canvas.fire("keydown", { key });
assert.equal(status.text, "</script>  ·  total: 10 µs, 10.0 %  ·  self: 10 µs, 10.0 %");
texts();
assert.equal(drawn.find((bar) => bar.focused).text, "</script>");
canvas.fire("keydown", { key: "Enter" });
assert.deepEqual(texts(), ["[t] b", "app", "</script>"]);
for (const key of ["ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown", "ArrowRight"]) canvas.fire("keydown", { key });
assert.match(status.text, /^\[t\] b/);
canvas.fire("keydown", { key: "ArrowLeft" });
assert.match(status.text, /^\[t\] a/);
