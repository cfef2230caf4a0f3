// The units as rows: any measures as columns, sorted and filtered.
const SHORT = {
  overall: "overall_drop", max: "max_class_drop", crossfit: "max_class_drop_crossfit", p: "p_specific", drop: OWN_DROP,
};
const HEADS = {
  unit: "unit", worst: "most damaged class", name: "name", overall_drop: "overall, points", max_class_drop: "its drop, points",
  max_class_drop_crossfit: "cross-fitted, points", p_specific: "p, specific", n_damaged: "damaged classes",
  fraction_active: "share of images active",
};
const OF_WORDS = ["worst", "name"], UPWARD = ["unit", ...OF_WORDS, "p_specific", "p_any"];
const NUMBER = "[-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[-+]?\\d+)?";
const COMPARISONS = {
  "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, ">": (a, b) => a > b, "=": (a, b) => a === b,
};

// a text like `class_selectivity>0.5 max>10 animal`: conditions, and words in a unit's name or that of its most damaged class
function readFilter(words, known) {
  const conditions = [], pattern = new RegExp(`(\\w+)\\s*(<=|>=|<|>|=)\\s*(${NUMBER})(?![^\\s,])`, "gi");
  const rest = words.replace(pattern, (_, name, sign, number) => {
    conditions.push([SHORT[name.toLowerCase()] ?? name, sign, Number(number)]);
    return "";
  }).replace(/^[\s,]+|[\s,]+$/g, "");
  const unknown = conditions.find(([name]) => name !== "unit" && !known.includes(name));
  if (unknown) throw new Error(`the table has no numbers called “${unknown[0]}”`);
  if (/[<>=]/.test(rest)) throw new Error(`“${rest}” compares with no number; write conditions like p<0.05 max>10`);
  return { conditions, rest: rest.toLowerCase() };
}

function tableView(app) {
  const { $, state, on, set, source } = app, body = $("rows-of-units");
  let order = [], perPage = app.rows;
  const pages = pager("Rows before", "Further rows", draw, ["back", "rows", "on"]);
  $("rows-pager").replaceWith(pages.holder);
  const words = { unit: i => source.study.units[i], worst: app.worst, name: app.called };
  const value = (name, i) => words[name] ? words[name](i) : app.values(name)?.[i];
  const offered = () => ["unit", ...(source.study.names ? ["name"] : []), "worst", ...source.study.variables];

  function kept() {
    const { study } = source;
    $("wrong").textContent = "";
    if (!state.filter.trim()) return null;
    try {
      const { conditions, rest } = readFilter(state.filter, [OWN_DROP, ...study.variables]);
      const compared = (i, [name, sign, number]) => finite(value(name, i)) && COMPARISONS[sign](value(name, i), number);
      const named = i => !rest || String(study.units[i]) === rest
        || OF_WORDS.some(name => value(name, i).toLowerCase().includes(rest));
      return new Set(study.units.filter((_, i) => named(i) && conditions.every(one => compared(i, one))));
    } catch (error) { $("wrong").textContent = error.message; return state.kept; }
  }
  function arrange(changed) {
    const { study } = source, some = kept(), missing = v => v === null || v === undefined || v === "" || Number.isNaN(v);
    // until the cross-fitted drops are there, units go by what is
    const by = study.measure[state.sort] || words[state.sort] || state.sort === OWN_DROP ? state.sort : "max_class_drop";
    const values = study.units.map((_, i) => value(by, i) ?? null);
    const rises = (a, b) => typeof a === "string" ? a.localeCompare(b) : a - b;
    order = [...study.units.keys()].filter(i => !some || some.has(study.units[i]));
    order.sort((a, b) => missing(values[a]) - missing(values[b])
      || (missing(values[a]) ? 0 : rises(values[a], values[b]) * (state.up ? 1 : -1)) || a - b);
    app.order = order.map(i => study.units[i]);
    pages.at = 0;
    set({ kept: some });
    if (changed.has("held") || changed.has("measured")) follow();
    else draw();
  }
  function follow() {
    const at = order.indexOf(source.study.place.get(state.unit));
    if (at >= 0) pages.at = Math.floor(at / perPage);
    draw();
  }
  function columns() {
    const known = name => name !== OWN_DROP && (name !== "name" || source.study.names);
    const [unit, ...rest] = state.columns.filter(known);
    return [unit, ...(state.category ? [OWN_DROP] : []), ...rest];
  }
  function heads() {
    const head = name => name === OWN_DROP ? `drop of ${shortened(state.category, 22)}` : HEADS[name] ?? app.label(name);
    const sortBy = name => () => set({ up: name === state.sort ? !state.up : UPWARD.includes(name), sort: name });
    const sorted = name => name === state.sort ? (state.up ? "ascending" : "descending") : null;
    $("heads").replaceChildren(...columns().map(name =>
      h.th({ scope: "col", class: OF_WORDS.includes(name) ? "name" : "", "data-sort": name, "aria-sort": sorted(name) },
        button(head(name), sortBy(name), { title: `sort by ${app.label(name)}` }))));
  }
  function cell(name, i) {
    const { study } = source, shown = value(name, i), waiting = study.complete ? "–" : "…";
    const between = (low, high) => finite(low) && h.small(`${text(low)} to ${text(high)}`);
    if (name === "unit") return h.th({ scope: "row" }, h.a({ tabindex: -1 }, String(shown)));
    if (OF_WORDS.includes(name)) {
      return h.td({ class: "name", dir: "auto", title: name === "name" ? app.called(i, true) : shown }, shown || "–");
    }
    if (name === OWN_DROP && state.byClass) {
      const { low, high } = state.byClass;
      return h.td({ class: shown > 0 ? "hurts" : shown < 0 ? "helps" : "" }, text(shown), " ", between(low[i], high[i]));
    }
    if (!study.measure[name]) return h.td(waiting);
    if (name === "max_class_drop") return h.td(text(shown), " ", between(study.worstLow[i], study.worstHigh[i]));
    if (name === "p_specific") return h.td(finite(shown) ? (shown <= .05 ? "● " : "○ ") + quotient(shown) : waiting);
    return h.td(name.includes("drop") ? text(shown) : brief(shown));
  }
  function draw() {
    const { units, place } = source.study, on = pages.part(order, perPage), names = columns();
    const here = place.get(state.unit), stop = on.includes(here) ? here : on[0], focused = body.contains(app.active());
    body.replaceChildren(...on.map(i => h.tr({
      "data-unit": units[i], tabindex: i === stop ? 0 : -1, "aria-current": i === here ? "true" : null,
      "aria-label": `unit ${units[i]}`, class: state.group.includes(units[i]) ? "in-group" : "",
    }, names.map(name => cell(name, i)))));
    if (focused) body.querySelector("tr[tabindex='0']")?.focus();
    if (!order.length) pages.where.textContent = "no unit passes the filter";
    $("make-group").hidden = !state.kept;
    $("hurt").hidden = $("help").hidden = !state.category;
    source.ahead(...on.slice(0, 3).map(i => units[i]));
  }
  // the chosen columns are remembered for the study
  const memory = () => `unitlab columns ${source.study.key.split(" ")[0]}`;
  function remember(columns) {
    set({ columns });
    try { localStorage.setItem(memory(), JSON.stringify(columns)); } catch { /* a page without storage */ }
  }
  function recall() {
    let columns = null;
    try { columns = JSON.parse(localStorage.getItem(memory())); } catch { /* none */ }
    const named = source.study.names && !state.columns.includes("name") ? ["unit", "name", ...state.columns.slice(1)] : null;
    if (!Array.isArray(columns)) columns = named;
    if (columns) set({ columns: columns.filter(name => offered().includes(name)) });
  }
  function choose() {
    const without = name => state.columns.filter(each => each !== name);
    $("columns").replaceChildren(...offered().map(name => h.label(h.input({
      type: "checkbox", checked: state.columns.includes(name), disabled: name === "unit",
      onchange: event => remember(event.target.checked ? [...without(name), name] : without(name)),
    }), " ", HEADS[name] ?? app.label(name))));
  }
  const unitOf = event => Number(event.target.closest("[data-unit]")?.dataset.unit ?? NaN);
  app.wholeTable = whole => { perPage = whole ? Math.max(1, order.length) : app.rows; follow(); };
  body.addEventListener("click", event => finite(unitOf(event)) && set({ unit: unitOf(event) }));
  body.addEventListener("pointerover", event => finite(unitOf(event)) && source.ahead(unitOf(event)));
  body.addEventListener("keydown", event => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], next = app.order[app.order.indexOf(unitOf(event)) + by];
    if (event.altKey || !by || next === undefined) return;
    event.preventDefault();
    set({ unit: next });
  });
  $("filter").addEventListener("input", () => set({ filter: $("filter").value }));
  $("make-group").addEventListener("click", () => set({ group: [...state.kept].sort((a, b) => a - b) }));
  $("hurt").addEventListener("click", () => set({ sort: OWN_DROP, up: false }));
  $("help").addEventListener("click", () => set({ sort: OWN_DROP, up: true }));
  $("choose").addEventListener("toggle", () => $("choose").open && choose());
  // as many rows as the pictures beside leave room for
  const beside = $("pictures").closest(".ul-panel"), panel = body.closest(".ul-panel"), table = $("table");
  app.resized.push([beside, () => {
    const row = body.rows[0]?.offsetHeight, room = panel.clientHeight - table.offsetTop - table.tHead.offsetHeight - 8;
    const fitting = row && beside.offsetTop === panel.offsetTop ? Math.floor(room / row) : 0;
    const wanted = Math.min(24, Math.max(app.rows, fitting));
    if (wanted !== perPage) { perPage = wanted; follow(); }
  }]);
  on(["held"], recall);
  on(["held", "measured", "byClass", "sort", "up", "filter"], arrange);
  on(["held", "measured", "category", "sort", "up", "columns"], heads);
  on(["columns", "category", "group"], draw);
  on(["unit"], follow);
}
