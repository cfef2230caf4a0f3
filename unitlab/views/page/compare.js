// Compare: a pinned unit, A, beside the open one, B: of this layer or of another one, another ablation or network.
function compareTab(app, panel) {
  const { state, set, source } = app, said = element("p", { class: "ul-sentence" }), bars = element("div"), points = element("div", { class: "ul-narrow" }), lost = element("div", { class: "ul-controls" }), rows = element("div"), alike = element("p", { class: "ul-note" });
  let found = null, tops = null, kind = "both";
  const place = () => ({ study: state.study, layer: state.layer, ablation: state.ablation, unit: state.unit }), named = ({ study, layer, ablation, unit }) => `unit ${unit} of ${study}, ${layer}, ${ablation}`;
  const pin = button("", () => set({ pinned: place() })), swap = button("Open A, pin B", () => { const a = state.pinned; set({ pinned: place() }); app.go(a); }), drop = button("Unpin", () => set({ pinned: null }));
  const images = pagedTiles(app, 12, at => ({ lines: [source.study.classes[found[`${kind}_class`][at]]], small: "", kind: "ul-lost", words: `lost by ${kind === "both" ? "both" : kind.toUpperCase() + " alone"}` }));
  panel.append(element("div", { class: "ul-controls" }, pin, swap, drop), said, element("div", { class: "ul-split" }, bars, points), lost, images.holder, rows, alike);

  function dumbbells() {
    const { study } = source, order = [...study.classes.keys()].filter(k => finite(found.difference[k])).sort((a, b) => Math.abs(found.difference[b]) - Math.abs(found.difference[a])).slice(0, 13);
    const scale = share(...ends(order.flatMap(k => [found.a_low[k], found.a_high[k], found.b_low[k], found.b_high[k]]))), mark = (side, k, y) => [element("line", { class: `limits ${side}`, x1: scale.at(found[`${side}_low`][k]), x2: scale.at(found[`${side}_high`][k]), y1: y, y2: y }), element("circle", { class: side, cx: scale.at(found[side][k]), cy: y, r: 4 })];
    const line = k => element("tr", { "data-category": study.classes[k], onclick: () => app.chooseClass(study.classes[k]) }, element("th", { scope: "row" }, element("bdi", {}, study.classes[k])),
      element("td", {}, element("svg", { role: "img", "aria-label": `A ${text(found.a[k])}, B ${text(found.b[k])} points` }, element("line", { class: "zero", x1: scale.at(0), x2: scale.at(0), y1: 0, y2: "100%" }), ...mark("a", k, "32%"), ...mark("b", k, "68%"))),
      element("td", {}, `${text(found.difference[k])} (${text(found.low[k])} to ${text(found.high[k])})${finite(found.q[k]) ? `, ${probability("q", found.q[k])}` : ""}`));
    bars.replaceChildren(element("h3", {}, element("span", { class: "key a" }), " A and ", element("span", { class: "key b" }), " B: accuracy drop, points; A less B with its paired 95 % interval"), element("table", { class: "ul-bars ul-dumbbells" }, element("tbody", {}, order.map(line))));
  }
  function classesOfBoth() {
    const { study } = source, size = 230, [from, to] = wider(extent([...found.a, ...found.b, 0])), at = value => 34 + (value - from) / (to - from) * (size - 44), y = value => size - at(value);
    const dots = study.classes.map((name, k) => finite(found.a[k]) && element("circle", { class: "point" + (found.q[k] <= .05 ? " sure" : ""), cx: at(found.a[k]), cy: y(found.b[k]), r: 4, "data-category": name }, element("title", {}, `${name}: A ${text(found.a[k])}, B ${text(found.b[k])}`)));
    points.replaceChildren(element("h3", {}, "Classes: drop under A →, under B ↑"), element("svg", { class: "ul-equality", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "drop of every class under A and under B, with the line where they are equal" }, element("line", { class: "zero", x1: at(from), y1: y(from), x2: at(to), y2: y(to) }),
      ticks(from, to, 4).map(t => [element("text", { x: at(t), y: size - 6, "text-anchor": "middle" }, brief(t)), element("text", { x: 26, y: y(t) + 4, "text-anchor": "end" }, brief(t))]).flat(), dots));
  }
  function lostImages(which) {
    kind = which;
    images.fill(`${{ both: "Lost by both", a: "Lost by A alone", b: "Lost by B alone" }[which]}: ${count(found[which + "_images"].length, "image")}`, found[which + "_images"]);
  }
  function topRow(side, top, most) {
    if (!top?.tiles?.length) return "";
    return [element("h3", {}, `${side}: top images, activation on one scale`), element("div", { class: "ul-tiles" }, top.tiles.slice(0, 8).map(tile => element("figure", { "data-image": tile.id }, picture(top.sheet, tile.place, `${side}: ${source.study.classes[tile.k]}`, tile.map, state.image_style, state.image_strength),
      element("svg", { height: 6, class: "ul-amount", "aria-hidden": true }, element("rect", { class: "sum", width: `${100 * tile.activation / most}%`, height: 5 })), element("figcaption", {}, element("span", {}, source.study.classes[tile.k]), brief(tile.activation)))))];
  }
  async function draw() {
    const a = state.pinned, b = place();
    pin.textContent = `Pin unit ${state.unit} as A`;
    swap.hidden = drop.hidden = !a;
    const ready = a && named(a) !== named(b);
    for (const part of [bars, points, lost, images.holder, rows]) part.hidden = !ready;
    if (!ready) said.textContent = a ? `A is ${named(a)}: open another unit, layer or ablation; it is B.` : "Pin a unit as A; the next one that is opened is B.";
    else {
      try { found = await source.row("compare", { a, unit: b.unit }); } catch (error) { for (const part of [bars, points, lost, images.holder, rows]) part.hidden = true; said.textContent = error.message; return; }
      said.replaceChildren(`A is ${named(a)}; B is ${named(b)}. Of the images that either loses, both lose `, element("b", {}, finite(found.jaccard) ? `${text(100 * found.jaccard, 0)} %` : "none"), ".");
      dumbbells();
      classesOfBoth();
      lost.replaceChildren(...[["both", "both lose"], ["a", "A alone loses"], ["b", "B alone loses"]].map(([name, words]) => button(`${words} ${count(found[name + "_images"].length, "image")}`, () => lostImages(name))), `neither: ${found.neither.toLocaleString("en")}`);
      images.holder.hidden = true;
      const here = a.study === b.study && a.layer === b.layer && a.ablation === b.ablation;
      tops = await Promise.all([here ? source.row("top", { unit: a.unit, of: "all", category: "" }) : null, source.row("top", { unit: b.unit, of: "all", category: "" })]);
      const most = Math.max(...tops.flatMap(top => top?.tiles?.map(tile => tile.activation) ?? []));
      rows.replaceChildren(...topRow("A", tops[0], most), ...topRow("B", tops[1], most));
    }
    const { units } = await source.row("alike", { unit: b.unit });
    alike.replaceChildren(`Most alike to unit ${b.unit} in the images that they lose: `, ...units.flatMap(([unit, overlap]) => [button(`${unit} (${text(100 * overlap, 0)} %)`, () => set({ unit })), " "]));
  }
  return draw;
}
compareTab.keys = ["pinned", "unit", "held", "image_style", "image_strength"];
