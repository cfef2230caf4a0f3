// What a unit's ablation costs every class: bars with their intervals.
const PER_PAGE = 13, MOST_DAMAGED = 10, MOST_HELPED = 3;

// places in an order, the most damaged first, that a page shows, and how many of them stand at its end as the most helped
function pageOf(size, page) {
  const all = [...Array(size).keys()];
  if (size <= PER_PAGE) return [all, 0];
  if (page === 0) return [[...all.slice(0, MOST_DAMAGED), ...all.slice(-MOST_HELPED)], MOST_HELPED];
  return [all.slice(MOST_DAMAGED + (page - 1) * PER_PAGE, Math.min(MOST_DAMAGED + page * PER_PAGE, size - MOST_HELPED)), 0];
}

function classesView(app) {
  const { $, state, on, set, source } = app, body = $("bars");
  let order = [], shownFor = null;
  const pages = pager("Classes before", "Further classes", draw, ["fewer", "which", "more"]);
  $("classes-pager").replaceWith(pages.holder);
  roving(body, "[role=button]");

  function sort() {
    const { study } = source, row = state.row;
    if (!row) return;
    order = descending(row.drop);
    const key = `${study.key} ${row.unit} ${state.category}`, place = order.indexOf(study.classPlace.get(state.category));
    const far = order.length > PER_PAGE && place >= MOST_DAMAGED && place < order.length - MOST_HELPED;
    if (key !== shownFor) pages.at = far ? 1 + Math.floor((place - MOST_DAMAGED) / PER_PAGE) : 0;
    shownFor = key;
    draw();
  }
  function where(places, helped) {
    if (!order.length) return "no class has images";
    if (order.length <= PER_PAGE) return `all ${order.length}`;
    if (pages.at) return `${places[0] + 1}–${places.at(-1) + 1} of ${order.length}`;
    // no change is no help
    const word = state.row.drop[order.at(-1)] < 0 ? "most helped" : "least damaged";
    return `${places.length - helped} most damaged, ${helped} ${word}`;
  }
  function draw() {
    const { study } = source, row = state.row, number = 1 + Math.max(0, Math.ceil((order.length - PER_PAGE) / PER_PAGE));
    const [places, helped] = pageOf(order.length, pages.of(number)), some = places.map(place => order[place]);
    pages.where.textContent = where(places, helped);
    const [from, to] = ends(some.flatMap(k => [row.low[k], row.high[k], row.drop[k]])), scale = share(from, to);
    const marks = ticks(from, to === from ? from + 1 : to, 4), open = study.classPlace.get(state.category);
    $("axis").replaceChildren(...marks.map(t => mark(scale.at(t), 16, brief(t), "middle")));
    const stop = Math.max(0, some.indexOf(open)), gap = helped ? some.length - helped : -1;
    body.replaceChildren(...some.map((k, at) => bar(k, row, scale, marks, at === stop, at === gap, k === open)));
    body.classList.remove("ul-stale");
    app.shownClasses = () => some;
    set({ shown: some });
  }
  function bar(k, row, scale, marks, first, gap, open) {
    const { study } = source, name = study.classes[k], numbers = limited(row.drop[k], row.low[k], row.high[k]);
    const words = `${name}: ${count(study.n[k], "image")}, accuracy ${text(100 * study.accuracy[k])} %, drop of `
      + `${numbers} points, ` + probability("q", row.q[k]) + (row.lost ? `, ${row.lost[k]} lost, ${row.won[k]} won` : "");
    const kind = [sides(row.drop[k]), row.q[k] <= .05 && "sure", open && "open", gap && "gap"].filter(Boolean).join(" ");
    const name_ = h.span({ role: "button", tabindex: first ? 0 : -1, "aria-pressed": String(open), dir: "auto" }, name, " ");
    name_.append(h.small(`(${study.n[k]})`));
    return h.tr({ class: kind, "data-category": name, title: words }, h.th({ scope: "row" }, name_),
      h.td(drops([dropOf(row, k)], scale, words, marks)), h.td(text(row.drop[k])),
      h.td(finite(row.q[k]) ? quotient(row.q[k]) : study.complete ? "–" : "…"));
  }
  function choose(target) {
    const name = target.closest("[data-category]")?.dataset.category;
    if (name !== undefined) app.chooseClass(name === state.category ? "" : name);
  }
  body.addEventListener("click", event => choose(event.target));
  body.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(event.target);
  });
  on(["row", "category"], sort);
  on(["unit", "held"], () => body.classList.add("ul-stale"));
}
