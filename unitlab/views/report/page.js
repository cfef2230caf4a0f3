"use strict";
(async () => {
  const $ = id => document.getElementById(id);
  const packed = Uint8Array.from(atob($("data").textContent), c => c.charCodeAt(0));
  const study = JSON.parse(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
  const numbers = (text, Kind) => new Kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const hundredths = text => Float32Array.from(numbers(text, Int16Array), v => v === -32768 ? NaN : v / 100);
  const [drop, low, high, precision, balanced, margin, own] =
    ["drop", "low", "high", "precision", "balanced", "margin", "own"].map(name => hundredths(study[name]));
  const q = numbers(study.q, Float32Array), ownQ = numbers(study.own_q, Float32Array);
  const nClasses = study.classes.length, measure = Object.fromEntries(study.measures.map(m => [m.name, m]));
  const place = new Map(study.units.map((number, i) => [String(number), i]));
  const state = { unit: study.first, category: -1, x: "overall_drop", y: "max_class_drop_crossfit", page: 0,
    sort: "max_class_drop_crossfit", up: false, filter: "", row: 0 };
  const perPage = 13, perTable = 15, shown = 3;

  const text = (v, digits = 1) => Number.isFinite(v) ? v.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−") : "–";
  const brief = v => v === null || !Number.isFinite(v) ? "–" : String(Number(v.toPrecision(shown))).replace("-", "−");
  const quotient = v => !Number.isFinite(v) ? "–" : v < 0.001 ? "< 0.001" : String(Number(v.toPrecision(2)));
  function element(name, attributes = {}, ...inside) {
    const svg = ["svg", "g", "rect", "line", "circle", "text", "path", "image", "title"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
    made.append(...inside);
    return made;
  }
  function ticks(from, to, about) {
    const raw = (to - from) / about, power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(s => s * power >= raw) * power;
    const out = [];
    for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9 * step; i++) out.push(Number((i * step).toPrecision(12)));
    return out;
  }

  // the measures of all units, as the axes ask for them; "class" is the accuracy drop of the open class
  const label = name => name === "class" ? `accuracy drop of ${study.classes[state.category]} (points)` : measure[name].label;
  const values = name => name === "class" ? study.units.map((_, i) => drop[i * nClasses + state.category]) : measure[name].values;
  const finite = v => v !== null && Number.isFinite(v);

  let plotted = [];
  function drawScatter() {
    const svg = $("scatter"), width = Math.max(300, svg.clientWidth), height = Math.max(300, svg.clientHeight);
    const xs = values(state.x), ys = values(state.y);
    const range = some => {
      const known = some.filter(finite);
      let [from, to] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
      if (from === to) { from -= 1; to += 1; }
      return [from - (to - from) * .05, to + (to - from) * .05];
    };
    const bound = state.x === "overall_drop" ? study.null[state.y] : undefined, chance = bound !== undefined && bound.x.length > 1;
    const [x0, x1] = range(xs), [y0, y1] = range(chance ? [...ys, 0, ...bound.limit] : ys);
    const left = 58, right = 10, top = 24, bottom = 44;
    const px = v => left + (v - x0) / (x1 - x0) * (width - left - right), py = v => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
    const parts = [];
    for (const t of ticks(x0, x1, width / 110)) parts.push(
      element("line", { class: t === 0 ? "zero" : "grid", x1: px(t), x2: px(t), y1: top, y2: height - bottom }),
      element("text", { x: px(t), y: height - bottom + 16, "text-anchor": "middle" }, brief(t)));
    for (const t of ticks(y0, y1, height / 70)) parts.push(
      element("line", { class: t === 0 ? "zero" : "grid", x1: left, x2: width - right, y1: py(t), y2: py(t) }),
      element("text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, brief(t)));
    const short = name => name.length > 64 ? name.slice(0, 63) + "…" : name;
    parts.push(element("text", { class: "title", x: left, y: 13 }, "↑ " + short(label(state.y))),
      element("text", { class: "title", x: width - right, y: height - 8, "text-anchor": "end" }, short(label(state.x)) + " →"));
    if (chance) {
      const inside = bound.x.map((x, i) => [Math.min(Math.max(x, x0), x1), bound.limit[i]]);
      const edge = [[x0, inside[0][1]], ...inside, [x1, inside.at(-1)[1]]];
      const floor = py(Math.max(0, y0));
      parts.push(element("path", { class: "chance", d: `M${px(x0)},${floor}L` + edge.map(([x, y]) => `${px(x)},${py(y)}`).join("L") + `L${px(x1)},${floor}Z` }));
    }
    $("chance").textContent = chance ? " · shaded: 95 % of what chance gives" : "";
    plotted = study.units.map((number, i) => ({ i, x: px(xs[i]), y: py(ys[i]), known: finite(xs[i]) && finite(ys[i]) })).filter(p => p.known);
    for (const p of plotted) parts.push(element("circle", { class: "point" + (study.significant[p.i] ? " sure" : ""), cx: p.x, cy: p.y, r: 4.5, "data-unit": study.units[p.i] }));
    const open = plotted.find(p => p.i === state.unit);
    if (open) parts.push(element("circle", { class: "mark", cx: open.x, cy: open.y, r: 9 }));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren(...parts);
  }

  function near(event, reach = 8) {
    const box = $("scatter").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    return plotted.map(p => ({ i: p.i, d: Math.hypot(p.x - x, p.y - y) })).filter(p => p.d <= reach).sort((a, b) => a.d - b.d || a.i - b.i).map(p => p.i);
  }
  function drawBars() {
    const u = state.unit, at = k => u * nClasses + k;
    const order = [...study.classes.keys()].filter(k => Number.isFinite(drop[at(k)])).sort((a, b) => drop[at(b)] - drop[at(a)] || a - b);
    const pages = Math.ceil(order.length / perPage);
    state.page = Math.min(state.page, pages > 1 ? pages : 0);
    const some = state.page === 0 ? [...order.slice(0, 10), ...order.slice(10).slice(-3)] : order.slice((state.page - 1) * perPage, state.page * perPage);
    $("which").textContent = !order.length ? "no class has images" : state.page === 0 ? (order.length > perPage ? "10 most damaged, 3 most helped" : `all ${order.length}`)
      : `${(state.page - 1) * perPage + 1}–${Math.min(state.page * perPage, order.length)} of ${order.length}`;
    $("fewer").disabled = state.page === 0; $("more").disabled = state.page >= (pages > 1 ? pages : 0);
    const ends = some.flatMap(k => [low[at(k)], high[at(k)], drop[at(k)]]).filter(Number.isFinite);
    const from = Math.min(0, ...ends), to = Math.max(0, ...ends), span = to - from || 1;
    const share = v => `${((Math.min(Math.max(v, from), to) - from) / span * 100).toFixed(2)}%`;
    const marks = ticks(from, from + span, 4);
    $("axis").replaceChildren(...marks.map(t => element("text", { x: share(t), y: 20, "text-anchor": "middle" }, brief(t))));
    $("bars").replaceChildren(...some.map(k => {
      const value = drop[at(k)], sure = q[at(k)] <= .05;
      const svg = element("svg", { role: "img", "aria-label": `${text(value)} points, interval ${text(low[at(k)])} to ${text(high[at(k)])}${sure ? ", significant" : ""}` },
        ...marks.map(t => element("line", { class: t === 0 ? "zero" : "grid", x1: share(t), x2: share(t), y1: 0, y2: 26 })),
        element("rect", { x: share(Math.min(0, value)), width: `${(Math.abs(value) / span * 100).toFixed(2)}%`, y: 5, height: 16 }));
      if (Number.isFinite(low[at(k)])) svg.append(element("line", { class: "limits", x1: share(low[at(k)]), x2: share(high[at(k)]), y1: 13, y2: 13 }),
        ...[low, high].map(end => element("line", { class: "limits", x1: share(end[at(k)]), x2: share(end[at(k)]), y1: 9, y2: 17 })));
      const button = element("button", { type: "button", dir: "auto", title: `${study.classes[k]}: ${study.n[k]} images, accuracy ${text(100 * study.accuracy[k])} %, drop ${text(value)} points (${text(low[at(k)])} to ${text(high[at(k)])}), q ${quotient(q[at(k)])}` },
        study.classes[k] + " ", element("small", {}, `(${study.n[k]})`));
      button.addEventListener("click", () => openClass(k === state.category ? -1 : k));
      return element("tr", { class: (value >= 0 ? "damage" : "help") + (sure ? " sure" : "") + (k === state.category ? " open" : "") },
        element("th", { scope: "row" }, button), element("td", {}, svg), element("td", {}, text(value)), element("td", {}, quotient(q[at(k)])));
    }));
    $("accuracies").replaceChildren(...some.map(k => element("tr", {}, element("th", { scope: "row", dir: "auto" }, study.classes[k]),
      ...[[drop, 1], [precision, 1], [balanced, 1], [margin, 2], [own, 2]].map(([of, digits]) => element("td", {}, text(of[at(k)], digits))),
      element("td", {}, quotient(ownQ[at(k)])))));
  }
  function drawPictures() {
    const all = study.pictures, holder = $("pictures");
    if (!all) return holder.replaceChildren(element("p", { class: "message" }, "The study keeps no thumbnails, so there are no pictures to show."));
    const list = all.shown[state.unit];
    if (!list.length) return holder.replaceChildren(element("p", { class: "message" }, "No image activates this unit."));
    const { width, height, across } = all, columns = Math.min(across, list.length);
    holder.replaceChildren(...list.map(([k, activation, id], rank) => {
      const words = `top image ${rank + 1}: ${study.classes[k]}, activation ${brief(activation)}`;
      const sheet = element("image", { href: all.sheets[state.unit], width: columns * width, height: Math.ceil(list.length / across) * height,
        x: -(rank % across) * width, y: -Math.floor(rank / across) * height });
      return element("figure", { title: `${study.classes[k]} · ${id}` }, element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words }, sheet),
        element("figcaption", {}, element("span", { dir: "auto" }, study.classes[k]), brief(activation)));
    }));
  }

  const body = $("table").tBodies[0], rows = [...body.rows], worst = rows.map(row => row.cells[2].textContent);
  let order = [...rows.keys()];
  function drawTable(follow = false) {
    const column = state.sort === "unit" ? study.units : state.sort === "class" ? worst : values(state.sort);
    const missing = v => v === null || v === undefined;
    const wanted = state.filter.trim().toLowerCase();
    order = [...rows.keys()].filter(i => !wanted || String(study.units[i]) === wanted || worst[i].toLowerCase().includes(wanted));
    order.sort((a, b) => missing(column[a]) - missing(column[b]) || (typeof column[a] === "string" ? column[a].localeCompare(column[b]) : column[a] - column[b]) * (state.up ? 1 : -1) || a - b);
    if (follow && order.includes(state.unit)) state.row = Math.floor(order.indexOf(state.unit) / perTable);
    const pages = Math.max(1, Math.ceil(order.length / perTable));
    state.row = Math.min(Math.max(0, state.row), pages - 1);
    const on = order.slice(state.row * perTable, (state.row + 1) * perTable);
    body.replaceChildren(...on.map(i => rows[i]));
    rows.forEach((row, i) => i === state.unit ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
    $("rows").textContent = order.length ? `${state.row * perTable + 1}–${state.row * perTable + on.length} of ${order.length}` : "no unit like that";
    $("back").disabled = state.row === 0; $("on").disabled = state.row >= pages - 1;
    for (const head of $("table").tHead.rows[0].cells)
      head.dataset.sort === state.sort ? head.setAttribute("aria-sort", state.up ? "ascending" : "descending") : head.removeAttribute("aria-sort");
  }

  function openUnit(i, follow = true) {
    state.unit = i; state.page = 0;
    const [before, name, after] = study.findings[i];
    $("finding").replaceChildren(before, ...(name ? [element("b", {}, element("bdi", {}, name))] : []), after);
    $("unit").value = study.units[i];
    const anchor = `#unit-${study.units[i]}`;
    if (location.hash !== anchor) location.hash = anchor;
    drawScatter(); drawBars(); drawPictures(); drawTable(follow);
  }
  function openClass(k) {
    state.category = k;
    $("class").value = k < 0 ? "" : study.classes[k];
    const own = $("y").querySelector("[value=class]");
    if (k < 0) { own?.remove(); state.y = state.y === "class" ? "max_class_drop_crossfit" : state.y; }
    else { own ? own.replaceChildren(label("class")) : $("y").prepend(element("option", { value: "class" }, label("class"))); state.y = "class"; }
    $("y").value = state.y;
    drawScatter(); drawBars();
  }
  const step = by => { const at = order.indexOf(state.unit); if (order.length) openUnit(order[(at + by + order.length) % order.length]); };

  document.documentElement.classList.add("live");
  rows.forEach((row, i) => { row.removeAttribute("id"); row.addEventListener("click", event => { event.preventDefault(); openUnit(i, false); }); });
  for (const axis of ["x", "y"]) {
    $(axis).append(...study.measures.map(m => element("option", { value: m.name }, m.label)));
    $(axis).value = state[axis];
    $(axis).addEventListener("change", () => { state[axis] = $(axis).value; drawScatter(); });
  }
  $("level").textContent = String(Math.round(study.level * 1000) / 10);
  $("classes").append(...study.classes.map(name => element("option", { value: name })));
  $("class").addEventListener("change", () => {
    const wanted = $("class").value.trim().toLowerCase(), names = study.classes.map(name => name.toLowerCase());
    const k = names.includes(wanted) ? names.indexOf(wanted) : wanted ? names.findIndex(name => name.includes(wanted)) : -1;
    openClass(k);
  });
  $("scatter").addEventListener("click", event => {
    const stack = near(event);
    if (stack.length) openUnit(stack[(stack.indexOf(state.unit) + 1) % stack.length]);
  });
  $("scatter").addEventListener("keydown", event => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = plotted.find(p => p.i === state.unit) ?? plotted[0];
    if (!way || !here) return;
    event.preventDefault();
    const cost = p => { const along = (p.x - here.x) * way[0] + (p.y - here.y) * way[1], across = Math.abs((p.x - here.x) * way[1]) + Math.abs((p.y - here.y) * way[0]); return along > .5 ? along + 2 * across : Infinity; };
    const best = plotted.reduce((a, b) => cost(b) < cost(a) ? b : a);
    if (cost(best) < Infinity) openUnit(best.i);
  });
  $("scatter").addEventListener("pointermove", event => {
    const stack = near(event), tip = $("tip");
    tip.hidden = !stack.length;
    if (!stack.length) return;
    const i = stack[0], also = stack.length > 1 ? `\n${stack.length} units here: click again for the next` : "";
    tip.textContent = `unit ${study.units[i]}: ${worst[i]}\n${label(state.x)} ${brief(values(state.x)[i])}\n${label(state.y)} ${brief(values(state.y)[i])}${also}`;
    const beside = event.clientX > innerWidth - 320;
    tip.style.left = beside ? "" : `${event.clientX + 14}px`; tip.style.right = beside ? `${innerWidth - event.clientX + 14}px` : "";
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - 90)}px`;
  });
  $("scatter").addEventListener("pointerleave", () => { $("tip").hidden = true; });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("unit").addEventListener("change", () => place.has($("unit").value.trim()) ? openUnit(place.get($("unit").value.trim())) : ($("unit").value = study.units[state.unit]));
  $("unit").addEventListener("keydown", event => { const by = { ArrowUp: 1, ArrowDown: -1 }[event.key]; if (by) { event.preventDefault(); openUnit((state.unit + by + study.units.length) % study.units.length); } });
  $("fewer").addEventListener("click", () => { state.page--; drawBars(); });
  $("more").addEventListener("click", () => { state.page++; drawBars(); });
  $("back").addEventListener("click", () => { state.row--; drawTable(); });
  $("on").addEventListener("click", () => { state.row++; drawTable(); });
  $("filter").addEventListener("input", () => { state.filter = $("filter").value; state.row = 0; drawTable(); });
  for (const head of $("table").tHead.rows[0].cells) {
    if (!["unit", "class"].includes(head.dataset.sort) && !measure[head.dataset.sort]) continue;
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      state.up = head.dataset.sort === state.sort ? !state.up : ["unit", "class", "p_specific"].includes(head.dataset.sort);
      state.sort = head.dataset.sort; state.row = 0; drawTable();
    });
  }
  const fromAddress = () => place.get(location.hash.replace(/^#unit-/, ""));
  addEventListener("hashchange", () => { const i = fromAddress(); if (i !== undefined && i !== state.unit) openUnit(i); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
  new ResizeObserver(drawScatter).observe($("scatter"));
  openUnit(fromAddress() ?? state.unit);
})();
