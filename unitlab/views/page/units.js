// Every unit as a point over any two variables.
const NULLS = ["max_class_drop", "max_class_drop_crossfit"]; // what chance gives of them stands beside them
const VIRIDIS = [[70, 49, 126], [54, 91, 141], [39, 127, 142], [31, 161, 135], [74, 193, 109], [160, 218, 57]];

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), k = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return `rgb(${VIRIDIS[k].map((value, c) => Math.round(value + (VIRIDIS[k + 1][c] - value) * (at - k)))})`;
}
// what 95 % of chance stays below, along the horizontal variable: the mean of neighbouring units
function nullBand(xs, limits) {
  const order = [...xs.keys()].filter(i => finite(xs[i]) && finite(limits[i])).sort((a, b) => xs[a] - xs[b]);
  const size = Math.max(3, Math.floor(order.length / 8)), before = Math.floor(size / 2);
  const at = place => limits[order[Math.min(Math.max(place, 0), order.length - 1)]];
  const mean = place => Array.from({ length: size }, (_, k) => at(place - before + k)).reduce((a, b) => a + b) / size;
  return order.map((i, place) => [xs[i], mean(place)]);
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
  let plotted = [], frame = null, zoom = null, marks = h.g();
  const at = unit => plotted.find(point => point.unit === unit);

  function axes() {
    const { variables } = source.study, first = { x: [], y: state.category ? [OWN_DROP] : [], color: [""] };
    for (const name of ["x", "y", "color"]) {
      $(name).replaceChildren(...options([...first[name], ...variables], each => each ? app.label(each) : "(none)"));
      $(name).value = state[name];
    }
  }
  const area = (upper, lower, kind) =>
    h.path({ class: kind, "clip-path": "url(#frame)", d: pathOf([...upper, ...lower.reverse()], frame) + "Z" });
  function titles({ width, height, left, across }) {
    const words = name => shortened(app.label(name), Math.floor(width / 7.5)), end = left + across;
    return [h.text({ class: "title", x: 4, y: 13 }, `↑ ${words(state.y)}`),
      h.text({ class: "title", x: end, y: height - 6, "text-anchor": "end" }, `${words(state.x)} →`)];
  }
  function scaleOfColours([from, to]) {
    const { width, top, up, floor } = frame, x = width - 40, step = up / 24;
    const parts = Array.from({ length: 24 }, (_, k) =>
      h.rect({ x, y: top + k * step, width: 10, height: step + .5, fill: shade(1 - k / 23) }));
    return [...parts, mark(x + 10, floor + 14, brief(from), "middle"), mark(x + 10, top - 5, brief(to), "middle")];
  }
  function chance(band) {
    const { x0, x1, y0, y1 } = frame, inside = band.filter(([x]) => x >= x0 && x <= x1), floor = Math.max(0, y0);
    const reach = [[x0, band[0][1]], ...inside, [x1, band.at(-1)[1]]].map(([x, y]) => [x, Math.min(y, y1)]);
    return area(reach, [[x0, floor], [x1, floor]], "chance");
  }
  function fitted({ x, fit, low, high }) {
    const points = values => x.map((value, i) => [value, values[i]]);
    const middle = h.path({ class: "fit", "clip-path": "url(#frame)", d: pathOf(points(fit), frame) });
    return [area(points(high), points(low), "band"), middle];
  }
  function draw() {
    const { study } = source, shown = [state.x, state.y], [xs, ys] = shown.map(app.values);
    const lacking = shown.find(name => ![...(app.values(name) ?? [])].some(finite));
    svg.parentNode.classList.toggle("ul-none", Boolean(lacking));
    $("instead").hidden = !lacking;
    plotted = [];
    if (lacking) {
      const label = app.label(lacking), pending = lacking === OWN_DROP || (!study.measure[lacking] && !study.complete);
      const none = `No unit of ${study.layer} has a value of “${label}”; choose another variable.`;
      $("instead").textContent = pending ? `${label}: being computed …` : none;
      return;
    }
    const limits = NULLS.includes(state.y) && study.measure[`${state.y}_null`],
      band = limits ? nullBand(xs, limits.values) : [];
    const colors = state.color && app.values(state.color), ofColors = colors ? extent(colors) : [],
      p = study.measure.p_specific?.values;
    const whole = [...wider(extent(xs)), ...wider(extent(band.length ? [...ys, 0, ...band.map(each => each[1])] : ys))];
    const [x0, x1, y0, y1] = zoom ?? whole, margin = { left: 58, right: state.color ? 54 : 12, top: 24, bottom: 40 };
    frame = frameOf(Math.max(280, svg.clientWidth), Math.max(180, svg.clientHeight), [x0, x1], [y0, y1], margin);
    const { left, top, across, up } = frame;
    study.units.forEach((unit, i) => {
      const x = frame.px(xs[i]), y = frame.py(ys[i]);
      if (!(x >= left - 5 && x <= left + across + 5 && y >= top - 5 && y <= top + up + 5)) return;
      const fill = !colors ? null : finite(colors[i]) ? shade((colors[i] - ofColors[0]) / (ofColors[1] - ofColors[0] || 1))
        : "#767676";
      const kind = "point" + (p && p[i] <= .05 ? " sure" : "");
      const dot = h.circle({ class: kind, cx: x.toFixed(1), cy: y.toFixed(1), r: 4.5, "data-unit": unit, stroke: fill, fill });
      plotted.push({ unit, i, x, y, dot });
    });
    svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    svg.classList.toggle("coloured", Boolean(colors));
    marks = h.g();
    svg.replaceChildren(...gridOf(frame), ...titles(frame),
      h.clipPath({ id: "frame" }, h.rect({ x: left, y: top, width: across, height: up })),
      ...(band.length > 1 ? [chance(band)] : []), ...(state.line && state.fit?.x.length ? fitted(state.fit) : []),
      ...plotted.map(point => point.dot), ...(colors ? scaleOfColours(ofColors) : []), marks);
    caption(band.length > 1, xs, ys);
    markOpen();
    dim();
  }
  function markOpen() {
    const { pinned } = state, here = pinned && ["study", "layer", "ablation"].every(name => pinned[name] === state[name]);
    const squares = state.group.map(at).filter(Boolean);
    const rings = [[here && at(pinned.unit), "pin", 12], [at(state.unit), "mark", 9]].filter(([point]) => point);
    marks.replaceChildren(...squares.map(({ x, y }) => h.rect({ class: "grouped", x: x - 7, y: y - 7, width: 14, height: 14 })),
      ...rings.map(([{ x, y }, kind, r]) => h.circle({ class: kind, cx: x, cy: y, r })));
  }
  const dim = () => {
    for (const { unit, dot } of plotted) dot.classList.toggle("dimmed", Boolean(state.kept) && !state.kept.has(unit));
  };
  function caption(withChance, xs, ys) {
    const lacking = source.study.units.filter((_, i) => !finite(xs[i]) || !finite(ys[i])).length, { fit } = state;
    const parts = [
      !source.study.complete && "tests and cross-fitted drops are being computed …",
        withChance && "shaded: 95 % of what chance gives",
      lacking && `${count(lacking, "unit")} without a value`, state.color && `colour: ${app.label(state.color)}`,
      state.line && fit && (fit.said ?? `Spearman ${fit.spearman}, Pearson ${fit.pearson}`),
    ];
    $("chance").textContent = parts.filter(Boolean).map(part => " · " + part).join("");
  }
  function spot({ clientX, clientY }) {
    const { left, top } = svg.getBoundingClientRect();
    return [clientX - left, clientY - top];
  }
  function near(event, reach = 8) {
    const [x, y] = spot(event), far = point => Math.hypot(point.x - x, point.y - y);
    return plotted.filter(point => far(point) <= reach).sort((a, b) => far(a) - far(b)).map(point => point.unit);
  }
  function hint(event) {
    const stack = near(event), { clientX, clientY } = event;
    tip.hidden = !stack.length;
    if (!stack.length) return;
    source.ahead(stack[0]);
    const i = source.study.place.get(stack[0]), names = new Set([state.x, state.y, state.color].filter(Boolean));
    tip.textContent = [
      `unit ${stack[0]}: ${app.worst(i) || "no class damaged"}`, app.called(i, true),
      ...[...names].map(name => `${app.label(name)} ${brief(app.values(name)?.[i])}`),
      stack.length > 1 && `${stack.length} units here: click again for the next`,
    ].filter(Boolean).join("\n");
    const beside = clientX > innerWidth - 320;
    tip.style.left = beside ? "" : `${clientX + 14}px`;
    tip.style.right = beside ? `${innerWidth - clientX + 14}px` : "";
    tip.style.top = `${Math.min(clientY + 14, innerHeight - 110)}px`;
  }
  function drag(event) {
    const start = spot(event), line = [start], zooming = $("zoom").getAttribute("aria-pressed") === "true" || event.shiftKey;
    let drawn = null;
    const move = more => {
      const here = spot(more);
      if (!drawn && Math.hypot(here[0] - start[0], here[1] - start[1]) < 5) return;
      if (!drawn) {
        svg.append(drawn = h.path({ class: "lasso" }));
        svg.setPointerCapture(event.pointerId);
        tip.hidden = true;
      }
      line.push(here);
      const shape = zooming ? [start, [here[0], start[1]], here, [start[0], here[1]]] : line;
      drawn.setAttribute("d", "M" + shape.map(each => each.join(",")).join("L") + "Z");
    };
    const end = last => {
      svg.removeEventListener("pointermove", move);
      if (!drawn) return last.type === "pointerup" && press(last);
      drawn.remove();
      if (zooming) return zoomTo(start, line.at(-1));
      const some = plotted.filter(point => within(line, point.x, point.y)).map(point => point.unit);
      set({ group: some.sort((a, b) => a - b) });
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerup", end, { once: true });
  }
  function press(event) {
    const stack = near(event, 12);
    if (stack.length) set({ unit: stack[(stack.indexOf(state.unit) + 1) % stack.length] });
  }
  const rising = (a, b) => [Math.min(a, b), Math.max(a, b)], zoomed = (...limits) => { zoom = limits; draw(); };
  function zoomTo([ax, ay], [bx, by]) {
    if (Math.abs(ax - bx) < 4 || Math.abs(ay - by) < 4) return;
    zoomed(...rising(frame.vx(ax), frame.vx(bx)), ...rising(frame.vy(ay), frame.vy(by)));
  }
  function zoomBy(factor, x = frame.left + frame.across / 2, y = frame.top + frame.up / 2) {
    const { x0, x1, y0, y1 } = frame, cx = frame.vx(x), cy = frame.vy(y),
      to = (value, centre) => centre + (value - centre) * factor;
    zoomed(to(x0, cx), to(x1, cx), to(y0, cy), to(y1, cy));
  }
  function step(event) {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = at(state.unit) ?? plotted[0];
    if (!way || !here || event.altKey) return;
    event.preventDefault();
    const cost = point => {
      const x = point.x - here.x, y = point.y - here.y, along = x * way[0] + y * way[1];
      return along > .5 ? along + 2 * Math.abs(x * way[1] + y * way[0]) : Infinity;
    };
    const best = plotted.reduce((a, b) => cost(b) < cost(a) ? b : a);
    if (cost(best) < Infinity) set({ unit: best.unit });
  }
  function wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomBy(event.deltaY > 0 ? 1.2 : .83, ...spot(event));
  }
  const zoom_ = $("zoom");
  for (const name of ["x", "y", "color"]) $(name).addEventListener("change", () => set({ [name]: $(name).value }));
  $("line").addEventListener("change", () => set({ line: $("line").checked }));
  zoom_.addEventListener("click", () => zoom_.setAttribute("aria-pressed", zoom_.getAttribute("aria-pressed") !== "true"));
  $("closer").addEventListener("click", () => zoomBy(.7));
  $("whole").addEventListener("click", () => { zoom = null; draw(); });
  svg.addEventListener("pointerdown", event => event.button === 0 && drag(event));
  svg.addEventListener("pointermove", event => event.buttons || hint(event));
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("wheel", wheel, { passive: false });
  svg.addEventListener("keydown", step);
  on(["held", "measured", "category", "x", "y", "color"], axes);
  on(["held", "x", "y"], () => { zoom = null; });
  on(["held", "measured", "x", "y", "color", "line", "fit", "byClass"], draw);
  on(["unit", "group", "pinned"], markOpen);
  on(["kept"], dim);
  app.resized.push([svg, draw]);
  axes();
}
