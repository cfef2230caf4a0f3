// The units as rows: any measures as columns, sorted and filtered.
const SHORT = { overall: "overall_drop", max: "max_class_drop", crossfit: "max_class_drop_crossfit", p: "p_specific", drop: OWN_DROP };
const HEADS = { unit: "unit", worst: "most damaged class", overall_drop: "overall, points", max_class_drop: "its drop, points", max_class_drop_crossfit: "cross-fitted, points", p_specific: "p, specific", n_damaged: "damaged classes", fraction_active: "share of images active" };
const UPWARD = ["unit", "worst", "p_specific", "p_any"];
const NUMBER = "[-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[-+]?\\d+)?";
const COMPARISONS = { "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, ">": (a, b) => a > b, "=": (a, b) => a === b };

// a text like `class_selectivity>0.5 max>10 animal`: conditions, and words in the name of the most damaged class
function readFilter(words, known) {
  const conditions = [], pattern = new RegExp(`(\\w+)\\s*(<=|>=|<|>|=)\\s*(${NUMBER})(?![^\\s,])`, "gi");
  const rest = words.replace(pattern, (_, name, sign, number) => { conditions.push([SHORT[name.toLowerCase()] ?? name, sign, Number(number)]); return ""; }).replace(/^[\s,]+|[\s,]+$/g, "");
  for (const [name] of conditions) if (name !== "unit" && !known.includes(name)) throw new Error(`the table has no numbers called “${name}”`);
  if (/[<>=]/.test(rest)) throw new Error(`“${rest}” compares with no number; write conditions like p<0.05 max>10`);
  return { conditions, rest: rest.toLowerCase() };
}

function tableView(app) {
  const { $, state, on, set, source } = app, body = $("rows-of-units");
  let order = [], page = 0, perPage = app.rows;
  const value = (name, i) => name === "unit" ? source.study.units[i] : name === "worst" ? app.worst(i) : app.values(name)?.[i];
  const numbers = () => [OWN_DROP, ...source.study.variables];

  function kept() {
    const { study } = source;
    $("wrong").textContent = "";
    if (!state.filter.trim()) return null;
    try {
      const { conditions, rest } = readFilter(state.filter, numbers());
      const passes = i => conditions.every(([name, sign, number]) => finite(value(name, i)) && COMPARISONS[sign](value(name, i), number))
        && (!rest || String(study.units[i]) === rest || (app.worst(i) ?? "").toLowerCase().includes(rest));
      return new Set(study.units.filter((_, i) => passes(i)));
    } catch (error) {
      $("wrong").textContent = error.message;
      return state.kept;
    }
  }
  function arrange(changed) {
    const { study } = source, some = kept(), name = state.sort, missing = v => v === null || v === undefined || Number.isNaN(v);
    // until the cross-fitted drops are there, units go by what is
    const by = !study.measure[name] && !["unit", "worst", OWN_DROP].includes(name) ? "max_class_drop" : name;
    const values = [...study.units.keys()].map(i => value(by, i) ?? null);
    order = [...study.units.keys()].filter(i => !some || some.has(study.units[i]));
    order.sort((a, b) => missing(values[a]) - missing(values[b])
      || (missing(values[a]) ? 0 : (typeof values[a] === "string" ? values[a].localeCompare(values[b]) : values[a] - values[b]) * (state.up ? 1 : -1)) || a - b);
    app.order = order.map(i => study.units[i]);
    page = 0;
    set({ kept: some });
    if (changed.has("held") || changed.has("measured")) follow();
    else draw();
  }
  function follow() {
    const at = order.indexOf(source.study.place.get(state.unit));
    if (at >= 0) page = Math.floor(at / perPage);
    draw();
  }
  const columns = () => state.category && !state.columns.includes(OWN_DROP) ? ["unit", OWN_DROP, ...state.columns.slice(1)] : state.columns.filter(name => state.category || name !== OWN_DROP);
  function heads() {
    const words = name => name === OWN_DROP ? `drop of ${shortened(state.category, 22)}` : HEADS[name] ?? app.label(name);
    const sortBy = name => set({ up: name === state.sort ? !state.up : UPWARD.includes(name), sort: name });
    $("heads").replaceChildren(...columns().map(name => element("th", { scope: "col", class: name === "worst" ? "name" : "", "data-sort": name, "aria-sort": name === state.sort ? (state.up ? "ascending" : "descending") : null },
      button(words(name), () => sortBy(name), { title: `sort by ${app.label(name)}` }))));
  }
  function cell(name, i, first) {
    const { study } = source, number = app.values(name)?.[i];
    if (name === "unit") return element("th", { scope: "row" }, element("a", { tabindex: -1 }, String(study.units[i])));
    if (name === "worst") return element("td", { class: "name", dir: "auto", title: app.worst(i) }, app.worst(i) || "–");
    if (!study.measure[name] && name !== OWN_DROP) return element("td", {}, study.complete ? "–" : "…");
    if (name === "max_class_drop") return element("td", {}, text(number), " ", finite(study.worstLow[i]) && element("small", {}, `${text(study.worstLow[i])} to ${text(study.worstHigh[i])}`));
    if (name === OWN_DROP && state.byClass) return element("td", { class: number > 0 ? "hurts" : number < 0 ? "helps" : "" }, text(number), " ", finite(state.byClass.low[i]) && element("small", {}, `${text(state.byClass.low[i])} to ${text(state.byClass.high[i])}`));
    if (name === "p_specific") return element("td", {}, finite(number) ? (number <= .05 ? "● " : "○ ") + quotient(number) : study.complete ? "–" : "…");
    return element("td", {}, name.includes("drop") ? text(number) : brief(number));
  }
  function draw() {
    const { study } = source, pages = Math.max(1, Math.ceil(order.length / perPage));
    page = Math.min(Math.max(0, page), pages - 1);
    const on = order.slice(page * perPage, (page + 1) * perPage), names = columns(), stop = on.includes(study.place.get(state.unit)) ? study.place.get(state.unit) : on[0];
    const focused = body.contains(app.active());
    body.replaceChildren(...on.map(i => element("tr", { "data-unit": study.units[i], tabindex: i === stop ? 0 : -1, "aria-current": study.units[i] === state.unit ? "true" : null, "aria-label": `unit ${study.units[i]}`,
      class: state.group.includes(study.units[i]) ? "in-group" : "" }, names.map((name, at) => cell(name, i, at === 0)))));
    if (focused) body.querySelector("tr[tabindex='0']")?.focus();
    $("rows").textContent = order.length ? `${page * perPage + 1}–${page * perPage + on.length} of ${order.length}` : "no unit passes the filter";
    $("back").disabled = page === 0;
    $("on").disabled = page >= pages - 1;
    $("make-group").hidden = !state.kept;
    $("hurt").hidden = $("help").hidden = !state.category;
    source.ahead(...on.slice(0, 3).map(i => study.units[i]));
  }
  function choose() {
    const { study } = source, menu = $("columns"), offered = ["unit", "worst", ...study.variables];
    menu.replaceChildren(...offered.map(name => element("label", {}, element("input", { type: "checkbox", checked: state.columns.includes(name), disabled: name === "unit",
      onchange: event => set({ columns: event.target.checked ? [...state.columns, name] : state.columns.filter(each => each !== name) }) }), " ", HEADS[name] ?? app.label(name))));
  }
  app.wholeTable = whole => { perPage = whole ? Math.max(1, order.length) : app.rows; follow(); };
  body.addEventListener("click", event => { const row = event.target.closest("tr"); if (row) set({ unit: Number(row.dataset.unit) }); });
  body.addEventListener("pointerover", event => { const row = event.target.closest("tr"); if (row) source.ahead(Number(row.dataset.unit)); });
  body.addEventListener("keydown", event => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], at = order.indexOf(source.study.place.get(Number(event.target.closest("tr")?.dataset.unit)));
    if (event.altKey || !by || at < 0 || order[at + by] === undefined) return;
    event.preventDefault();
    set({ unit: source.study.units[order[at + by]] });
  });
  $("filter").addEventListener("input", () => set({ filter: $("filter").value }));
  $("make-group").addEventListener("click", () => set({ group: [...state.kept].sort((a, b) => a - b) }));
  $("hurt").addEventListener("click", () => set({ sort: OWN_DROP, up: false }));
  $("help").addEventListener("click", () => set({ sort: OWN_DROP, up: true }));
  $("back").addEventListener("click", () => { page--; draw(); });
  $("on").addEventListener("click", () => { page++; draw(); });
  $("choose").addEventListener("toggle", () => $("choose").open && choose());
  // as many rows as the pictures beside leave room for
  const beside = $("pictures").closest(".ul-panel"), panel = body.closest(".ul-panel");
  app.resized.push([beside, () => {
    const row = body.rows[0]?.offsetHeight, aside = beside.offsetTop === panel.offsetTop, room = panel.clientHeight - body.parentNode.offsetTop - body.parentNode.tHead.offsetHeight - 8;
    const wanted = aside && row ? Math.min(24, Math.max(app.rows, Math.floor(room / row))) : app.rows;
    if (wanted !== perPage) { perPage = wanted; follow(); }
  }]);
  on(["held", "measured", "byClass", "sort", "up", "filter"], arrange);
  on(["held", "measured", "category", "sort", "up", "columns"], heads);
  on(["columns", "category", "group"], draw);
  on(["unit"], follow);
}
