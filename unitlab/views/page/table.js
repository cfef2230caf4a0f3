// The units as rows: any measures as columns, sorted and filtered.
const SHORT = {
  overall: "overall_drop", max: "max_class_drop", crossfit: "max_class_drop_crossfit", p: "p_specific", drop: OWN_DROP,
};
const HEADS = {
  overall_drop: "overall, points", max_class_drop: "its drop, points", max_class_drop_crossfit: "cross-fitted, points",
  p_specific: "p, specific", n_damaged: "damaged classes", fraction_active: "share of images active",
};
const OF_WORDS = ["worst", "name"], UPWARD = ["unit", ...OF_WORDS, "p_specific", "p_any"];
const passes = (a, sign, b) => ({ "<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b, "=": a === b })[sign];

// a text like `class_selectivity>0.5 max>10 animal`: conditions, and words in a unit's name or that of its most damaged class
function readFilter(words, known) {
  const parts = words.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, "$1").split(/[\s,]+/).filter(Boolean);
  const compares = part => /[<>=]/.test(part), rest = parts.filter(part => !compares(part)).join(" ");
  const conditions = parts.filter(compares).map(part => {
    const [, short, sign, number] = /^(\w+)(<=|>=|<|>|=)(\S+)$/.exec(part) ?? [];
    const name = known.find(each => each.toLowerCase() === (SHORT[short] ?? short));
    if (!finite(Number(number))) throw new Error(`“${part}” compares with no number; write conditions like p<0.05 max>10`);
    if (!name) throw new Error(`the table has no numbers called “${short}”`);
    return [name, sign, Number(number)];
  });
  return { conditions, rest };
}

function tableView(app) {
  const { $, state, on, set, source, listen } = app, body = $("rows-of-units");
  let perPage = app.rows;
  const pages = pager("Rows before", "Further rows", draw, ["back", "rows", "on"]);
  $("rows-pager").replaceWith(pages.holder);
  const words = { unit: i => source.study.units[i], worst: app.worst, name: app.called };
  const value = (name, i) => words[name] ? words[name](i) : app.values(name)?.[i];

  function kept() {
    const { study } = source;
    $("wrong").textContent = "";
    if (!state.filter.trim()) return null;
    try {
      const { conditions, rest } = readFilter(state.filter, ["unit", OWN_DROP, ...study.variables]);
      const compared = (i, [name, sign, number]) => finite(value(name, i)) && passes(value(name, i), sign, number);
      const named = i => !rest || String(study.units[i]) === rest
        || OF_WORDS.some(name => value(name, i).toLowerCase().includes(rest));
      return new Set(study.units.filter((_, i) => named(i) && conditions.every(one => compared(i, one))));
    } catch (error) { $("wrong").textContent = error.message; return state.kept; }
  }
  function arrange(changed) {
    const { study } = source, some = kept();
    // until the cross-fitted drops are there, units go by what is
    const by = study.measure[state.sort] || words[state.sort] || state.sort === OWN_DROP ? state.sort : "max_class_drop";
    const values = study.units.map((_, i) => value(by, i)), missing = i => !values[i] && !finite(values[i]);
    const rises = (a, b) => OF_WORDS.includes(by) ? values[a].localeCompare(values[b]) : values[a] - values[b];
    const order = [...study.units.keys()].filter(i => !some || some.has(study.units[i]));
    order.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : rises(a, b) * (state.up ? 1 : -1)) || a - b);
    app.order = order.map(i => study.units[i]);
    pages.at = 0;
    set({ kept: some });
    if (changed.has("held") || changed.has("measured")) follow();
    else draw();
  }
  function follow() {
    const at = app.order.indexOf(state.unit);
    if (at >= 0) pages.at = Math.floor(at / perPage);
    draw();
  }
  const title = name => name === OWN_DROP ? `drop of ${shortened(state.category, 22)}` : HEADS[name] ?? app.label(name);
  const columns = () => state.columns.toSpliced(1, 0, ...(state.category ? [OWN_DROP] : []));
  function cell(name, i) {
    const { study } = source, shown = value(name, i), waiting = study.complete ? "–" : "…";
    const limits = (low, high) => [text(shown), " ", finite(low) && h.small(`${text(low)} to ${text(high)}`)];
    if (name === "unit") return h.th({ scope: "row" }, h.a({ tabindex: -1 }, String(shown)));
    const title = name === "name" ? app.called(i, true) : shown, { low, high } = state.byClass ?? {};
    if (OF_WORDS.includes(name)) return h.td({ class: "name", dir: "auto", title }, shown || "–");
    const way = shown > 0 ? "hurts" : shown < 0 ? "helps" : "";
    if (name === OWN_DROP && low) return h.td({ class: way }, limits(low[i], high[i]));
    if (!study.measure[name]) return h.td(waiting);
    if (name === "max_class_drop") return h.td(limits(study.worstLow[i], study.worstHigh[i]));
    if (name === "p_specific") return h.td(finite(shown) ? (shown <= .05 ? "● " : "○ ") + quotient(shown) : waiting);
    return h.td(name.includes("drop") ? text(shown) : brief(shown));
  }
  function draw() {
    const on = pages.part(app.order, perPage), names = columns(), stop = on.includes(state.unit) ? state.unit : on[0];
    const focused = body.matches(":focus-within");
    fill(body, on.map(unit => h.tr({
      ...app.opensUnit(unit, unit === stop), "aria-label": `unit ${unit}`, class: state.group.includes(unit) ? "in-group" : "",
      onpointerenter: () => app.ahead(unit),
    }, names.map(name => cell(name, source.study.place.get(unit))))));
    if (focused) body.querySelector("tr[tabindex='0']")?.focus();
    if (!app.order.length) pages.where.textContent = "no unit passes the filter";
    $("make-group").hidden = !state.kept;
    $("hurt").hidden = $("help").hidden = !state.category;
    app.ahead(...on.slice(0, 3));
  }
  // the chosen columns are remembered for the study
  const memory = () => `unitlab columns ${source.study.key.split(" ")[0]}`;
  function recall() {
    const { names, variables } = source.study, offered = ["unit", ...(names ? ["name"] : []), "worst", ...variables];
    let columns = names && !state.columns.includes("name") ? ["unit", "name", ...state.columns.slice(1)] : state.columns;
    try { columns = JSON.parse(localStorage.getItem(memory())) ?? columns; } catch { /* none */ }
    set({ columns: columns.filter(name => offered.includes(name)) });
    return offered;
  }
  function choose() {
    fill($("columns"), recall().map(name => h.label(h.input({
      type: "checkbox", checked: state.columns.includes(name), disabled: name === "unit",
      onchange: () => {
        set({ columns: toggled(state.columns, name) });
        try { localStorage.setItem(memory(), JSON.stringify(state.columns)); } catch { /* a page without storage */ }
      },
    }), " ", title(name))));
  }
  app.wholeTable = whole => { perPage = whole ? Math.max(1, app.order.length) : app.rows; follow(); };
  listen("rows-of-units", keyed({ ArrowDown: 1, ArrowUp: -1 }, (by, { target }) => {
    const here = Number(target.closest("tr").dataset.unit), unit = app.order[app.order.indexOf(here) + by];
    set({ unit: unit ?? here });
  }), "keydown");
  listen("make-group", () => set({ group: [...state.kept].sort((a, b) => a - b) }));
  listen("hurt", () => set({ sort: OWN_DROP, up: false }));
  listen("help", () => set({ sort: OWN_DROP, up: true }));
  listen("choose", () => $("choose").open && choose(), "toggle");
  // as many rows as the pictures beside leave room for
  const beside = $("pictures").closest(".ul-panel"), panel = body.closest(".ul-panel"), table = $("table");
  new ResizeObserver(() => {
    const row = body.rows[0]?.offsetHeight, room = panel.clientHeight - table.offsetTop - table.tHead.offsetHeight - 8;
    const fitting = row && beside.offsetTop === panel.offsetTop ? Math.floor(room / row) : 0;
    const wanted = Math.min(24, Math.max(app.rows, fitting));
    if (!beside.clientWidth || wanted === perPage) return;
    const first = pages.at * perPage, open = app.order.slice(first, first + perPage).includes(state.unit);
    [perPage, pages.at] = [wanted, Math.floor(first / wanted)];
    open ? follow() : draw(); // else from where the page began
  }).observe(beside);
  on(["held"], recall);
  on(["held", "measured", "byClass", "sort", "up", "filter"], arrange);
  on(["held", "measured", "category", "sort", "up", "columns"], () => {
    const sortBy = name => () => set({ up: name === state.sort ? !state.up : UPWARD.includes(name), sort: name });
    const sorted = name => name === state.sort ? (state.up ? "ascending" : "descending") : null;
    fill($("heads"), columns().map(name =>
      h.th({ scope: "col", class: OF_WORDS.includes(name) ? "name" : "", "data-sort": name, "aria-sort": sorted(name) },
        button(title(name), sortBy(name), { title: `sort by ${app.label(name)}` }))));
  });
  on(["columns", "category", "group"], draw);
  on(["unit"], follow);
}
