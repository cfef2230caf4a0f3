// Every unit as a point over any two variables.
const NULLS = ["max_class_drop", "max_class_drop_crossfit"]; // what chance gives of them stands beside them
const VIRIDIS = [[70, 49, 126], [54, 91, 141], [39, 127, 142], [31, 161, 135], [74, 193, 109], [160, 218, 57]];
const MARGIN = { left: 58, right: 12, top: 24, bottom: 40 };

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), k = Math.min(Math.floor(at), VIRIDIS.length - 2), over = at - k;
  return `rgb(${VIRIDIS[k].map((value, c) => Math.round(value * (1 - over) + VIRIDIS[k + 1][c] * over))})`;
}
function extent(some) {
  let from = Infinity, to = -Infinity;
  for (const value of some) if (finite(value)) { from = Math.min(from, value); to = Math.max(to, value); }
  return from <= to ? [from, to] : [0, 1];
}
function wider([from, to], share = .05) {
  const room = (to - from || 2 * Math.max(1, Math.abs(from) * .5)) * share;
  return from === to ? [from - 1, to + 1] : [from - room, to + room];
}
// what 95 % of chance stays below, along the horizontal variable: the mean of neighbouring units
function nullBand(xs, limits) {
  const order = [...xs.keys()].filter(i => finite(xs[i]) && finite(limits[i])).sort((a, b) => xs[a] - xs[b]);
  const size = Math.max(3, Math.floor(order.length / 8)), before = Math.floor(size / 2);
  const at = place => limits[order[Math.min(Math.max(place, 0), order.length - 1)]];
  return order.map((i, place) => [xs[i], Array.from({ length: size }, (_, k) => at(place - before + k)).reduce((a, b) => a + b) / size]);
}
function within(polygon, x, y) {
  let inside = false;
  polygon.forEach(([xi, yi], i) => {
    const [xj, yj] = polygon[(i || polygon.length) - 1];
    if ((yi > y) !== (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
  });
  return inside;
}

function unitsView(app) {
  const { $, state, on, set, source } = app, svg = $("scatter"), tip = $("tip");
  let plotted = [], frame = null, zoom = null;
  const at = unit => plotted.find(point => point.unit === unit);

  function axes() {
    for (const name of ["x", "y", "color"]) {
      const options = source.study.variables.map(each => element("option", { value: each }, app.label(each)));
      if (name === "y" && state.category) options.unshift(element("option", { value: OWN_DROP }, app.label(OWN_DROP)));
      if (name === "color") options.unshift(element("option", { value: "" }, "(none)"));
      $(name).replaceChildren(...options);
      $(name).value = state[name];
    }
  }
  function scales(xs, ys, band) {
    const width = Math.max(280, svg.clientWidth), height = Math.max(180, svg.clientHeight);
    const whole = [...wider(extent(xs)), ...wider(extent(band.length ? [...ys, 0, ...band.map(each => each[1])] : ys))];
    const [x0, x1, y0, y1] = zoom ?? whole, { left, right, top, bottom } = MARGIN;
    const across = width - left - right - (state.color ? 42 : 0), up = height - top - bottom;
    return { width, height, across, up, x0, x1, y0, y1, px: v => left + (v - x0) / (x1 - x0) * across, py: v => height - bottom - (v - y0) / (y1 - y0) * up,
      vx: p => x0 + (p - left) / across * (x1 - x0), vy: p => y0 + (height - bottom - p) / up * (y1 - y0) };
  }
  function grid({ width, height, x0, x1, y0, y1, px, py, across }) {
    const { left, top, bottom } = MARGIN, end = left + across, parts = [];
    for (const t of ticks(x0, x1, across / 100)) parts.push(element("line", { class: t === 0 ? "zero" : "grid", x1: px(t), x2: px(t), y1: top, y2: height - bottom }),
      element("text", { x: px(t), y: height - bottom + 16, "text-anchor": "middle" }, brief(t)));
    for (const t of ticks(y0, y1, height / 60)) parts.push(element("line", { class: t === 0 ? "zero" : "grid", x1: left, x2: end, y1: py(t), y2: py(t) }),
      element("text", { x: left - 6, y: py(t) + 4, "text-anchor": "end" }, brief(t)));
    const letters = Math.floor(width / 7.5);
    return [...parts, element("text", { class: "title", x: 4, y: 13 }, "↑ " + shortened(app.label(state.y), letters)),
      element("text", { class: "title", x: end, y: height - 6, "text-anchor": "end" }, shortened(app.label(state.x), letters) + " →")];
  }
  const path = (points, { px, py }) => points.map(([x, y], i) => `${i ? "L" : "M"}${px(x).toFixed(1)},${py(y).toFixed(1)}`).join("");
  function area(band, lower, scale, kind) {
    return element("path", { class: kind, "clip-path": "url(#frame)", d: path([...band, ...lower.reverse()], scale) + "Z" });
  }
  function legend(values, scale) {
    const [from, to] = extent(values), x = scale.width - 40, { top } = MARGIN, height = scale.up, parts = [];
    for (let k = 0; k < 24; k++) parts.push(element("rect", { x, y: top + height * k / 24, width: 10, height: height / 24 + .5, fill: shade(1 - k / 23) }));
    return [...parts, element("text", { x: x + 10, y: top + height + 14, "text-anchor": "middle" }, brief(from)), element("text", { x: x + 10, y: top - 5, "text-anchor": "middle" }, brief(to))];
  }
  function draw() {
    const xs = app.values(state.x), ys = app.values(state.y), { study } = source;
    const lacking = !xs ? state.x : !ys ? state.y : ![...xs].some(finite) ? state.x : ![...ys].some(finite) ? state.y : null;
    svg.parentNode.classList.toggle("ul-none", Boolean(lacking));
    $("instead").hidden = !lacking;
    if (lacking) {
      const pending = lacking === OWN_DROP || (!study.measure[lacking] && !study.complete);
      $("instead").textContent = pending ? `${app.label(lacking)}: being computed …` : `No unit of ${study.layer} has a value of “${app.label(lacking)}”; choose another variable.`;
      plotted = [];
      return;
    }
    const limits = NULLS.includes(state.y) && study.measure[`${state.y}_null`], band = limits ? nullBand(xs, limits.values) : [];
    const scale = scales(xs, ys, band), colors = state.color && app.values(state.color), [least, most] = colors ? extent(colors) : [];
    frame = scale;
    const { left, top } = MARGIN, parts = grid(scale);
    parts.push(element("clipPath", { id: "frame" }, element("rect", { x: left, y: top, width: scale.across, height: scale.up })));
    if (band.length > 1) {
      const reach = [[scale.x0, band[0][1]], ...band.filter(([x]) => x >= scale.x0 && x <= scale.x1), [scale.x1, band.at(-1)[1]]];
      const floor = Math.max(0, scale.y0), cut = reach.map(([x, y]) => [x, Math.min(y, scale.y1)]);
      parts.push(area(cut, [[scale.x0, floor], [scale.x1, floor]], scale, "chance"));
    }
    if (state.fit?.x.length && state.line) {
      parts.push(area(state.fit.x.map((x, i) => [x, state.fit.high[i]]), state.fit.x.map((x, i) => [x, state.fit.low[i]]), scale, "band"),
        element("path", { class: "fit", "clip-path": "url(#frame)", d: path(state.fit.x.map((x, i) => [x, state.fit.fit[i]]), scale) }));
    }
    const p = study.measure.p_specific?.values;
    plotted = [];
    study.units.forEach((unit, i) => {
      const x = scale.px(xs[i]), y = scale.py(ys[i]);
      if (!finite(xs[i]) || !finite(ys[i]) || x < left - 5 || x > left + scale.across + 5 || y < top - 5 || y > top + scale.up + 5) return;
      const fill = colors ? { stroke: finite(colors[i]) ? shade((colors[i] - least) / (most - least || 1)) : "#767676" } : {};
      const dot = element("circle", { class: "point" + (p && p[i] <= .05 ? " sure" : ""), cx: x.toFixed(1), cy: y.toFixed(1), r: 4.5, "data-unit": unit, ...fill });
      if (fill.stroke) dot.setAttribute("fill", fill.stroke);
      plotted.push({ unit, i, x, y, dot });
    });
    svg.setAttribute("viewBox", `0 0 ${scale.width} ${scale.height}`);
    svg.classList.toggle("coloured", Boolean(colors));
    marks = element("g", {});
    svg.replaceChildren(...parts, ...plotted.map(point => point.dot), ...(colors ? legend(colors, scale) : []), marks);
    caption(band.length > 1, xs, ys);
    mark();
    dim();
  }
  let marks = element("g", {});
  function mark() {
    const parts = state.group.map(at).filter(Boolean).map(({ x, y }) => element("rect", { class: "grouped", x: x - 7, y: y - 7, width: 14, height: 14 }));
    const open = at(state.unit), pinned = state.pinned && ["study", "layer", "ablation"].every(name => state.pinned[name] === state[name]) ? at(state.pinned.unit) : null;
    if (pinned) parts.push(element("circle", { class: "pin", cx: pinned.x, cy: pinned.y, r: 12 }));
    if (open) parts.push(element("circle", { class: "mark", cx: open.x, cy: open.y, r: 9 }));
    marks.replaceChildren(...parts);
  }
  const dim = () => { for (const { unit, dot } of plotted) dot.classList.toggle("dimmed", Boolean(state.kept) && !state.kept.has(unit)); };
  function caption(chance, xs, ys) {
    const lacking = source.study.units.filter((_, i) => !finite(xs[i]) || !finite(ys[i])).length;
    const parts = source.study.complete ? [] : ["tests and cross-fitted drops are being computed …"];
    if (chance) parts.push("shaded: 95 % of what chance gives");
    if (lacking) parts.push(`${count(lacking, "unit")} without a value`);
    if (state.line && state.fit) parts.push(state.fit.said ?? `Spearman ${state.fit.spearman}, Pearson ${state.fit.pearson}`);
    if (state.color) parts.push(`colour: ${app.label(state.color)}`);
    $("chance").textContent = parts.map(part => " · " + part).join("");
  }
  const spot = event => { const box = svg.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  function near(event, reach = 8) {
    const [x, y] = spot(event);
    return plotted.map(point => ({ unit: point.unit, d: Math.hypot(point.x - x, point.y - y) })).filter(each => each.d <= reach).sort((a, b) => a.d - b.d).map(each => each.unit);
  }
  function hint(event) {
    const stack = near(event);
    tip.hidden = !stack.length;
    if (!stack.length) return;
    source.ahead(stack[0]);
    const i = source.study.place.get(stack[0]), also = stack.length > 1 ? `\n${stack.length} units here: click again for the next` : "";
    const lines = [...new Set([state.x, state.y, state.color].filter(Boolean))].map(name => `\n${app.label(name)} ${brief(app.values(name)?.[i])}`);
    tip.textContent = `unit ${stack[0]}: ${app.worst(i) || "no class damaged"}${lines.join("")}${also}`;
    const beside = event.clientX > innerWidth - 320;
    tip.style.left = beside ? "" : `${event.clientX + 14}px`;
    tip.style.right = beside ? `${innerWidth - event.clientX + 14}px` : "";
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - 110)}px`;
  }
  function drag(event) {
    const start = spot(event), line = [start], zooming = $("zoom").getAttribute("aria-pressed") === "true" || event.shiftKey;
    let drawn = null;
    const move = more => {
      const here = spot(more);
      if (!drawn && Math.hypot(here[0] - start[0], here[1] - start[1]) < 5) return;
      if (!drawn) { svg.append(drawn = element("path", { class: "lasso" })); svg.setPointerCapture(event.pointerId); tip.hidden = true; }
      line.push(here);
      const shape = zooming ? [start, [here[0], start[1]], here, [start[0], here[1]]] : line;
      drawn.setAttribute("d", "M" + shape.map(each => each.join(",")).join("L") + "Z");
    };
    const end = last => {
      svg.removeEventListener("pointermove", move);
      if (!drawn) return last.type === "pointerup" && press(last);
      drawn.remove();
      if (zooming) zoomTo(start, line.at(-1));
      else set({ group: plotted.filter(point => within(line, point.x, point.y)).map(point => point.unit).sort((a, b) => a - b) });
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerup", end, { once: true });
  }
  function press(event) {
    const stack = near(event, 12);
    if (stack.length) set({ unit: stack[(stack.indexOf(state.unit) + 1) % stack.length] });
  }
  function zoomTo([ax, ay], [bx, by]) {
    if (Math.abs(ax - bx) < 4 || Math.abs(ay - by) < 4) return;
    const xs = [ax, bx].map(frame.vx).sort((a, b) => a - b), ys = [ay, by].map(frame.vy).sort((a, b) => a - b);
    zoom = [...xs, ...ys];
    draw();
  }
  function zoomBy(factor, x = MARGIN.left + frame.across / 2, y = MARGIN.top + frame.up / 2) {
    const { x0, x1, y0, y1 } = frame, cx = frame.vx(x), cy = frame.vy(y);
    zoom = [cx + (x0 - cx) * factor, cx + (x1 - cx) * factor, cy + (y0 - cy) * factor, cy + (y1 - cy) * factor];
    draw();
  }
  const whole = () => { zoom = null; draw(); };
  function step(event) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], here = at(state.unit) ?? plotted[0];
    if (!way || !here || event.altKey) return;
    event.preventDefault();
    const cost = ({ x, y }) => { const along = (x - here.x) * way[0] + (y - here.y) * way[1], aside = Math.abs((x - here.x) * way[1]) + Math.abs((y - here.y) * way[0]); return along > .5 ? along + 2 * aside : Infinity; };
    const best = plotted.reduce((a, b) => cost(b) < cost(a) ? b : a);
    if (cost(best) < Infinity) set({ unit: best.unit });
  }
  for (const name of ["x", "y", "color"]) $(name).addEventListener("change", () => set({ [name]: $(name).value }));
  $("line").addEventListener("change", () => set({ line: $("line").checked }));
  $("zoom").addEventListener("click", () => $("zoom").setAttribute("aria-pressed", $("zoom").getAttribute("aria-pressed") !== "true"));
  $("closer").addEventListener("click", () => zoomBy(.7));
  $("whole").addEventListener("click", whole);
  svg.addEventListener("pointerdown", event => event.button === 0 && drag(event));
  svg.addEventListener("pointermove", event => event.buttons || hint(event));
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("wheel", event => { if (event.ctrlKey) { event.preventDefault(); zoomBy(event.deltaY > 0 ? 1.2 : .83, ...spot(event)); } }, { passive: false });
  svg.addEventListener("keydown", step);
  on(["held", "measured", "category", "x", "y", "color"], axes);
  on(["held", "x", "y"], () => { zoom = null; });
  on(["held", "measured", "x", "y", "color", "line", "fit", "byClass"], draw);
  on(["unit", "group", "pinned"], mark);
  on(["kept"], dim);
  app.resized.push([svg, draw]);
  axes();
}
