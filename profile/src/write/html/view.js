// The view: draws what the model computes, and asks it what is under the pointer.
// Coordinates: CSS pixels from the top left of the canvas; the canvas is as large as what is seen of the
// graph, and `scroll` is how much of the graph is above it.

const ROW = 19;
const PADDING = 4;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A block and no function: what is in it stays out of the page's global names.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const model = makeModel(data);
  const query = element("input", { type: "search", placeholder: "Search (/regex/)", "aria-label": "Search functions", spellcheck: "false" });
  const reset = element("button", { type: "button", title: "Escape" }, "Reset");
  const matched = element("output", { class: "matched" });
  const legend = element("span", { class: "legend" });
  const bar = element("div", { class: "bar" }, query, reset, matched, legend);
  const notes = element("ul", { class: "notes" }, ...data.notes.map((note) => element("li", {}, note)));
  const canvas = element("canvas", {
    tabindex: "0", role: "application",
    "aria-label": "Flame graph. Arrow keys move between frames, Enter zooms in, Escape resets, slash searches.",
  });
  const spacer = element("div", { class: "spacer" }, canvas);
  const scroller = element("main", { class: "graph" }, spacer);
  const tip = element("div", { class: "tip", hidden: "" });
  const status = element("footer", { "aria-live": "polite" });
  document.querySelector("header").append(...(data.notes.length > 0 ? [notes] : []), bar);
  document.body.append(scroller, tip, status);

  const context = canvas.getContext("2d");
  const state = { zoomed: 0, focused: 0, keyboard: false, found: null, width: 0, height: 0, scheduled: false };

  function describe(node) {
    const name = model.names[model.name[node]];
    const whole = model.total[0];
    if (model.base) {
      const part = (total, self, of) => `${formatTime(total)} (${formatShare(total, of)}), self ${formatTime(self)}`;
      const difference = model.now[node] - model.base[node];
      return [name,
        `base: ${part(model.base[node], model.selfBase[node], model.base[0])}`,
        `new: ${part(model.now[node], model.selfNow[node], model.now[0])}`,
        `change: ${difference > 0 ? "+" : ""}${formatTime(difference)}`];
    }
    const lines = [name,
      `total: ${formatTime(model.total[node])}, ${formatShare(model.total[node], whole)}`,
      `self: ${formatTime(model.self[node])}, ${formatShare(model.self[node], whole)}`];
    if (state.zoomed !== 0 && contains(model, state.zoomed, node)) {
      lines.push(`of the zoomed frame: ${formatShare(model.total[node], model.total[state.zoomed])}`);
    }
    return lines;
  }

  function draw() {
    state.scheduled = false;
    const scroll = scroller.scrollTop;
    const ratio = window.devicePixelRatio || 1;
    const { width, height } = state;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace";
    context.textBaseline = "middle";
    const character = context.measureText("m").width;
    const first = Math.floor(scroll / ROW);
    const last = Math.ceil((scroll + height) / ROW);
    layout(model, state.zoomed, width, first, last, (node, x, wide) => {
      const y = model.level[node] * ROW - scroll;
      const above = node < state.zoomed;
      const hit = state.found && state.found[model.name[node]];
      context.globalAlpha = above ? 0.55 : 1;
      context.fillStyle = hit ? "hsl(312 90% 66%)" : state.found ? faded(node) : colour(model, node);
      const gap = wide > 3 ? 1 : 0;
      context.fillRect(x, y, wide - gap, ROW - 1);
      const room = Math.floor((wide - 2 * PADDING) / character);
      context.globalAlpha = above ? 0.8 : 1;
      if (room >= 2) {
        const name = model.names[model.name[node]];
        context.fillStyle = hit || !state.found ? "#1b1b22" : "#5c5c66";
        context.fillText(name.length <= room ? name : name.slice(0, room - 1) + "…", x + PADDING, y + ROW / 2);
      }
      if (node === state.focused && state.keyboard) {
        context.globalAlpha = 1;
        context.strokeStyle = "#111";
        context.lineWidth = 2;
        context.strokeRect(x + 1, y + 1, Math.max(wide - gap - 2, 1), ROW - 3);
      }
    });
    context.globalAlpha = 1;
  }

  function faded(node) {
    return model.kinds[model.name[node]] === "?" ? "#e3e3e6" : "#e9e5de";
  }

  function schedule() {
    if (state.scheduled) return;
    state.scheduled = true;
    requestAnimationFrame(draw);
  }

  function resize() {
    const rows = deepest(model, state.zoomed) + 1;
    spacer.style.height = `${rows * ROW}px`;
    state.width = scroller.clientWidth;
    state.height = Math.min(scroller.clientHeight, rows * ROW);
    canvas.style.width = `${state.width}px`;
    canvas.style.height = `${state.height}px`;
    schedule();
  }

  function showMatched() {
    if (query.value.trim() === "") matched.textContent = "";
    else if (state.found === null) matched.textContent = "not a regular expression";
    else {
      const value = matchedValue(model, state.zoomed, state.found);
      matched.textContent = `matched ${formatShare(value, model.total[state.zoomed])}, ${formatTime(value)}`;
    }
  }

  function zoom(node) {
    state.zoomed = node;
    state.focused = node;
    reset.disabled = node === 0 && query.value === "";
    showMatched();
    resize();
    scroller.scrollTop = Math.max(0, (model.level[node] - 3) * ROW);
    say(node);
  }

  function find() {
    state.found = search(model, query.value.trim());
    reset.disabled = state.zoomed === 0 && query.value === "";
    showMatched();
    schedule();
  }

  function say(node) {
    status.textContent = describe(node).join("  ·  ");
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const level = Math.floor((event.clientY - box.top + scroller.scrollTop) / ROW);
    return nodeAt(model, state.zoomed, state.width, event.clientX - box.left, level);
  }

  function hover(event) {
    const node = under(event);
    tip.hidden = node < 0;
    canvas.classList.toggle("on-frame", node >= 0);
    if (node < 0) return;
    const [name, ...lines] = describe(node);
    tip.replaceChildren(element("b", {}, name), ...lines.map((line) => element("div", {}, line)));
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    const top = event.clientY + 18 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }

  // The frame beside `node` at the same level under the same parent.
  function sibling(node, step) {
    const parent = model.parent[node];
    if (parent < 0 || node === state.zoomed) return node;
    let before = node;
    for (let child = parent + 1; child < model.end[parent]; child = model.end[child]) {
      if (step < 0 && child === node) return before;
      if (step > 0 && child > node) return child;
      before = child;
    }
    return node;
  }

  function focus(node) {
    state.focused = node;
    state.keyboard = true;
    const y = model.level[node] * ROW;
    if (y < scroller.scrollTop) scroller.scrollTop = y;
    else if (y + ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = y + ROW - scroller.clientHeight;
    say(node);
    schedule();
  }

  function clear() {
    query.value = "";
    find();
    zoom(0);
  }

  const keys = {
    ArrowUp: () => focus(Math.max(model.parent[state.focused], 0)),
    ArrowDown: () => focus(Math.max(childAt(model, state.focused, () => true), state.focused)),
    ArrowLeft: () => focus(sibling(state.focused, -1)),
    ArrowRight: () => focus(sibling(state.focused, 1)),
    Enter: () => zoom(state.focused),
    Escape: clear,
  };

  canvas.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== query) {
      event.preventDefault();
      query.focus();
    }
  });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
  });
  query.addEventListener("input", find);
  reset.addEventListener("click", clear);
  canvas.addEventListener("mousemove", hover);
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  canvas.addEventListener("mousedown", () => { state.keyboard = false; });
  canvas.addEventListener("click", (event) => {
    const node = under(event);
    if (node >= 0) zoom(node);
  });
  scroller.addEventListener("scroll", () => { tip.hidden = true; schedule(); });
  window.addEventListener("resize", resize);

  if (model.base) {
    for (const [value, text] of [[-1, "less than base"], [0, "the same"], [1, "more than base"]]) legend.append(entry(changeColour(value), text));
  } else {
    for (const [kind, { label, hue, saturation, light }] of Object.entries(KINDS)) {
      if (data.kinds.includes(kind)) legend.append(entry(`hsl(${hue} ${saturation}% ${light}%)`, label));
    }
  }
  zoom(0);
}

function entry(colour, label) {
  const swatch = element("i", {});
  swatch.style.backgroundColor = colour;
  return element("span", {}, swatch, label);
}
