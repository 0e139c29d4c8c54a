"use strict";
// Pictures of modules, and modules opened in place: the row under an opened box moves down and makes room for the
// picture of what is inside. All positions come from the page's data; here they are only moved down by whole amounts.
const G = "__DATA__";
const NS = "http://www.w3.org/2000/svg";
const [KIND, OP, NAME, PATH, COLUMN, OF, SHAPE, DTYPE, EQUATION, PARAMS, READS, GRADIENT, LEARNS, FLOP, BYTES, BACK, SEEN, ERROR] =
  Array.from({length: 18}, (_, i) => i);
const $ = id => document.getElementById(id);
const HEAD = 24, PAD = 10, UNDER = 6.5;

function make(tag, text, parent) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (parent) parent.append(e);
  return e;
}
function draw(tag, attributes, parent) {
  const e = document.createElementNS(NS, tag);
  for (const key in attributes) e.setAttribute(key, attributes[key]);
  if (parent) parent.append(e);
  return e;
}
const isModule = item => typeof item[0] === "string";

class Panel {
  // path: of the module that is shown; state: of the whole graph, which of its modules are open
  constructor(path, parent, k, state) {
    Object.assign(this, {path, parent, k, state, children: new Map()});
    const [svg, items, floors] = path ? G.views[path] : G.states[state];
    const holder = document.createElement("div");
    holder.innerHTML = G.svgs[svg];
    const root = holder.firstElementChild;
    [, , this.w, this.h] = root.getAttribute("viewBox").split(" ").map(Number);
    this.font = root.getAttribute("font-family");
    this.items = items;
    this.floors = floors;
    this.g = draw("g", parent ? {class: "panel"} : {});
    this.inner = draw("g", {}, this.g);
    this.parts = [...root.children].filter(e => !["title", "desc", "style"].includes(e.tagName) &&
      e.getAttribute("height") !== "100%").map(part => this.part(part));
    this.els = items.map(() => null);
    for (const e of this.inner.querySelectorAll("[data-k]")) this.els[e.dataset.k] = e;
    this.edges = this.parts.filter(p => p.kind === "edge");
    if (parent) this.chrome();
  }

  part(e) {
    this.inner.append(e);
    const kind = (e.getAttribute("class") || "").split(" ")[0];
    if (kind === "edge") {
      const paths = [...e.querySelectorAll("path")].map(p => [p, p.getAttribute("d")]);
      const [s, t] = e.dataset.e.split(" ").map(Number);
      return {kind, e, paths, s, t};
    }
    const rect = e.querySelector("rect"), text = e.tagName === "text" ? e : e.querySelector("text");
    if (kind === "module") return {kind, e, rect, y: +rect.getAttribute("y"), h: +rect.getAttribute("height")};
    if (kind === "legend") return {kind, e, y: Infinity};
    return {kind, e, y: +(kind === "box" ? rect : text || rect).getAttribute("y")};
  }

  chrome() {
    const [boxes, ticks, copies] = G.modules[this.path];
    this.back = draw("rect", {rx: 8});
    this.g.prepend(this.back);
    const name = draw("text", {x: 12, y: 16, class: "name"}, this.g);
    name.textContent = this.path;
    this.note = draw("text", {y: 16}, this.g);
    this.note.textContent = [copies, ticks, boxes + " boxes"].filter(Boolean).join(" · ");
    this.buttons = [["close", () => toggle(this.parent, this.k)], ["alone", () => open(this.path)]].map(([text, act]) => {
      const b = draw("g", {class: "button", tabindex: 0, role: "button", "aria-label": `${text}: ${this.path}`}, this.g);
      draw("rect", {width: 40, height: 15, rx: 4, y: 4}, b);
      draw("text", {x: 20, y: 15, "text-anchor": "middle"}, b).textContent = text;
      b.onclick = event => { event.stopPropagation(); act(); };
      b.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault();
        event.stopPropagation(); act(); } };
      return b;
    });
    name.style.cursor = "default";
    this.nameWidth = 12 + 6.6 * this.path.length + 14;
  }

  // Place everything, children first. Returns the room that this panel takes.
  layout() {
    const sizes = [...this.children].map(([k, child]) => [this.floors[k] + UNDER, child.layout(), child])
      .sort((a, b) => a[0] - b[0]);
    const shift = y => sizes.reduce((sum, [cut, size]) => sum + (y > cut ? size.h : 0), 0);
    const width = Math.max(this.w, ...sizes.map(s => s[1].w), this.parent ? this.nameWidth + 260 : 0);
    const dx = (width - this.w) / 2, top = this.parent ? HEAD : 0;
    this.inner.setAttribute("transform", `translate(${dx} ${top})`);
    for (const p of this.parts) {
      if (p.kind === "edge") {
        for (const [path, d] of p.paths) path.setAttribute("d", sizes.length ?
          d.replace(/(-?[\d.]+) (-?[\d.]+)/g, (_, x, y) => `${x} ${+(+y + shift(+y)).toFixed(1)}`) : d);
      } else if (p.kind === "module") {
        const y = p.y + shift(p.y);
        p.rect.setAttribute("y", y);
        p.rect.setAttribute("height", p.y + p.h + shift(p.y + p.h) - y);
      } else p.e.setAttribute("transform", `translate(0 ${shift(p.y)})`);
    }
    let before = 0;
    for (const [cut, size, child] of sizes) {
      child.g.setAttribute("transform", `translate(${(width - size.w) / 2} ${top + cut + before + 3})`);
      child.x0 = (width - size.w) / 2;
      child.y0 = top + cut + before + 3;
      this.g.append(child.g);
      before += size.h;
    }
    const h = this.h + before + top;
    this.width = width + (this.parent ? 2 : 0);
    this.height = h + (this.parent ? 4 : 0);
    if (this.parent) {
      for (const key of ["width", "height"]) this.back.setAttribute(key, this[key]);
      this.buttons.forEach((b, n) => b.setAttribute("transform", `translate(${this.width - 50 - 46 * n} 0)`));
      this.note.setAttribute("x", this.nameWidth);
    }
    return {w: this.width + (this.parent ? 2 * PAD : 0), h: this.parent ? this.height + PAD : h};
  }

  // Where it lies in the whole picture.
  place() {
    let x = 0, y = 0;
    for (let p = this; p.parent; p = p.parent) { x += p.x0; y += p.y0; }
    return {x, y, w: this.width, h: this.height};
  }

  // Where one of its boxes lies in the whole picture.
  boxPlace(k) {
    const r = this.els[k].querySelector("rect"), own = this.place(), e = this.els[k];
    const at = e.transform.baseVal.consolidate(), base = this.inner.transform.baseVal.consolidate();
    return {x: own.x + base.matrix.e + +r.getAttribute("x"), y: own.y + base.matrix.f + +r.getAttribute("y") +
      (at ? at.matrix.f : 0), w: +r.getAttribute("width"), h: +r.getAttribute("height")};
  }

  *all() {
    yield this;
    for (const child of this.children.values()) yield* child.all();
  }
}

// Which item of a panel a box is in, or -1.
function itemOf(panel, i) {
  return panel.items.findIndex(item => isModule(item) ? inModule(item, i) : item[0] === i || (item[2] && item[2].includes(i)));
}
function inModule(item, i) {
  return (G.paths[G.boxes[i][PATH]] + "/").startsWith(item[0] + "/") && G.boxes[i][COLUMN] === item[3];
}
