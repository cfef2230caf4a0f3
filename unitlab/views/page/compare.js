// Compare: a pinned unit, A, beside the open one, B: of this layer or of another one, another ablation or network.
const LOST_BY = {
  both: ["Lost by both", "both lose"], a: ["Lost by A alone", "A alone loses"], b: ["Lost by B alone", "B alone loses"],
};

function compareTab(app, panel) {
  const { state, set, source } = app, said = h.p({ class: "ul-sentence" }), alike = note(), fresh = newest();
  const bars = h.div(), points = h.div({ class: "ul-narrow" }), lost = controls(), rows = h.div();
  let found = null, kind = "both";
  const place = () => ({ study: state.study, layer: state.layer, ablation: state.ablation, unit: state.unit });
  const named = ({ study, layer, ablation, unit }) => `unit ${unit} of ${study}, ${layer}, ${ablation}`;
  const pin = button("", () => set({ pinned: place() })), drop = button("Unpin", () => set({ pinned: null }));
  const swap = button("Open A, pin B", () => { const a = state.pinned; set({ pinned: place() }); app.go(a); });
  const images = pagedTiles(app, 12, at => ({
    lines: [source.study.classes[found[`${kind}_class`][at]]], small: "", kind: "ul-lost", words: LOST_BY[kind][0],
  }));
  const content = h.div(h.div({ class: "ul-split" }, bars, points), lost, images.holder, rows);
  panel.append(controls(pin, swap, drop), said, content, alike);

  function dumbbells() {
    const { classes } = source.study, { a, b, a_low, a_high, b_low, b_high, difference, low, high, q } = found;
    const row = (k, at) => ({
      ...app.opensClass(classes[k]), tabindex: at ? -1 : 0, name: h.bdi(classes[k]),
      parts: [[a[k], a_low[k], a_high[k], "a", true], [b[k], b_low[k], b_high[k], "b", true]],
      words: `A ${text(a[k])}, B ${text(b[k])} points`,
      cells: [limited(difference[k], low[k], high[k]) + (finite(q[k]) ? `, ${probability("q", q[k])}` : "")],
    });
    bars.replaceChildren(h.h3(h.span({ class: "key a" }), " A and ", h.span({ class: "key b" }),
      ` B: accuracy drop, points; A less B with its paired 95 % interval${source.live ? "" : ", untested in a report"}`),
    barTable("ul-dumbbells", descending(difference.map(Math.abs)).slice(0, 13).map(row)));
  }
  function classesOfBoth() {
    const { a, b, q } = found, limits = wider(extent([...a, ...b, 0])), [from, to] = limits;
    const frame = frameOf(230, 230, limits, limits, { left: 34, right: 10, top: 10, bottom: 24 }), { px, py } = frame;
    const dot = (name, k) => finite(a[k]) && h.circle({
      class: "point" + (q[k] <= .05 ? " sure" : ""), cx: px(a[k]), cy: py(b[k]), r: 4, ...app.opensClass(name),
    }, h.title(`${name}: A ${text(a[k])}, B ${text(b[k])}`));
    points.replaceChildren(h.h3("Classes: drop under A →, under B ↑"),
      plot("ul-equality", frame, "drop of every class under A and under B, with the line where they are equal",
        h.line({ class: "zero", x1: px(from), y1: py(from), x2: px(to), y2: py(to) }), source.study.classes.map(dot)));
  }
  function lostImages(which) {
    kind = which;
    images.fill(`${LOST_BY[which][0]}: ${count(found[`${which}_images`].length, "image")}`, found[`${which}_images`]);
  }
  function topRow(side, top, most) {
    if (!top?.tiles?.length) return [];
    const shown = each => {
      const name = source.study.classes[each.k];
      return tile(app.opensImage(each.id, each.image), each, `${side}: ${name}`, state, amount(each.activation / most, "sum"),
        h.figcaption(h.span(name), brief(each.activation)));
    };
    return [h.h3(`${side}: top images, activation on one scale`),
      h.div({ class: "ul-tiles" }, top.tiles.slice(0, 8).map(shown))];
  }
  async function both(a, b) {
    found = await fresh(source.row("compare", { a, unit: b.unit }));
    said.replaceChildren(`A is ${named(a)}; B is ${named(b)}. Of the images that either loses, both lose `,
      h.b(finite(found.jaccard) ? `${text(100 * found.jaccard, 0)} %` : "none"), ".");
    dumbbells();
    classesOfBoth();
    lost.replaceChildren(...Object.entries(LOST_BY).map(([name, [, words]]) =>
      button(`${words} ${count(found[`${name}_images`].length, "image")}`, () => lostImages(name))),
    `neither: ${whole(found.neither)}`);
    images.holder.hidden = true;
    const top = ({ unit }) => source.row("top", { unit, of: "all", category: "" });
    const tops = await fresh(Promise.all([sameIn(PLACE, a, b) ? top(a) : null, top(b)]));
    const most = Math.max(...tops.flatMap(row => row?.tiles?.map(tile => tile.activation) ?? []));
    rows.replaceChildren(...topRow("A", tops[0], most), ...topRow("B", tops[1], most));
  }
  return async () => {
    const a = state.pinned, b = place(), ready = a && named(a) !== named(b);
    pin.textContent = `Pin unit ${state.unit} as A`;
    swap.hidden = drop.hidden = !a;
    content.hidden = !ready;
    try {
      if (ready) await both(a, b);
      else said.textContent = a ? `A is ${named(a)}: open another unit, layer or ablation; it is B.`
        : "Pin a unit as A; the next one that is opened is B.";
    } catch (error) {
      content.hidden = true;
      said.textContent = error.message;
      return;
    }
    const { units } = await fresh(source.row("alike", { unit: b.unit }));
    const other = ([unit, overlap]) => [button(`${unit} (${text(100 * overlap, 0)} %)`, () => set({ unit })), " "];
    alike.replaceChildren(`Most alike to unit ${b.unit} in the images that they lose: `, ...units.flatMap(other));
  };
}
compareTab.keys = ["pinned", "unit", "held", "image_style", "image_strength"];
