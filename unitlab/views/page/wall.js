// A wall: every unit as a tile, its best image with its map and its damage as a bar; in the order of the table, as filtered.
const ON_WALL = 72;

function wallTab(app, panel) {
  const { state, set, source } = app, grid = element("div", { class: "ul-wall-grid" }), where = element("span"), note = element("span");
  let page = 0, turn = null;
  const back = button("◀", () => { page--; draw(); }, { "aria-label": "Units before" }), on = button("▶", () => { page++; draw(); }, { "aria-label": "Further units" });
  panel.classList.add("ul-wall");
  panel.append(element("div", { class: "ul-controls" }, note, element("span", { class: "ul-pager" }, back, where, on)), grid);
  roving(grid, "[data-unit]", { across: true });

  async function draw() {
    const { study } = source, mine = turn = {}, name = state.category ? OWN_DROP : study.complete ? "max_class_drop_crossfit" : "max_class_drop", drops = app.values(name) ?? [], [, most] = ends([...drops]);
    page = Math.min(Math.max(page, 0), Math.max(0, Math.ceil(app.order.length / ON_WALL) - 1));
    const units = app.order.slice(page * ON_WALL, (page + 1) * ON_WALL), found = await source.row("best", { units });
    if (mine !== turn) return;
    note.textContent = `Best image, its map, and ${app.label(name)} as a bar; sorted and filtered like the table.`;
    where.textContent = `${page * ON_WALL + 1}–${page * ON_WALL + units.length} of ${app.order.length}`;
    back.disabled = !page;
    on.disabled = (page + 1) * ON_WALL >= app.order.length;
    grid.replaceChildren(...units.map((unit, at) => {
      const best = found.tiles[at], drop = drops[study.place.get(unit)], words = `unit ${unit}: ${text(drop)} points`;
      return element("figure", { "data-unit": unit, role: "button", "aria-label": words, title: `${words}, ${app.worst(study.place.get(unit))}`, tabindex: at ? -1 : 0, "aria-current": unit === state.unit ? "true" : null, onclick: () => set({ unit }), onkeydown: event => event.key === "Enter" && set({ unit }) },
        best ? picture(best.sheet, best.place, words, best.map, state.image_style, state.image_strength) : element("p", { class: "ul-no-picture" }, "never active"),
        element("svg", { height: 8, class: "ul-amount", "aria-hidden": true }, element("rect", { class: drop >= 0 ? "damage" : "help", height: 7, width: `${100 * Math.abs(drop) / (most || 1)}%` })), element("figcaption", {}, `${unit} · ${text(drop)}`));
    }));
  }
  return draw;
}
wallTab.keys = ["held", "measured", "unit", "kept", "sort", "up", "byClass", "image_style", "image_strength"];
