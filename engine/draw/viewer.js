
// The page: what is open, the pass step by step, details, search, pan and zoom, keys.
const steps = G.boxes.map((b, i) => i).filter(i => G.boxes[i][OP] && G.columns.includes(G.boxes[i][COLUMN]));
const readers = G.boxes.map(() => []), backs = {};
G.boxes.forEach((b, i) => b[READS].forEach(r => readers[r[0]].push(i)));
G.boxes.forEach((b, i) => { if (b[OF] !== null) (backs[b[OF]] ||= []).push(i); });
const passes = ["forward", "backward", "second backward"];
const firstBad = G.boxes.findIndex(b => b[SEEN] && !b[SEEN][6]);
let root = null, svg = null, latest = null, box = {x: 0, y: 0, w: 1, h: 1}, whole = box, now = steps.length - 1,
  chosen = null, timer = 0, heated = false;

const pass = i => passes[Math.min(G.boxes[i][COLUMN], 2)];
const label = i => { const b = G.boxes[i];
  return (b[KIND] === "accumulate" ? "+=" : b[OP] || b[NAME] || "input") + (b[OP] && b[NAME] ? " " + b[NAME] : ""); };
function scaled(n, unit, step) {
  let k = 0;
  for (; n >= 1000 && k < 4; k++) n /= 1000;
  return (n < 10 && k ? n.toFixed(2) : n < 100 && k ? n.toFixed(1) : Math.round(n)) + " " + ["", "k", "M", "G", "T"][k] + unit;
}
const size = n => scaled(n, "B");

// ---- what is open
function open(path, focus) {
  if (path && !(path in G.views)) return;
  root = new Panel(path, null, -1, path ? "" : G.first);
  latest = root;
  chosen = null;
  const main = $("view");
  main.querySelector("svg")?.remove();
  svg = draw("svg", {"font-family": root.font, role: "group", "aria-label": path || "whole graph"}, main);
  svg.append(root.g);
  ready(root);
  relay();
  fit();
  if (focus !== undefined) {
    const k = itemOf(root, focus);
    if (k >= 0) { centre(root, k); select(root, k); }
  }
}
// Open a module in place, or close it.
function toggle(panel, k) {
  const path = panel.items[k][0];
  if (!isModule(panel.items[k])) return;
  if (panel === root && !root.path) {            // some ways to have the first modules open are laid out as a whole
    const wanted = [...state(root), path].sort().join(",");
    if (wanted in G.states) { restate(wanted); return; }
  }
  if (panel.children.has(k)) {
    panel.children.get(k).g.remove();
    panel.children.delete(k);
    latest = panel;
    relay();
    panel.els[k].focus({preventScroll: true});
  } else if (path in G.views) {
    const forward = panel.items.findIndex(item => item[0] === path && item[3] === Math.min(...G.columns));
    const at = forward >= 0 ? forward : k;
    if (panel.children.has(at)) { toggle(panel, at); return; }
    const child = latest = new Panel(path, panel, at, "");
    panel.children.set(at, child);
    ready(child);
    relay();
    reveal(child, at);
  }
}
const state = panel => panel.state ? panel.state.split(",") : [];
// The whole graph with other modules open; what is open further down stays open where it still stands.
function restate(wanted) {
  const kept = [...root.all()].filter(p => p.parent === root).map(p => p.path);
  const g = root.g;
  root = latest = new Panel("", null, -1, wanted);
  g.replaceWith(root.g);
  chosen = null;
  ready(root);
  for (const path of kept) {
    const k = root.items.findIndex(item => item[0] === path);
    if (k >= 0) { const child = new Panel(path, root, k, ""); root.children.set(k, child); ready(child); }
  }
  relay();
  fit();
}
// Close what was opened last; with nothing open, one module up.
function close() {
  if (latest && latest.parent) { const {parent, k} = latest; toggle(parent, k); return; }
  const last = [...root.all()].at(-1);
  if (last.parent) toggle(last.parent, last.k);
  else if (root.path) open(root.path.split("/").slice(0, -1).join("/"));
  else if (root.state) restate(state(root).filter(p => !state(root).some(q => q.startsWith(p + "/")))
    .slice(0, -1).concat(state(root).filter(p => state(root).some(q => q.startsWith(p + "/")))).sort().join(","));
}
// A module of the first picture that is open: close it and all that is in it.
function fold(path) {
  const wanted = state(root).filter(p => p !== path && !p.startsWith(path + "/")).join(",");
  if (wanted in G.states) restate(wanted);
}
function ready(panel) {
  panel.items.forEach((item, k) => {
    const e = panel.els[k];
    if (!e) return;
    e.setAttribute("role", "button");
    e.setAttribute("aria-label", isModule(item) ? `module ${item[0]}, ${passes[item[3]]}` :
      `${label(item[0])}, ${pass(item[0])}, ${G.boxes[item[0]][SHAPE]}`);
    e.onmouseenter = () => { details(item); light(panel, k); };
    e.onmouseleave = () => light(panel, -1);
    e.onclick = event => { event.stopPropagation(); if (!moved) pick(panel, k); };
    e.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault();
      event.stopPropagation(); pick(panel, k); } };
    e.onfocus = () => { details(item); light(panel, k); };
    if (firstBad >= 0 && (isModule(item) ? inModule(item, firstBad) : item[0] === firstBad)) e.classList.add("bad");
    const room = e.querySelector(".w");
    if (room) weights(room, G.boxes[item[0]][SEEN][8]);
  });
  for (const p of panel.parts) if (p.kind === "name") {
    p.e.setAttribute("tabindex", 0);
    p.e.setAttribute("role", "button");
    p.e.setAttribute("aria-label", `close ${p.e.dataset.p}`);
    p.e.onclick = p.e.onkeydown = event => { if (event.type === "click" ? !moved : event.key === "Enter") {
      event.stopPropagation(); fold(p.e.dataset.p); } };
  }
}
// Lay out, then bring everything that depends on what is open up to date.
function relay() {
  const {w, h} = root.layout();
  whole = {x: 0, y: 0, w, h};
  for (const panel of root.all()) panel.items.forEach((item, k) => {
    if (isModule(item) && panel.els[k]) panel.els[k].setAttribute("aria-expanded", panel.children.has(k)); });
  crumbs();
  show();
  if (heated) heat();
}
function crumbs() {
  const nav = $("crumbs"), shown = latest.path || "";
  nav.textContent = "";
  ["", ...shown.split("/").filter(Boolean).map((_, n, all) => all.slice(0, n + 1).join("/"))].forEach((p, n) => {
    if (n) make("i", "›", nav);
    const b = make("button", p ? p.split("/").pop() : "whole graph", nav);
    if (p === shown) b.setAttribute("aria-current", "page");
    b.title = p ? `${p} alone` : "the whole graph";
    b.onclick = () => open(p);
  });
  $("up").disabled = !root.path && !root.state && !root.children.size;
}

// ---- one box
function pick(panel, k) {
  latest = panel;
  select(panel, k);
  if (isModule(panel.items[k])) toggle(panel, k);
}
function select(panel, k) {
  document.querySelectorAll(".chosen, .partner").forEach(e => e.classList.remove("chosen", "partner"));
  chosen = [panel, k];
  panel.els[k]?.classList.add("chosen");
  panel.items.forEach((item, n) => { if (item[1] === k || panel.items[k][1] === n) panel.els[n]?.classList.add("partner"); });
  details(panel.items[k]);
}
function light(panel, k) {
  for (const p of panel.edges) p.e.classList.toggle("lit", p.s === k || p.t === k);
}
function weights(room, heads) {
  const side = Math.min(24, room.dataset.w / heads.length - 2), left = +room.dataset.x + (room.dataset.w - heads.length * (side + 2)) / 2;
  heads.forEach((head, n) => {
    const c = shades(document.createElement("canvas"), head);
    const image = draw("image", {href: c.toDataURL(), x: left + n * (side + 2), y: room.dataset.y, width: side, height: side,
      preserveAspectRatio: "none", style: "image-rendering: pixelated"}, room);
    draw("title", {}, image).textContent = `attention weights of head ${n}: rows are queries, columns keys, dark is 1`;
  });
}
function shades(canvas, head) {
  canvas.width = head[0].length;
  canvas.height = head.length;
  const paper = canvas.getContext("2d");
  head.forEach((row, i) => row.forEach((v, j) => { paper.fillStyle = `rgb(${255 - v},${255 - v * .67},255)`; paper.fillRect(j, i, 1, 1); }));
  return canvas;
}
const valueOf = i => { const s = G.boxes[i][SEEN]; return s && steps[now] >= i ? s[0] : null; };
function gradientOf(i) {
  const g = G.boxes[i][GRADIENT];
  if (g === null || steps[now] < g || !G.columns.includes(G.boxes[g][COLUMN])) return "—";
  const s = G.boxes[g][SEEN];
  return s ? s[0] : G.measured && G.boxes[g][KIND] === "input" && backs[i] ? "1" : "—";
}
function details(item) {
  const pane = $("details");
  pane.textContent = "";
  const list = rows => { const dl = make("dl", undefined, pane);
    rows.forEach(([k, v]) => { if (v) { make("dt", k, dl); make("dd", v, dl); } }); };
  if (isModule(item)) {
    const [boxes, ticks, copies] = G.modules[item[0]];
    make("h2", item[0], pane);
    list([["pass", passes[item[3]]], ["boxes", String(boxes)], ["parameters", ticks], ["copies", copies],
      ["out", G.boxes[item[2][1]][SHAPE]], ["value", valueOf(item[2][1])]]);
    make("button", "alone", pane).onclick = () => open(item[0]);
    return;
  }
  const i = item[0], b = G.boxes[i], s = b[SEEN];
  make("h2", label(i), pane);
  const value = valueOf(i);
  list([["refused", b[ERROR]], ["number", String(i)], ["pass", pass(i)], ["in", G.paths[b[PATH]] || "the top"], ["shape", b[ERROR] ? "" : b[SHAPE]],
    ["dtype", b[ERROR] ? "" : b[DTYPE]], ["forward", b[EQUATION]], ["backward", b[BACK]], ["given", b[PARAMS]],
    ["learns", b[LEARNS] === true ? "✓ yes" : b[LEARNS] === false ? "☐ frozen" : ""],
    ["arithmetic", b[FLOP] ? scaled(b[FLOP], "FLOP") : ""], ["reads, writes", b[BYTES] ? size(b[BYTES]) : ""],
    ["value", !s ? "not computed" : value === null ? "not yet" : `${value}  (${s[1]})`],
    ["gradient", b[COLUMN] ? "" : gradientOf(i)], ["time", s && s[4]], ["kernel", s && s[5]], ["called at", s && s[7]],
    ["finite", s && !s[6] ? "no" : ""]]);
  if (s && s[8]) s[8].forEach(head => shades(make("canvas", undefined, pane), head));
  const jump = (title, ids) => { if (!ids.length) return; make("div", title, pane);
    ids.slice(0, 24).forEach(n => { make("button", n + " " + label(n), pane).onclick = () => go(n); }); };
  jump("reads", b[READS].map(r => r[0]));
  jump("read by", readers[i]);
  if (b[OF] !== null) jump("backward of", [b[OF]]);
  jump("its backward", backs[i] || []);
  if (b[GRADIENT] !== null) jump("its gradient", [b[GRADIENT]]);
}
// Show a box: where it is to be seen already, or in its module alone.
function go(i) {
  for (const panel of root.all()) {
    const k = panel.items.findIndex(item => item[0] === i || (Array.isArray(item[2]) && !isModule(item) && item[2].includes(i)));
    if (k >= 0 && panel.els[k]) { centre(panel, k); select(panel, k); return; }
  }
  open(G.paths[G.boxes[i][PATH]], i);
}

// ---- pan and zoom
let moved = false, drag = null;
function place() { svg.setAttribute("viewBox", `${box.x} ${box.y} ${box.w} ${box.h}`); }
const ratio = () => $("view").clientHeight / Math.max($("view").clientWidth, 1);
function fit() {
  box = {...whole};
  const r = ratio();
  if (box.h / box.w > 1.6 * r) { box.h = box.w * r * 1.25; box.w *= 1.25; box.x -= box.w * .1; }
  place();
}
function zoom(f, cx, cy) {
  const r = $("view").getBoundingClientRect(), k = Math.max(box.w / r.width, box.h / r.height);
  const x = box.x + box.w / 2 + ((cx ?? r.width / 2) - r.width / 2) * k, y = box.y + box.h / 2 + ((cy ?? r.height / 2) - r.height / 2) * k;
  box = {x: x - (x - box.x) * f, y: y - (y - box.y) * f, w: box.w * f, h: box.h * f};
  place();
}
function look(r, most) {                         // at a rectangle of the picture, with something around it
  const w = Math.max(r.w * 1.08, most, Math.min(r.h * 1.08 / ratio(), r.w * 1.7)), h = w * ratio();     // to be read
  box = {x: r.x + r.w / 2 - w / 2, y: r.h > h * .9 ? r.y - h * .12 : r.y + r.h / 2 - h / 2, w, h};
  place();
}
function centre(panel, k) { look(panel.boxPlace(k), Math.min(whole.w, 900)); }
function reveal(child, k) {
  const r = child.place(), above = child.parent.boxPlace(k);
  look({x: r.x, y: above.y, w: r.w, h: r.y + r.h - above.y}, 500);
}
$("view").onwheel = e => { e.preventDefault(); const r = $("view").getBoundingClientRect();
  zoom(Math.exp(e.deltaY * .0015), e.clientX - r.left, e.clientY - r.top); };
$("view").onpointerdown = e => { drag = [e.clientX, e.clientY, box.x, box.y]; moved = false; };
window.onpointermove = e => {
  if (!drag) return;
  const r = $("view").getBoundingClientRect(), k = Math.max(box.w / r.width, box.h / r.height);
  if (Math.abs(e.clientX - drag[0]) + Math.abs(e.clientY - drag[1]) > 4) moved = true;
  box.x = drag[2] - (e.clientX - drag[0]) * k;
  box.y = drag[3] - (e.clientY - drag[1]) * k;
  place();
};
window.onpointerup = () => { drag = null; };
let night = false;                               // paper is white
window.onbeforeprint = () => {
  night = document.body.classList.contains("dark");
  document.body.classList.remove("dark");
  svg.setAttribute("viewBox", `${whole.x} ${whole.y} ${whole.w} ${whole.h}`);
};
window.onafterprint = () => { document.body.classList.toggle("dark", night); place(); };

// ---- the pass, step by step
function show() {
  const at = steps[now] ?? -1, end = now >= steps.length - 1;
  for (const panel of root.all()) {
    const done = panel.items.map((item, k) => {
      const e = panel.els[k], leaf = !isModule(item) && !G.boxes[item[0]][OP];
      let first = item[0], last = item[0];
      if (isModule(item)) [first, last] = item[2];
      else if (item[2]) first = Math.min(...item[2].filter(i => G.boxes[i][OP]));
      if (!e) return true;
      e.classList.toggle("pending", !leaf && at < first);
      e.classList.toggle("active", !end && at >= first && at <= last && (at === last || isModule(item) || !!item[2]));
      const v = e.querySelector(".v"), g = e.querySelector(".g");
      if (v) v.textContent = (isModule(item) ? "out " : "") + (valueOf(last) ?? (G.boxes[last][SEEN] ? "…" : ""));
      if (g) g.textContent = "gradient " + gradientOf(last);
      return leaf || at >= first;
    });
    for (const p of panel.edges) p.e.classList.toggle("pending", !done[p.s]);
  }
  const b = G.boxes[at];
  $("now").textContent = b ? `step ${now + 1} of ${steps.length}: ${pass(at)}, ${label(at)} ${b[SHAPE]}` +
    (b[SEEN] ? ` = ${b[SEEN][0]}` : "") + (G.paths[b[PATH]] ? `, in ${G.paths[b[PATH]]}` : "") : "";
  $("step").value = now;
  $("step").setAttribute("aria-valuetext", $("now").textContent);
  $("bytes").textContent = `${size(G.memory.live[at] || 0)} of ${size(G.memory.peak[1])}`;
  const c = $("strip").querySelector("#cursor"), x = 1000 * at / Math.max(G.boxes.length - 1, 1);
  if (c) { c.setAttribute("x1", x); c.setAttribute("x2", x); }
}
function to(n) { now = Math.max(0, Math.min(steps.length - 1, n)); show(); if (chosen) details(chosen[0].items[chosen[1]]); }
function play() {
  if (timer) { clearInterval(timer); timer = 0; $("play").textContent = "play"; return; }
  if (now >= steps.length - 1) now = -1;
  $("play").textContent = "pause";
  timer = setInterval(() => { to(now + 1); if (now >= steps.length - 1) play(); }, Math.max(30, Math.min(400, 20000 / steps.length)));
}
$("step").max = Math.max(steps.length - 1, 0);
$("step").oninput = e => to(+e.target.value);
$("back").onclick = () => to(now - 1);
$("next").onclick = () => to(now + 1);
$("play").onclick = play;

function strip() {
  const live = G.memory.live, n = Math.max(live.length - 1, 1), most = Math.max(G.memory.peak[1], 1), stride = Math.ceil(live.length / 1500);
  let d = "M0 44";
  for (let i = 0; i < live.length; i += stride)
    d += `L${(1000 * i / n).toFixed(1)} ${(42 - 38 * Math.max(...live.slice(i, i + stride)) / most).toFixed(1)}`;
  const x = 1000 * G.memory.peak[0] / n, thin = {"vector-effect": "non-scaling-stroke"}, e = $("strip");
  draw("title", {}, e).textContent = `live bytes over the pass; peak ${size(most)} at step ${G.memory.peak[0]}`;
  draw("path", {d: d + "L1000 44z", fill: "#3b6ea5", "fill-opacity": .35, stroke: "#3b6ea5", ...thin}, e);
  draw("path", {d: `M${x} 4v40`, stroke: "#d11a1a", "stroke-dasharray": "3 2", ...thin}, e);
  draw("line", {id: "cursor", y1: 0, y2: 44, stroke: "#d97706", "stroke-width": 2, ...thin}, e);
  const at = event => { const r = e.getBoundingClientRect(); return (event.clientX - r.left) / r.width * n; };
  e.onclick = event => { const k = steps.findIndex(i => i >= at(event)); to(k < 0 ? steps.length - 1 : k); };
  e.onmousemove = event => {
    const here = Math.round(at(event)), pane = $("details");
    const big = G.lives.filter(l => l[1] <= here && here <= l[2]).sort((a, b) => b[3] - a[3]).slice(0, 8);
    pane.textContent = "";
    make("h2", `alive at ${here}: ${size(live[here] || 0)}`, pane);
    big.forEach(l => { make("button", `${l[0]} ${label(l[0])}  ${size(l[3])}, steps ${l[1]} to ${l[2]}`, pane).onclick = () => go(l[0]); });
  };
}
function heat() {
  for (const panel of root.all()) panel.items.forEach((item, k) => {
    const rects = panel.els[k]?.querySelectorAll(":scope > rect"), s = G.boxes[isModule(item) ? item[2][1] : item[0]][SEEN];
    if (!rects?.length || !s) return;
    const r = rects[rects.length - 1], t = Math.max(-1, Math.min(1, Math.log10(Math.max(s[2], 1e-12)) / 4));
    r.style.fill = !heated ? "" : t > 0 ? `rgb(255,${255 - 150 * t},${255 - 200 * t})` : `rgb(${255 + 190 * t},${255 + 110 * t},255)`;
    panel.els[k].querySelectorAll("text, tspan").forEach(e => { e.style.fill = heated ? "#1f2933" : ""; });
  });
}
$("heat").onclick = () => { heated = !heated; $("heat").setAttribute("aria-pressed", heated); heat(); };
$("lines").onclick = () => { const off = $("view").classList.toggle("unsaved");
  $("lines").setAttribute("aria-pressed", !off); };

// ---- the list
$("table").onclick = () => {
  const there = $("list");
  $("table").setAttribute("aria-pressed", !there);
  if (there) { there.remove(); return; }
  const pane = make("div", undefined, $("view"));
  pane.id = "list";
  pane.tabIndex = 0;
  const table = make("table", undefined, pane), most = 5000;
  const row = (cells, tag) => { const tr = make("tr", undefined, table); cells.forEach(c => make(tag, c, tr)); return tr; };
  row(["#", "pass", "op", "shape", "reads", "of", "value", "in"], "th");
  const shown = G.boxes.map((_, i) => i).filter(i => G.columns.includes(G.boxes[i][COLUMN]));
  shown.slice(0, most).forEach(i => { const b = G.boxes[i];
    row([String(i), pass(i), label(i), b[SHAPE], b[READS].map(r => r[0]).join(", "), b[OF] === null ? "" : String(b[OF]),
      b[SEEN] ? b[SEEN][0] : "", G.paths[b[PATH]]], "td"); });
  if (shown.length > most) make("p", `The first ${most} of ${shown.length} boxes; graph.table() has all.`, pane);
  pane.onwheel = pane.onpointerdown = e => e.stopPropagation();
  pane.focus();
};

// ---- search
function search(text) {
  const hits = $("hits"), words = text.toLowerCase().split(/\s+/).filter(Boolean), found = [];
  hits.textContent = "";
  hits.hidden = !words.length;
  if (!words.length) return;
  for (const p of G.paths) if (p && words.every(w => p.toLowerCase().includes(w)))
    found.push([p, "module " + G.modules[p][1], () => open(p)]);
  G.boxes.forEach((b, i) => {
    if (!G.columns.includes(b[COLUMN])) return;
    const t = `${i} ${label(i)} ${b[NAME]} ${b[SHAPE]} ${b[EQUATION]} ${G.paths[b[PATH]]} ${pass(i)}`.toLowerCase();
    if (words.every(w => t.includes(w))) found.push([`${i} ${label(i)}`, `${pass(i)}, ${G.paths[b[PATH]]}, ${b[SHAPE]}`, () => go(i)]);
  });
  found.slice(0, 60).forEach(([a, s, f]) => { const b = make("button", a + " ", hits); make("small", s, b);
    b.onclick = () => { hits.hidden = true; f(); }; });
  if (found.length > 60) make("div", `… ${found.length - 60} more`, hits);
  if (!found.length) make("div", "nothing found", hits);
  hits.dataset.count = found.length;
}
$("query").oninput = e => search(e.target.value);
$("query").onkeydown = e => { e.stopPropagation(); if (e.key === "Enter") $("hits").querySelector("button")?.click();
  if (e.key === "Escape") { $("hits").hidden = true; e.target.blur(); } };
$("up").onclick = close;
$("fit").onclick = fit;
$("dark").onclick = () => document.body.classList.toggle("dark");
if (window.matchMedia("(prefers-color-scheme: dark)").matches) document.body.classList.add("dark");
const keys = {ArrowRight: () => to(now + 1), ArrowLeft: () => to(now - 1), Home: () => to(0), End: () => to(steps.length - 1),
  " ": play, "+": () => zoom(.8), "=": () => zoom(.8), "-": () => zoom(1.25), "0": fit, Escape: close, d: () => $("dark").click(),
  h: () => $("heat").click(), s: () => $("lines").click(), t: () => $("table").click(), "/": () => $("query").focus(),
  ArrowUp: () => { box.y -= box.h * .1; place(); }, ArrowDown: () => { box.y += box.h * .1; place(); }};
window.onkeydown = e => {
  if (e.target.id === "query" || e.ctrlKey || e.metaKey || e.altKey || (e.target.id === "list" && e.key.startsWith("Arrow"))) return;
  if (e.target.tagName === "BUTTON" && e.key === " ") return;
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
};
function help() {
  const pane = $("details");
  pane.textContent = "";
  make("h2", "How to read it", pane);
  if (G.notice) make("p", G.notice, pane);
  make("p", "Click a module to open it in place and again to close it; a box to find its backward. Point at anything for details.", pane);
  for (const [k, what] of [["← →", "step by step"], ["space", "play"], ["Tab, Enter", "walk over boxes, open"], ["Esc", "close"],
    ["+ − 0", "zoom, fit"], ["↑ ↓", "pan"], ["/", "search"], ["h s t d", "heat, saved, list, dark"]]) {
    const row = make("div", undefined, pane);
    make("kbd", k, row);
    row.append(" " + what);
  }
}
strip();
open("");
help();
const refused = G.boxes.findIndex(b => b[ERROR]);
if (refused >= 0) go(refused);
const hash = decodeURIComponent(location.hash.slice(1));
if (hash) open(hash);
window.viewer = {G, open, toggle, fold, close, to, search, go, pick: (k, panel = root) => pick(panel, k), root: () => root,
  state: () => ({path: root.path, now, steps: steps.length, items: root.items.length, box, open: [...root.all()].map(p => p.path || "")})};
document.body.dataset.ready = "yes";
