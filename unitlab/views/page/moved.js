// Lost and won: the images whose prediction an ablation changes, and where the lost ones go.
function movedTab(app, panel) {
  const { state, source } = app, sentence = h.p({ class: "ul-sentence" }), where = h.div({ class: "ul-narrow" });
  let found = null;
  const tiles = { lost: pagedTiles(app, 12, at => tile("lost", at)), won: pagedTiles(app, 12, at => tile("won", at)) };
  panel.append(sentence, h.div({ class: "ul-split" }, tiles.lost.holder, tiles.won.holder, where));

  function tile(kind, at) {
    const name = end => source.study.classes[found[`${kind}_${end}`][at]], before = name("before"), after = name("after");
    const margin = found[`${kind}_margin`], later = found[`${kind}_margin_after`];
    const small = margin ? `margin ${text(margin[at])} → ${text(later[at])}` : "";
    const lines = state.category ? [kind === "lost" ? `→ ${after}` : before] : [before, `→ ${after}`];
    return { lines, small, kind: `ul-${kind}`, words: `${kind}: predicted ${before} before, ${after} after. ${small}` };
  }
  function draw() {
    const { classes } = source.study, { lost, won, swapped, of } = found, here = state.category, all = of.toLocaleString("en");
    const among = here ? [`the ${all} images of `, bold(here)] : [`all ${all} images`],
      number = value => h.b(value.toLocaleString("en"));
    const are = value => value === 1 ? "is" : "are", go = `${swapped.toLocaleString("en")} ${swapped === 1 ? "goes" : "go"}`;
    const words = lost.length + won.length + swapped ? [`Without unit ${state.unit}, of `, ...among, " ", number(lost.length),
      ` ${are(lost.length)} lost (right before, wrong after) and `, number(won.length),
        ` won; ${go} from one wrong class to another.`]
      : [`Without unit ${state.unit}, the prediction of none of `, ...among, " changes."];
    sentence.replaceChildren(...words);
    for (const [title, kind] of [["Lost", "lost"], ["Won", "won"]]) {
      tiles[kind].fill(`${title}: ${count(found[kind].length, "image")}${here ? ` of ${here}` : ""}`, found[kind]);
    }
    const rows = found.pairs.map(([from, to, number]) => [here ? [classes[to]] : [classes[from], classes[to]], number]);
    where.replaceChildren(h.h3("Where the lost images go"),
      rows.length ? countBars(rows, "lost images by class before and after") : note("Nowhere: no image is lost."),
      found.rest ? note(`${count(found.rest, "image")} in ${found.n_pairs - rows.length} other pairs.`) : "");
  }
  app.onSlot("moved", row => { found = row; draw(); });
  return () => app.load("moved", "moved", { unit: state.unit, category: state.category });
}
movedTab.keys = ["unit", "category", "held"];
