// What a unit's ablation costs every class: bars with their intervals.
const PER_PAGE = 13, MOST_DAMAGED = 10, MOST_HELPED = 3;

function share(from, to) {
  const span = to - from || 1;
  return { at: value => `${((Math.min(Math.max(value, from), to) - from) / span * 100).toFixed(2)}%`, width: value => `${(Math.abs(value) / span * 100).toFixed(2)}%` };
}
// a drop with its interval in a cell of a table; `marks` are lines to hold it against
function dropBar(value, low, high, scale, sure, marks = []) {
  const svg = element("svg", { role: "img", class: sure ? "sure" : "", "aria-label": `${text(value)} points, interval ${text(low)} to ${text(high)}${sure ? ", significant" : ""}` },
    marks.map(t => element("line", { class: t === 0 ? "zero" : "grid", x1: scale.at(t), x2: scale.at(t), y1: 0, y2: "100%" })),
    element("rect", { class: value >= 0 ? "damage" : "help", x: scale.at(Math.min(0, value)), width: scale.width(value), y: "18%", height: "64%" }));
  if (finite(low)) svg.append(element("line", { class: "limits", x1: scale.at(low), x2: scale.at(high), y1: "50%", y2: "50%" }),
    ...[low, high].map(end => element("line", { class: "limits", x1: scale.at(end), x2: scale.at(end), y1: "34%", y2: "66%" })));
  return svg;
}
const ends = values => { const known = [...values].filter(finite); return [Math.min(0, ...known), Math.max(0, ...known)]; };

// places in an order, the most damaged first, that a page shows, and how many of them stand at its end as the most helped
function pageOf(size, page) {
  const all = [...Array(size).keys()];
  if (size <= PER_PAGE) return [all, 0];
  if (page === 0) return [[...all.slice(0, MOST_DAMAGED), ...all.slice(-MOST_HELPED)], MOST_HELPED];
  return [all.slice(MOST_DAMAGED + (page - 1) * PER_PAGE, Math.min(MOST_DAMAGED + page * PER_PAGE, size - MOST_HELPED)), 0];
}

function classesView(app) {
  const { $, state, on, set, source } = app, body = $("bars");
  let order = [], page = 0, shownFor = null;
  const pages = () => 1 + Math.max(0, Math.ceil((order.length - PER_PAGE) / PER_PAGE));
  roving(body, "[role=button]");

  function sort() {
    const { study } = source, row = state.row;
    if (!row) return;
    order = [...study.classes.keys()].filter(k => finite(row.drop[k])).sort((a, b) => row.drop[b] - row.drop[a] || a - b);
    const key = `${study.key} ${row.unit} ${state.category}`;
    if (key !== shownFor) {
      const place = state.category ? order.indexOf(study.classPlace.get(state.category)) : -1;
      page = order.length > PER_PAGE && place >= MOST_DAMAGED && place < order.length - MOST_HELPED ? 1 + Math.floor((place - MOST_DAMAGED) / PER_PAGE) : 0;
    }
    shownFor = key;
    draw();
  }
  function where(places, helped) {
    const row = state.row, damaged = places.slice(0, places.length - helped);
    if (!order.length) return "no class has images";
    if (order.length <= PER_PAGE) return `all ${order.length}`;
    if (page) return `${damaged[0] + 1}–${damaged.at(-1) + 1} of ${order.length}`;
    // no change is no help
    const word = row.drop[order.at(-1)] < 0 ? "most helped" : "least damaged";
    return `${damaged.length} most damaged, ${helped} ${word}`;
  }
  function draw() {
    const { study } = source, row = state.row;
    page = Math.min(Math.max(0, page), pages() - 1);
    const [places, helped] = pageOf(order.length, page), some = places.map(place => order[place]);
    $("which").textContent = where(places, helped);
    $("fewer").disabled = page === 0;
    $("more").disabled = page >= pages() - 1;
    const [from, to] = ends(some.flatMap(k => [row.low[k], row.high[k], row.drop[k]])), scale = share(from, to), marks = ticks(from, to === from ? from + 1 : to, 4);
    $("axis").replaceChildren(...marks.map(t => element("text", { x: scale.at(t), y: 16, "text-anchor": "middle" }, brief(t))));
    const open = study.classPlace.get(state.category), stop = Math.max(0, some.indexOf(open));
    body.replaceChildren(...some.map((k, at) => bar(k, row, scale, marks, { first: at === stop, gap: helped && at === some.length - helped, open: k === open })));
    body.classList.remove("ul-stale");
    app.shownClasses = () => some;
    set({ shown: some });
  }
  function bar(k, row, scale, marks, { first, gap, open }) {
    const { study } = source, name = study.classes[k], sure = row.q[k] <= .05;
    const changed = row.lost ? `, ${row.lost[k]} lost, ${row.won[k]} won` : "";
    const words = `${name}: ${count(study.n[k], "image")}, accuracy ${text(100 * study.accuracy[k])} %, drop ${text(row.drop[k])} points (${text(row.low[k])} to ${text(row.high[k])}), ${probability("q", row.q[k])}${changed}`;
    return element("tr", { class: (row.drop[k] >= 0 ? "damage" : "help") + (sure ? " sure" : "") + (open ? " open" : "") + (gap ? " gap" : ""), "data-category": name, title: words },
      element("th", { scope: "row" }, element("span", { role: "button", tabindex: first ? 0 : -1, "aria-pressed": String(open), dir: "auto" }, name + " ", element("small", {}, `(${study.n[k]})`))),
      element("td", {}, dropBar(row.drop[k], row.low[k], row.high[k], scale, sure, marks)), element("td", {}, text(row.drop[k])), element("td", {}, finite(row.q[k]) ? quotient(row.q[k]) : study.complete ? "–" : "…"));
  }
  const choose = target => { const row = target.closest("[data-category]"); if (row) app.chooseClass(row.dataset.category === state.category ? "" : row.dataset.category); };
  body.addEventListener("click", event => choose(event.target));
  body.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(event.target); } });
  $("fewer").addEventListener("click", () => { page--; draw(); });
  $("more").addEventListener("click", () => { page++; draw(); });
  on(["row", "category"], sort);
  on(["unit", "held"], () => body.classList.add("ul-stale"));
}
