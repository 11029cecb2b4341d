"use strict";
// The model: the tree as typed arrays, and what is computed from it. No DOM here.
// "Node" is an index in preorder; a node's subtree ends before `end[node]`.

// Smallest bar that is drawn, in pixels: a narrower one cannot be seen, and most bars are.
const MIN_WIDTH = 0.5;

// Values are microseconds. Where two profiles are compared, `total` and `self` are the sums of both, which
// is what bars are as wide as, and `base` and `now` are the totals of each.
function makeModel(data) {
  const count = data.level.length;
  const level = Int32Array.from(data.level);
  const name = Int32Array.from(data.name);
  const now = Float64Array.from(data.self);
  const base = data.base ? Float64Array.from(data.base) : null;
  const self = base ? now.map((value, node) => value + base[node]) : now.slice();
  const total = self.slice();
  const selfNow = now.slice();
  const selfBase = base ? base.slice() : null;
  const parent = new Int32Array(count).fill(-1);
  const end = new Int32Array(count);
  const path = [];
  let depth = 0;
  for (let node = 0; node < count; node++) {
    while (path.length > level[node]) end[path.pop()] = node;
    if (path.length > 0) parent[node] = path[path.length - 1];
    path.push(node);
    depth = Math.max(depth, level[node]);
  }
  for (const node of path) end[node] = count;
  for (let node = count - 1; node > 0; node--) {
    total[parent[node]] += total[node];
    now[parent[node]] += now[node];
    if (base) base[parent[node]] += base[node];
  }
  // Children stand side by side from their parent's left edge on; its own time is the rest on the right.
  const start = new Float64Array(count);
  const next = new Float64Array(count);
  for (let node = 0; node < count; node++) {
    if (node > 0) {
      start[node] = next[parent[node]];
      next[parent[node]] += total[node];
    }
    next[node] = start[node];
  }
  return { count, depth, names: data.names, kinds: data.kinds, level, name, self, total, now, base, selfNow, selfBase, parent, end, start };
}

// Whether `node` is `other` or above it.
function contains(model, node, other) {
  return node <= other && other < model.end[node];
}

// The bars to draw when `zoomed` is as wide as the picture: those of it and below it, of the levels from
// `first` to `last`, and those above it, which are as wide. Calls `draw(node, x, width)`.
function layout(model, zoomed, width, first, last, draw) {
  for (let above = model.parent[zoomed]; above >= 0; above = model.parent[above]) {
    if (model.level[above] >= first && model.level[above] <= last) draw(above, 0, width);
  }
  const scale = model.total[zoomed] > 0 ? width / model.total[zoomed] : 0;
  for (let node = zoomed; node < model.end[zoomed]; ) {
    const wide = node === zoomed ? width : model.total[node] * scale;
    if (wide < MIN_WIDTH || model.level[node] > last) {
      node = model.end[node];
      continue;
    }
    if (model.level[node] >= first) draw(node, (model.start[node] - model.start[zoomed]) * scale, wide);
    node++;
  }
}

// The node at a level under `x` of `width` pixels, or -1.
function nodeAt(model, zoomed, width, x, level) {
  if (level <= model.level[zoomed]) {
    let node = zoomed;
    while (node >= 0 && model.level[node] > level) node = model.parent[node];
    return node;
  }
  const value = model.start[zoomed] + (x / width) * model.total[zoomed];
  let node = zoomed;
  while (node >= 0 && model.level[node] < level) {
    node = childAt(model, node, (child) => value >= model.start[child] && value < model.start[child] + model.total[child]);
  }
  return node;
}

// The first child that `wanted` takes, or -1.
function childAt(model, node, wanted) {
  for (let child = node + 1; child < model.end[node]; child = model.end[child]) {
    if (wanted(child)) return child;
  }
  return -1;
}

// The deepest level that is drawn below `zoomed`.
function deepest(model, zoomed) {
  let deepest = 0;
  for (let node = zoomed; node < model.end[zoomed]; node++) deepest = Math.max(deepest, model.level[node]);
  return deepest;
}

// Which names a search means: one byte for each. `/x/` is a regular expression, anything else is looked for
// as it stands, in any case. Null if nothing is searched, or the expression is not one.
function search(model, text) {
  if (text === "") return null;
  let matches;
  if (text.length > 2 && text.startsWith("/") && text.endsWith("/")) {
    try {
      const expression = new RegExp(text.slice(1, -1));
      matches = (name) => expression.test(name);
    } catch {
      return null;
    }
  } else {
    const lower = text.toLowerCase();
    matches = (name) => name.toLowerCase().includes(lower);
  }
  return Uint8Array.from(model.names, (name) => (matches(name) ? 1 : 0));
}

// The value of `zoomed` that is in matching frames or below them. What lies in a match is not counted
// again, so a function that calls itself counts once.
function matchedValue(model, zoomed, found) {
  let value = 0;
  for (let node = zoomed; node < model.end[zoomed]; ) {
    if (found[model.name[node]]) {
      value += model.total[node];
      node = model.end[node];
    } else {
      node++;
    }
  }
  return value;
}

function formatTime(micros) {
  const size = Math.abs(micros);
  if (size < 1000) return `${micros} µs`;
  if (size < 1e6) return `${(micros / 1e3).toFixed(1)} ms`;
  return `${(micros / 1e6).toFixed(2)} s`;
}

// One decimal, and never 0.0 % or 100.0 % of a part that is neither.
function formatShare(part, whole) {
  if (whole === 0) return "0.0 %";
  const percent = (100 * part) / whole;
  if (part > 0 && percent < 0.1) return "< 0.1 %";
  if (part < whole && percent > 99.9) return "> 99.9 %";
  return `${percent.toFixed(1)} %`;
}

// How a node changed: from -1, only in the base, to 1, only in the other. Shares of what both have.
function change(model, node) {
  const sum = model.base[node] + model.now[node];
  return sum === 0 ? 0 : (model.now[node] - model.base[node]) / sum;
}

// Hue, saturation and lightness of each kind of frame; the name moves the lightness a little, so that
// neighbours differ and a function looks the same everywhere.
const KINDS = {
  H: { label: "all processes", hue: 220, saturation: 14, light: 74 },
  P: { label: "process", hue: 220, saturation: 22, light: 76 },
  T: { label: "thread", hue: 210, saturation: 34, light: 78 },
  A: { label: "application", hue: 18, saturation: 84, light: 68 },
  L: { label: "library", hue: 44, saturation: 86, light: 66 },
  K: { label: "kernel", hue: 268, saturation: 46, light: 76 },
  C: { label: "CUDA", hue: 130, saturation: 40, light: 70 },
  "?": { label: "no name", hue: 0, saturation: 0, light: 78 },
};

function hash(text) {
  let hash = 2166136261;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 16777619);
  return hash >>> 0;
}

function colour(model, node) {
  if (model.base) return changeColour(change(model, node));
  const { hue, saturation, light } = KINDS[model.kinds[model.name[node]]];
  const shade = hash(model.names[model.name[node]]);
  return `hsl(${hue + (shade % 13) - 6} ${saturation}% ${light + ((shade >>> 8) % 13) - 6}%)`;
}

// Red has more than the base, blue less, as strong as the change is.
function changeColour(change) {
  const strength = Math.sqrt(Math.abs(change));
  return `hsl(${change > 0 ? 8 : 214} ${Math.round(85 * strength)}% ${Math.round(90 - 28 * strength)}%)`;
}
