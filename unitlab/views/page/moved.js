// Lost and won: the images whose prediction an ablation changes, and where the lost ones go.
const movedTab = app => async () => {
  const { unit, category } = app.state, { classes } = app.source.study;
  const found = await app.source.row("moved", { unit, category }), { lost, won, swapped, of, pairs, rest } = found;
  function tiles(kind, title) {
    const margin = found[`${kind}_margin`], later = found[`${kind}_margin_after`], images = found[kind];
    return pagedTiles(app, `${title}: ${count(images.length, "image")}${category && ` of ${category}`}`, images, 12, at => {
      const [before, after] = ["before", "after"].map(end => classes[found[`${kind}_${end}`][at]]);
      const small = margin ? `margin ${text(margin[at])} → ${text(later[at])}` : "";
      const lines = category ? [kind === "lost" ? `→ ${after}` : before] : [before, `→ ${after}`];
      return { lines, small, kind: `ul-${kind}`, words: `${kind}: predicted ${before} before, ${after} after. ${small}` };
    });
  }
  // names, or where they go, above a bar as long as their number
  const most = Math.max(...pairs.map(([, , number]) => number)), bars = pairs.map(([from, to, number]) => {
    const names = category ? [classes[to]] : [classes[from], classes[to]];
    const chain = names.map((name, at) => [at ? " → " : "", h.bdi(shortened(name, Math.floor(52 / names.length)))]);
    return h.tr({ title: names.join(" → ") },
      h.th({ scope: "row" }, chain, amount(number / most, "damage")), h.td(whole(number)));
  });
  const among = category ? [`the ${whole(of)} images of `, bold(category)] : [`all ${whole(of)} images`];
  return [sentence(`Without unit ${unit}, `, lost.length + won.length + swapped ? ["of ", among, " ", h.b(whole(lost.length)),
    ` ${lost.length === 1 ? "is" : "are"} lost (right before, wrong after) and `, h.b(whole(won.length)),
    ` won; ${whole(swapped)} ${swapped === 1 ? "goes" : "go"} from one wrong class to another.`]
    : ["the prediction of none of ", among, " changes."]),
  h.div({ class: "ul-split" }, await Promise.all([tiles("lost", "Lost"), tiles("won", "Won")]), h.div({ class: "ul-narrow" },
    h.h3("Where the lost images go"), pairs.length
      ? h.table({ class: "ul-count-bars", "aria-label": "lost images by class before and after" }, h.tbody(bars))
      : note("Nowhere: no image is lost."),
    rest > 0 && note(`${count(rest, "image")} in ${found.n_pairs - pairs.length} other pairs.`)))];
};
movedTab.keys = ["unit", "category", "held"];
