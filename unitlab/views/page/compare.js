// Compare: a pinned unit, A, beside the open one, B: of this layer or of another one, another ablation or network.
function compareTab(app, panel) {
  const { state, set, source } = app, said = h.p({ class: "ul-sentence" }), bars = h.div(),
    points = h.div({ class: "ul-narrow" });
  const lost = controls(), rows = h.div(), alike = note();
  let found = null, kind = "both";
  const place = () => ({ study: state.study, layer: state.layer, ablation: state.ablation, unit: state.unit });
  const named = ({ study, layer, ablation, unit }) => `unit ${unit} of ${study}, ${layer}, ${ablation}`;
  const pin = button("", () => set({ pinned: place() })), drop = button("Unpin", () => set({ pinned: null }));
  const swap = button("Open A, pin B", () => { const a = state.pinned; set({ pinned: place() }); app.go(a); });
  const images = pagedTiles(app, 12, at => ({
    lines: [source.study.classes[found[`${kind}_class`][at]]], small: "", kind: "ul-lost",
    words: `lost by ${kind === "both" ? "both" : `${kind.toUpperCase()} alone`}`,
  }));
  const parts = [bars, points, lost, images.holder, rows];
  panel.append(controls(pin, swap, drop), said, h.div({ class: "ul-split" }, bars, points), lost, images.holder, rows, alike);

  function dumbbells() {
    const { classes } = source.study, { a, b, a_low, a_high, b_low, b_high, difference, low, high, q } = found;
    const order = descending(difference.map(Math.abs)).slice(0, 13);
    const scale = share(...ends(order.flatMap(k => [a_low[k], a_high[k], b_low[k], b_high[k]])));
    const row = k => h.tr({ "data-category": classes[k], onclick: () => app.chooseClass(classes[k]) },
      h.th({ scope: "row" }, h.bdi(classes[k])),
      h.td(drops([[a[k], a_low[k], a_high[k], "a", true], [b[k], b_low[k], b_high[k], "b", true]], scale,
        `A ${text(a[k])}, B ${text(b[k])} points`)),
      h.td(limited(difference[k], low[k], high[k]) + (finite(q[k]) ? `, ${probability("q", q[k])}` : "")));
    bars.replaceChildren(h.h3(h.span({ class: "key a" }), " A and ", h.span({ class: "key b" }),
      " B: accuracy drop, points; A less B with its paired 95 % interval"),
    h.table({ class: "ul-bars ul-dumbbells" }, h.tbody(order.map(row))));
  }
  function classesOfBoth() {
    const { a, b, q } = found, limits = wider(extent([...a, ...b, 0])), [from, to] = limits;
    const frame = frameOf(230, 230, limits, limits, { left: 34, right: 10, top: 10, bottom: 24 }), { px, py } = frame;
    const dot = (name, k) => finite(a[k]) && h.circle({
      class: "point" + (q[k] <= .05 ? " sure" : ""), cx: px(a[k]), cy: py(b[k]), r: 4, "data-category": name,
    }, h.title(`${name}: A ${text(a[k])}, B ${text(b[k])}`));
    const words = "drop of every class under A and under B, with the line where they are equal";
    points.replaceChildren(h.h3("Classes: drop under A →, under B ↑"),
      h.svg({ class: "ul-equality", viewBox: "0 0 230 230", role: "img", "aria-label": words }, gridOf(frame),
        h.line({ class: "zero", x1: px(from), y1: py(from), x2: px(to), y2: py(to) }), source.study.classes.map(dot)));
  }
  function lostImages(which) {
    kind = which;
    const title = { both: "Lost by both", a: "Lost by A alone", b: "Lost by B alone" }[which], some = found[`${which}_images`];
    images.fill(`${title}: ${count(some.length, "image")}`, some);
  }
  function topRow(side, top, most) {
    if (!top?.tiles?.length) return [];
    const shown = ({ id, place, k, map, activation }) => h.figure({ "data-image": id },
      picture(top.sheet, place, `${side}: ${source.study.classes[k]}`, map, state), amount(activation / most, "sum"),
      h.figcaption(h.span(source.study.classes[k]), brief(activation)));
    return [h.h3(`${side}: top images, activation on one scale`),
      h.div({ class: "ul-tiles" }, top.tiles.slice(0, 8).map(shown))];
  }
  async function both(a, b) {
    found = await source.row("compare", { a, unit: b.unit });
    said.replaceChildren(`A is ${named(a)}; B is ${named(b)}. Of the images that either loses, both lose `,
      h.b(finite(found.jaccard) ? `${text(100 * found.jaccard, 0)} %` : "none"), ".");
    dumbbells();
    classesOfBoth();
    const which = [["both", "both lose"], ["a", "A alone loses"], ["b", "B alone loses"]];
    lost.replaceChildren(...which.map(([name, words]) =>
      button(`${words} ${count(found[`${name}_images`].length, "image")}`, () => lostImages(name))),
      `neither: ${found.neither.toLocaleString("en")}`);
    images.holder.hidden = true;
    const here = ["study", "layer", "ablation"].every(name => a[name] === b[name]);
    const top = unit => source.row("top", { unit, of: "all", category: "" });
    const tops = await Promise.all([here ? top(a.unit) : null, top(b.unit)]);
    const most = Math.max(...tops.flatMap(row => row?.tiles?.map(tile => tile.activation) ?? []));
    rows.replaceChildren(...topRow("A", tops[0], most), ...topRow("B", tops[1], most));
  }
  return async () => {
    const a = state.pinned, b = place(), ready = a && named(a) !== named(b);
    pin.textContent = `Pin unit ${state.unit} as A`;
    swap.hidden = drop.hidden = !a;
    for (const part of parts) part.hidden = !ready;
    if (!ready) {
      said.textContent = a ? `A is ${named(a)}: open another unit, layer or ablation; it is B.`
        : "Pin a unit as A; the next one that is opened is B.";
    } else try { await both(a, b); } catch (error) {
      for (const part of parts) part.hidden = true;
      said.textContent = error.message;
      return;
    }
    const { units } = await source.row("alike", { unit: b.unit });
    const other = ([unit, overlap]) => [button(`${unit} (${text(100 * overlap, 0)} %)`, () => set({ unit })), " "];
    alike.replaceChildren(`Most alike to unit ${b.unit} in the images that they lose: `, ...units.flatMap(other));
  };
}
compareTab.keys = ["pinned", "unit", "held", "image_style", "image_strength"];
