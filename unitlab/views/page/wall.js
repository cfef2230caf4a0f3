// A wall: every unit as a tile, its best image with its map and its damage as a bar; in the order of the table, as filtered.
const ON_WALL = 72;

function wallTab(app, again) {
  const { state, source } = app, pages = pager("Units before", "Further units", again);
  return async () => {
    const { study } = source, units = pages.part(app.order, ON_WALL), { tiles } = await source.row("best", { units });
    const name = state.category ? OWN_DROP : study.complete ? USUAL_Y : "max_class_drop", all = app.values(name) ?? [];
    const said = h.span(`Best image, its map, and ${app.label(name)} as a bar; sorted and filtered like the table.`);
    const most = extent([0, ...all])[1] || 1, grid = h.div({ class: "ul-wall-grid" }, units.map((unit, at) => {
      const i = study.place.get(unit), best = tiles[at], words = `unit ${unit}: ${text(all[i])} points`;
      const title = joined(", ", words, app.worst(i), app.called(i, true));
      return tile({ ...app.opensUnit(unit, at === 0), role: "button", "aria-label": words, title }, best ?? {},
        best ? words : "never active", state, amount(Math.abs(all[i]) / most, sides(all[i])),
        h.figcaption(`${unit} · ${text(all[i])}`));
    }));
    roving(grid, "[data-unit]");
    return h.div({ class: "ul-wall" }, controls(said, pages.holder), grid);
  };
}
wallTab.keys = ["held", "measured", "unit", "kept", "sort", "up", "byClass", "image_style", "image_strength"];
