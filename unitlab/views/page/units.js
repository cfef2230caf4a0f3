// Every unit as a point over any two variables.
const NULLS = ["max_class_drop", "max_class_drop_crossfit"]; // what chance gives of them stands beside them
const UNITS = / \((points|classes|activation|bit|logit)\)$/; // said at the axis
const VIRIDIS = [[70, 49, 126], [54, 91, 141], [39, 127, 142], [31, 161, 135], [74, 193, 109], [160, 218, 57]];

function shade(share) {
  if (!finite(share)) return "#767676";
  const at = clamped(share, 0, 1) * (VIRIDIS.length - 1), k = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[k].map((value, c) => Math.round(value + (VIRIDIS[k + 1][c] - value) * (at - k)))})`;
}
// what 95 % of chance stays below, along the horizontal variable: the mean of neighbouring units
function nullBand(xs, limits) {
  const order = [...xs.keys()].filter(i => finite(xs[i]) && finite(limits[i])).sort((a, b) => xs[a] - xs[b]);
  const size = Math.max(3, Math.floor(order.length / 8)), before = Math.floor(size / 2);
  const at = place => limits[order[clamped(place, 0, order.length - 1)]];
  const mean = place => Array.from({ length: size }, (_, k) => at(place - before + k)).reduce((a, b) => a + b) / size;
  return order.map((i, place) => [xs[i], mean(place)]);
}

function unitsView(app) {
  const { $, state, on, set, source, listen } = app, [svg, marks, tip, zooming] = ["scatter", "marks", "tip", "zoom"].map($);
  let plotted = [], frame = null, zoom = null;
  const at = unit => plotted.find(point => point.unit === unit);
  const clipped = (kind, d) => h.path({ class: kind, "clip-path": "url(#frame)", d });
  const area = (kind, upper, lower) => clipped(kind, pathOf([...upper, ...lower.reverse()], frame) + "Z");

  function titles({ width, height, left, across }) {
    const [up, right] = [[state.y, source.live ? 190 : 100], [state.x, 0]].map(([name, beside]) =>
      shortened(app.label(name), Math.floor((width - beside) / 7))); // controls of line and zoom
    return [h.text({ class: "title", x: 4, y: 13 }, `↑ ${up}`),
      h.text({ class: "title", x: left + across, y: height - 6, "text-anchor": "end" }, `${right} →`)];
  }
  function scaleOfColours([from, to]) {
    const { width, top, up, floor } = frame, x = width - 40, step = (up - 36) / 24;
    const parts = Array.from({ length: 24 }, (_, k) =>
      h.rect({ x, y: top + 20 + k * step, width: 10, height: step + .5, fill: shade(1 - k / 23) }));
    return [...parts, mark(x + 10, floor - 2, brief(from), "middle"), mark(x + 10, top + 15, brief(to), "middle")];
  }
  function chance(band) {
    const { x0, x1, y0, y1 } = frame, inside = band.filter(([x]) => x >= x0 && x <= x1), floor = Math.max(0, y0);
    const reach = [[x0, band[0][1]], ...inside, [x1, band.at(-1)[1]]].map(([x, y]) => [x, Math.min(y, y1)]);
    return area("chance", reach, [[x0, floor], [x1, floor]]);
  }
  function fitted({ x, fit, low, high }) {
    const points = values => x.map((value, i) => [value, values[i]]);
    return [area("band", points(high), points(low)), clipped("fit", pathOf(points(fit), frame))];
  }
  function draw() {
    const { study } = source, [xs, ys] = [state.x, state.y].map(app.values);
    const lacking = [state.x, state.y].find(name => ![...app.values(name) ?? []].some(finite)), label = app.label(lacking);
    const pending = lacking === OWN_DROP || (!study.measure[lacking] && !study.complete);
    $("instead").hidden = !lacking;
    $("instead").textContent = pending ? `${label}: being computed …`
      : `No unit of ${study.layer} has a value of “${label}”; choose another variable.`;
    plotted = [];
    if (lacking) return;
    const limits = NULLS.includes(state.y) && study.measure[`${state.y}_null`];
    const band = limits ? nullBand(xs, limits.values) : [], p = study.measure.p_specific?.values;
    const colors = state.color && app.values(state.color), [least, most] = extent(colors || []);
    const whole = [...wider(extent(xs)), ...wider(extent(band.length ? [...ys, 0, ...band.map(each => each[1])] : ys))];
    const [x0, x1, y0, y1] = zoom ?? whole, margin = { left: 58, right: state.color ? 54 : 12, top: 24, bottom: 40 };
    frame = frameOf(Math.max(280, svg.clientWidth), Math.max(180, svg.clientHeight), [x0, x1], [y0, y1], margin);
    const { left, top, across, up } = frame;
    study.units.forEach((unit, i) => {
      const x = frame.px(xs[i]), y = frame.py(ys[i]);
      if (!(x >= left - 5 && x <= left + across + 5 && y >= top - 5 && y <= top + up + 5)) return;
      const color = colors ? shade((colors[i] - least) / (most - least || 1)) : null, sure = p?.[i] <= .05 ? " sure" : "";
      const dot = h.circle({ class: `point${sure}`, cx: x.toFixed(1), cy: y.toFixed(1), r: 4.5, "data-unit": unit, color });
      plotted.push({ unit, x, y, dot });
    });
    for (const each of [svg, marks]) each.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    fill(svg, gridOf(frame), titles(frame), h.clipPath({ id: "frame" }, h.rect({ x: left, y: top, width: across, height: up })),
      band.length > 1 && chance(band), state.line && state.fit?.x.length && fitted(state.fit),
      plotted.map(point => point.dot), colors && scaleOfColours([least, most]));
    const without = study.units.filter((_, i) => !finite(xs[i]) || !finite(ys[i])).length, { fit } = state;
    $("chance").textContent = joined(" · ", " ", !study.complete && "tests and cross-fitted drops are being computed …",
      band.length > 1 && "shaded: 95 % of chance", without && `${count(without, "unit")} without a value`,
      state.color && `colour: ${app.label(state.color)}`,
      state.line && fit && (fit.said ?? `Spearman ${fit.spearman}, Pearson ${fit.pearson}`));
    $("chance").parentNode.className = state.color ? "sum" : ""; // which says nothing of colours
    markOpen();
    dim();
  }
  function markOpen() {
    const { pinned } = state, a = pinned && sameIn(PLACE, pinned, state) && at(pinned.unit), b = at(state.unit);
    const squares = state.group.map(at).filter(Boolean);
    fill(marks, squares.map(({ x, y }) => h.rect({ class: "grouped", x: x - 7, y: y - 7, width: 14, height: 14 })),
      a && h.circle({ class: "pin", cx: a.x, cy: a.y, r: 12 }), b && h.circle({ class: "mark", cx: b.x, cy: b.y, r: 9 }));
  }
  const dim = () => plotted.forEach(({ unit, dot }) => dot.classList.toggle("dimmed", state.kept?.has(unit) === false));
  function spot({ clientX, clientY }) {
    const { left, top } = svg.getBoundingClientRect();
    return [clientX - left, clientY - top];
  }
  function near(event, reach) {
    const [x, y] = spot(event), far = point => Math.hypot(point.x - x, point.y - y);
    return plotted.filter(point => far(point) <= reach).sort((a, b) => far(a) - far(b)).map(point => point.unit);
  }
  function hint(event) {
    const stack = near(event, 8), { clientX, clientY } = event, [unit] = stack, i = source.study.place.get(unit);
    tip.hidden = event.buttons || !stack.length;
    if (tip.hidden) return;
    app.ahead(unit);
    const numbers = [...new Set([state.x, state.y, state.color])].map(name =>
      name && `${app.label(name)} ${brief(app.valueOf(name, unit))}`);
    const here = stack.length > 1 && `${stack.length} units here: click again for the next`;
    const first = `unit ${unit}: ${app.worst(i) || "no class damaged"}`;
    tip.textContent = joined("\n", first, app.called(i, true), ...numbers, here);
    const left = clientX > innerWidth - 320 ? "auto" : `${clientX + 14}px`, right = `${innerWidth - clientX + 14}px`;
    tip.style.inset = `${Math.min(clientY + 14, innerHeight - 110)}px ${left === "auto" ? right : "auto"} auto ${left}`;
  }
  function drag(down) {
    const start = spot(down), line = [start], drawn = h.path({ class: "lasso" });
    const zooms = zooming.ariaPressed === "true" || down.shiftKey;
    dragged(down, svg, event => {
      const here = spot(event);
      if (!drawn.parentNode && Math.hypot(here[0] - start[0], here[1] - start[1]) < 5) return;
      marks.append(drawn);
      line.push(here);
      const shape = zooms ? [start, [here[0], start[1]], here, [start[0], here[1]]] : line;
      drawn.setAttribute("d", `M${shape.join("L")}Z`);
    }, up => {
      const stack = near(up, 12), next = stack[(stack.indexOf(state.unit) + 1) % stack.length];
      if (!drawn.parentNode) return set({ unit: next ?? state.unit });
      const inside = plotted.filter(({ x, y }) => drawn.isPointInFill(new DOMPoint(x, y))).map(point => point.unit);
      drawn.remove();
      if (zooms) zoomInto(start, line.at(-1));
      else set({ group: inside.sort((a, b) => a - b) });
    });
  }
  function zoomInto([ax, ay], [bx, by]) {
    const rising = (a, b) => a < b ? [a, b] : [b, a];
    if (Math.abs(ax - bx) < 4 || Math.abs(ay - by) < 4) return;
    zoom = [...rising(frame.vx(ax), frame.vx(bx)), ...rising(frame.vy(ay), frame.vy(by))];
    draw();
  }
  function zoomBy(factor, x = frame.left + frame.across / 2, y = frame.top + frame.up / 2) {
    const { left, top, across, floor } = frame, to = (edge, centre) => centre + (edge - centre) * factor;
    zoomInto([to(left, x), to(floor, y)], [to(left + across, x), to(top, y)]);
  }
  function step(way) {
    const here = at(state.unit) ?? plotted[0];
    const cost = point => {
      const x = point.x - here.x, y = point.y - here.y, along = x * way[0] + y * way[1];
      return along > .5 ? along + 2 * Math.abs(x * way[1] + y * way[0]) : Infinity;
    };
    const best = plotted.reduce((a, b) => cost(b) < cost(a) ? b : a, here);
    if (here) set({ unit: best.unit });
  }
  listen("zoom", () => { zooming.ariaPressed = zooming.ariaPressed !== "true"; });
  listen("closer", () => zoomBy(.7));
  listen("whole", () => { zoom = null; draw(); });
  listen("scatter", event => event.button === 0 && drag(event), "pointerdown");
  listen("scatter", hint, "pointermove");
  listen("scatter", () => { tip.hidden = true; }, "pointerleave");
  listen("scatter", event => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomBy(event.deltaY > 0 ? 1.2 : .83, ...spot(event));
  }, "wheel");
  const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  listen("scatter", keyed(ways, step), "keydown");
  on(["held", "measured", "category", "x", "y", "color"], () => {
    const { variables } = source.study, named = name => name ? app.label(name).replace(UNITS, "") : "(none)";
    app.offer("x", variables, named);
    app.offer("y", [...(state.category ? [OWN_DROP] : []), ...variables], named);
    app.offer("color", ["", ...variables], named);
  });
  on(["held", "x", "y"], () => { zoom = null; });
  on(["held", "measured", "x", "y", "color", "line", "fit", "byClass"], draw);
  on(["unit", "group", "pinned"], markOpen);
  on(["kept"], dim);
  new ResizeObserver(() => svg.clientWidth && draw()).observe(svg);
}
