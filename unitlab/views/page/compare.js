// Compare: a pinned unit, A, beside the open one, B: of this layer or of another one, another ablation or network.
const LOST_BY = {
  both: ["Lost by both", "both lose"], a: ["Lost by A alone", "A alone loses"], b: ["Lost by B alone", "B alone loses"],
};

function compareTab(app) {
  const { state, set, source } = app;
  const named = ({ study, layer, ablation, unit }) => `unit ${unit} of ${study}, ${layer}, ${ablation}`;

  function dumbbells({ a, b, a_low, a_high, b_low, b_high, difference, low, high, q }) {
    const { classes } = source.study, row = (k, at) => ({
      ...app.opensClass(classes[k]), tabindex: at ? -1 : 0, name: h.bdi(classes[k]),
      parts: [[a[k], a_low[k], a_high[k], "a", true], [b[k], b_low[k], b_high[k], "b", true]],
      words: `A ${text(a[k])}, B ${text(b[k])} points`,
      cells: [limited(difference[k], low[k], high[k]) + (finite(q[k]) ? `, ${probability("q", q[k])}` : "")],
    });
    return h.div(h.h3(h.span({ class: "key a" }), " A and ", h.span({ class: "key b" }), " B: accuracy drop, points; A less B",
      low.some(finite) && " with its paired 95 % interval", !source.live && "; a report holds no test of it"),
    barTable("ul-dumbbells", descending(difference.map(Math.abs)).slice(0, 13).map(row)));
  }
  function classesOfBoth({ a, b, q }) {
    const limits = wider(extent([...a, ...b, 0])), [from, to] = limits;
    const frame = frameOf(230, 230, limits, limits, { left: 34, right: 10, top: 10, bottom: 24 }), { px, py } = frame;
    const dot = (name, k) => finite(a[k]) && h.circle({
      class: "point" + (q[k] <= .05 ? " sure" : ""), cx: px(a[k]), cy: py(b[k]), r: 4, ...app.opensClass(name),
    }, h.title(`${name}: A ${text(a[k])}, B ${text(b[k])}`));
    return h.div({ class: "ul-narrow" }, h.h3("Classes: drop under A →, under B ↑"),
      plot("ul-equality", frame, "drop of every class under A and under B, with the line where they are equal",
        h.line({ class: "zero", x1: px(from), y1: py(from), x2: px(to), y2: py(to) }), source.study.classes.map(dot)));
  }
  function lostImages(found) {
    const { classes } = source.study, holder = h.div();
    const shown = Object.entries(LOST_BY).map(([kind, [words, verb]]) => {
      const images = found[`${kind}_images`], number = count(images.length, "image");
      const about = at => ({ lines: [classes[found[`${kind}_class`][at]]], small: "", kind: "ul-lost", words });
      return button(`${verb} ${number}`, async () =>
        fill(holder, await pagedTiles(app, `${words}: ${number}`, images, 12, about).catch(app.fail)));
    });
    return [controls(shown, `neither: ${whole(found.neither)}`), holder];
  }
  function topRow(side, top, most) {
    const shown = each => {
      const name = source.study.classes[each.k];
      return tile(app.opensImage(each.id, each.image), each, `${side}: ${name}`, state, amount(each.activation / most, "sum"),
        h.figcaption(h.span(name), brief(each.activation)));
    };
    return top?.tiles?.length && [h.h3(`${side}: top images, activation on one scale`),
      h.div({ class: "ul-tiles" }, top.tiles.slice(0, 8).map(shown))];
  }
  async function both(a, b) {
    const found = await source.row("compare", { a, unit: b.unit }), share = text(100 * found.jaccard, 0);
    const top = ({ unit }) => source.row("top", { unit, of: "all", category: "" });
    const [ofA, ofB] = await Promise.all([sameIn(PLACE, a, b) ? top(a) : null, top(b)]);
    const most = Math.max(...[ofA, ofB].flatMap(row => row?.tiles?.map(each => each.activation) ?? []));
    return [sentence(`A is ${named(a)}; B is ${named(b)}. Of the images that either loses, both lose `,
      h.b(finite(found.jaccard) ? `${share} %` : "none"), "."),
    h.div({ class: "ul-split" }, dumbbells(found), classesOfBoth(found)), lostImages(found),
    topRow("A", ofA, most), topRow("B", ofB, most)];
  }
  return async () => {
    const { study, layer, ablation, unit, pinned: a } = state, b = { study, layer, ablation, unit };
    const shown = a && named(a) !== named(b) ? await both(a, b).catch(error => sentence(error.message))
      : sentence(a ? `A is ${named(a)}: open another unit, layer or ablation; it is B.`
        : "Pin a unit as A; the next one that is opened is B.");
    const other = ([unit, overlap]) => [button(`${unit} (${text(100 * overlap, 0)} %)`, () => set({ unit })), " "];
    const { units } = await source.row("alike", { unit }).catch(() => ({ units: [] }));
    const pin = button(`Pin unit ${unit} as A`, () => set({ pinned: b })), drop = button("Unpin", () => set({ pinned: null }));
    const swap = button("Open A, pin B", () => { set({ pinned: b }); app.go(a); });
    return [controls(pin, a && [swap, drop]), shown,
      note(`Most alike to unit ${unit} in the images that they lose: `, units.map(other))];
  };
}
compareTab.keys = ["pinned", "unit", "held", "image_style", "image_strength"];
