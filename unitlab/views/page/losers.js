// Picture: a picture that was clicked anywhere, and the units that lose it.
function pictureTab(app, panel) {
  const { state, set, source } = app, said = element("p", { class: "ul-sentence" }), shown = element("div", { class: "ul-tiles" }), units = element("div", { class: "ul-controls" });
  panel.append(said, shown, units);
  return async () => {
    const image = state.picture;
    if (image === null) return said.replaceChildren("Click a picture of any view: which units lose it stands here.");
    const [found, tiles] = await Promise.all([source.row("losers", { image }), source.row("tiles", { images: [image] })]), { classes } = source.study;
    if (state.picture !== image) return;
    const lost = found.units.filter(([, after]) => found.before === found.label && after !== found.label), won = found.units.filter(([, after]) => found.before !== found.label && after === found.label);
    const right = found.before === found.label;
    said.replaceChildren(`${found.image}: `, bold(classes[found.label]), right ? ", predicted right. " : `, predicted ${classes[found.before]}. `, right ? `${count(lost.length, "unit")} of ${source.study.units.length} lose it when silenced${lost.length ? ", the largest margin first:" : "."}` : `${count(won.length, "unit")} win it when silenced${won.length ? ":" : "."}`);
    shown.replaceChildren(...(tiles.sheet ? [element("figure", { "data-image": found.image }, picture(tiles.sheet, 0, found.image))] : []));
    units.replaceChildren(...(right ? lost : won).slice(0, 60).map(([unit, after]) => button(`${unit} → ${shortened(classes[after], 24)}`, () => set({ unit }), { "data-unit": unit, "aria-pressed": String(unit === state.unit) })));
  };
}
pictureTab.keys = ["picture", "unit", "held"];
