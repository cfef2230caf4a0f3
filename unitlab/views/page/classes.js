// What a unit's ablation costs every class: bars with their intervals.
const PER_PAGE = 13, MOST_DAMAGED = 10, MOST_HELPED = 3;

function classesView(app) {
  const { $, state, on, set, source } = app, body = $("bars");
  let order = [], shownFor = null;
  const pages = pager("Classes before", "Further classes", draw, ["fewer", "which", "more"]);
  $("classes-pager").replaceWith(pages.holder);
  roving(body, "[role=button]");

  on(["row", "category"], () => {
    const { study } = source, row = state.row, key = `${study.key} ${row?.unit} ${state.category}`;
    if (!row) return;
    order = descending(row.drop);
    // the first page ends with the most helped
    if (order.length > PER_PAGE) order.splice(MOST_DAMAGED, 0, ...order.splice(-MOST_HELPED));
    const place = order.indexOf(study.classPlace.get(state.category));
    if (key !== shownFor) pages.at = Math.floor(place / PER_PAGE);
    shownFor = key;
    draw();
  });
  function draw() {
    const { study } = source, row = state.row, shown = pages.part(order, PER_PAGE);
    const open = study.classPlace.get(state.category), gap = order.length > PER_PAGE && !pages.at && MOST_DAMAGED;
    // no change is no help, and no damage
    const start = pages.at * PER_PAGE - MOST_HELPED, last = row.drop[shown.at(-1)] < 0 ? "most helped" : "least damaged";
    pages.where.textContent = order.length <= PER_PAGE ? `all ${order.length}`
      : pages.at ? `${start + 1}–${start + shown.length} of ${order.length}`
        : `${MOST_DAMAGED} ${row.drop[shown[MOST_DAMAGED - 1]] > 0 ? "most damaged" : "largest drops"}, ${MOST_HELPED} ${last}`;
    const rows = shown.map((k, at) => bar(k, row, k === open, at === gap)), scale = scaleOf(rows), { from, to } = scale;
    const marks = ticks(from, to === from ? from + 1 : to, 4);
    fill($("axis"), marks.map(t => mark(scale.at(t), 16, brief(t), "middle")));
    refill(body, barRows(rows, scale, marks));
    body.querySelectorAll("[role=button]")[Math.max(0, shown.indexOf(open))]?.setAttribute("tabindex", 0);
    set({ shown });
  }
  function bar(k, row, open, gap) {
    const { study } = source, name = study.classes[k], kind = joined(" ", open && "open", gap && "gap");
    const words = `${name}: ${count(study.n[k], "image")}, accuracy ${text(100 * study.accuracy[k])} %, drop of `
      + `${limited(row.drop[k], row.low[k], row.high[k])} points, ${probability("q", row.q[k])}`
      + (row.lost ? `, ${row.lost[k]} lost, ${row.won[k]} won` : "");
    const button = { role: "button", tabindex: -1, "aria-pressed": String(open), dir: "auto" };
    const cells = [text(row.drop[k]), finite(row.q[k]) ? quotient(row.q[k]) : study.complete ? "–" : "…"];
    return {
      ...app.opensClass(name), class: kind, title: words, words, parts: [dropOf(row, k)], cells,
      name: h.span(button, name, " ", h.small(`(${study.n[k]})`)),
    };
  }
}
