// A wall: every unit as a tile, its best image with its map and its damage as a bar; in the order of the table, as filtered.
const ON_WALL = 72;

function wallTab(app, panel) {
  const { state, set, source } = app, grid = h.div({ class: "ul-wall-grid" }), said = h.span();
  const pages = pager("Units before", "Further units", draw);
  let turn = null;
  panel.classList.add("ul-wall");
  panel.append(controls(said, pages.holder), grid);
  roving(grid, "[data-unit]", { across: true });

  async function draw() {
    const { study } = source, mine = turn = {}, units = pages.part(app.order, ON_WALL),
      found = await source.row("best", { units });
    if (mine !== turn) return;
    const name = state.category ? OWN_DROP : study.complete ? USUAL_Y : "max_class_drop", all = app.values(name) ?? [],
      [, most] = ends(all);
    said.textContent = `Best image, its map, and ${app.label(name)} as a bar; sorted and filtered like the table.`;
    grid.replaceChildren(...units.map((unit, at) => {
      const i = study.place.get(unit), best = found.tiles[at], words = `unit ${unit}: ${text(all[i])} points`;
      return h.figure({
        "data-unit": unit, role: "button", "aria-label": words, tabindex: at ? -1 : 0, ...pressed(() => set({ unit })),
        title: [words, app.worst(i), app.called(i, true)].filter(Boolean).join(", "),
          "aria-current": unit === state.unit ? "true" : null,
      }, best ? picture(best.sheet, best.place, words, best.map, state) : h.p({ class: "ul-no-picture" }, "never active"),
      amount(Math.abs(all[i]) / (most || 1), sides(all[i])), h.figcaption(`${unit} · ${text(all[i])}`));
    }));
  }
  return draw;
}
wallTab.keys = ["held", "measured", "unit", "kept", "sort", "up", "byClass", "image_style", "image_strength"];
