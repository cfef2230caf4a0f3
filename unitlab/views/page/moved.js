// Lost and won: the images whose prediction an ablation changes, and where the lost ones go.
function movedTab(app, panel) {
  const { state, source } = app;
  let found = null;
  const sentence = element("p", { class: "ul-sentence" }), where = element("div", { class: "ul-narrow" });
  const tiles = Object.fromEntries(["lost", "won"].map(kind => [kind, pagedTiles(app, 12, at => tile(kind, at))]));
  panel.append(sentence, element("div", { class: "ul-split" }, tiles.lost.holder, tiles.won.holder, where));

  function tile(kind, at) {
    const name = k => source.study.classes[k], before = name(found[`${kind}_before`][at]), after = name(found[`${kind}_after`][at]), margin = found[`${kind}_margin`];
    const small = margin ? `margin ${text(margin[at])} → ${text(found[`${kind}_margin_after`][at])}` : "";
    const lines = state.category ? [kind === "lost" ? `→ ${after}` : before] : [before, `→ ${after}`];
    return { lines, small, kind: `ul-${kind}`, words: `${kind}: predicted ${before} before, ${after} after. ${small}` };
  }
  function draw() {
    const { classes } = source.study, { lost, won, swapped, of } = found, here = state.category;
    const among = here ? [`the ${of.toLocaleString("en")} images of `, bold(here)] : [`all ${of.toLocaleString("en")} images`];
    sentence.replaceChildren(...(lost.length + won.length + swapped
      ? [`Without unit ${state.unit}, of `, ...among, " ", element("b", {}, lost.length.toLocaleString("en")), ` ${lost.length === 1 ? "is" : "are"} lost (right before, wrong after) and `, element("b", {}, won.length.toLocaleString("en")), ` won; ${swapped.toLocaleString("en")} ${swapped === 1 ? "goes" : "go"} from one wrong class to another.`]
      : [`Without unit ${state.unit}, the prediction of none of `, ...among, " changes."]));
    const of_ = here ? ` of ${here}` : "";
    tiles.lost.fill(`Lost: ${count(lost.length, "image")}${of_}`, lost);
    tiles.won.fill(`Won: ${count(won.length, "image")}${of_}`, won);
    const rows = found.pairs.map(([from, to, number]) => [here ? [classes[to]] : [classes[from], classes[to]], number]);
    where.replaceChildren(element("h3", {}, "Where the lost images go"), rows.length ? countBars(rows, "lost images by class before and after") : element("p", { class: "ul-note" }, "Nowhere: no image is lost."),
      found.rest ? element("p", { class: "ul-note" }, `${count(found.rest, "image")} in ${found.n_pairs - rows.length} other pairs.`) : "");
  }
  app.onSlot("moved", row => { found = row; draw(); });
  return () => app.load("moved", "moved", { unit: state.unit, category: state.category });
}
movedTab.keys = ["unit", "category", "held"];
