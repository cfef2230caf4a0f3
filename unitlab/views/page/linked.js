// The linked views over one state: what the explorer and the report have in common.
const USUAL_COLUMNS = ["unit", "overall_drop", "worst", "max_class_drop", "max_class_drop_crossfit", "p_specific"];
const MORE_COLUMNS = ["n_damaged", "class_selectivity", "fraction_active", "mean_activation"];
const USUAL_Y = "max_class_drop_crossfit";

function linkedViews(root, source, given, rows = 8) {
  const $ = id => root.querySelector(`#${id}`);
  const app = { root, $, source, rows, order: [], ahead: () => {} };
  app.say = (sentence, command = "") => {
    $("message").hidden = !sentence;
    fill($("message"), sentence, command && [" ", h.code(command)]);
  };
  Object.assign(app, makeState({
    category: "", x: "overall_drop", y: USUAL_Y, color: "", line: false, group: [], image_style: "outline", image_strength: .5,
    sort: USUAL_Y, up: false, filter: "", columns: USUAL_COLUMNS, kept: null, tab: "", pinned: null, picture: null,
    top_of: "all", fit: null, row: null, top: null, byClass: null, ...given,
  }, error => { console.error(error); app.say(error.message); }));
  const { state, set, on } = app;

  app.label = name => {
    if (name === OWN_DROP) return `accuracy drop of ${state.category || "the class"} (points)`;
    return name === "worst" ? "most damaged class" : source.study.measure[name]?.label ?? source.study.awaited?.[name] ?? name;
  };
  const ownDrop = () => state.byClass?.category === state.category ? state.byClass?.drop : null;
  app.values = name => (name === OWN_DROP ? ownDrop() : source.study.measure[name]?.values) ?? null;
  app.valueOf = (name, unit) => app.values(name)?.[source.study.place.get(unit)];
  app.worst = i => source.study.classes[source.study.worst[i]] ?? "";
  // what the unit is called, and, if asked for, who says so and how well it fits
  app.called = (i, inFull = false) => {
    const [name, score, from] = source.study.names?.[i] ?? [""];
    return name && inFull ? joined(", ", name, from && `from ${from}`, finite(score) && `score ${brief(score)}`) : name;
  };
  app.go = set;

  // a row of the study for whoever shows it
  const slots = {};
  app.load = async (slot, kind, ask) => {
    slots[slot] ??= newest();
    try { set({ [slot]: { ...ask, ...await slots[slot](source.row(kind, ask)) } }); } catch (error) { app.fail(error); }
  };
  app.fail = error => app.say(error.message, error.command);
  const before = { y: USUAL_Y, sort: USUAL_Y };
  app.chooseClass = name => {
    const axes = {};
    for (const axis of ["y", "sort"]) {
      if (name && state[axis] !== OWN_DROP) before[axis] = state[axis];
      axes[axis] = name ? OWN_DROP : state[axis] === OWN_DROP ? before[axis] : state[axis];
    }
    const up = !name && state.sort !== OWN_DROP && state.up;
    set({ category: name, ...axes, up, ...(source.live || !name ? { top_of: name ? "class" : "all" } : {}) });
  };
  // what a row, a bar or a tile opens
  app.opensUnit = (unit, first) => ({
    "data-unit": unit, tabindex: first ? 0 : -1, "aria-current": unit === state.unit ? "true" : null,
    ...pressed(() => set({ unit })),
  });
  app.opensClass = name => ({
    "data-category": name, ...pressed(() => app.chooseClass(name === state.category ? "" : name)),
  });
  app.opensImage = id => ({ "data-image": id });

  on(["held", "measured", "unit"], () => app.load("row", "unit", { unit: state.unit }));
  on(["held", "measured", "category"], () =>
    state.category ? app.load("byClass", "class", { category: state.category }) : set({ byClass: null }));
  app.topAsk = unit => {
    const of = state.top_of === "class" && !state.category ? "all" : state.top_of;
    return { unit, of, category: of === "all" ? "" : state.category };
  };
  on(["held", "unit", "category", "top_of"], () => app.load("top", "top", app.topAsk(state.unit)));

  on(["row", "category"], () => {
    const { study } = source, row = state.row, k = study.classPlace.get(state.category);
    if (!row) return;
    const [first, name, rest] = row.finding, called = app.called(study.place.get(state.unit), true);
    const words = k !== undefined && study.classes[k] !== name ? aboutClass(k, row) : [first, name && bold(name), rest];
    fill($("finding"), words, called && [" Its name: ", h.bdi(called), "."]);
  });
  function aboutClass(k, row) {
    const { study } = source, name = bold(study.classes[k]), drop = row.drop[k], unit = `Unit ${state.unit}`;
    const overall = `overall ${text(app.valueOf("overall_drop", state.unit))}`;
    if (!study.n[k]) return [`${unit}: the study has no image of `, name, `, so there is no drop to show; ${overall}.`];
    const [least, most] = drop < 0 ? [-row.high[k], -row.low[k]] : [row.low[k], row.high[k]];
    const level = `${Math.round(1000 * study.level) / 10} % interval ${text(least)} to ${text(most)}`;
    const sure = probability("q", row.q[k]) + (row.q[k] > .05 ? ", not significant by itself" : "");
    const [verb, by] = drop > 0 ? ["costs ", ""] : drop < 0 ? ["holds ", " back by"] : ["changes ", " by"];
    const limits = joined(", ", finite(row.low[k]) && level, sure);
    return [`${unit} ${verb}`, name, `${by} ${text(Math.abs(drop))} points (${limits}); ${overall}.`,
      study.n[k] < 20 && ` The class has only ${count(study.n[k], "image")}.`];
  }

  // a control with a name shows and sets that part of the state
  app.offer = (name, values, label = value => value) => {
    fill($(name), values.map(value => h.option({ value }, label(value))));
    $(name).value = state[name];
  };
  for (const control of root.querySelectorAll("[name]")) {
    const { name, type } = control, held = { checkbox: "checked", range: "valueAsNumber" }[type] ?? "value";
    control.addEventListener("input", () => app.go({ [name]: control[held] }));
    on([name], () => { control[held] = state[name]; });
  }
  function header() {
    $("unit").value = state.unit;
    $("class").value = state.category;
    $("every").hidden = !state.category;
    $("found").textContent = "";
  }
  on(["unit", "category", "held"], header);
  on(["held"], () => app.offer("classes", source.study.classes));
  function openUnit(number) {
    const units = [...source.study.units].sort((a, b) => a - b);
    // a study of some units has gaps: over them
    const near = number > state.unit ? units.find(unit => unit >= number) ?? units[0]
      : units.findLast(unit => unit <= number) ?? units.at(-1);
    if (Number.isInteger(number)) set({ unit: near });
    header();
  }
  const step = by => () => {
    const some = app.order, at = some.indexOf(state.unit);
    if (some.length) set({ unit: some[(at + by + some.length) % some.length] });
  };
  app.listen = (id, call, kind = "click") => $(id).addEventListener(kind, call);
  app.listen("previous", step(-1));
  app.listen("next", step(1));
  app.listen("unit", ({ target }) => openUnit(parseInt(target.value)), "change");
  app.listen("unit", keyed({ ArrowUp: 1, ArrowDown: -1 }, by => openUnit(state.unit + by)), "keydown");
  app.listen("class", () => {
    const wanted = $("class").value.trim().toLowerCase();
    const near = source.study.classes.filter(name => name.toLowerCase().includes(wanted));
    const exact = near.find(name => name.toLowerCase() === wanted);
    const several = near.slice(0, 3).join(", ") + (near.length > 3 ? ", …" : "");
    if (!wanted || exact || near.length === 1) app.chooseClass(wanted ? exact ?? near[0] : "");
    else $("found").textContent = near.length ? `${near.length} classes: ${several}` : "no such class";
  }, "change");
  app.listen("every", () => app.chooseClass(""));

  for (const view of [historyView, unitsView, classesView, imagesView, tableView]) view(app);
  on(["held", "unit", "row", "top"], () => {
    $("bars").classList.toggle("ul-stale", state.row?.unit !== state.unit);
    $("pictures").classList.toggle("ul-stale", state.top?.unit !== state.unit);
  });
  // everyone draws what there is
  app.start = () => {
    root.classList.add("live");
    const all = { ...state };
    for (const name of Object.keys(all)) state[name] = undefined;
    set({ ...all, held: 1, measured: 1 });
  };
  return app;
}
