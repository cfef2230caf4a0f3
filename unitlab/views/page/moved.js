// Lost and won: the images whose prediction an ablation changes, and where the lost ones go.
function movedTab(app, panel) {
  const { state, source } = app, sentence = h.p({ class: "ul-sentence" }), where = h.div({ class: "ul-narrow" });
  const kinds = ["lost", "won"].map(kind => [kind, pagedTiles(app, 12, at => about(kind, at))]), fresh = newest();
  let found = null, category = "";
  panel.append(sentence, h.div({ class: "ul-split" }, kinds.map(([, tiles]) => tiles.holder), where));

  function about(kind, at) {
    const name = end => source.study.classes[found[`${kind}_${end}`][at]], before = name("before"), after = name("after");
    const margin = found[`${kind}_margin`], later = found[`${kind}_margin_after`];
    const small = margin ? `margin ${text(margin[at])} → ${text(later[at])}` : "";
    const lines = category ? [kind === "lost" ? `→ ${after}` : before] : [before, `→ ${after}`];
    return { lines, small, kind: `ul-${kind}`, words: `${kind}: predicted ${before} before, ${after} after. ${small}` };
  }
  // names, or where they go, above a bar as long as their number
  function countBar([from, to, number], most) {
    const { classes } = source.study, names = category ? [classes[to]] : [classes[from], classes[to]];
    const chain = names.map((name, at) => [at ? " → " : "", h.bdi(shortened(name, Math.floor(52 / names.length)))]);
    return h.tr({ title: names.join(" → ") },
      h.th({ scope: "row" }, chain, amount(number / most, "damage")), h.td(whole(number)));
  }
  return async () => {
    category = state.category;
    found = await fresh(source.row("moved", { unit: state.unit, category }));
    const { lost, won, swapped, of, pairs, rest } = found, unit = `Without unit ${state.unit}, `;
    const among = category ? [`the ${whole(of)} images of `, bold(category)] : [`all ${whole(of)} images`];
    sentence.replaceChildren(...(lost.length + won.length + swapped ? [unit, "of ", ...among, " ", h.b(whole(lost.length)),
      ` ${lost.length === 1 ? "is" : "are"} lost (right before, wrong after) and `, h.b(whole(won.length)),
      ` won; ${whole(swapped)} ${swapped === 1 ? "goes" : "go"} from one wrong class to another.`]
      : [unit, "the prediction of none of ", ...among, " changes."]));
    for (const [kind, tiles] of kinds) {
      const title = `${kind === "lost" ? "Lost" : "Won"}: ${count(found[kind].length, "image")}`;
      tiles.fill(category ? `${title} of ${category}` : title, found[kind]);
    }
    const bars = pairs.map(pair => countBar(pair, Math.max(...pairs.map(([, , number]) => number))));
    where.replaceChildren(h.h3("Where the lost images go"), pairs.length
      ? h.table({ class: "ul-count-bars", "aria-label": "lost images by class before and after" }, h.tbody(bars))
      : note("Nowhere: no image is lost."),
    rest ? note(`${count(rest, "image")} in ${found.n_pairs - pairs.length} other pairs.`) : "");
  };
}
movedTab.keys = ["unit", "category", "held"];
