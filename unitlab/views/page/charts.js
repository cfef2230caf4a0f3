// What drawings share: scales, grids, paths, and bars in the cells of tables.
function ticks(from, to, about) {
  const raw = (to - from) / Math.max(1, about), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(some => some * power >= raw) * power, out = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9 * step; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}
function extent(values) {
  const some = [...values].filter(finite);
  return some.length ? [Math.min(...some), Math.max(...some)] : [0, 1];
}
const wider = ([from, to], room = (to - from) * .05 || 1) => [from - room, to + room];
// values to pixels and back
const linear = (from, to, start, end) => value => start + (value - from) / (to - from) * (end - start);
function frameOf(width, height, [x0, x1], [y0, y1], { left, right, top, bottom }) {
  const end = width - right, floor = height - bottom;
  return {
    width, height, left, top, across: end - left, up: floor - top, floor, x0, x1, y0, y1, px: linear(x0, x1, left, end),
    py: linear(y0, y1, floor, top), vx: linear(left, end, x0, x1), vy: linear(floor, top, y0, y1),
  };
}
const mark = (x, y, words, anchor) => h.text({ x, y, "text-anchor": anchor }, words);
function gridOf({ x0, x1, y0, y1, left, top, across, up, floor, px, py }) {
  const straight = (t, x1, x2, y1, y2) => h.line({ class: t === 0 ? "zero" : "grid", x1, x2, y1, y2 });
  const upright = t => [straight(t, px(t), px(t), top, floor), mark(px(t), floor + 16, brief(t), "middle")];
  const level = t => [straight(t, left, left + across, py(t), py(t)), mark(left - 6, py(t) + 4, brief(t), "end")];
  return [ticks(x0, x1, Math.max(3, across / 100)).map(upright), ticks(y0, y1, Math.max(4, up / 60)).map(level)];
}
const pathOf = (points, { px, py }) => `M${points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join("L")}`;
const plot = (kind, frame, words, ...marks) =>
  h.svg({ class: kind, viewBox: `0 0 ${frame.width} ${frame.height}`, role: "img", "aria-label": words }, gridOf(frame), marks);

function share(from, to) {
  const part = value => `${(value / (to - from || 1) * 100).toFixed(2)}%`;
  return { from, to, at: value => part(clamped(value, from, to) - from), width: value => part(Math.abs(value)) };
}
const line = (kind, x1, x2, y1, y2) => h.line({ class: kind, x1, x2, y1: `${y1}%`, y2: `${y2}%` });
const sides = value => value >= 0 ? "damage" : "help";
const amount = (part, kind) =>
  h.svg({ height: 7, class: "ul-amount", "aria-hidden": true }, h.rect({ class: kind, height: 6, width: `${100 * part}%` }));

// drops with their intervals, below each other in a cell, as [value, low, high, kind, whether it is a dot]; `marks` are lines
// to hold them against
function drops(parts, scale, words, marks = [0]) {
  const tall = 100 / parts.length;
  return h.svg({ role: "img", "aria-label": words },
    marks.map(t => line(t === 0 ? "zero" : "grid", scale.at(t), scale.at(t), 0, 100)),
    parts.map(([value, low, high, kind, dot], row) => {
      const y = part => (row + part) * tall, rect = { x: scale.at(Math.min(0, value)), width: scale.width(value) };
      const shape = dot ? h.circle({ class: kind, cx: scale.at(value), cy: `${y(.5)}%`, r: 4 })
        : h.rect({ class: kind, ...rect, y: `${y(.18)}%`, height: `${.64 * tall}%` });
      if (!finite(low)) return shape;
      const [from, to] = [low, high].map(scale.at), limits = line(`limits ${dot ? kind : ""}`, from, to, y(.5), y(.5));
      return [shape, limits, ...(dot ? [] : [from, to].map(end => line("limits", end, end, y(.34), y(.66))))];
    }));
}
const dropOf = ({ drop, low, high, q }, k) => [drop[k], low[k], high[k], sides(drop[k]) + (q[k] <= .05 ? " sure" : "")];
const saidOf = ({ drop, low, high, q }, k) => `${limited(drop[k], low[k], high[k])}, ${probability("q", q[k])}`;
const scaleOf = rows => share(...extent([0, ...rows.flatMap(({ parts }) => parts.flatMap(part => part.slice(0, 3)))]));

// rows of bars on one scale: what each is of, the bars, and cells of words beside them
function barRows(rows, scale = scaleOf(rows), marks = [0]) {
  return rows.map(({ name, parts, words, cells, ...attributes }) =>
    h.tr(attributes, h.th({ scope: "row" }, name), h.td(drops(parts, scale, words, marks)), cells.map(cell => h.td(cell))));
}
const headOf = words => h.thead(h.tr(words.map(each => h.th({ scope: "col" }, each))));
function barTable(kind, rows, { scale, heads } = {}) {
  const body = h.tbody(barRows(rows, scale));
  roving(body, "tr[tabindex]");
  return h.table({ class: `ul-bars ${kind}` }, heads && headOf(heads), body);
}
