// The linked views over one state: what the explorer and the report have in common.
const USUAL_COLUMNS = ["unit", "overall_drop", "worst", "max_class_drop", "max_class_drop_crossfit", "p_specific"];
const MORE_COLUMNS = ["n_damaged", "class_selectivity", "fraction_active", "mean_activation"];

function linkedViews(root, source, given, rows = 8) {
  const $ = id => root.querySelector(`#${id}`);
  const first = { category: "", x: "overall_drop", y: "max_class_drop_crossfit", color: "", line: false, group: [], image_style: "outline", image_strength: .5,
    sort: "max_class_drop_crossfit", up: false, filter: "", columns: USUAL_COLUMNS, kept: null, tab: "", pinned: null, picture: null, top_of: "all", fit: null, row: null, top: null, byClass: null, ...given };
  const app = { root, $, source, rows, order: [], resized: [], active: () => root.getRootNode().activeElement };
  app.say = (sentence, command = "") => {
    $("message").hidden = !sentence;
    $("message").replaceChildren(sentence, ...(command ? [" ", element("code", {}, command)] : []));
  };
  Object.assign(app, makeState(first, error => { console.error(error); app.say(error.message); }));
  const { state, set, on } = app;
  const { study } = source;

  app.label = name => name === OWN_DROP ? `accuracy drop of ${state.category || "the class"} (points)` : name === "worst" ? "most damaged class" : source.study.measure[name]?.label ?? source.study.awaited?.[name] ?? name;
  app.values = name => name === OWN_DROP ? (state.byClass && state.byClass.category === state.category ? state.byClass.drop : null) : source.study.measure[name]?.values ?? null;
  app.worst = i => source.study.worst[i] < 0 ? "" : source.study.classes[source.study.worst[i]];
  app.pressable = () => ({});
  app.go = values => set(values);

  // a row of the study for whoever shows it; what arrives after another choice is dropped
  const turns = {};
  app.load = (slot, kind, ask) => {
    const turn = turns[slot] = {}, found = source.row(kind, ask);
    const take = row => turns[slot] === turn && set({ [slot]: { ...ask, ...row } });
    if (!(found instanceof Promise)) return take(found);
    found.then(take).catch(error => turns[slot] === turn && app.say(error.message, error.command));
  };
  app.chooseClass = name => {
    if (!name) return set({ category: "", y: state.y === OWN_DROP ? app.y_before ?? "max_class_drop_crossfit" : state.y, sort: state.sort === OWN_DROP ? app.sort_before ?? "max_class_drop_crossfit" : state.sort, up: state.sort === OWN_DROP ? false : state.up, top_of: "all" });
    if (state.y !== OWN_DROP) app.y_before = state.y;
    if (state.sort !== OWN_DROP) app.sort_before = state.sort;
    set({ category: name, y: OWN_DROP, sort: OWN_DROP, up: false, ...(source.live ? { top_of: "class" } : {}) });
  };
  on(["held", "measured", "unit"], () => app.load("row", "unit", { unit: state.unit }));
  on(["held", "measured", "category"], () => state.category ? app.load("byClass", "class", { category: state.category }) : set({ byClass: null }));
  on(["held", "unit", "category", "top_of"], () => app.load("top", "top", source.topAsk(state.unit)));

  function headline() {
    const { study } = source, row = state.row, k = study.classPlace.get(state.category);
    if (!row) return;
    const [before, name, after] = row.finding, opened = k !== undefined && study.classes[k] !== name;
    $("finding").replaceChildren(...(opened ? aboutClass(k, row) : [before, ...(name ? [bold(name)] : []), after]));
  }
  function aboutClass(k, row) {
    const { study } = source, name = bold(study.classes[k]), drop = row.drop[k], overall = `overall ${text(app.values("overall_drop")[study.place.get(state.unit)])}`;
    if (!study.n[k]) return [`Unit ${state.unit}: the study has no image of `, name, `, so there is no drop to show; ${overall}.`];
    const limits = finite(row.low[k]) ? [row.low[k], row.high[k]].map(value => drop < 0 ? -value : value).sort((a, b) => a - b).map(value => text(value)) : null;
    const sure = [limits && `${Math.round(1000 * study.level) / 10} % interval ${limits.join(" to ")}`, probability("q", row.q[k]) + (row.q[k] > .05 ? ", not significant by itself" : "")].filter(Boolean).join(", ");
    const verb = drop > 0 ? [`Unit ${state.unit} costs `, name, ` ${text(drop)} points`] : drop < 0 ? [`Unit ${state.unit} holds `, name, ` back by ${text(-drop)} points`] : [`Unit ${state.unit} changes `, name, " by 0.0 points"];
    return [...verb, ` (${sure}); ${overall}.`, ...(study.n[k] < 20 ? [` The class has only ${count(study.n[k], "image")}.`] : [])];
  }
  on(["row", "category"], headline);

  function header() {
    $("unit").value = state.unit;
    $("class").value = state.category;
    $("every").hidden = !state.category;
    $("found").textContent = "";
  }
  on(["unit", "category", "held"], header);
  on(["held"], () => $("classes").replaceChildren(...source.study.classes.map(name => element("option", { value: name }))));
  const openUnit = (number, forward) => {
    const units = [...source.study.units].sort((a, b) => a - b);
    // a study of some units has gaps: over them
    const found = units.includes(number) ? number : forward ? units.find(unit => unit > number) ?? units[0] : units.findLast(unit => unit < number) ?? units.at(-1);
    set({ unit: found });
    header();
  };
  const step = by => { const some = app.order, at = some.indexOf(state.unit); if (some.length) set({ unit: some[(at + by + some.length) % some.length] }); };
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("unit").addEventListener("change", () => { const words = $("unit").value.trim(); /^\d+$/.test(words) ? openUnit(Number(words), Number(words) > state.unit) : header(); });
  $("unit").addEventListener("keydown", event => { const by = { ArrowUp: 1, ArrowDown: -1 }[event.key]; if (by && !event.altKey) { event.preventDefault(); openUnit(state.unit + by, by > 0); } });
  $("class").addEventListener("change", () => {
    const { classes } = source.study, wanted = $("class").value.trim().toLowerCase(), near = classes.filter(name => name.toLowerCase().includes(wanted)), exact = near.find(name => name.toLowerCase() === wanted);
    if (!wanted || exact || near.length === 1) app.chooseClass(wanted ? exact ?? near[0] : "");
    else $("found").textContent = near.length ? `${near.length} classes: ${near.slice(0, 3).join(", ")}${near.length > 3 ? ", …" : ""}` : "no such class";
  });
  $("every").addEventListener("click", () => app.chooseClass(""));

  const history = makeHistory(app, values => app.go(values), () => { $("backward").disabled = !history.past.length; $("forward").disabled = !history.future.length; });
  $("backward").addEventListener("click", history.back);
  $("forward").addEventListener("click", history.forward);
  root.addEventListener("keydown", event => {
    const go = event.altKey && { ArrowLeft: history.back, ArrowRight: history.forward }[event.key];
    if (go && !app.hash) { event.preventDefault(); go(); }
  });
  // in Chromium a place's own theme comes from its page, not from the system
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => {
    const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
    root.dataset.theme = (vscodeThemeKind ? vscodeThemeKind.includes("dark") || vscodeThemeKind === "vscode-high-contrast" : jpThemeLight ? jpThemeLight === "false" : dark.matches) ? "dark" : "light";
  };
  const watch = new MutationObserver(paint);
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
  dark.addEventListener("change", paint);
  paint();
  unitsView(app);
  classesView(app);
  imagesView(app);
  tableView(app);
  const seen = new ResizeObserver(() => { for (const [where, draw] of app.resized) if (where.clientWidth) draw(); });
  for (const [where] of app.resized) seen.observe(where);
  app.close = () => { watch.disconnect(); seen.disconnect(); dark.removeEventListener("change", paint); };
  // everyone draws what there is
  app.start = () => { root.classList.add("live"); const all = { ...state }; for (const name of Object.keys(all)) state[name] = undefined; set({ ...all, held: 1, measured: 1 }); };
  return app;
}
